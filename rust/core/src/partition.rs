//! Partitions a batch of keys into hits, first misses and duplicates. Touches no file.

use std::collections::HashMap;

use crate::key::Key;

/// No row: the key is not in the cache.
pub const NO_ROW: i64 = -1;

/// For each item, the position of the item that it shares a vector with. For a miss this is the first item of the batch
/// with the same key, for a hit the item itself.
///
/// `rows` is the newest row of each key, negative if there is none.
pub fn first_of_each_miss(keys: &[Key], rows: &[i64], first: &mut [i64]) {
    let mut seen: HashMap<&Key, i64> = HashMap::new();
    for (position, ((key, row), first)) in (0_i64..).zip(keys.iter().zip(rows).zip(first)) {
        *first = if *row < 0 { *seen.entry(key).or_insert(position) } else { position };
    }
}

/// The positions of the last item of each key, ascending. A put writes these: the last of equal keys wins.
pub fn last_of_each_key(keys: &[Key]) -> Vec<usize> {
    let last: HashMap<&Key, usize> = keys.iter().enumerate().map(|(position, key)| (key, position)).collect();
    (0..keys.len()).filter(|position| last.get(&keys[*position]) == Some(position)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8) -> Key {
        [name; 32]
    }

    #[test]
    fn duplicates_share_the_first_miss_and_hits_stand_alone() {
        let keys = [key(1), key(2), key(1), key(3), key(2), key(3)];
        let rows = [-1, 7, -1, -1, 7, -1];
        let mut first = [0; 6];
        first_of_each_miss(&keys, &rows, &mut first);
        assert_eq!(first, [0, 1, 0, 3, 4, 3]);
    }

    #[test]
    fn the_last_of_equal_keys_wins_and_order_is_kept() {
        assert_eq!(last_of_each_key(&[key(1), key(2), key(1), key(3)]), [1, 2, 3]);
        assert_eq!(last_of_each_key(&[]), Vec::<usize>::new());
    }
}
