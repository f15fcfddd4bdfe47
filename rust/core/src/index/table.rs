//! The slots of the index, and a table of them in memory.

use super::READ_AHEAD;
use crate::key::Key;
use crate::key_records::KeyRecords;
use crate::prefetch;

const FINGERPRINT_BITS: u32 = 24;
const FINGERPRINT_MASK: u64 = (1 << FINGERPRINT_BITS) - 1;

/// Slots for each key, in tenths: a load of 0.67.
const TENTHS_OF_SLOTS_A_KEY: u64 = 15;
const SMALLEST_CAPACITY: u64 = 1024;

/// The slots of a table that is made for this many keys.
pub(super) fn capacity_for(keys: u64) -> u64 {
    (keys.saturating_mul(TENTHS_OF_SLOTS_A_KEY) / 10).max(SMALLEST_CAPACITY)
}

fn slot_of(row: u64, hash: u64) -> u64 {
    ((row + 1) << FINGERPRINT_BITS) | (hash & FINGERPRINT_MASK)
}

/// The row number in a slot. None if the slot is empty.
pub(super) fn row_of(slot: u64) -> Option<u64> {
    (slot >> FINGERPRINT_BITS).checked_sub(1)
}

/// The slot where the search for a key with this hash begins.
pub(super) fn home(hash: u64, capacity: u64) -> u64 {
    ((u128::from(hash) * u128::from(capacity)) >> 64) as u64
}

/// The slot behind a slot.
fn next(at: u64, capacity: u64) -> u64 {
    if at + 1 == capacity { 0 } else { at + 1 }
}

/// Whether a slot has the fingerprint of a hash.
pub(super) fn has_fingerprint(slot: u64, hash: u64) -> bool {
    slot & FINGERPRINT_MASK == hash & FINGERPRINT_MASK
}

/// Where the probe for a key ended.
pub(super) enum Probe {
    /// At the slot of this row.
    Row { at: u64, row: u64 },
    /// At an empty slot: the key is not in the table.
    Empty { at: u64 },
    /// Nowhere: the table is full of other keys. Only a forged table is.
    Full,
}

/// Follows a key through a table, from the home slot of its hash to the slot of a row with the key, or to an empty slot.
pub(super) fn probe(capacity: u64, slot: impl Fn(u64) -> u64, hash: u64, has_key: impl Fn(u64) -> bool) -> Probe {
    let mut at = home(hash, capacity);
    for _ in 0..capacity {
        let value = slot(at);
        let Some(row) = row_of(value) else { return Probe::Empty { at } };
        if has_fingerprint(value, hash) && has_key(row) {
            return Probe::Row { at, row };
        }
        at = next(at, capacity);
    }
    Probe::Full
}

/// Slots from the home of a key on that are read ahead: most keys are there.
const NEAR: usize = 8;

/// Prefetches the slots from one on in the bytes of a table, as far as they are read ahead.
pub(super) fn prefetch_near(slots: &[u8]) {
    let near = NEAR * size_of::<u64>();
    if let Some(near) = slots.get(..near) {
        prefetch::fetch(near);
    }
}

/// Reads the home slots of the next few hashes, at most [`READ_AHEAD`], and then those near them. Calls `found` for the
/// first row of each that may have the key.
///
/// `prefetch` is asked to prefetch the slots near one.
pub(super) fn read_ahead(
    capacity: u64,
    slot: impl Fn(u64) -> u64,
    prefetch: impl Fn(u64),
    hashes: &[u64],
    found: impl Fn(u64),
) {
    for hash in hashes {
        prefetch(home(*hash, capacity));
    }
    let mut slots = [0; READ_AHEAD];
    // All of them before any is looked at: so the processor waits for them at once.
    for (value, hash) in slots.iter_mut().zip(hashes) {
        *value = slot(home(*hash, capacity));
    }
    for (value, hash) in slots.into_iter().zip(hashes) {
        let (mut value, mut at) = (value, home(*hash, capacity));
        for _ in 0..NEAR {
            let Some(row) = row_of(value) else { break };
            if has_fingerprint(value, *hash) {
                found(row);
                break;
            }
            at = next(at, capacity);
            value = slot(at);
        }
    }
}

/// What [`insert`] did.
pub(super) enum Insert {
    /// The key was not there.
    New,
    /// The key had this row.
    Replaced(u64),
}

/// Enters a row into a range of slots, from its home on. Behind the last slot another one is added: it is for the next
/// range.
pub(super) fn insert(
    slots: &mut Vec<u64>,
    home: u64,
    row: u64,
    hash: u64,
    has_same_key: impl Fn(u64) -> bool,
) -> Insert {
    let behind = slots.iter_mut().skip(usize::try_from(home).unwrap_or(usize::MAX));
    for slot in behind {
        let replaced = match row_of(*slot) {
            None => Insert::New,
            Some(older) if has_fingerprint(*slot, hash) && has_same_key(older) => Insert::Replaced(older),
            Some(_) => continue,
        };
        *slot = slot_of(row, hash);
        return replaced;
    }
    slots.push(slot_of(row, hash));
    Insert::New
}

/// A table in memory that grows.
#[derive(Debug, Default, Clone)]
pub(super) struct Table {
    pub(super) slots: Vec<u64>,
    pub(super) keys: u64,
}

impl Table {
    pub(super) fn with_room_for(keys: u64) -> Table {
        let capacity = usize::try_from(capacity_for(keys)).unwrap_or(usize::MAX);
        Table { slots: vec![0; capacity], keys: 0 }
    }

    fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }

    fn probe(&self, hash: u64, key: &Key, records: &KeyRecords) -> Probe {
        probe(self.capacity(), |at| self.slots[at as usize], hash, |row| records.has_key(row, key))
    }

    /// See [`read_ahead`].
    pub(super) fn read_ahead(&self, hashes: &[u64], found: impl Fn(u64)) {
        // The home slots alone: a delta is small.
        read_ahead(self.capacity(), |at| self.slots[at as usize], |_| {}, hashes, found);
    }

    /// The row of a key with this hash.
    pub(super) fn get(&self, hash: u64, key: &Key, records: &KeyRecords) -> Option<u64> {
        match self.probe(hash, key, records) {
            Probe::Row { row, .. } => Some(row),
            Probe::Empty { .. } | Probe::Full => None,
        }
    }

    /// Enters a row under its key. Returns the row of the same key that it replaces.
    pub(super) fn insert(&mut self, row: u64, key: &Key, records: &KeyRecords) -> Option<u64> {
        if capacity_for(self.keys + 1) > self.slots.len() as u64 {
            self.grow(records);
        }
        let hash = records.hash(key);
        let (at, replaced) = match self.probe(hash, key, records) {
            Probe::Row { at, row } => (at, Some(row)),
            Probe::Empty { at } => (at, None),
            Probe::Full => return None,
        };
        self.slots[at as usize] = slot_of(row, hash);
        self.keys += u64::from(replaced.is_none());
        replaced
    }

    fn grow(&mut self, records: &KeyRecords) {
        let mut larger = Table::with_room_for(self.keys.saturating_mul(2).max(SMALLEST_CAPACITY));
        for row in self.slots.iter().filter_map(|slot| row_of(*slot)) {
            if let Some(key) = records.key(row) {
                larger.insert(row, &key, records);
            }
        }
        *self = larger;
    }
}
