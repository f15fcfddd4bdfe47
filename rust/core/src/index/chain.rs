//! The snapshot files of a cache together: the first covers rows from row 0 on, and each other one, a *tier*, the rows
//! behind the one before.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::build::{self, Covered, Plan};
use super::snapshot::Snapshot;
use crate::error::Result;
use crate::format::meta::Meta;
use crate::format::snapshot::Name;
use crate::format::{Defect, name};
use crate::key_records::KeyRecords;
use crate::storage::Storage;

/// How often a reader looks for snapshots while others replace them.
const LISTINGS: usize = 10;

/// How snapshots are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Building {
    /// Bytes of a partition. A building takes some four times as much, however large the cache is.
    pub partition_bytes: usize,
    /// A tier of at most this many rows is built again with the rows behind it.
    pub small: u64,
    /// So is one of at most this many times the rows behind it.
    pub growth: u64,
}

impl Default for Building {
    /// Eight million slots in a partition. See `docs/design.md` for how often a row is written with these tiers.
    fn default() -> Building {
        Building { partition_bytes: 64 << 20, small: 1 << 24, growth: 3 }
    }
}

impl Building {
    /// The first row of a new snapshot up to row `rows`, behind or instead of snapshots of these ranges.
    fn first_row(&self, ranges: impl DoubleEndedIterator<Item = (u64, u64)>, rows: u64) -> u64 {
        let mut ranges = ranges.rev().peekable();
        let mut first = ranges.peek().map_or(0, |(_, end)| *end);
        for (start, end) in ranges {
            let covered = end.saturating_sub(start);
            if covered > self.small.max(rows.saturating_sub(first).saturating_mul(self.growth)) {
                break;
            }
            first = start;
        }
        first
    }
}

/// Snapshots of rows that lie behind each other, open.
#[derive(Debug, Clone, Default)]
pub(super) struct Chain(Vec<Arc<Snapshot>>);

impl Chain {
    /// The snapshots that fit the cache, and cover the most rows.
    pub(super) fn newest(
        storage: &dyn Storage,
        directory: &Path,
        meta: &Meta,
        records: &KeyRecords,
        erased: u64,
    ) -> Chain {
        let mut chain = Chain::default();
        // The writer of a newer snapshot removes older ones. If one vanished after the listing, list again.
        for _ in 0..LISTINGS {
            let mut names = names(storage, directory, meta.generation);
            names.sort_unstable_by_key(|name| (name.rows, name.epoch));
            chain = Chain::default();
            chain.extend(&names, |name| {
                let path = directory.join(name.in_generation(meta.generation));
                Snapshot::open(storage, &path, meta, records, erased)
            });
            let is_there = |name: &Name| storage.metadata(&directory.join(name.in_generation(meta.generation))).is_ok();
            if names.iter().all(is_there) {
                break;
            }
        }
        chain
    }

    /// Adds the longest snapshot that begins behind the last one, again and again. `names` are ascending.
    fn extend(&mut self, names: &[Name], open: impl Fn(&Name) -> Option<Snapshot>) {
        loop {
            let end = self.rows();
            let next = names.iter().rev().filter(|name| name.first == end && (name.rows > end || self.0.is_empty()));
            match next.filter_map(&open).find(|found| found.header.first == end) {
                Some(found) => self.0.push(Arc::new(found)),
                None => break,
            }
            if self.rows() <= end {
                break;
            }
        }
    }

    /// The first row behind all snapshots.
    pub(super) fn rows(&self) -> u64 {
        self.0.last().map_or(0, |last| last.header.rows)
    }

    /// Different keys.
    pub(super) fn keys(&self) -> u64 {
        // Each row is the newest of its key, or in one list.
        self.rows().saturating_sub(self.0.iter().map(|snapshot| snapshot.header.replaced).sum())
    }

    /// The newest row of a key with this hash.
    pub(super) fn get(&self, hash: u64, has_key: impl Fn(u64) -> bool) -> Option<u64> {
        let found = |(at, snapshot): (usize, &Arc<Snapshot>)| Some((at, snapshot.get(hash, &has_key)?));
        let (at, row) = self.0.iter().enumerate().rev().find_map(found)?;
        // A damaged slot may name an older row of the same key, and so does one behind a damaged slot.
        let is_replaced = self.0.iter().skip(at).any(|snapshot| snapshot.is_replaced(row));
        (!is_replaced).then_some(row)
    }

    /// Reads ahead for [`Chain::get`]. See [`read_ahead`](super::table::read_ahead).
    pub(super) fn read_ahead(&self, hashes: &[u64], found: impl Fn(u64)) {
        self.0.iter().for_each(|snapshot| snapshot.read_ahead(hashes, &found));
    }

    /// The rows that are dead or replaced by a later row of their key. Each once, in any order.
    pub(super) fn replaced(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|snapshot| snapshot.replaced())
    }

    /// The rows that died at a commit, or while it was made, that their snapshot may not know, and that no list has.
    pub(super) fn died_since(&self, erased: u64, records: &KeyRecords) -> Vec<u64> {
        let stale = self.0.iter().filter(|snapshot| snapshot.is_stale(erased));
        let rows = stale.flat_map(|snapshot| snapshot.header.first..snapshot.header.rows);
        rows.filter(|row| records.is_dead(*row) && !self.0.iter().any(|snapshot| snapshot.is_replaced(*row))).collect()
    }

    /// Whether records were zeroed that a snapshot may not know.
    pub(super) fn is_stale(&self, erased: u64) -> bool {
        self.0.iter().any(|snapshot| snapshot.is_stale(erased))
    }

    fn ranges(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.0.iter().map(|snapshot| (snapshot.header.first, snapshot.header.rows))
    }
}

