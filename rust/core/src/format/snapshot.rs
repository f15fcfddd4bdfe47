//! An index snapshot: key → row number for a range of rows of a cache. It is immutable and can be rebuilt from
//! `keys.bin`.

use super::keys::{RECORD_BYTES, check_uuid};
use super::{Defect, MAX_ROWS, Uuid, bytes_at, check_header, name, put, seal, u32_at, u64_at};

/// Bytes of the header. The slots begin at the next page.
pub const HEADER_BYTES: usize = 128;

/// Bytes of the header of a snapshot that begins behind another one.
pub const TIER_HEADER_BYTES: usize = HEADER_BYTES + 8;

/// Offset of the slots.
pub const SLOTS_OFFSET: usize = 4096;

/// Bytes of a slot, and of an entry of the list of replaced rows.
pub const SLOT_BYTES: usize = 8;

/// Bytes of a block, counted from [`SLOTS_OFFSET`]. Each block has a checksum.
pub const BLOCK_BYTES: usize = 1 << 20;

/// The version of a snapshot from row 0 on. Snapshots are the same for all containers.
const VERSION: u32 = 1;

/// The version of a snapshot of later rows. Dejavec 0.1.0 ignores their names.
const TIER_VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"\x89dvi\r\n\x1a\n";
const UUID_OFFSET: usize = 16;
const SEED_OFFSET: usize = UUID_OFFSET + 16;
const EPOCH_OFFSET: usize = SEED_OFFSET + 8;
const ROWS_OFFSET: usize = EPOCH_OFFSET + 8;
const CAPACITY_OFFSET: usize = ROWS_OFFSET + 8;
const KEYS_OFFSET: usize = CAPACITY_OFFSET + 8;
const REPLACED_OFFSET: usize = KEYS_OFFSET + 8;
const LAST_RECORD_OFFSET: usize = REPLACED_OFFSET + 8;
const FIRST_OFFSET: usize = LAST_RECORD_OFFSET + RECORD_BYTES;

const PREFIX: &str = "index-";
const SUFFIX: &str = ".idx";

/// The header of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The cache.
    pub uuid: Uuid,
    /// Its hash seed.
    pub seed: u64,
    /// The commit at which the snapshot was taken.
    pub epoch: u64,
    /// The first row that it covers. Those before are covered by other snapshots.
    pub first: u64,
    /// The row behind the last one that it covers.
    pub rows: u64,
    /// Slots of its table.
    pub capacity: u64,
    /// Keys in its table.
    pub keys: u64,
    /// Entries of its list of replaced rows.
    pub replaced: u64,
    /// The key record of the last row that it covers. Zeros if it covers none.
    pub last_record: [u8; RECORD_BYTES],
}

/// The sizes of the parts of a snapshot file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of slots and list together. The block checksums cover them.
    pub body_bytes: usize,
    /// Bytes of the slots alone.
    pub slots_bytes: usize,
    /// Bytes of the file.
    pub file_bytes: usize,
}

impl Layout {
    /// Entries of the list of replaced rows.
    pub fn replaced_entries(&self) -> usize {
        (self.body_bytes - self.slots_bytes) / SLOT_BYTES
    }
}

impl Header {
    /// The 128 bytes, or 136 if others cover the rows before.
    pub fn to_bytes(self) -> Vec<u8> {
        let (version, length) =
            if self.first == 0 { (VERSION, HEADER_BYTES) } else { (TIER_VERSION, TIER_HEADER_BYTES) };
        let mut bytes = vec![0; length];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &version.to_le_bytes());
        put(&mut bytes, UUID_OFFSET, &self.uuid);
        put(&mut bytes, SEED_OFFSET, &self.seed.to_le_bytes());
        put(&mut bytes, EPOCH_OFFSET, &self.epoch.to_le_bytes());
        put(&mut bytes, ROWS_OFFSET, &self.rows.to_le_bytes());
        put(&mut bytes, CAPACITY_OFFSET, &self.capacity.to_le_bytes());
        put(&mut bytes, KEYS_OFFSET, &self.keys.to_le_bytes());
        put(&mut bytes, REPLACED_OFFSET, &self.replaced.to_le_bytes());
        put(&mut bytes, LAST_RECORD_OFFSET, &self.last_record);
        if self.first > 0 {
            put(&mut bytes, FIRST_OFFSET, &self.first.to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    /// Parses the header of a snapshot of the cache with this uuid and seed. Bytes behind it are ignored.
    pub fn parse(bytes: &[u8], uuid: &Uuid, seed: u64) -> Result<Header, Defect> {
        let is_tier = u32_at(bytes, 8) == TIER_VERSION;
        let (version, length) = if is_tier { (TIER_VERSION, TIER_HEADER_BYTES) } else { (VERSION, HEADER_BYTES) };
        let bytes = bytes.get(..length).unwrap_or(bytes);
        check_header(bytes, length, MAGIC, version, "an index header")?;
        let header = Header {
            uuid: bytes_at(bytes, UUID_OFFSET),
            seed: u64_at(bytes, SEED_OFFSET),
            epoch: u64_at(bytes, EPOCH_OFFSET),
            first: if is_tier { u64_at(bytes, FIRST_OFFSET) } else { 0 },
            rows: u64_at(bytes, ROWS_OFFSET),
            capacity: u64_at(bytes, CAPACITY_OFFSET),
            keys: u64_at(bytes, KEYS_OFFSET),
            replaced: u64_at(bytes, REPLACED_OFFSET),
            last_record: bytes_at(bytes, LAST_RECORD_OFFSET),
        };
        check_uuid(header.uuid, uuid)?;
        if header.seed != seed {
            return Err(Defect::new(format!("hash seed {seed:016x}"), format!("{:016x}", header.seed)));
        }
        let counts = header.keys.checked_add(header.replaced);
        let possible = header.rows <= MAX_ROWS
            && is_tier == (header.first > 0)
            && header.rows.checked_sub(header.first).is_some_and(|covered| header.keys <= covered)
            && header.keys < header.capacity
            && counts.is_some_and(|counts| counts <= header.rows);
        if possible { Ok(header) } else { Err(Defect::new("possible counts", format!("{header:?}"))) }
    }

    /// The sizes of the parts. None if the counts do not fit this machine's memory.
    pub fn layout(&self) -> Option<Layout> {
        let slots_bytes = usize::try_from(self.capacity).ok()?.checked_mul(SLOT_BYTES)?;
        let list_bytes = usize::try_from(self.replaced).ok()?.checked_mul(SLOT_BYTES)?;
        let body_bytes = slots_bytes.checked_add(list_bytes)?;
        let checksums_bytes = body_bytes.div_ceil(BLOCK_BYTES).checked_mul(8)?;
        let file_bytes = SLOTS_OFFSET.checked_add(body_bytes)?.checked_add(checksums_bytes)?;
        Some(Layout { body_bytes, slots_bytes, file_bytes })
    }

    /// The name of the snapshot's file in a generation of the cache.
    pub fn file_name(&self, generation: u64) -> String {
        self.name().in_generation(generation)
    }

    /// What the name of its file says.
    pub fn name(&self) -> Name {
        Name { epoch: self.epoch, first: self.first, rows: self.rows }
    }
}

/// The name of the file of a snapshot says what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// The commit at which the snapshot was taken.
    pub epoch: u64,
    /// The first row that it covers.
    pub first: u64,
    /// The row behind the last one.
    pub rows: u64,
}

impl Name {
    /// The name in a generation of the cache.
    pub fn in_generation(self, generation: u64) -> String {
        let Name { epoch, first, rows } = self;
        let plain = match first {
            0 => format!("{PREFIX}{epoch}-{rows}{SUFFIX}"),
            _ => format!("{PREFIX}{epoch}-{first}-{rows}{SUFFIX}"),
        };
        name::in_generation(&plain, generation)
    }

