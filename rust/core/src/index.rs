//! The index, from key to row number: immutable snapshots that all processes share, and a delta in memory for later rows.
//!
//! Both are open-addressing tables of 8-byte slots: row number + 1 in the upper 40 bits, a fingerprint of the key in
//! the lower 24. 0 is an empty slot. A look-up compares the full key of the row, so a wrong slot causes a miss, never a
//! wrong row.

mod build;
mod chain;
mod scatter;
mod snapshot;
mod table;

use std::path::Path;

pub use self::build::Covered;
use self::chain::Chain;
pub use self::chain::{Building, remove_all, verify_snapshots, write_snapshot};
use self::table::Table;
use crate::bits::Bits;
use crate::format::meta::Meta;
use crate::key::{DEAD, Key};
use crate::key_records::KeyRecords;
use crate::storage::Storage;

/// How long a delta may become before a snapshot is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaLimit {
    /// A delta of this many rows is always allowed.
    rows: u64,
    /// A delta of this fraction (1/part) of the snapshots is allowed too.
    part: u64,
    /// No longer one is: each process has it in its own memory.
    most: u64,
}

impl DeltaLimit {
    /// While rows are appended. All snapshots of a growing cache together cost a constant for each row.
    pub const APPENDING: DeltaLimit = DeltaLimit { rows: 65_536, part: 8, most: 1 << 22 };
    /// When the writer closes. Each later process has to build a table of the delta.
    pub const CLOSING: DeltaLimit = DeltaLimit { rows: 8192, part: 64, most: 1 << 20 };

    /// The longest delta after snapshots of `rows` rows.
    pub fn after(self, rows: u64) -> u64 {
        self.rows.max(rows / self.part).min(self.most)
    }
}

/// How many keys to read ahead for.
pub const READ_AHEAD: usize = 32;

/// Reading ahead pays from this many rows on. Smaller tables fit into the processor's caches.
const READ_AHEAD_FROM: u64 = 1 << 20;

/// The index of one open cache.
#[derive(Debug, Clone)]
pub struct Index {
    snapshots: Chain,
    delta: Table,
    /// Rows that the snapshots and the delta cover together.
    rows: u64,
    /// Rows that the delta has replaced, and its dead rows. See [`Index::count`].
    replaced: Vec<u64>,
    /// Different keys. See [`Index::count`].
    keys: u64,
    /// Rows of keys that are new to the delta and were not looked up in the snapshots yet.
    uncounted: Vec<u64>,
    /// The commit at which records were zeroed, if a snapshot may not know it and its rows were not looked at yet.
    erased: Option<u64>,
}

impl Index {
    /// The index of all committed rows: the newest snapshots that fit, and a delta for the rest.
    /// `erased` is that of the commit.
    pub fn open(storage: &dyn Storage, directory: &Path, meta: &Meta, records: &KeyRecords, erased: u64) -> Index {
        let mut index = Index::of_snapshot(storage, directory, meta, records, erased);
        index.extend(records);
        index
    }

    /// The index of the rows in the newest snapshots that fit. [`Index::extend`] enters the later ones.
    pub fn of_snapshot(
        storage: &dyn Storage,
        directory: &Path,
        meta: &Meta,
        records: &KeyRecords,
        erased: u64,
    ) -> Index {
        let snapshots = Chain::newest(storage, directory, meta, records, erased);
        Index {
            delta: Table::default(),
            rows: snapshots.rows(),
            replaced: Vec::new(),
            keys: snapshots.keys(),
            uncounted: Vec::new(),
            erased: snapshots.is_stale(erased).then_some(erased),
            snapshots,
        }
    }

    /// The index over newer snapshots of more rows. None if there are none.
    ///
    /// Without newer snapshots the delta stays as it is: rebuilding it takes time.
    pub fn over_newer(
        &self,
        storage: &dyn Storage,
        directory: &Path,
        meta: &Meta,
        records: &KeyRecords,
        erased: u64,
    ) -> Option<Index> {
        let mut newest = Index::of_snapshot(storage, directory, meta, records, erased);
        (newest.snapshot_rows() > self.snapshot_rows()).then(|| {
            newest.extend(records);
            newest
        })
    }

    /// Rows that are entered.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The result that [`Index::get`] has once all rows are entered. Scans the rows that are not entered, from the last
    /// one on. For a single key this is cheaper than entering them.
    pub fn search(&self, key: &Key, records: &KeyRecords) -> Option<u64> {
        if *key == DEAD {
            return None;
        }
        let first = usize::try_from(self.rows).unwrap_or(usize::MAX);
        let newest = records.all().get(first..).unwrap_or_default();
        let found = newest.iter().rposition(|record| record.first_chunk() == Some(key));
        found.map(|at| self.rows + at as u64).or_else(|| self.get(key, records))
    }

    /// Enters the rows that were committed since.
    pub fn extend(&mut self, records: &KeyRecords) {
        let new = records.rows().saturating_sub(self.rows);
        if self.delta.slots.is_empty() {
            self.delta = Table::with_room_for(new);
        }
        for row in self.rows..records.rows() {
            let Some(key) = records.key(row) else { continue };
            if key == DEAD {
                self.replaced.push(row);
                continue;
            }
            match self.delta.insert(row, &key, records) {
                Some(older) => self.replaced.push(older),
                None => self.uncounted.push(row),
            }
        }
        self.rows = self.rows.max(records.rows());
    }

