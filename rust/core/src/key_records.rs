//! The key records of committed rows: the key and the checksum of each.

use crate::checksum;
use crate::format::keys::{RECORD_BYTES, Record};
use crate::key::{DEAD, Key};
use crate::records::Records;

/// The first records of `keys.bin`, and the hash seed of the index. Cheap to clone. Stays valid while the file grows.
#[derive(Debug, Clone)]
pub struct KeyRecords {
    records: Records,
    seed: u64,
}

impl KeyRecords {
    /// The records of a cache with this hash seed.
    pub fn new(records: Records, seed: u64) -> KeyRecords {
        KeyRecords { records, seed }
    }

    /// How many rows have their record here.
    #[inline]
    pub fn rows(&self) -> u64 {
        self.records.rows()
    }

    /// The bytes of all records.
    pub fn all(&self) -> &[[u8; RECORD_BYTES]] {
        self.records.bytes().as_chunks().0
    }

    /// The bytes of the record of a row, if it is one of these.
    #[inline]
    pub fn bytes(&self, row: u64) -> Option<&[u8; RECORD_BYTES]> {
        self.records.get(row).and_then(|bytes| bytes.try_into().ok())
    }

    /// The record of a row.
    #[inline]
    pub fn record(&self, row: u64) -> Option<Record> {
        self.bytes(row).map(Record::from_bytes)
    }

    /// The key of a row; zeros if it is dead.
    #[inline]
    pub fn key(&self, row: u64) -> Option<Key> {
        self.record(row).map(|record| if record.is_dead() { DEAD } else { record.key })
    }

    /// Whether a row has this key. Compares all 32 bytes: only such a row can be a hit.
    #[inline]
    pub fn has_key(&self, row: u64, key: &Key) -> bool {
        self.bytes(row).and_then(|record| record.first_chunk()) == Some(key)
    }

    /// Whether two rows have one key.
    #[inline]
    pub fn have_same_key(&self, row: u64, other: u64) -> bool {
        let key = |row: u64| self.bytes(row)?.first_chunk::<{ size_of::<Key>() }>();
        key(row).is_some_and(|found| Some(found) == key(other))
    }

    /// Whether a row is dead: it has no key.
    pub fn is_dead(&self, row: u64) -> bool {
        self.record(row).is_some_and(|record| record.is_dead())
    }

    /// Prefetches the record of a row.
    #[inline]
    pub fn prefetch(&self, row: u64) {
        self.records.prefetch(row);
    }

    /// The seed of the index.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The hash that places a key in the index.
    #[inline]
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        checksum::index_hash(key, self.seed)
    }
}
