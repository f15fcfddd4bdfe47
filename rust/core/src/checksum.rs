//! Checksums. They detect bit rot, torn writes and misplaced rows, but no tampering.

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64, xxh3_64_with_seed};

use crate::key::Key;
use crate::row::{Row, Span};

/// xxh3-64 of a block of bytes: headers, slots, index blocks.
pub fn block(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The checksum of a row.
///
/// In a dense cache: xxh3-64(key ‖ row number ‖ xxh3-64(vector)). Where rows have elements:
/// xxh3-64(key ‖ row number ‖ first element ‖ element behind the last ‖ xxh3-64 of the row's bytes in each file).
///
/// The row number reveals a shifted file. The key reveals a vector at the row of another key.
#[inline(always)]
pub fn row(key: &Key, row: u64, content: &Row<'_>) -> u64 {
    match content.span {
        None => dense_row(key, row, content.data),
        Some(span) => row_of_elements(key, row, span, content),
    }
}

#[inline]
fn dense_row(key: &Key, row: u64, vector: &[u8]) -> u64 {
    let mut message = [0_u8; 48];
    message[..32].copy_from_slice(key);
    message[32..40].copy_from_slice(&row.to_le_bytes());
    message[40..].copy_from_slice(&xxh3_64(vector).to_le_bytes());
    xxh3_64(&message)
}

fn row_of_elements(key: &Key, row: u64, span: Span, content: &Row<'_>) -> u64 {
    let mut message = [0_u8; 72];
    message[..32].copy_from_slice(key);
    let numbers = [row, span.start, span.end, xxh3_64(content.data), content.indices.map_or(0, xxh3_64)];
    for (target, number) in message[32..].as_chunks_mut().0.iter_mut().zip(numbers) {
        *target = number.to_le_bytes();
    }
    // A cache without indices has one file of elements.
    xxh3_64(if content.indices.is_some() { &message } else { &message[..64] })
}

/// The hash that places a key in the index. The seed of the cache prevents prepared collisions.
pub fn index_hash(key: &Key, seed: u64) -> u64 {
    xxh3_64_with_seed(key, seed)
}

/// A checksum over several pieces of memory.
#[derive(Default)]
pub struct Running(Xxh3Default);

impl Running {
    /// Adds a piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all pieces so far. It equals [`block`] of their concatenation.
    pub fn digest(&self) -> u64 {
        self.0.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_checksum_depends_on_key_row_and_vector() {
        let key: Key = [7; 32];
        let sum = |key: &Key, number, vector: &[u8]| row(key, number, &Row::dense(vector));
        let base = sum(&key, 3, b"vector");
        assert_ne!(base, sum(&[8; 32], 3, b"vector"));
        assert_ne!(base, sum(&key, 4, b"vector"));
        assert_ne!(base, sum(&key, 3, b"vectos"));
    }

    #[test]
    fn the_row_checksum_is_the_documented_formula() {
        let key: Key = [1; 32];
        let mut message = key.to_vec();
        message.extend_from_slice(&9_u64.to_le_bytes());
        let dense = [message.clone(), xxh3_64(b"abc").to_le_bytes().to_vec()].concat();
        assert_eq!(row(&key, 9, &Row::dense(b"abc")), xxh3_64(&dense));
        for number in [4, 7, xxh3_64(b"abc")] {
            message.extend_from_slice(&number.to_le_bytes());
        }
        let ragged = Row { span: Some(Span { start: 4, end: 7 }), data: b"abc", indices: None };
        assert_eq!(row(&key, 9, &ragged), xxh3_64(&message));
        message.extend_from_slice(&xxh3_64(b"ij").to_le_bytes());
        assert_eq!(row(&key, 9, &Row { indices: Some(b"ij"), ..ragged }), xxh3_64(&message));
    }
}
