//! Key → row: an immutable snapshot, shared by all processes, and a delta in memory for the rows after it.
//!
//! Both are open-addressing tables of 8-byte slots: row + 1 in the upper 40 bits, a fingerprint of the key in the lower
//! 24; 0 is empty. The table can say anything: the full key of its row decides, so a wrong slot costs a miss, never a
//! wrong row.

mod snapshot;
mod table;

use std::path::Path;
use std::sync::Arc;

use self::snapshot::{Snapshot, newest_snapshot};
pub use self::snapshot::{remove_all, verify_snapshots, write_snapshot};
use self::table::Table;
use crate::checksum;
use crate::format::Uuid;
use crate::format::keys::RECORD_BYTES;
use crate::key::{DEAD, Key};
use crate::records::Records;
use crate::storage::Storage;

/// How long a delta may become before a new snapshot is worth writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// The longest delta after a snapshot of so many rows.
    pub fn after(self, rows: u64) -> u64 {
        self.rows.max(rows / self.part)
    }
}

/// Keys whose slots and records are read ahead.
pub const READ_AHEAD: usize = 32;

/// Rows of a snapshot from which on that pays: what fewer need fits into the processor's caches.
const READ_AHEAD_FROM: u64 = 1 << 20;

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

/// The index of one open cache.
#[derive(Debug, Clone)]
pub struct Index {
    snapshot: Option<Arc<Snapshot>>,
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
        let mut index = Index::of_snapshot(storage, directory, uuid, keys);
        index.extend(keys);
        index
    }

    /// The index of the rows that the newest snapshot that fits covers; those after it are still to be entered.
    pub fn of_snapshot(storage: &dyn Storage, directory: &Path, uuid: &Uuid, keys: &Keys) -> Index {
        let snapshot = newest_snapshot(storage, directory, uuid, keys);
        let (rows, known) = snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.header.rows, snapshot.header.keys));
        let snapshot = snapshot.map(Arc::new);
        Index { snapshot, delta: Table::default(), rows, replaced: Vec::new(), keys: known, uncounted: Vec::new() }
    }

    /// The same over a snapshot of more rows, which somebody may have written since; None if there is none.
    ///
    /// Then the delta is kept as it is: to build it anew takes as long as it is.
    pub fn over_newer(&self, storage: &dyn Storage, directory: &Path, uuid: &Uuid, keys: &Keys) -> Option<Index> {
        let mut newest = Index::of_snapshot(storage, directory, uuid, keys);
        (newest.snapshot_rows() > self.snapshot_rows()).then(|| {
            newest.extend(keys);
            newest
        })
    }

    /// Rows that are entered.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// What [`Index::get`] gives once all rows are entered, found by looking at those that are not, from the last one on:
    /// for one key that is cheaper than to enter them.
    pub fn search(&self, key: &Key, keys: &Keys) -> Option<u64> {
        if *key == DEAD {
            return None;
        }
        let first = usize::try_from(self.rows).unwrap_or(usize::MAX);
        let records = keys.records.bytes().as_chunks::<RECORD_BYTES>().0.get(first..).unwrap_or_default();
        let found = records.iter().rposition(|record| record.first_chunk() == Some(key));
        found.map(|at| self.rows + at as u64).or_else(|| self.get(key, keys))
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

    /// Reads the slots of the next few keys, at most [`READ_AHEAD`], and asks for their records: look-ups one after the
    /// other would wait for each. Of independent reads a core has many under way at a time; of those of one look-up, one.
    pub fn read_ahead(&self, wanted: &[Key], keys: &Keys) {
        if let Some(snapshot) = self.snapshot.as_ref().filter(|snapshot| snapshot.header.rows >= READ_AHEAD_FROM) {
            snapshot.read_ahead(wanted, keys);
        }
    }

    /// The newest row of a key; none of the key of dead rows.
    pub fn get(&self, key: &Key, keys: &Keys) -> Option<u64> {
        if *key == DEAD {
            return None;
        }
        let newest = if self.delta.keys == 0 { None } else { self.delta.get(key, keys) };
        newest.or_else(|| self.snapshot.as_ref()?.get(key, keys))
    }

    /// The rows that no key has any more: replaced by a later one of their key, or dead. Each once, in no order. As of
    /// the last [`Index::count`].
    pub fn replaced(&self) -> impl Iterator<Item = u64> {
        let snapshot = self.snapshot.iter().flat_map(|snapshot| snapshot.replaced());
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
        rows.saturating_sub(self.snapshot_rows()) > limit.after(self.snapshot_rows())
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
