//! Rows in memory, to store.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::format::MAX_ELEMENTS;
use crate::format::column::OFFSET_BYTES;
use crate::format::commit::Extent;
use crate::format::meta::Meta;
use crate::parts::{Elements, Parts};
use crate::row::{Row, Span};

/// Rows that a caller stores.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Their numbers.
    pub data: Parts<'a>,
    /// The index of each number, in a sparse cache.
    pub indices: Option<&'a [u8]>,
    /// Where each row begins, and where the last one ends, in elements. None in a dense cache.
    pub indptr: Option<&'a [i64]>,
    /// The text of each row, to be kept beside it if its SHA-256 is the key.
    pub texts: Option<&'a [Option<&'a [u8]>]>,
}

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for Batch<'a> {
    fn from(data: &'a T) -> Batch<'a> {
        Batch { data: data.into(), indices: None, indptr: None, texts: None }
    }
}

/// Rows of a cache in memory, checked against its description.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    data: Elements<'a>,
    indices: Option<Elements<'a>>,
    indptr: Option<Cow<'a, [i64]>>,
    texts: Option<Cow<'a, [Option<&'a [u8]>]>>,
    rows: usize,
}

/// Bytes of an element in each file of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// In the file of numbers.
    pub(crate) data: usize,
    /// In the file of indices; 0 without one.
    pub(crate) indices: usize,
}

impl Sizes {
    /// The sizes in a cache.
    pub(crate) fn of(meta: &Meta) -> Sizes {
        let bytes = |column: crate::format::column::Column| usize::try_from(column.element_bytes());
        Sizes {
            data: bytes(meta.data()).unwrap_or(usize::MAX),
            indices: meta.container.indices().map_or(0, |column| bytes(column).unwrap_or(usize::MAX)),
        }
    }
}

fn mismatch<T>(expected: String, found: impl ToString) -> Result<T> {
    Err(Error::Argument { expected, found: found.to_string() })
}

impl<'a> Block<'a> {
    /// A batch of `rows` rows for a cache.
    pub(crate) fn of(batch: Batch<'a>, rows: usize, meta: &Meta) -> Result<Block<'a>> {
        let Batch { data, indices, indptr, texts } = batch;
        let (container, sizes) = (meta.container, Sizes::of(meta));
        if !container.has_parts(indices.is_some(), indptr.is_some()) {
            return mismatch(format!("a batch for the container {}", container.name()), "one for another container");
        }
        let elements = match indptr {
            None => rows,
            Some(offsets) => check_offsets(offsets, rows, container.max_elements_of_row(meta.dim))?,
        };
        let data = elements_of("vectors", data, elements, sizes.data)?;
        if let Some(cut) = indptr.and_then(|offsets| first_cut(offsets, data.starts())) {
            return mismatch("whole rows in each part".into(), format!("a part from element {cut} on"));
        }
        let indices =
            indices.map(|indices| elements_of("indices", indices.into(), elements, sizes.indices)).transpose()?;
        if let Some(texts) = texts.filter(|texts| texts.len() != rows) {
            return mismatch(format!("{rows} texts"), texts.len());
        }
        Ok(Block { data, indices, indptr: indptr.map(Cow::Borrowed), texts: texts.map(Cow::Borrowed), rows })
    }

    /// All numbers, in parts.
    pub(crate) fn data(&self) -> &[&'a [u8]] {
        self.data.parts()
    }

    /// All indices, in parts.
    pub(crate) fn indices(&self) -> Option<&[&'a [u8]]> {
        self.indices.as_ref().map(Elements::parts)
    }

    /// The text of each row.
    pub(crate) fn texts(&self) -> Option<&[Option<&'a [u8]>]> {
        self.texts.as_deref()
    }

    /// Where row `position` lies in the block, in elements.
    #[inline]
    fn span(&self, position: usize) -> (usize, usize) {
        match &self.indptr {
            None => (position, position + 1),
            Some(offsets) => (offsets[position] as usize, offsets[position + 1] as usize),
        }
    }

    /// A row, as it lies in files that hold `before` elements before the block.
    #[inline]
    pub(crate) fn row(&self, position: usize, before: u64) -> Row<'_> {
        let (start, end) = self.span(position);
        let elements = (start, end);
        let span = self.indptr.is_some().then(|| Span { start: before + start as u64, end: before + end as u64 });
        Row { span, data: self.data.get(elements), indices: self.indices.as_ref().map(|all| all.get(elements)) }
    }

