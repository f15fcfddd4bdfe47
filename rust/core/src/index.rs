//! Key → row: an immutable snapshot, shared by all processes, and a delta in memory for the rows after it.
//!
//! Both are open-addressing tables of 8-byte slots: row + 1 in the upper 40 bits, a fingerprint of the key in the lower
//! 24; 0 is empty. The table can say anything: the full key of its row decides, so a wrong slot costs a miss, never a
//! wrong row.

use std::cmp::Ordering;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::checksum;
use crate::error::Result;
use crate::format::keys::{RECORD_BYTES, Record};
use crate::format::snapshot::{BLOCK_BYTES, HEADER_BYTES, Header, Layout, SLOT_BYTES, SLOTS_OFFSET, parse_name};
use crate::format::{Defect, Uuid, name};
use crate::key::{DEAD, Key};
use crate::mmap::Mapping;
use crate::records::Records;
use crate::storage::{Access, Storage};

const FINGERPRINT_BITS: u32 = 24;
const FINGERPRINT_MASK: u64 = (1 << FINGERPRINT_BITS) - 1;

/// How long a delta may become before a new snapshot is worth writing.
#[derive(Debug, Clone, Copy)]
pub struct DeltaLimit {
    /// This many rows are always fine.
    rows: u64,
    /// And this part of the rows that the snapshot covers.
    part: u64,
}

impl DeltaLimit {
    /// While rows are appended: the snapshots of a growing cache cost each row a constant.
    pub const APPENDING: DeltaLimit = DeltaLimit { rows: 65_536, part: 8 };
    /// When the writer closes: whoever opens the cache has to enter the delta into a table of his own first.
    pub const CLOSING: DeltaLimit = DeltaLimit { rows: 8192, part: 64 };
}

/// Keys whose slots and records are read ahead.
pub const READ_AHEAD: usize = 32;

/// Rows of a snapshot from which on that pays: what fewer need fits into the processor's caches.
const READ_AHEAD_FROM: u64 = 1 << 20;

/// How often a reader looks for a snapshot while others replace it.
const LISTINGS: usize = 10;

/// Slots for each key, in tenths: a load of 0.67.
const TENTHS_OF_SLOTS_A_KEY: u64 = 15;
const SMALLEST_CAPACITY: u64 = 1024;

fn capacity_for(keys: u64) -> u64 {
    (keys.saturating_mul(TENTHS_OF_SLOTS_A_KEY) / 10).max(SMALLEST_CAPACITY)
}

fn slot_of(row: u64, hash: u64) -> u64 {
    ((row + 1) << FINGERPRINT_BITS) | (hash & FINGERPRINT_MASK)
}

/// The committed key records, as the index reads them.
#[derive(Debug, Clone)]
pub struct Keys {
    records: Records,
    seed: u64,
}

impl Keys {
    /// The records of a cache with this hash seed.
    pub fn new(records: Records, seed: u64) -> Keys {
        Keys { records, seed }
    }

    /// The records themselves.
    pub fn records(&self) -> &Records {
        &self.records
    }

    fn hash(&self, key: &Key) -> u64 {
        checksum::index_hash(key, self.seed)
    }

    /// The key of a committed row.
    pub fn key(&self, row: u64) -> Option<Key> {
        self.records.get(row).and_then(|record| record.first_chunk()).copied()
    }

    /// The one place where a row becomes a hit: it is committed and its full 32-byte key is this one.
    fn row_has_key(&self, row: u64, key: &Key) -> bool {
        self.records.get(row).and_then(|record| record.first_chunk::<32>()) == Some(key)
    }
}

/// The slot where the search for a key with this hash begins.
fn home(hash: u64, capacity: u64) -> u64 {
    ((u128::from(hash) * u128::from(capacity)) >> 64) as u64
}

/// Whether a slot's fingerprint is that of a hash.
fn has_fingerprint(slot: u64, hash: u64) -> bool {
    slot & FINGERPRINT_MASK == hash & FINGERPRINT_MASK
}

/// Where the probe for a key ended.
enum Probe {
    /// At the slot of this row.
    Row { at: u64, row: u64 },
    /// At an empty slot: the key is not in the table.
    Empty { at: u64 },
    /// Nowhere: the table is full of others, as only a forged one is.
    Full,
}

/// Follows a key through a table: from its home slot to the slot of a row that has the key, or to an empty one.
fn probe(capacity: u64, slot: impl Fn(u64) -> u64, key: &Key, keys: &Keys) -> Probe {
    let hash = keys.hash(key);
    let mut at = home(hash, capacity);
    for _ in 0..capacity {
        let value = slot(at);
        let Some(row) = (value >> FINGERPRINT_BITS).checked_sub(1) else { return Probe::Empty { at } };
        if has_fingerprint(value, hash) && keys.row_has_key(row, key) {
            return Probe::Row { at, row };
        }
        at = if at + 1 == capacity { 0 } else { at + 1 };
    }
    Probe::Full
}

