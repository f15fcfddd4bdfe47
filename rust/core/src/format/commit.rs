//! The commit slots: how many rows there are.

use super::keys::check_uuid;
use super::{Defect, MAX_ROWS, Uuid, VERSION, bytes_at, check_header, put, seal, u64_at};

/// Bytes of the record in a slot. The rest of the slot is zero.
pub const SLOT_BYTES: usize = 64;

/// Distance between the slots, so that no write touches both.
pub const SLOT_STRIDE: usize = 4096;

/// Bytes of the file.
pub const FILE_BYTES: usize = 2 * SLOT_STRIDE;

const MAGIC: &[u8; 8] = b"\x89dvc\r\n\x1a\n";
const UUID_OFFSET: usize = 16;
const EPOCH_OFFSET: usize = UUID_OFFSET + 16;
const ROWS_OFFSET: usize = EPOCH_OFFSET + 8;
const SYNCED_OFFSET: usize = ROWS_OFFSET + 8;

/// Offsets of the two epochs in the file. Each commit changes one of them.
pub const EPOCH_OFFSETS: [usize; 2] = [EPOCH_OFFSET, SLOT_STRIDE + EPOCH_OFFSET];

/// One commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The number of this commit. Its parity is the number of its slot.
    pub epoch: u64,
    /// Committed rows.
    pub rows: u64,
    /// How many of them are known to be durable.
    pub synced: u64,
}

impl Slot {
    /// The offset of this epoch's slot in the file.
    pub fn offset(&self) -> u64 {
        (self.epoch % 2) * SLOT_STRIDE as u64
    }

    /// The 64 bytes.
    pub fn to_bytes(self, uuid: &Uuid) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, UUID_OFFSET, uuid);
        put(&mut bytes, EPOCH_OFFSET, &self.epoch.to_le_bytes());
        put(&mut bytes, ROWS_OFFSET, &self.rows.to_le_bytes());
        put(&mut bytes, SYNCED_OFFSET, &self.synced.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// Parses the record in slot 0 or 1.
    pub fn parse(bytes: &[u8], position: u64, uuid: &Uuid) -> Result<Slot, Defect> {
        check_header(bytes, SLOT_BYTES, MAGIC, "a commit record")?;
        check_uuid(bytes_at(bytes, UUID_OFFSET), uuid)?;
        let slot = Slot {
            epoch: u64_at(bytes, EPOCH_OFFSET),
            rows: u64_at(bytes, ROWS_OFFSET),
            synced: u64_at(bytes, SYNCED_OFFSET),
        };
        if slot.synced > slot.rows || slot.rows > MAX_ROWS || slot.epoch % 2 != position {
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
    pub fn parse(bytes: &[u8], uuid: &Uuid) -> Result<Slots, Defect> {
        if bytes.len() != FILE_BYTES {
            return Err(Defect::new(format!("{FILE_BYTES} bytes"), format!("{} bytes", bytes.len())));
        }
        let (first, second) = bytes.split_at(SLOT_STRIDE);
        let slots = [Slot::parse(&first[..SLOT_BYTES], 0, uuid), Slot::parse(&second[..SLOT_BYTES], 1, uuid)];
        match slots {
            [Ok(even), Ok(odd)] => {
                let (newest, older) = if even.epoch > odd.epoch { (even, odd) } else { (odd, even) };
                Ok(Slots { newest, older: Some(older), newer_lost: false })
            }
            [Ok(newest), Err(_)] => {
                let fresh = newest.epoch == 0 && second[..SLOT_BYTES].iter().all(|&byte| byte == 0);
                Ok(Slots { newest, older: None, newer_lost: !fresh })
            }
            [Err(_), Ok(newest)] => Ok(Slots { newest, older: None, newer_lost: true }),
            [Err(defect), Err(_)] => Err(defect),
        }
    }
}

/// The file of a new cache: epoch 0, no rows.
pub fn fresh_file(uuid: &Uuid) -> Vec<u8> {
    let mut bytes = vec![0; FILE_BYTES];
    put(&mut bytes, 0, &Slot { epoch: 0, rows: 0, synced: 0 }.to_bytes(uuid));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = [5; 16];

    fn file(slots: [Option<Slot>; 2]) -> Vec<u8> {
        let mut bytes = vec![0; FILE_BYTES];
        for slot in slots.into_iter().flatten() {
            put(&mut bytes, slot.offset() as usize, &slot.to_bytes(&UUID));
        }
        bytes
    }

    fn slot(epoch: u64, rows: u64) -> Slot {
        Slot { epoch, rows, synced: rows }
    }

    #[test]
    fn the_newest_valid_slot_wins() {
        let slots = Slots::parse(&file([Some(slot(4, 40)), Some(slot(3, 30))]), &UUID).unwrap();
        assert_eq!((slots.newest.rows, slots.older.unwrap().rows, slots.newer_lost), (40, 30, false));
        let slots = Slots::parse(&file([Some(slot(4, 40)), Some(slot(5, 50))]), &UUID).unwrap();
        assert_eq!(slots.newest.rows, 50);
    }

    #[test]
    fn a_torn_newer_slot_leaves_the_older_and_says_that_one_is_lost() {
        let mut bytes = file([Some(slot(4, 40)), Some(slot(5, 50))]);
        bytes[SLOT_STRIDE + 40] ^= 1;
        let slots = Slots::parse(&bytes, &UUID).unwrap();
        assert_eq!((slots.newest.rows, slots.older, slots.newer_lost), (40, None, true));
    }

    #[test]
    fn a_new_cache_has_lost_nothing() {
        let slots = Slots::parse(&fresh_file(&UUID), &UUID).unwrap();
        assert_eq!((slots.newest, slots.newer_lost), (slot(0, 0), false));
    }

    #[test]
    fn every_changed_byte_another_cache_and_impossible_counts_are_noticed() {
        let good = slot(2, 9).to_bytes(&UUID);
        assert!(Slot::parse(&good, 0, &UUID).is_ok());
        assert!(Slot::parse(&good, 1, &UUID).is_err());
        assert!(Slot::parse(&good, 0, &[6; 16]).is_err());
        for i in 0..SLOT_BYTES {
            let mut bad = good;
            bad[i] ^= 1;
            assert!(Slot::parse(&bad, 0, &UUID).is_err(), "byte {i}");
        }
        let impossible = Slot { epoch: 2, rows: 1, synced: 2 }.to_bytes(&UUID);
        assert!(Slot::parse(&impossible, 0, &UUID).is_err());
        let too_many = Slot { epoch: 2, rows: MAX_ROWS + 1, synced: 0 }.to_bytes(&UUID);
        assert!(Slot::parse(&too_many, 0, &UUID).is_err());
    }

    #[test]
    fn two_invalid_slots_are_an_error_never_an_empty_cache() {
        assert!(Slots::parse(&file([None, None]), &UUID).is_err());
        assert!(Slots::parse(&[], &UUID).is_err());
    }
}
