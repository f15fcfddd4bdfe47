//! Fingerprints of a model's tensors: XXH3, 128 bits, of each block of their bytes.
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
    fn one_flipped_bit_changes_the_fingerprint_of_its_block_alone() {
        let mut long = numbers(2 * BLOCK_BYTES);
        let before = of_arrays(&[&long]);
        long[BLOCK_BYTES + 3] ^= 1;
        let after = of_arrays(&[&long]);
        assert_eq!((before[0] == after[0], before[1] == after[1]), (true, false));
    }
}
