//! Fingerprints, XXH3 of 128 bits: of each block of a model's tensors, and of each row that is shared.
//!
//! Blocks let all cores work on one large tensor. A tensor on another device can be copied in pieces of whole blocks,
//! and has the same fingerprints.

use xxhash_rust::xxh3::xxh3_128;

use crate::parallel;

/// Bytes of a block; the last of an array is shorter.
pub const BLOCK_BYTES: usize = 4 << 20;

/// The fingerprint of one block, little-endian.
pub type Fingerprint = [u8; 16];

/// How many bytes are worth a second thread.
const BYTES_PER_THREAD: usize = 1 << 20;

/// How many blocks an array of `len` bytes has: one if it is empty.
pub fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK_BYTES).max(1)
}

/// The fingerprints of all blocks of all arrays, in order.
pub fn of_arrays(arrays: &[&[u8]]) -> Vec<Fingerprint> {
    let mut out = vec![Fingerprint::default(); arrays.iter().map(|array| blocks(array.len())).sum()];
    let mut rest = out.as_mut_slice();
    let mut pieces = Vec::new();
    for array in arrays {
        let (own, others) = std::mem::take(&mut rest).split_at_mut(blocks(array.len()));
        rest = others;
        // An empty array has one block, so every array appears in the result.
        pieces.extend(own.iter_mut().enumerate().map(|(i, fingerprint)| {
            let start = i * BLOCK_BYTES;
            (&array[start..array.len().min(start + BLOCK_BYTES)], fingerprint)
        }));
    }
    // The largest blocks first, so no thread is left with one at the end.
    pieces.sort_by_key(|(block, _)| std::cmp::Reverse(block.len()));
    let bytes = arrays.iter().map(|array| array.len()).sum();
    parallel::for_each(pieces, bytes, BYTES_PER_THREAD, |(block, fingerprint)| {
        *fingerprint = xxh3_128(block).to_le_bytes();
    });
    out
}

/// How many rows one thread takes at a time.
const ROWS: usize = 512;

/// Write the fingerprint of each row, XXH3 of all its bytes, into `out`. Row `i` ends before byte `ends[i]`.
///
/// Return whether the rows lie in the data, one behind the other, and `out` has one place for each.
pub fn of_rows(data: &[u8], ends: &[i64], out: &mut [Fingerprint]) -> bool {
    let within = |end: &i64| usize::try_from(*end).is_ok_and(|end| end <= data.len());
    if out.len() != ends.len() || !ends.is_sorted() || !ends.iter().all(within) {
        return false;
    }
    let starts = ends.chunks(ROWS).scan(0, |start, part| {
        let own = *start;
        *start = part.last().copied().unwrap_or(own);
        Some(own)
    });
    let pieces: Vec<_> = ends.chunks(ROWS).zip(starts).zip(out.chunks_mut(ROWS)).collect();
    parallel::for_each(pieces, data.len(), BYTES_PER_THREAD, |((ends, mut start), out)| {
        for (&end, fingerprint) in ends.iter().zip(out) {
            *fingerprint = xxh3_128(&data[start as usize..end as usize]).to_le_bytes();
            start = end;
        }
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8).collect()
    }

    #[test]
    fn each_block_has_its_own_fingerprint_and_an_empty_array_one_too() {
        let long = numbers(2 * BLOCK_BYTES + 7);
        let found = of_arrays(&[&long, &[], &long[..5]]);
        let expected: Vec<_> =
            long.chunks(BLOCK_BYTES).chain([&[][..], &long[..5]]).map(|block| xxh3_128(block).to_le_bytes()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn pieces_of_whole_blocks_give_what_the_array_gives() {
        let long = numbers(3 * BLOCK_BYTES + 1);
        let pieces: Vec<&[u8]> = long.chunks(2 * BLOCK_BYTES).collect();
        assert_eq!(of_arrays(&pieces), of_arrays(&[&long]));
    }

    #[test]
    fn each_row_has_the_fingerprint_of_its_bytes() {
        let data = numbers(3 * 5000);
        let ends: Vec<i64> = (0..2000).map(|row| (row * 7).min(13_000)).collect();
        let mut out = vec![Fingerprint::default(); ends.len()];
        assert!(of_rows(&data, &ends, &mut out));
        let mut start = 0;
        for (&end, found) in ends.iter().zip(&out) {
            assert_eq!(*found, xxh3_128(&data[start..end as usize]).to_le_bytes());
            start = end as usize;
        }
        assert!(of_rows(&data, &[], &mut []));
    }

    #[test]
    fn rows_that_lie_elsewhere_have_no_fingerprints() {
        let data = numbers(10);
        for ends in [&[4, 3][..], &[-1, 3], &[4, 11], &[4]] {
            assert!(!of_rows(&data, ends, &mut [Fingerprint::default(); 2]), "{ends:?}");
        }
    }

    #[test]
    fn one_flipped_bit_changes_the_fingerprint_of_its_block_alone() {
        let mut long = numbers(2 * BLOCK_BYTES);
        let before = of_arrays(&[&long]);
        long[BLOCK_BYTES + 3] ^= 1;
        let after = of_arrays(&[&long]);
        assert_eq!((before[0] == after[0], before[1] == after[1]), (true, false));
    }
}
