//! The commit slots: how many rows there are.

use super::keys::check_uuid;
use super::{Defect, MAX_ELEMENTS, MAX_ROWS, Uuid, bytes_at, check_header, put, seal, u32_at, u64_at};

/// Bytes of the longest record in a slot. The rest of the slot is zero.
pub const MAX_SLOT_BYTES: usize = 80;

/// Distance between the slots, so that no write touches both.
pub const SLOT_STRIDE: usize = 4096;

/// Bytes of the file.
pub const FILE_BYTES: usize = 2 * SLOT_STRIDE;

const MAGIC: &[u8; 8] = b"\x89dvc\r\n\x1a\n";
const ERASED_OFFSET: usize = 12;
const UUID_OFFSET: usize = 16;
const EPOCH_OFFSET: usize = UUID_OFFSET + 16;
const ROWS_OFFSET: usize = EPOCH_OFFSET + 8;
const SYNCED_OFFSET: usize = ROWS_OFFSET + 8;
/// In even versions.
const ELEMENTS_OFFSET: usize = SYNCED_OFFSET + 8;
const SYNCED_ELEMENTS_OFFSET: usize = ELEMENTS_OFFSET + 8;

/// Offsets of the two epochs in the file. Each commit changes one of them.
pub const EPOCH_OFFSETS: [usize; 2] = [EPOCH_OFFSET, SLOT_STRIDE + EPOCH_OFFSET];

/// Bytes of the record in a slot.
pub fn slot_bytes(version: u32) -> usize {
    if has_elements(version) { MAX_SLOT_BYTES } else { ELEMENTS_OFFSET + 8 }
}

/// Whether records of this version count elements beside rows: those of ragged and sparse caches do.
fn has_elements(version: u32) -> bool {
    version.is_multiple_of(2)
}

/// How far the files of a cache count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Rows.
    pub rows: u64,
    /// Elements of these rows. A row of a dense cache is one element.
    pub elements: u64,
}

impl Extent {
    /// The extent of rows in a dense cache.
    pub fn dense(rows: u64) -> Extent {
        Extent { rows, elements: rows }
    }

    /// Whether both counts are at least those of another extent.
    pub fn covers(self, other: Extent) -> bool {
        self.rows >= other.rows && self.elements >= other.elements
    }

    /// The one with more rows.
    pub fn longer(self, other: Extent) -> Extent {
        if other.rows > self.rows { other } else { self }
    }

    /// The one with fewer rows.
    pub fn shorter(self, other: Extent) -> Extent {
        if other.rows < self.rows { other } else { self }
    }
}

/// One commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The number of this commit. Its parity is the number of its slot.
    pub epoch: u64,
    /// What is committed.
    pub committed: Extent,
    /// How much of it is known to be durable.
    pub synced: Extent,
    /// The last commit, up to this one, at which records of committed rows were zeroed; 0 for none. An index that was
    /// made before may count rows that are dead. The file has the lower 32 bits.
    pub erased: u64,
}

impl Slot {
    /// The offset of this epoch's slot in the file.
    pub fn offset(&self) -> u64 {
        (self.epoch % 2) * SLOT_STRIDE as u64
    }

