//! Bytes of elements that lie apart in memory.

use std::borrow::Cow;

/// Bytes in one part, or in several that lie apart, of whole rows each.
#[derive(Debug, Clone, Copy)]
pub enum Parts<'a> {
    /// All of them.
    One(&'a [u8]),
    /// One after the other.
    Many(&'a [&'a [u8]]),
}

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for Parts<'a> {
    fn from(bytes: &'a T) -> Parts<'a> {
        Parts::One(bytes.as_ref())
    }
}

/// Elements of one size, in parts.
#[derive(Debug)]
pub(crate) struct Elements<'a> {
    parts: Cow<'a, [&'a [u8]]>,
    /// How many elements lie before each part.
    starts: Vec<usize>,
    /// Bytes of an element.
    size: usize,
}

impl<'a> Elements<'a> {
    /// Elements of `size` bytes. None if a part has half an element.
    pub(crate) fn of(parts: Parts<'a>, size: usize) -> Option<Elements<'a>> {
        let parts = match parts {
            Parts::One(bytes) => vec![bytes].into(),
            Parts::Many(parts) => Cow::Borrowed(parts),
        };
        parts.iter().all(|part| part.len().is_multiple_of(size)).then(|| Elements::from_parts(parts, size))
    }

    fn from_parts(parts: Cow<'a, [&'a [u8]]>, size: usize) -> Elements<'a> {
        let lengths = parts.iter().map(|part| part.len() / size);
        let starts = lengths.scan(0, |end, length| Some(std::mem::replace(end, *end + length))).collect();
        Elements { parts, starts, size }
    }

    /// The parts.
    pub(crate) fn parts(&self) -> &[&'a [u8]] {
        &self.parts
    }

    /// How many elements lie before each part.
    pub(crate) fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Bytes of all elements.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// The number of the part with an element, and how many elements lie before it.
    #[inline]
    fn part_of(&self, element: usize) -> (usize, usize) {
        let part = self.starts.partition_point(|start| *start <= element).saturating_sub(1);
        (part, self.starts.get(part).copied().unwrap_or(0))
    }

    /// The bytes of some elements, which lie in one part.
    #[inline]
    pub(crate) fn get(&self, (start, end): (usize, usize)) -> &'a [u8] {
        if start == end {
            return &[];
        }
        let (part, before) = self.part_of(start);
        &self.parts[part][(start - before) * self.size..(end - before) * self.size]
    }

    /// The elements of ascending spans, which lie in one part each. Nothing is copied.
    pub(crate) fn select(&self, spans: impl Iterator<Item = (usize, usize)>) -> Elements<'a> {
        // Spans that follow each other in a part become one: few parts are written faster than many.
        let mut runs: Vec<(usize, (usize, usize))> = Vec::new();
        for (start, end) in spans.filter(|(start, end)| start < end) {
            let (part, _) = self.part_of(start);
            match runs.last_mut() {
                Some((last, (_, until))) if *last == part && *until == start => *until = end,
                _ => runs.push((part, (start, end))),
            }
        }
        Elements::from_parts(runs.into_iter().map(|(_, run)| self.get(run)).collect(), self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_in_the_part_where_they_lie() {
        let parts: [&[u8]; 4] = [&[0, 1, 2, 3], &[], &[4, 5], &[6, 7, 8, 9]];
        let elements = Elements::of(Parts::Many(&parts), 2).unwrap();
        assert_eq!((elements.bytes(), elements.starts()), (10, &[0_usize, 2, 2, 3] as &[usize]));
        for (span, found) in [((0, 2), &[0_u8, 1, 2, 3] as &[u8]), ((2, 3), &[4, 5]), ((4, 5), &[8, 9]), ((5, 5), &[])]
        {
            assert_eq!(elements.get(span), found);
        }
        assert!(Elements::of(Parts::Many(&[&[1, 2], &[3]]), 2).is_none());
        assert!(Elements::of(Parts::Many(&[]), 2).unwrap().get((0, 0)).is_empty());
    }

    #[test]
    fn spans_that_follow_each_other_in_a_part_are_selected_together() {
        let parts: [&[u8]; 2] = [&[0, 1, 2, 3], &[4, 5]];
        let elements = Elements::of(Parts::Many(&parts), 1).unwrap();
        let chosen = elements.select([(0, 1), (1, 1), (1, 2), (3, 4), (4, 6)].into_iter());
        assert_eq!(chosen.parts(), [&[0_u8, 1] as &[u8], &[3], &[4, 5]]);
        assert_eq!(chosen.get((2, 3)), [3]);
        assert!(elements.select([(2, 2)].into_iter()).parts().is_empty());
    }
}