/// A table in memory that grows.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<u64>,
    keys: u64,
}

impl Table {
    fn with_room_for(keys: u64) -> Table {
        let capacity = usize::try_from(capacity_for(keys)).unwrap_or(usize::MAX);
        Table { slots: vec![0; capacity], keys: 0 }
    }

    fn probe(&self, key: &Key, keys: &Keys) -> Probe {
        probe(self.slots.len() as u64, |at| self.slots[at as usize], key, keys)
    }

    fn get(&self, key: &Key, keys: &Keys) -> Option<u64> {
        match self.probe(key, keys) {
            Probe::Row { row, .. } => Some(row),
            Probe::Empty { .. } | Probe::Full => None,
        }
    }

    /// Enters a row under its key; gives the row of the same key that it replaces.
    fn insert(&mut self, row: u64, key: &Key, keys: &Keys) -> Option<u64> {
        if capacity_for(self.keys + 1) > self.slots.len() as u64 {
            self.grow(keys);
        }
        let (at, replaced) = match self.probe(key, keys) {
            Probe::Row { at, row } => (at, Some(row)),
            Probe::Empty { at } => (at, None),
            Probe::Full => return None,
        };
        self.slots[at as usize] = slot_of(row, keys.hash(key));
        self.keys += u64::from(replaced.is_none());
        replaced
    }

    fn grow(&mut self, keys: &Keys) {
        let mut larger = Table::with_room_for(self.keys.saturating_mul(2).max(SMALLEST_CAPACITY));
        for slot in self.slots.iter().filter(|slot| **slot != 0) {
            let row = (slot >> FINGERPRINT_BITS) - 1;
            if let Some(key) = keys.key(row) {
                larger.insert(row, &key, keys);
            }
        }
        *self = larger;
    }
}

/// A snapshot file, open.
#[derive(Debug)]
pub struct Snapshot {
    header: Header,
    layout: Layout,
    mapping: Mapping,
}

impl Snapshot {
    /// Opens a snapshot if it fits the cache and what is committed; None if it does not, for whatever reason.
    fn open(storage: &dyn Storage, path: &Path, uuid: &Uuid, keys: &Keys) -> Option<Snapshot> {
        let file = storage.open(path, Access::Read).ok()?;
        let mut bytes = [0; HEADER_BYTES];
        file.read_at(&mut bytes, 0).ok()?;
        let header = Header::parse(&bytes, uuid, keys.seed).ok()?;
        let layout = header.layout()?;
        if file.metadata().ok()?.len != layout.file_bytes as u64
            || last_record(header.rows, keys)? != header.last_record
        {
            return None;
        }
        let mapping = file.map(layout.file_bytes).ok()?;
        mapping.expect_scattered_reads();
        Some(Snapshot { header, layout, mapping })
    }