    /// The name of a snapshot of a generation. None for another name.
    pub fn parse(name: &str, generation: u64) -> Option<Name> {
        let (plain, _) = name::generation_of(name);
        let (epoch, rows) = plain.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
        let (first, rows) = rows.split_once('-').unwrap_or(("0", rows));
        let parsed = Name { epoch: epoch.parse().ok()?, first: first.parse().ok()?, rows: rows.parse().ok()? };
        // Only names that this type makes.
        Some(parsed).filter(|parsed| parsed.in_generation(generation) == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            uuid: [1; 16],
            seed: 2,
            epoch: 3,
            first: 0,
            rows: 100,
            capacity: 200,
            keys: 90,
            replaced: 10,
            last_record: [4; 40],
        }
    }

    fn tier() -> Header {
        Header { first: 7, replaced: 8, keys: 90, ..header() }
    }

    #[test]
    fn every_changed_byte_and_every_difference_is_noticed() {
        for header in [header(), tier()] {
            let good = header.to_bytes();
            assert_eq!(Header::parse(&good, &[1; 16], 2), Ok(header));
            assert_eq!(Header::parse(&[&good[..], &[9; 50]].concat(), &[1; 16], 2), Ok(header));
            assert!(Header::parse(&good, &[2; 16], 2).is_err());
            assert!(Header::parse(&good, &[1; 16], 3).is_err());
            for i in 0..good.len() {
                let mut bad = good.clone();
                bad[i] ^= 1;
                assert!(Header::parse(&bad, &[1; 16], 2).is_err(), "byte {i}");
                assert!(Header::parse(&good[..i], &[1; 16], 2).is_err(), "cut at {i}");
            }
        }
        assert_eq!((header().to_bytes().len(), tier().to_bytes().len()), (HEADER_BYTES, TIER_HEADER_BYTES));
    }

    #[test]
    fn counts_that_would_overflow_or_spin_are_refused() {
        for bad in [
            Header { keys: 200, ..header() },
            Header { replaced: u64::MAX, ..header() },
            Header { rows: u64::MAX, ..header() },
            Header { first: 101, ..tier() },
            Header { keys: 94, replaced: 0, ..tier() },
        ] {
            assert!(Header::parse(&bad.to_bytes(), &[1; 16], 2).is_err(), "{bad:?}");
        }
        assert_eq!(Header { capacity: u64::MAX, ..header() }.layout(), None);
    }

    #[test]
    fn names_are_read_back_and_others_are_not_ours() {
        for generation in [0, 2] {
            for header in [header(), tier()] {
                let name = Name { epoch: 3, first: header.first, rows: 100 };
                assert_eq!(Name::parse(&header.file_name(generation), generation), Some(name));
                assert_eq!(Name::parse(&header.file_name(generation), 1), None);
            }
        }
        assert_eq!(tier().file_name(0), "index-3-7-100.idx");
        for name in [
            "index-3.idx",
            "index-a-b.idx",
            "index-3-100.idx.tmp-1",
            "index-3-7-100-1.idx",
            "index-3-0-100.idx",
            "index-03-100.idx",
            "meta.json",
        ] {
            assert_eq!(Name::parse(name, 0), None, "{name}");
        }
    }
}
