//! Repairing a damaged cache.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use crate::directory;
use crate::error::{Error, Result};
use crate::files::{self, CacheFiles};
use crate::format::commit::{Extent, Slot};
use crate::format::{keys, name};
use crate::index::{self, Building, Covered, DeltaLimit, Index};
use crate::key::{DEAD, Key};
use crate::lock::{HeldLock, Patience};
use crate::recovery::{self, Recovered};
use crate::storage::Storage;
use crate::verify::{self, Progress, Report};

/// What a repair is allowed to do, and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Consent {
    /// How long it waits for the locks.
    pub patience: Patience,
    /// Whether to repair a cache with more damaged than sound rows.
    pub force: bool,
    /// Whether to write on a network file system.
    pub allow_network: bool,
}

impl From<Patience> for Consent {
    fn from(patience: Patience) -> Consent {
        Consent { patience, force: false, allow_network: false }
    }
}

/// Repairs a damaged cache, and returns the report from before the repair.
///
/// Holds the writers' lock and the index lock. Restores headers and a missing commit record, and rolls lost commits
/// forward. Zeroes the key records of damaged rows, and of older rows with the same keys: these were replaced and must
/// not come back. Replaces the snapshots of a damaged cache.
pub fn repair(storage: &dyn Storage, directory: &Path, consent: impl Into<Consent>) -> Result<Report> {
    repair_with(storage, directory, consent.into(), &Progress::default())
}

/// Does what [`repair`] does, and counts the rows that were checked.
pub fn repair_with(storage: &dyn Storage, directory: &Path, consent: Consent, progress: &Progress) -> Result<Report> {
    files::read_meta(storage, directory)?;
    if !consent.allow_network {
        directory::refuse_remote(storage, directory)?;
    }
    let _lock = HeldLock::acquire(storage, &directory.join(name::LOCK), consent.patience)?;
    // Read again: a compaction may have replaced it before the lock was taken.
    let meta = files::read_meta(storage, directory)?;
    let commit_path = directory.join(meta.file(name::COMMIT));
    let is_new = storage.metadata(&commit_path).is_err();
    if is_new {
        // An empty file is no valid commit record. Below, the row checksums decide.
        directory::create_file(storage, &commit_path, &[])?;
    }
    let _commit_lock = HeldLock::of_data(storage, &commit_path, consent.patience)?;
    // Keeps others from writing a snapshot meanwhile. Where the lock file cannot be made, there are no snapshots.
    let _index_lock = match HeldLock::acquire(storage, &directory.join(name::INDEX_LOCK), consent.patience) {
        Err(Error::Io { .. }) => None,
        acquired => Some(acquired?),
    };
    let files = CacheFiles::open_unchecked(storage, directory, true)?;
    let (report, recovered, extent) = verify::inspect(storage, directory, &files, progress)?;
    let (older, damaged) = rows_to_zero(&files, &report, recovered)?;
    let never_durable = never_durable(recovered);
    let lost = damaged.iter().filter(|row| !never_durable.contains(row)).count() as u64;
    // Rows without a record, since `keys.bin` was cut. Without a valid commit only the rows file counts them.
    let cut = match recovered {
        None => files.rows.whole()?.rows.saturating_sub(files.keys.whole_records()?),
        Some(_) => 0,
    };
    let (lost, sound) = (lost + cut, report.keys + report.replaced);
    if lost > sound && !consent.force {
        if is_new {
            storage.remove(&commit_path).map_err(Error::io("remove", &commit_path))?;
        }
        let path = directory.to_path_buf();
        return Err(Error::MostlyDamaged { path, damaged: lost, sound, older: older.len() as u64 });
    }
    let rows = report.rows;
    // Rewritten in any case: after a repair with a failed sync, the header may be sound only in the page cache.
    files.keys.write_header(&keys::header(&files.meta.uuid, files.meta.version()))?;
    for erased in [older, damaged] {
        let records = files.key_records(files.keys.whole_records()?)?;
        let mut dead: Vec<u64> = (0..rows).filter(|&row| records.is_dead(row)).chain(erased).collect();
        dead.sort_unstable();
        files.keys.erase(&dead)?;
        // Erase older rows first: after an interruption the damaged rows still say which.
        files.keys.sync()?;
    }
    let synced = recovered.map_or(Extent::default(), |recovered| recovered.slot.synced).shorter(extent);
    files.renew_unwritten(synced)?;
    recovery::write_again(synced.rows..rows, false, &files.keys, &files.rows)?;
    files.keys.clear_behind(rows, true)?;
    let texts = files.texts(storage, directory);
    if let Some(texts) = &texts {
        texts.make_certain()?;
        texts.erase(&report.damaged_texts)?;
    }
    files.sync_rows()?;
    let erased = recovered.map_or(0, |recovered| recovered.slot.erased);
    let next_epoch = recovered.map_or(2, |recovered| recovered.next_epoch);
    files.restore_commit_length()?;
    for epoch in [next_epoch, next_epoch + 1] {
        let erased = if report.damaged.is_empty() { erased } else { epoch };
        files.write_slot(Slot { epoch, committed: extent, synced: extent, erased })?;
        files.sync_commit()?;
    }
    files.write_row_headers(extent)?;
    files.rows.sync()?;
    if let Some(texts) = texts {
        texts.write_headers(rows)?;
        texts.sync()?;
    }
    if !report.damaged.is_empty() || !report.problems.is_empty() {
        index::remove_all(storage, directory, &files.meta);
    }
    let records = files.key_records(rows)?;
    if Index::of_snapshot(storage, directory, &files.meta, &records, erased).wants_snapshot(rows, DeltaLimit::CLOSING) {
        // Best effort: without a snapshot, each process that opens the cache builds a table of all rows.
        let covered = Covered { keys: &files.keys, rows, epoch: next_epoch + 1 };
        let _ = index::write_snapshot(storage, directory, &files.meta, &covered, erased, Building::default());
    }
    Ok(report)
}

/// The rows that a valid slot calls not durable; no rows without such a slot.
fn never_durable(recovered: Option<Recovered>) -> Range<u64> {
    recovered.map_or(0..0, |recovered| recovered.slot.synced.rows..recovered.claimed.rows)
}

/// The older rows of the damaged rows' keys, and the damaged rows.
///
/// A damaged row that a valid slot calls not durable was never durable. The older rows of its key still count.
fn rows_to_zero(files: &CacheFiles, report: &Report, recovered: Option<Recovered>) -> Result<(Vec<u64>, Vec<u64>)> {
    let Some(&last) = report.damaged.last() else { return Ok(Default::default()) };
    let records = files.key_records(files.keys.whole_records()?.min(last.saturating_add(1)))?;
    let key_of = |row: u64| records.key(row).unwrap_or(DEAD);
    let never_durable = never_durable(recovered);
    let mut lost: HashSet<Key> = HashSet::new();
    let mut older = Vec::new();
    for row in (0..records.rows()).rev() {
        if report.damaged.binary_search(&row).is_ok() {
            if !never_durable.contains(&row) {
                lost.insert(key_of(row));
            }
        } else if lost.contains(&key_of(row)) {
            older.push(row);
        }
    }
    Ok((older, report.damaged.clone()))
}