    /// Updates [`Index::keys`] and [`Index::replaced`]. Looks each new row up in the snapshots, so neither opening a
    /// cache nor appending to it does this.
    pub fn count(&mut self, records: &KeyRecords) {
        if let Some(erased) = self.erased.take() {
            let dead = self.snapshots.died_since(erased, records);
            self.keys = self.keys.saturating_sub(dead.len() as u64);
            self.replaced.extend(dead);
        }
        for row in std::mem::take(&mut self.uncounted) {
            let Some(key) = records.key(row) else { continue };
            match self.snapshots.get(records.hash(&key), |older| records.has_key(older, &key)) {
                Some(older) => self.replaced.push(older),
                None => self.keys += 1,
            }
        }
    }

    /// Reads the slots of the next few keys, at most [`READ_AHEAD`], and prefetches their records. The processor
    /// overlaps independent reads. The reads of one look-up depend on each other.
    pub fn read_ahead(&self, wanted: &[Key], records: &KeyRecords) {
        if self.rows < READ_AHEAD_FROM {
            return;
        }
        let mut hashes = [0; READ_AHEAD];
        for (hash, key) in hashes.iter_mut().zip(wanted) {
            *hash = records.hash(key);
        }
        let hashes = hashes.get(..wanted.len()).unwrap_or(&hashes);
        self.snapshots.read_ahead(hashes, |row| records.prefetch(row));
        if self.delta.keys > 0 {
            self.delta.read_ahead(hashes, |row| records.prefetch(row));
        }
    }

    /// The newest row of a key. None for the key of dead rows.
    pub fn get(&self, key: &Key, records: &KeyRecords) -> Option<u64> {
        if *key == DEAD {
            return None;
        }
        let hash = records.hash(key);
        let newest = if self.delta.keys == 0 { None } else { self.delta.get(hash, key, records) };
        newest.or_else(|| self.snapshots.get(hash, |row| records.has_key(row, key)))
    }

    /// The rows that are dead or replaced by a later row of their key. Each once, in any order. As of the last
    /// [`Index::count`].
    pub fn replaced(&self) -> impl Iterator<Item = u64> {
        self.snapshots.replaced().chain(self.replaced.iter().copied())
    }

    /// Different keys, as of the last [`Index::count`].
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Rows covered by the snapshots.
    pub fn snapshot_rows(&self) -> u64 {
        self.snapshots.rows()
    }

    /// Rows covered by the delta.
    pub fn delta_rows(&self) -> u64 {
        self.rows - self.snapshot_rows()
    }

    /// Whether a snapshot of the first `rows` rows would shorten a delta that is longer than this.
    pub fn wants_snapshot(&self, rows: u64, limit: DeltaLimit) -> bool {
        rows.saturating_sub(self.snapshot_rows()) > limit.after(self.snapshot_rows())
    }
}

/// Keys that [`newest_rows`] has in memory at a time.
const KEYS_AT_ONCE: u64 = 1 << 22;

/// The rows that are the newest of their key. Reads the records, and trusts no snapshot: what is not found here is not
/// kept by a compaction.
///
/// The memory that it needs does not grow with the cache, but for a bit a row: it reads the keys of a large cache
/// several times, each time for a part of them.
pub fn newest_rows(records: &KeyRecords) -> Bits {
    newest_rows_in(records, records.rows().div_ceil(KEYS_AT_ONCE).max(1))
}

fn newest_rows_in(records: &KeyRecords, passes: u64) -> Bits {
    let mut newest = Bits::none(records.rows());
    for pass in 0..passes {
        let mut table = Table::with_room_for(records.rows() / passes);
        for row in 0..records.rows() {
            let Some(key) = records.key(row).filter(|key| *key != DEAD) else { continue };
            if passes > 1 && records.hash(&key) % passes != pass {
                continue;
            }
            newest.add(row);
            if let Some(older) = table.insert(row, &key, records) {
                newest.remove(older);
            }
        }
    }
    newest
}

/// How many different keys the rows have, and how many rows are replaced by later ones.
pub fn count_keys(rows: impl Iterator<Item = u64>, records: &KeyRecords) -> (u64, u64) {
    let mut table = Table::with_room_for(0);
    let mut replaced = 0;
    for row in rows {
        let Some(key) = records.key(row) else { continue };
        replaced += u64::from(table.insert(row, &key, records).is_some());
    }
    (table.keys, replaced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::keys::{HEADER_BYTES, RECORD_BYTES, Record};
    use crate::key::of_text;
    use crate::records::RecordsFile;
    use crate::row::Row;
    use crate::storage::{Access, MemoryStorage};

    #[test]
    fn the_newest_rows_are_the_same_in_one_pass_and_in_several() {
        let storage = MemoryStorage::with_root(Path::new("/c"));
        let path = Path::new("/c/keys.bin");
        let file = storage.open(path, Access::Create).unwrap();
        let record = |row: u64| match row % 7 {
            3 => [0; RECORD_BYTES],
            _ => Record::of_row(&of_text(&(row % 300).to_le_bytes()), row, &Row::dense(b"")).to_bytes(),
        };
        let records: Vec<u8> = (0..1000).flat_map(record).collect();
        file.write_at(&records, HEADER_BYTES as u64).unwrap();
        let file = RecordsFile::open(&storage, path.into(), false, HEADER_BYTES, RECORD_BYTES as u64).unwrap();
        let records = KeyRecords::new(file.map(1000).unwrap(), 5);
        let newest = newest_rows(&records);
        for row in 0..1000 {
            let is_later = |later: u64| later % 300 == row % 300 && later % 7 != 3;
            let expected = row % 7 != 3 && !(row + 1..1000).any(is_later);
            assert_eq!(newest.has(row), expected, "row {row}");
        }
        for passes in [2, 5] {
            assert_eq!(newest_rows_in(&records, passes), newest);
        }
    }
}