    fn word(&self, offset: usize) -> u64 {
        let bytes = self.mapping.get(offset..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn slot(&self, at: u64) -> u64 {
        self.word(SLOTS_OFFSET + at as usize * SLOT_BYTES)
    }

    fn get(&self, key: &Key, keys: &Keys) -> Option<u64> {
        match probe(self.header.capacity, |at| self.slot(at), key, keys) {
            // A damaged slot may name an older row of the same key.
            Probe::Row { row, .. } if row < self.header.rows && !self.is_replaced(row) => Some(row),
            _ => None,
        }
    }

    /// Does what [`Index::read_ahead`] says.
    fn read_ahead(&self, wanted: &[Key], keys: &Keys) {
        let mut found = [(0, 0); READ_AHEAD];
        for ((slot, hash), key) in found.iter_mut().zip(wanted) {
            *hash = keys.hash(key);
            *slot = self.slot(home(*hash, self.header.capacity));
        }
        let first_byte = |&(slot, hash): &(u64, u64)| {
            let row = (slot >> FINGERPRINT_BITS).checked_sub(1).filter(|_| has_fingerprint(slot, hash))?;
            keys.records.get(row)?.first()
        };
        black_box(found.iter().filter_map(first_byte).fold(0, |sum, byte| sum ^ byte));
    }

    /// Entry `at` of the list of replaced rows.
    fn replaced_row(&self, at: usize) -> u64 {
        self.word(SLOTS_OFFSET + self.layout.slots_bytes + at * SLOT_BYTES)
    }

    fn replaced(&self) -> impl Iterator<Item = u64> {
        (0..self.layout.replaced_entries()).map(|at| self.replaced_row(at))
    }

    fn is_replaced(&self, row: u64) -> bool {
        let (mut low, mut high) = (0, self.layout.replaced_entries());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.replaced_row(middle).cmp(&row) {
                Ordering::Equal => return true,
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        false
    }

    /// Checks every block against its checksum.
    fn verify(&self) -> std::result::Result<(), Defect> {
        let body = self.mapping.get(SLOTS_OFFSET..SLOTS_OFFSET + self.layout.body_bytes).unwrap_or_default();
        for (i, block) in body.chunks(BLOCK_BYTES).enumerate() {
            let (computed, stored) =
                (checksum::block(block), self.word(SLOTS_OFFSET + self.layout.body_bytes + i * SLOT_BYTES));
            if computed != stored {
                return Err(Defect::new(format!("block {i} with checksum {computed:016x}"), format!("{stored:016x}")));
            }
        }
        Ok(())
    }
}

/// The newest snapshot that fits the cache.
fn newest_snapshot(storage: &dyn Storage, directory: &Path, uuid: &Uuid, keys: &Keys) -> Option<Snapshot> {
    // Whoever writes a newer snapshot removes the older: one that vanished since the listing means to list again.
    for _ in 0..LISTINGS {
        let mut names: Vec<_> = storage
            .list(directory)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, _)| parse_name(&name).map(|(epoch, rows)| (rows, epoch, directory.join(name))))
            .collect();
        names.sort_unstable();
        let open = |(_, _, path): &(u64, u64, PathBuf)| Snapshot::open(storage, path, uuid, keys);
        if let Some(snapshot) = names.iter().rev().find_map(open) {
            return Some(snapshot);
        }
        if names.iter().all(|(_, _, path)| storage.metadata(path).is_ok()) {
            break;
        }
    }
    None
}

/// The record of the last of the first `rows` rows, zeros if there is none; None if they are not all committed.
fn last_record(rows: u64, keys: &Keys) -> Option<[u8; RECORD_BYTES]> {
    match rows.checked_sub(1) {
        None => Some([0; RECORD_BYTES]),
        Some(last) => keys.records.get(last)?.try_into().ok(),
    }
}

/// The index of one open cache.
#[derive(Debug)]
pub struct Index {
    snapshot: Option<Snapshot>,
    delta: Table,
    /// Rows that the snapshot and the delta cover together.
    rows: u64,
    /// Rows that rows of the delta have replaced, and dead rows of the delta; see [`Index::count`].
    replaced: Vec<u64>,
    /// Different keys; see [`Index::count`].
    keys: u64,
    /// Rows of keys that are new to the delta, and that were not looked for in the snapshot yet.
    uncounted: Vec<u64>,
}

impl Index {
    /// The index of all committed rows: the newest snapshot that fits, and a delta for the rest.
    pub fn open(storage: &dyn Storage, directory: &Path, uuid: &Uuid, keys: &Keys) -> Index {
        let snapshot = newest_snapshot(storage, directory, uuid, keys);
        let (rows, known) = snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.header.rows, snapshot.header.keys));
        let mut index =
            Index { snapshot, delta: Table::default(), rows, replaced: Vec::new(), keys: known, uncounted: Vec::new() };
        index.extend(keys);
        index
    }

    /// Enters the rows that were committed since.
    pub fn extend(&mut self, keys: &Keys) {
        let new = keys.records.rows().saturating_sub(self.rows);
        if self.delta.slots.is_empty() {
            self.delta = Table::with_room_for(new);
        }
        for row in self.rows..keys.records.rows() {
            let Some(key) = keys.key(row) else { continue };
            if key == DEAD {
                self.replaced.push(row);
                continue;
            }
            match self.delta.insert(row, &key, keys) {
                Some(older) => self.replaced.push(older),
                None => self.uncounted.push(row),
            }
        }
        self.rows = self.rows.max(keys.records.rows());
    }

    /// Brings [`Index::keys`] and [`Index::replaced`] up to date. It takes a look into the snapshot for each row, which
    /// neither opening a cache nor appending to it should wait for.
    pub fn count(&mut self, keys: &Keys) {
        for row in std::mem::take(&mut self.uncounted) {
            let Some(key) = keys.key(row) else { continue };
            match self.snapshot.as_ref().and_then(|snapshot| snapshot.get(&key, keys)) {
                Some(older) => self.replaced.push(older),
                None => self.keys += 1,
            }
        }
    }

    /// Reads what look-ups of the next few keys, at most [`READ_AHEAD`], will wait for: a slot each, and then a record
    /// each. Of independent reads a core has many under way at a time; of those of one look-up, one.
    pub fn read_ahead(&self, wanted: &[Key], keys: &Keys) {
        if let Some(snapshot) = self.snapshot.as_ref().filter(|snapshot| snapshot.header.rows >= READ_AHEAD_FROM) {
            snapshot.read_ahead(wanted, keys);
        }
    }

    /// The newest row of a key.
    pub fn get(&self, key: &Key, keys: &Keys) -> Option<u64> {
        let newest = if self.delta.keys == 0 { None } else { self.delta.get(key, keys) };
        newest.or_else(|| self.snapshot.as_ref()?.get(key, keys))
    }

    /// The rows that no key has any more: replaced by a later one of their key, or dead. Each once, in no order. As of
    /// the last [`Index::count`].
    pub fn replaced(&self) -> impl Iterator<Item = u64> {
        let snapshot = self.snapshot.iter().flat_map(Snapshot::replaced);
        snapshot.chain(self.replaced.iter().copied())
    }

    /// Different keys, as of the last [`Index::count`].
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Rows covered by the snapshot.
    pub fn snapshot_rows(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.header.rows)
    }

    /// Rows covered by the delta.
    pub fn delta_rows(&self) -> u64 {
        self.rows - self.snapshot_rows()
    }

    /// Whether a snapshot of the first `rows` rows would shorten a delta that is longer than this.
    pub fn wants_snapshot(&self, rows: u64, limit: DeltaLimit) -> bool {
        rows.saturating_sub(self.snapshot_rows()) > limit.rows.max(self.snapshot_rows() / limit.part)
    }
}

