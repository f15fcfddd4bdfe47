//! A bit for each row.

/// A set of the first rows of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    rows: u64,
}

impl Bits {
    /// None of the first `rows` rows.
    pub fn none(rows: u64) -> Bits {
        Bits { words: vec![0; usize::try_from(rows.div_ceil(64)).unwrap_or(usize::MAX)], rows }
    }

    /// All of the first `rows` rows.
    pub fn all(rows: u64) -> Bits {
        let mut bits = Bits::none(rows);
        bits.words.fill(u64::MAX);
        if let Some(last) = bits.words.last_mut().filter(|_| !rows.is_multiple_of(64)) {
            *last = (1 << (rows % 64)) - 1;
        }
        bits
    }

    /// The bits as bytes. The lowest bit of byte 0 belongs to row 0.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(usize::try_from(self.rows.div_ceil(8)).unwrap_or(usize::MAX));
        bytes
    }

    fn word(&mut self, row: u64) -> Option<&mut u64> {
        self.words.get_mut(usize::try_from(row / 64).ok()?)
    }

    /// Whether the row is in the set.
    #[inline]
    pub fn has(&self, row: u64) -> bool {
        let word = usize::try_from(row / 64).ok().and_then(|at| self.words.get(at)).copied();
        row < self.rows && word.unwrap_or(0) >> (row % 64) & 1 == 1
    }

    /// Adds a row.
    pub fn add(&mut self, row: u64) {
        if let Some(word) = self.word(row) {
            *word |= 1 << (row % 64);
        }
    }

    /// Removes a row.
    pub fn remove(&mut self, row: u64) {
        if let Some(word) = self.word(row) {
            *word &= !(1 << (row % 64));
        }
    }

    /// How many rows are in the set.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The first row from `from` on that is in the set.
    pub fn next(&self, from: u64) -> Option<u64> {
        let mut at = usize::try_from(from / 64).ok()?;
        let mut word = self.words.get(at)? & (u64::MAX << (from % 64));
        while word == 0 {
            at += 1;
            word = *self.words.get(at)?;
        }
        Some(at as u64 * 64 + u64::from(word.trailing_zeros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_added_removed_and_found_in_order() {
        let mut bits = Bits::none(130);
        [0, 63, 64, 129].into_iter().for_each(|row| bits.add(row));
        bits.remove(64);
        let mut found = Vec::new();
        let mut next = bits.next(0);
        while let Some(row) = next {
            found.push(row);
            next = bits.next(row + 1);
        }
        assert_eq!((found, bits.count()), (vec![0, 63, 129], 3));
        assert!(bits.has(63) && !bits.has(64) && !bits.has(130) && !bits.has(1000));
        assert_eq!((Bits::none(0).next(0), bits.next(500)), (None, None));
    }

    #[test]
    fn all_rows_are_in_the_set_and_none_behind_them() {
        for rows in [0, 1, 63, 64, 65, 130] {
            let bits = Bits::all(rows);
            assert_eq!((bits.count(), bits.has(rows), bits.next(rows)), (rows, false, None), "{rows}");
            assert_eq!(bits.to_bytes().len() as u64, rows.div_ceil(8));
        }
        let mut bits = Bits::all(10);
        bits.remove(1);
        assert_eq!(bits.to_bytes(), [0b1111_1101, 0b11]);
    }
}