/// The names of the snapshots in a directory.
fn names(storage: &dyn Storage, directory: &Path, generation: u64) -> Vec<Name> {
    let names = storage.list(directory).unwrap_or_default().into_iter();
    names.filter_map(|(found, _)| Name::parse(&found, generation)).collect()
}

/// Makes the snapshots cover rows that are durable. The last ones are built again with the rows behind them, or one is
/// written behind them. Then removes the others, and left-over temporary files.
///
/// `erased` is that of the commit.
pub fn write_snapshot(
    storage: &dyn Storage,
    directory: &Path,
    meta: &Meta,
    covered: &Covered<'_>,
    erased: u64,
    building: Building,
) -> Result<()> {
    let records = KeyRecords::new(covered.keys.map_or_copy(covered.rows)?, meta.seed);
    let mut older = Chain::newest(storage, directory, meta, &records, erased);
    let is_behind = older.rows() < covered.rows || older.0.is_empty();
    let mut written = None;
    if is_behind || older.is_stale(erased) {
        // If they cover all rows, and some died since, they are built anew.
        let first = if is_behind { building.first_row(older.ranges(), covered.rows) } else { 0 };
        older.0.retain(|snapshot| snapshot.header.rows <= first && first > 0);
        let name = Name { epoch: covered.epoch, first, rows: covered.rows };
        let path = directory.join(name.in_generation(meta.generation));
        if storage.metadata(&path).is_err() {
            let plan = Plan { covered, first, records: &records, older: &older };
            build::write(storage, &path, meta, &plan, building.partition_bytes)?;
        }
        written = Some(name);
    }
    let kept: Vec<Name> = older.0.iter().map(|snapshot| snapshot.header.name()).chain(written).collect();
    // One that covers more rows is newer than this handle knows.
    remove(storage, directory, meta, |name| name.rows > covered.rows || kept.contains(&name));
    Ok(())
}

/// Removes snapshots, and temporary files of snapshots. Best effort: they only take space.
fn remove(storage: &dyn Storage, directory: &Path, meta: &Meta, is_kept: impl Fn(Name) -> bool) {
    for (found, _) in storage.list(directory).unwrap_or_default() {
        let is_superfluous = match found.split_once(name::TEMPORARY) {
            Some((finished, _)) => Name::parse(finished, meta.generation).is_some(),
            None => Name::parse(&found, meta.generation).is_some_and(|name| !is_kept(name)),
        };
        if is_superfluous {
            let _ = storage.remove(&directory.join(found));
        }
    }
}

/// Removes all snapshots. The next writer makes a new one.
pub fn remove_all(storage: &dyn Storage, directory: &Path, meta: &Meta) {
    remove(storage, directory, meta, |_| false);
}

/// The names of the snapshots that do not fit the cache or have damaged blocks, each with its defect.
///
/// `committed` gives the records of all committed rows, and `erased` of the commit. It is called after the snapshots are listed, since a writer may
/// meanwhile commit rows and write a snapshot of them. A snapshot that a writer removes meanwhile is no defect.
pub fn verify_snapshots(
    storage: &dyn Storage,
    directory: &Path,
    meta: &Meta,
    committed: impl FnOnce() -> Result<(KeyRecords, u64)>,
) -> Result<Vec<(String, Defect)>> {
    let names = names(storage, directory, meta.generation);
    let (records, erased) = committed()?;
    let defect = |name: &String| {
        let path = directory.join(name);
        match Snapshot::open(storage, &path, meta, &records, erased) {
            Some(snapshot) => snapshot.verify().err(),
            None if storage.metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound) => None,
            None => Some(Defect::new("a snapshot of this cache", "another or a damaged one")),
        }
    };
    let files = names.into_iter().map(|name| name.in_generation(meta.generation));
    Ok(files.filter_map(|name| defect(&name).map(|defect| (name, defect))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranges of the snapshots after one was written at each of `ends`.
    fn after(building: Building, ends: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for rows in ends {
            let first = building.first_row(ranges.iter().copied(), rows);
            ranges.retain(|(_, end)| *end <= first);
            ranges.push((first, rows));
        }
        ranges
    }

    #[test]
    fn small_snapshots_are_one_and_large_ones_a_few_tiers() {
        let building = Building { partition_bytes: 0, small: 10, growth: 3 };
        assert_eq!(after(building, [5]), [(0, 5)]);
        assert_eq!(after(building, [5, 6]), [(0, 6)]);
        assert_eq!(after(building, [100, 101]), [(0, 100), (100, 101)]);
        assert_eq!(after(building, [100, 105, 110]), [(0, 100), (100, 110)]);
        assert_eq!(after(building, [100, 111, 112]), [(0, 100), (100, 111), (111, 112)]);
        assert_eq!(after(building, [100, 111, 116]), [(0, 100), (100, 116)]);
        assert_eq!(after(building, [100, 134]), [(0, 134)]);
    }

    #[test]
    fn a_growing_cache_has_few_tiers_and_each_row_is_written_a_few_times() {
        let building = Building::default();
        for (rows, tiers, times) in [(250_000_000, 3, 5.5), (1_000_000_000, 4, 7.0), (10_000_000_000, 6, 10.5)] {
            let (mut end, mut written, mut most) = (0, 0, 0);
            let mut ranges: Vec<(u64, u64)> = Vec::new();
            while end < rows {
                end += super::super::DeltaLimit::APPENDING.after(end);
                let first = building.first_row(ranges.iter().copied(), end);
                ranges.retain(|(_, end)| *end <= first);
                ranges.push((first, end));
                written += end - first;
                most = most.max(ranges.len());
            }
            assert!(most <= tiers, "{most} tiers of {rows} rows");
            let found = written as f64 / end as f64;
            assert!(found < times, "each of {rows} rows is written {found} times");
        }
    }
}