    /// The bytes of the record. Odd versions have no elements beside rows.
    pub fn to_bytes(self, uuid: &Uuid, version: u32) -> Vec<u8> {
        let mut bytes = vec![0; slot_bytes(version)];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &version.to_le_bytes());
        put(&mut bytes, ERASED_OFFSET, &(self.erased as u32).to_le_bytes());
        put(&mut bytes, UUID_OFFSET, uuid);
        put(&mut bytes, EPOCH_OFFSET, &self.epoch.to_le_bytes());
        put(&mut bytes, ROWS_OFFSET, &self.committed.rows.to_le_bytes());
        put(&mut bytes, SYNCED_OFFSET, &self.synced.rows.to_le_bytes());
        if has_elements(version) {
            put(&mut bytes, ELEMENTS_OFFSET, &self.committed.elements.to_le_bytes());
            put(&mut bytes, SYNCED_ELEMENTS_OFFSET, &self.synced.elements.to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    /// Parses the record in slot 0 or 1.
    pub fn parse(bytes: &[u8], position: u64, uuid: &Uuid, version: u32) -> Result<Slot, Defect> {
        check_header(bytes, slot_bytes(version), MAGIC, version, "a commit record")?;
        check_uuid(bytes_at(bytes, UUID_OFFSET), uuid)?;
        let extent = |rows_offset, elements_offset| {
            let rows = u64_at(bytes, rows_offset);
            match has_elements(version) {
                true => Extent { rows, elements: u64_at(bytes, elements_offset) },
                false => Extent::dense(rows),
            }
        };
        let epoch = u64_at(bytes, EPOCH_OFFSET);
        let since_erased = (epoch as u32).wrapping_sub(u32_at(bytes, ERASED_OFFSET));
        let slot = Slot {
            epoch,
            erased: epoch.saturating_sub(since_erased.into()),
            committed: extent(ROWS_OFFSET, ELEMENTS_OFFSET),
            synced: extent(SYNCED_OFFSET, SYNCED_ELEMENTS_OFFSET),
        };
        let most = Extent { rows: MAX_ROWS, elements: MAX_ELEMENTS };
        if !slot.committed.covers(slot.synced) || !most.covers(slot.committed) || slot.epoch % 2 != position {
            return Err(Defect::new(format!("a possible commit in slot {position}"), format!("{slot:?}")));
        }
        Ok(slot)
    }
}

/// The content of the two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// The newest valid commit.
    pub newest: Slot,
    /// The one before it, if its slot is valid.
    pub older: Option<Slot>,
    /// Whether a newer commit may be lost: the slot beside the newest is invalid, where it should hold the commit
    /// before it (or nothing, at epoch 0).
    pub newer_lost: bool,
}

impl Slots {
    /// Parses the file: the newest valid slot wins.
    pub fn parse(bytes: &[u8], uuid: &Uuid, version: u32) -> Result<Slots, Defect> {
        if bytes.len() != FILE_BYTES {
            return Err(Defect::new(format!("{FILE_BYTES} bytes"), format!("{} bytes", bytes.len())));
        }
        let (first, second) = bytes.split_at(SLOT_STRIDE);
        let length = slot_bytes(version);
        let parse = |slot: &[u8], position| Slot::parse(&slot[..length], position, uuid, version);
        let slots = [parse(first, 0), parse(second, 1)];
        match slots {
            [Ok(even), Ok(odd)] => {
                let (newest, older) = if even.epoch > odd.epoch { (even, odd) } else { (odd, even) };
                Ok(Slots { newest, older: Some(older), newer_lost: false })
            }
            [Ok(newest), Err(_)] => {
                let fresh = newest.epoch == 0 && second[..length].iter().all(|&byte| byte == 0);
                Ok(Slots { newest, older: None, newer_lost: !fresh })
            }
            [Err(_), Ok(newest)] => Ok(Slots { newest, older: None, newer_lost: true }),
            [Err(defect), Err(_)] => Err(defect),
        }
    }
}

/// The file of a new cache: epoch 0, no rows.
pub fn fresh_file(uuid: &Uuid, version: u32) -> Vec<u8> {
    let mut bytes = vec![0; FILE_BYTES];
    let empty = Slot { epoch: 0, committed: Extent::default(), synced: Extent::default(), erased: 0 };
    put(&mut bytes, 0, &empty.to_bytes(uuid, version));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = [5; 16];

    fn file(slots: [Option<Slot>; 2]) -> Vec<u8> {
        let mut bytes = vec![0; FILE_BYTES];
        for slot in slots.into_iter().flatten() {
            put(&mut bytes, slot.offset() as usize, &slot.to_bytes(&UUID, 1));
        }
        bytes
    }

    fn slot(epoch: u64, rows: u64) -> Slot {
        Slot { epoch, committed: Extent::dense(rows), synced: Extent::dense(rows), erased: 0 }
    }

    #[test]
    fn the_newest_valid_slot_wins() {
        let slots = Slots::parse(&file([Some(slot(4, 40)), Some(slot(3, 30))]), &UUID, 1).unwrap();
        assert_eq!((slots.newest, slots.older, slots.newer_lost), (slot(4, 40), Some(slot(3, 30)), false));
        let slots = Slots::parse(&file([Some(slot(4, 40)), Some(slot(5, 50))]), &UUID, 1).unwrap();
        assert_eq!(slots.newest, slot(5, 50));
    }

    #[test]
    fn a_torn_newer_slot_leaves_the_older_and_says_that_one_is_lost() {
        let mut bytes = file([Some(slot(4, 40)), Some(slot(5, 50))]);
        bytes[SLOT_STRIDE + 40] ^= 1;
        let slots = Slots::parse(&bytes, &UUID, 1).unwrap();
        assert_eq!((slots.newest, slots.older, slots.newer_lost), (slot(4, 40), None, true));
    }

    #[test]
    fn a_new_cache_has_lost_nothing() {
        for version in [1, 2, 3, 4] {
            let slots = Slots::parse(&fresh_file(&UUID, version), &UUID, version).unwrap();
            assert_eq!((slots.newest, slots.newer_lost), (slot(0, 0), false));
        }
    }

    #[test]
    fn every_changed_byte_another_cache_and_impossible_counts_are_noticed() {
        for version in [1, 2, 3, 4] {
            let good = slot(2, 9).to_bytes(&UUID, version);
            assert_eq!(Slot::parse(&good, 0, &UUID, version), Ok(slot(2, 9)));
            assert!(Slot::parse(&good, 1, &UUID, version).is_err());
            assert!(Slot::parse(&good, 0, &[6; 16], version).is_err());
            assert!((1..=4).all(|other| other == version || Slot::parse(&good, 0, &UUID, other).is_err()));
            for i in 0..good.len() {
                let mut bad = good.clone();
                bad[i] ^= 1;
                assert!(Slot::parse(&bad, 0, &UUID, version).is_err(), "byte {i}");
            }
            let impossible = [
                Slot { synced: Extent::dense(10), ..slot(2, 9) },
                Slot { committed: Extent::dense(MAX_ROWS + 1), ..slot(2, 9) },
            ];
            for slot in impossible {
                assert!(Slot::parse(&slot.to_bytes(&UUID, version), 0, &UUID, version).is_err());
            }
        }
        let elements = |committed, synced| Slot {
            committed: Extent { rows: 9, elements: committed },
            synced: Extent { rows: 9, elements: synced },
            ..slot(2, 9)
        };
        let parsed = |slot: Slot| Slot::parse(&slot.to_bytes(&UUID, 2), 0, &UUID, 2);
        assert_eq!(parsed(elements(MAX_ELEMENTS, 3)), Ok(elements(MAX_ELEMENTS, 3)));
        assert!(parsed(elements(2, 3)).is_err() && parsed(elements(MAX_ELEMENTS + 1, 3)).is_err());
    }

    #[test]
    fn two_invalid_slots_are_an_error_never_an_empty_cache() {
        assert!(Slots::parse(&file([None, None]), &UUID, 1).is_err());
        assert!(Slots::parse(&[], &UUID, 1).is_err());
    }
}