/// Writes a snapshot of all of `keys`, which are durable, then removes older ones and dead temporaries.
pub fn write_snapshot(storage: &dyn Storage, directory: &Path, uuid: &Uuid, epoch: u64, keys: &Keys) -> Result<()> {
    let rows = keys.records.rows();
    let mut table = Table::with_room_for(rows);
    let mut replaced = Vec::new();
    for (row, record) in (0..).zip(keys.records.bytes().as_chunks::<RECORD_BYTES>().0) {
        let key = Record::from_bytes(record).key;
        if key == DEAD {
            replaced.push(row);
        } else {
            replaced.extend(table.insert(row, &key, keys));
        }
    }
    replaced.sort_unstable();
    let header = Header {
        uuid: *uuid,
        seed: keys.seed,
        epoch,
        rows,
        capacity: table.slots.len() as u64,
        keys: table.keys,
        replaced: replaced.len() as u64,
        last_record: last_record(rows, keys).unwrap_or([0; RECORD_BYTES]),
    };
    let path = directory.join(header.file_name());
    if storage.metadata(&path).is_ok() {
        return Ok(());
    }
    let mut first_page = vec![0; SLOTS_OFFSET];
    first_page[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let body: Vec<u8> = table.slots.iter().chain(&replaced).flat_map(|word| word.to_le_bytes()).collect();
    let sums: Vec<u8> = body.chunks(BLOCK_BYTES).flat_map(|block| checksum::block(block).to_le_bytes()).collect();
    atomic::write(storage, &path, &[&first_page, &body, &sums])?;
    remove_older(storage, directory, rows);
    Ok(())
}

/// Removes snapshots of fewer rows and temporaries of snapshots. Failing to is no failure: they only take space.
fn remove_older(storage: &dyn Storage, directory: &Path, rows: u64) {
    for (found, _) in storage.list(directory).unwrap_or_default() {
        let older = parse_name(&found).is_some_and(|(_, older)| older < rows);
        let temporary = found.split_once(name::TEMPORARY).is_some_and(|(finished, _)| parse_name(finished).is_some());
        if older || temporary {
            let _ = storage.remove(&directory.join(found));
        }
    }
}

/// How many different keys rows have, and how many of the rows have the key of a later one.
pub fn count_keys(rows: impl Iterator<Item = u64>, keys: &Keys) -> (u64, u64) {
    let mut table = Table::with_room_for(0);
    let mut replaced = 0;
    for row in rows {
        let Some(key) = keys.key(row) else { continue };
        replaced += u64::from(table.insert(row, &key, keys).is_some());
    }
    (table.keys, replaced)
}

/// Removes all snapshots: the next writer makes a new one.
pub fn remove_all(storage: &dyn Storage, directory: &Path) {
    remove_older(storage, directory, u64::MAX);
}

/// The names of the snapshots that do not fit the cache or whose blocks are damaged, each with its defect.
pub fn verify_snapshots(storage: &dyn Storage, directory: &Path, uuid: &Uuid, keys: &Keys) -> Vec<(String, Defect)> {
    let names = storage.list(directory).unwrap_or_default().into_iter().map(|(name, _)| name);
    names
        .filter(|name| parse_name(name).is_some())
        .filter_map(|name| match Snapshot::open(storage, &directory.join(&name), uuid, keys) {
            Some(snapshot) => snapshot.verify().err().map(|defect| (name, defect)),
            None => Some((name, Defect::new("a snapshot of this cache", "another or a damaged one"))),
        })
        .collect()
}