    /// The extent of the files once the block is behind `before`.
    pub(crate) fn after(&self, before: Extent) -> Extent {
        let elements = self.indptr.as_ref().map_or(self.rows, |offsets| offsets[self.rows] as usize);
        Extent { rows: before.rows + self.rows as u64, elements: before.elements + elements as u64 }
    }

    /// The entries of `indptr.npy` of the block, behind the entry of the row before it. None in a dense cache.
    pub(crate) fn ends(&self, before: u64) -> Option<Vec<u8>> {
        let offsets = self.indptr.as_ref()?;
        let mut bytes = vec![0; offsets.len() * OFFSET_BYTES];
        for (target, offset) in bytes.as_chunks_mut().0.iter_mut().zip(offsets.iter()) {
            *target = (before + *offset as u64).to_le_bytes();
        }
        Some(bytes)
    }

    /// The rows at these positions, ascending. No numbers are copied.
    pub(crate) fn select(self, positions: &[usize]) -> Block<'a> {
        if positions.len() == self.rows {
            return self;
        }
        let spans = || positions.iter().map(|position| self.span(*position));
        let data = self.data.select(spans());
        let indices = self.indices.as_ref().map(|all| all.select(spans()));
        let indptr = self.indptr.is_some().then(|| {
            let lengths = spans().map(|(start, end)| (end - start) as i64);
            let ends = lengths.scan(0, |end, length| {
                *end += length;
                Some(*end)
            });
            std::iter::once(0).chain(ends).collect()
        });
        let texts = self.texts.as_ref().map(|all| positions.iter().map(|position| all[*position]).collect());
        Block { data, indices, indptr, texts, rows: positions.len() }
    }
}

/// Checks how many bytes there are for some elements.
pub(crate) fn check_bytes(what: &str, elements: usize, size: usize, found: usize) -> Result<()> {
    let expected = elements.saturating_mul(size);
    if found == expected { Ok(()) } else { mismatch(format!("{expected} bytes of {what}"), found) }
}

/// Bytes in parts, checked against how many elements there are.
fn elements_of<'a>(what: &str, parts: Parts<'a>, count: usize, size: usize) -> Result<Elements<'a>> {
    let Some(elements) = Elements::of(parts, size) else {
        return mismatch(format!("parts of whole {what}"), "one with a broken one");
    };
    check_bytes(what, count, size, elements.bytes())?;
    Ok(elements)
}

/// The first element of a part that does not begin where a row begins. Both ascend.
fn first_cut(offsets: &[i64], starts: &[usize]) -> Option<usize> {
    let mut begins = offsets.iter().map(|offset| *offset as usize).peekable();
    starts.iter().copied().find(|start| {
        while begins.next_if(|begin| begin < start).is_some() {}
        begins.peek() != Some(start)
    })
}

