//! `keys.bin`: a header, then one record for each row.

use super::{Defect, Uuid, bytes_at, check_header, put, seal, u32_at, u64_at};
use crate::checksum;
use crate::key::Key;
use crate::row::Row;

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 64;

/// Bytes of a record: the key, then the row checksum.
pub const RECORD_BYTES: usize = KEY_BYTES + 8;

const KEY_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"\x89dvk\r\n\x1a\n";
const RECORD_BYTES_OFFSET: usize = 12;
const UUID_OFFSET: usize = 16;

/// The 64 bytes before the records.
pub fn header(uuid: &Uuid, version: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    put(&mut bytes, 0, MAGIC);
    put(&mut bytes, 8, &version.to_le_bytes());
    put(&mut bytes, RECORD_BYTES_OFFSET, &(RECORD_BYTES as u32).to_le_bytes());
    put(&mut bytes, UUID_OFFSET, uuid);
    seal(&mut bytes);
    bytes
}

/// Checks the header: magic, version and the uuid of the cache.
pub fn check(bytes: &[u8], uuid: &Uuid, version: u32) -> Result<(), Defect> {
    check_header(bytes, HEADER_BYTES, MAGIC, version, "a key file header")?;
    let record_bytes = u32_at(bytes, RECORD_BYTES_OFFSET);
    if record_bytes != RECORD_BYTES as u32 {
        return Err(Defect::new(format!("records of {RECORD_BYTES} bytes"), format!("{record_bytes} bytes")));
    }
    check_uuid(bytes_at(bytes, UUID_OFFSET), uuid)
}

/// Checks that a file belongs to the cache with `uuid`.
pub(super) fn check_uuid(found: Uuid, uuid: &Uuid) -> Result<(), Defect> {
    if found == *uuid {
        Ok(())
    } else {
        Err(Defect::new(format!("a file of the cache {}", super::hex(uuid)), format!("one of {}", super::hex(&found))))
    }
}

/// The key record of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The key of the item; all zeros if the row is dead.
    pub key: Key,
    /// The row checksum.
    pub checksum: u64,
}

impl Record {
    /// The record of a row.
    #[inline]
    pub fn of_row(key: &Key, row: u64, content: &Row<'_>) -> Record {
        Record { key: *key, checksum: checksum::row(key, row, content) }
    }

    /// Whether the checksum of this row number, key and content matches. A dead row never matches.
    #[inline]
    pub fn holds(&self, row: u64, content: &Row<'_>) -> bool {
        !self.is_dead() && self.checksum == checksum::row(&self.key, row, content)
    }

    /// Whether the row is dead: the record was zeroed.
    ///
    /// A power loss may tear the write of the zeros between two sectors, so between two words of eight bytes. Then the
    /// first word is zero, or the last. No key and no checksum has such a word by chance.
    #[inline]
    pub fn is_dead(&self) -> bool {
        self.key.first_chunk() == Some(&[0; size_of::<u64>()]) || self.checksum == 0
    }

    /// The 40 bytes.
    pub fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        put(&mut bytes, 0, &self.key);
        put(&mut bytes, KEY_BYTES, &self.checksum.to_le_bytes());
        bytes
    }

    /// Parses the 40 bytes. Any bytes are a record.
    pub fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Record {
        Record { key: bytes_at(bytes, 0), checksum: u64_at(bytes, KEY_BYTES) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::DEAD;

    #[test]
    fn a_changed_header_byte_another_cache_and_a_cut_are_noticed() {
        let uuid = [3; 16];
        let good = header(&uuid, 1);
        assert_eq!(check(&good, &uuid, 1), Ok(()));
        assert!(check(&good, &[4; 16], 1).is_err() && check(&good, &uuid, 2).is_err());
        for i in 0..HEADER_BYTES {
            let mut bad = good;
            bad[i] ^= 1;
            assert!(check(&bad, &uuid, 1).is_err(), "byte {i}");
            assert!(check(&good[..i], &uuid, 1).is_err(), "cut at {i}");
        }
    }

    #[test]
    fn a_dead_record_holds_nothing() {
        let record = Record { key: DEAD, checksum: checksum::row(&DEAD, 0, &Row::dense(b"")) };
        assert!(!record.holds(0, &Row::dense(b"")));
    }

    #[test]
    fn a_record_of_which_a_part_was_zeroed_is_dead() {
        let row = Row::dense(b"bytes");
        let whole = Record::of_row(&[9; 32], 0, &row).to_bytes();
        for word in (0..=RECORD_BYTES).step_by(8) {
            let (mut start, mut end) = (whole, whole);
            start[..word].fill(0);
            end[word..].fill(0);
            for (bytes, is_whole) in [(start, word == 0), (end, word == RECORD_BYTES)] {
                let record = Record::from_bytes(&bytes);
                assert_eq!((record.is_dead(), record.holds(0, &row)), (!is_whole, is_whole), "{word}");
            }
        }
    }

    #[test]
    fn records_survive_the_way_to_disk_and_back() {
        let [bytes, others] = [b"bytes", b"bytez"].map(|bytes| Row::dense(bytes));
        let record = Record::of_row(&[9; 32], 77, &bytes);
        assert_eq!(Record::from_bytes(&record.to_bytes()), record);
        assert!(record.holds(77, &bytes) && !record.holds(78, &bytes) && !record.holds(77, &others));
    }
}
