//! The snapshot file: opening, checking, writing, replacing.

use std::cmp::Ordering;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::READ_AHEAD;
use super::build::{self, Covered};
use super::table::{Probe, has_fingerprint, home, probe, row_of};
use crate::checksum;
use crate::error::Result;
use crate::format::keys::RECORD_BYTES;
use crate::format::meta::Meta;
use crate::format::snapshot::{
    BLOCK_BYTES, HEADER_BYTES, Header, Layout, SLOT_BYTES, SLOTS_OFFSET, file_name, parse_name,
};
use crate::format::{Defect, name};
use crate::key::Key;
use crate::key_records::KeyRecords;
use crate::mmap::Mapping;
use crate::storage::{Access, Storage, map_or_read};

/// How often a reader looks for a snapshot while others replace it.
const LISTINGS: usize = 10;

/// A snapshot file, open.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) header: Header,
    layout: Layout,
    mapping: Mapping,
}

impl Snapshot {
    /// Opens a snapshot. None if it does not fit the cache and the committed rows, or cannot be read.
    fn open(storage: &dyn Storage, path: &Path, meta: &Meta, records: &KeyRecords, erased: u64) -> Option<Snapshot> {
        let file = storage.open(path, Access::Read).ok()?;
        let mut bytes = [0; HEADER_BYTES];
        file.read_at(&mut bytes, 0).ok()?;
        let header = Header::parse(&bytes, &meta.uuid, records.seed()).ok()?;
        let layout = header.layout()?;
        let last = last_record(header.rows, records)?;
        let fits = last == header.last_record || (header.epoch <= erased && last == [0; RECORD_BYTES]);
        if file.length().ok()? != layout.file_bytes as u64 || !fits {
            return None;
        }
        let mapping = map_or_read(&*file, layout.file_bytes).ok()?;
        mapping.expect_scattered_reads();
        Some(Snapshot { header, layout, mapping })
    }

    /// Whether records were zeroed at a commit, or while it was made, that the snapshot may not know.
    pub(super) fn is_stale(&self, erased: u64) -> bool {
        erased > 0 && self.header.epoch <= erased
    }

    fn word(&self, offset: usize) -> u64 {
        let bytes = self.mapping.get(offset..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn slot(&self, at: u64) -> u64 {
        self.word(SLOTS_OFFSET + at as usize * SLOT_BYTES)
    }

    pub(super) fn get(&self, key: &Key, records: &KeyRecords) -> Option<u64> {
        match probe(self.header.capacity, |at| self.slot(at), key, records) {
            // A damaged slot may name an older row of the same key.
            Probe::Row { row, .. } if row < self.header.rows && !self.is_replaced(row) => Some(row),
            _ => None,
        }
    }

    /// See [`Index::read_ahead`](super::Index::read_ahead).
    pub(super) fn read_ahead(&self, wanted: &[Key], records: &KeyRecords) {
        let mut found = [(0, 0); READ_AHEAD];
        for ((slot, hash), key) in found.iter_mut().zip(wanted) {
            *hash = records.hash(key);
            *slot = self.slot(home(*hash, self.header.capacity));
        }
        for (slot, hash) in found {
            if let Some(row) = row_of(slot).filter(|_| has_fingerprint(slot, hash)) {
                records.prefetch(row);
            }
        }
    }

    /// Entry `at` of the list of replaced rows.
    fn replaced_row(&self, at: usize) -> u64 {
        self.word(SLOTS_OFFSET + self.layout.slots_bytes + at * SLOT_BYTES)
    }

    pub(super) fn replaced(&self) -> impl Iterator<Item = u64> {
        (0..self.layout.replaced_entries()).map(|at| self.replaced_row(at))
    }

    pub(super) fn is_replaced(&self, row: u64) -> bool {
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
                return Err(Defect::new(format!("block {i} with checksum {stored:016x}"), format!("{computed:016x}")));
            }
        }
        Ok(())
    }
}

/// The newest snapshot that fits the cache.
pub(super) fn newest_snapshot(
    storage: &dyn Storage,
    directory: &Path,
    meta: &Meta,
    records: &KeyRecords,
    erased: u64,
) -> Option<Snapshot> {
    // The writer of a newer snapshot removes older ones. If one vanished after the listing, list again.
    for _ in 0..LISTINGS {
        let mut names: Vec<_> = storage
            .list(directory)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, _)| {
                parse_name(&name, meta.generation).map(|(epoch, rows)| (rows, epoch, directory.join(name)))
            })
            .collect();
        names.sort_unstable();
        let open = |(_, _, path): &(u64, u64, PathBuf)| Snapshot::open(storage, path, meta, records, erased);
        if let Some(snapshot) = names.iter().rev().find_map(open) {
            return Some(snapshot);
        }
        if names.iter().all(|(_, _, path)| storage.metadata(path).is_ok()) {
            break;
        }
    }
    None
}

/// The record of the last of the first `rows` rows. Zeros if `rows` is 0, None if not all of them are committed.
fn last_record(rows: u64, records: &KeyRecords) -> Option<[u8; RECORD_BYTES]> {
    match rows.checked_sub(1) {
        None => Some([0; RECORD_BYTES]),
        Some(last) => records.bytes(last).copied(),
    }
}

/// Writes a snapshot of rows that are durable. Then removes older snapshots and left-over temporary files.
pub fn write_snapshot(
    storage: &dyn Storage,
    directory: &Path,
    meta: &Meta,
    covered: &Covered<'_>,
    partition_bytes: usize,
) -> Result<()> {
    let path = directory.join(file_name(covered.epoch, covered.rows, meta.generation));
    if storage.metadata(&path).is_ok() {
        return Ok(());
    }
    build::write(storage, &path, meta, covered, partition_bytes)?;
    remove_older(storage, directory, meta, (covered.rows, covered.epoch));
    Ok(())
}

/// Removes snapshots of fewer rows, or of an earlier commit, and temporary files of snapshots. Best effort: they only
/// take space.
fn remove_older(storage: &dyn Storage, directory: &Path, meta: &Meta, newest: (u64, u64)) {
    let parse = |name: &str| parse_name(name, meta.generation);
    for (found, _) in storage.list(directory).unwrap_or_default() {
        let older = parse(&found).is_some_and(|(epoch, rows)| (rows, epoch) < newest);
        let temporary = found.split_once(name::TEMPORARY).is_some_and(|(finished, _)| parse(finished).is_some());
        if older || temporary {
            let _ = storage.remove(&directory.join(found));
        }
    }
}

/// Removes all snapshots. The next writer makes a new one.
pub fn remove_all(storage: &dyn Storage, directory: &Path, meta: &Meta) {
    remove_older(storage, directory, meta, (u64::MAX, u64::MAX));
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
    let names = storage.list(directory).unwrap_or_default().into_iter().map(|(name, _)| name);
    let names: Vec<String> = names.filter(|name| parse_name(name, meta.generation).is_some()).collect();
    let (records, erased) = committed()?;
    let defect = |name: &String| {
        let path = directory.join(name);
        match Snapshot::open(storage, &path, meta, &records, erased) {
            Some(snapshot) => snapshot.verify().err(),
            None if storage.metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound) => None,
            None => Some(Defect::new("a snapshot of this cache", "another or a damaged one")),
        }
    };
    Ok(names.into_iter().filter_map(|name| defect(&name).map(|defect| (name, defect))).collect())
}