/// Checks where rows begin and end. Returns how many elements they have.
fn check_offsets(offsets: &[i64], rows: usize, most: u64) -> Result<usize> {
    if Some(offsets.len()) != rows.checked_add(1) {
        return mismatch(format!("{rows} + 1 offsets"), offsets.len());
    }
    if offsets.first() != Some(&0) {
        return mismatch("0 as the first offset".into(), format!("{:?}", offsets.first()));
    }
    for (row, pair) in offsets.windows(2).enumerate() {
        let length = pair[1].checked_sub(pair[0]).and_then(|length| u64::try_from(length).ok());
        match length {
            Some(length) if length <= most => {}
            Some(length) => {
                return mismatch(format!("at most {most} elements in a row"), format!("{length} in row {row}"));
            }
            None => return mismatch("ascending offsets".into(), format!("{} before {}", pair[0], pair[1])),
        }
    }
    let last = offsets.last().copied().unwrap_or(0);
    match u64::try_from(last) {
        Ok(elements) if elements <= MAX_ELEMENTS => Ok(usize::try_from(elements).unwrap_or(usize::MAX)),
        _ => mismatch(format!("at most {MAX_ELEMENTS} elements"), last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::container::Container;
    use crate::format::dtype::Dtype;

    fn meta(container: Container) -> Meta {
        Meta {
            uuid: [0; 16],
            dim: 2,
            dtype: Dtype::parse("|u1").unwrap(),
            container,
            seed: 0,
            identity: serde_json::Value::Null,
            output: serde_json::Value::Null,
            made_by: String::new(),
            generation: 0,
        }
    }

    #[test]
    fn rows_of_any_length_are_told_apart_and_selected() {
        let (data, indptr) = ([0, 1, 2, 3, 4, 5], [0, 1, 1, 3]);
        let batch = Batch { indptr: Some(&indptr), ..Batch::from(&data) };
        let block = Block::of(batch, 3, &meta(Container::Ragged)).unwrap();
        let rows: Vec<_> = (0..3).map(|position| block.row(position, 10)).collect();
        assert_eq!(rows.iter().map(|row| row.data).collect::<Vec<_>>(), [&[0_u8, 1] as &[u8], &[], &[2, 3, 4, 5]]);
        assert_eq!(rows[2].span, Some(Span { start: 11, end: 13 }));
        assert_eq!(block.after(Extent { rows: 4, elements: 10 }), Extent { rows: 7, elements: 13 });
        let chosen = block.select(&[1, 2]);
        assert_eq!((chosen.row(0, 0).data, chosen.row(1, 0).data), (&[] as &[u8], &[2_u8, 3, 4, 5] as &[u8]));
        let ends: Vec<u8> = [7_i64, 7, 9].iter().flat_map(|end| end.to_le_bytes()).collect();
        assert_eq!(chosen.ends(7), Some(ends));
    }

    #[test]
    fn rows_may_lie_apart_if_each_is_whole() {
        let indptr = [0, 1, 1, 3];
        let block = |parts: &'static [&'static [u8]]| {
            let batch = Batch { data: Parts::Many(parts), indptr: Some(&indptr), ..Batch::from(&[0_u8; 0]) };
            Block::of(batch, 3, &meta(Container::Ragged))
        };
        let apart = block(&[&[0, 1], &[], &[2, 3, 4, 5]]).unwrap();
        let rows: Vec<_> = (0..3).map(|position| apart.row(position, 0).data).collect();
        assert_eq!(rows, [&[0_u8, 1] as &[u8], &[], &[2, 3, 4, 5]]);
        assert_eq!(apart.select(&[2]).data(), [&[2, 3, 4, 5]]);
        for wrong in [&[&[0_u8, 1, 2, 3] as &[u8], &[4, 5]] as &[&[u8]], &[&[0, 1, 2], &[3, 4, 5]], &[&[0, 1]]] {
            assert!(block(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sparse_rows_have_an_index_for_each_number() {
        let (data, indices, indptr) = ([7, 8, 9], [0; 12], [0, 2, 3]);
        let whole = Batch { indices: Some(&indices), indptr: Some(&indptr), ..Batch::from(&data) };
        let block = Block::of(whole, 2, &meta(Container::Sparse)).unwrap();
        assert_eq!(block.row(1, 0).indices.map(<[u8]>::len), Some(4));
        for wrong in [Batch { indices: Some(&indices[1..]), ..whole }, Batch { indices: None, ..whole }] {
            assert!(Block::of(wrong, 2, &meta(Container::Sparse)).is_err());
        }
    }

    #[test]
    fn impossible_batches_are_refused() {
        let refused = |container, data: &[u8], indptr: Option<&[i64]>, rows| {
            Block::of(Batch { indptr, ..Batch::from(data) }, rows, &meta(container)).is_err()
        };
        assert!(!refused(Container::Npy, &[0; 4], None, 2));
        assert!(refused(Container::Npy, &[0; 5], None, 2));
        assert!(refused(Container::Npy, &[0; 4], Some(&[0, 1, 2]), 2));
        assert!(refused(Container::Ragged, &[0; 4], None, 2));
        assert!(!refused(Container::Ragged, &[0; 4], Some(&[0, 2, 2]), 2));
        for offsets in [&[0_i64, 2] as &[i64], &[1, 2, 2], &[0, 3, 2], &[0, i64::MIN, 2], &[0, 2, i64::MAX]] {
            assert!(refused(Container::Ragged, &[0; 4], Some(offsets), 2), "{offsets:?}");
        }
        let long = vec![0; 2 * 65_537];
        assert!(refused(Container::Ragged, &long, Some(&[0, 65_537]), 1));
        assert!(!refused(Container::Ragged, &long[2..], Some(&[0, 65_536]), 1));
    }
}
