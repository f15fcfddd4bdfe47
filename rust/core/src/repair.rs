//! Checking a whole cache, and making a damaged one good again.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::directory::{self, CacheFiles};
use crate::error::{Error, Result};
use crate::format::commit::Slot;
use crate::format::{keys, name};
use crate::hollow;
use crate::index::{self, Keys};
use crate::key::{DEAD, Key};
use crate::lock::{HeldLock, Patience};
use crate::parallel::{self, Found};
use crate::recovery;
use crate::storage::Storage;
use crate::vectors::{Source, record};

/// Rows a piece of a parallel check holds, and the fewest that are worth a second thread.
const PIECE: u64 = 4096;
const ROWS_PER_THREAD: usize = 2048;

/// What a check of a whole cache found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Committed rows.
    pub rows: u64,
    /// Different keys among the rows that are neither dead nor damaged.
    pub keys: u64,
    /// Rows without a key: zeroed by a repair.
    pub dead: u64,
    /// Rows whose key has a newer row.
    pub replaced: u64,
    /// Rows whose checksum does not hold.
    pub damaged: Vec<u64>,
    /// One sentence for each file that breaks its format.
    pub problems: Vec<String>,
}

/// Checks every row and every file. Takes no lock and writes nothing.
pub fn verify(storage: &dyn Storage, directory: &Path) -> Result<Report> {
    let files = CacheFiles::open_unchecked(storage, directory, false)?;
    inspect(storage, directory, &files).map(|(report, _)| report)
}

/// Checks all rows that the commit record covers, or, where there is none, that hold.
fn inspect(storage: &dyn Storage, directory: &Path, files: &CacheFiles) -> Result<(Report, Option<Slot>)> {
    let mut report = Report::default();
    let mut problem = |path: &Path, error: String| report.problems.push(format!("{}: {error}", path.display()));
    if let Err(defect) = files.check_keys_header() {
        problem(files.keys.path(), format!("expected {}, found {}", defect.expected, defect.found));
    }
    if let Err(defect) = files.check_vectors_header() {
        problem(files.vectors.path(), format!("expected {}, found {}", defect.expected, defect.found));
    }
    let whole_rows = files.whole_rows()?;
    let slot = match files.recover() {
        Ok(recovered) => Some(recovered.slot),
        Err(error @ Error::Corrupt { .. }) => {
            report.problems.push(error.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    let key_rows = files.keys.whole_records()?;
    let checked = slot.map_or(key_rows, |slot| slot.rows);
    hollow::refuse(&files.keys, checked)?;
    let keys = Keys::new(files.keys.map_or_copy(checked)?, files.meta.seed);
    let records = keys.records();
    let source = Source::of_first(checked.min(whole_rows), &files.vectors, records)?;
    let damaged = Found::default();
    let unreadable = Mutex::new(None);
    let pieces = (0..checked.div_ceil(PIECE)).collect();
    let items = usize::try_from(checked).unwrap_or(usize::MAX);
    parallel::for_each(pieces, items, ROWS_PER_THREAD, |piece: u64| {
        for row in piece * PIECE..((piece + 1) * PIECE).min(checked) {
            match source.is_sound(row) {
                Ok(true) => {}
                Ok(false) => damaged.note(row),
                Err(error) => {
                    unreadable.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        }
    });
    if let Some(error) = unreadable.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    report.damaged = damaged.ascending();
    let is_damaged = |row: u64| report.damaged.binary_search(&row).is_ok();
    let key_of = |row: u64| record(records, row).map_or(DEAD, |record| record.key);
    if slot.is_none() {
        // Without a commit record, rows end with the last that holds. Damaged ones behind it may have been committed,
        // so they are named: older rows of their keys must not come back.
        report.rows = (0..checked).rev().find(|&row| key_of(row) != DEAD && !is_damaged(row)).map_or(0, |row| row + 1);
    } else {
        report.rows = checked;
    }
    report.dead = (0..report.rows).filter(|&row| key_of(row) == DEAD).count() as u64;
    let is_sound = |row| key_of(row) != DEAD && !is_damaged(row);
    (report.keys, report.replaced) = index::count_keys((0..report.rows).filter(|&row| is_sound(row)), &keys);
    if slot.is_some() {
        for (file, defect) in index::verify_snapshots(storage, directory, &files.meta.uuid, &keys) {
            let path = directory.join(file);
            report.problems.push(format!("{}: expected {}, found {}", path.display(), defect.expected, defect.found));
        }
    }
    Ok((report, slot))
}

/// Makes a damaged cache openable again; gives what was wrong.
///
/// Under the writers' lock: restores headers and a missing commit record, takes back rows that lost their commit,
/// zeroes the key records of the older rows of each damaged row's key (which must not come back in its place), then
/// those of the damaged rows, and removes the snapshots of a cache that had any damage.
pub fn repair(storage: &dyn Storage, directory: &Path, patience: Patience) -> Result<Report> {
    directory::read_meta(storage, directory)?;
    let _lock = HeldLock::acquire(storage, &directory.join(name::LOCK), patience)?;
    let commit_path = directory.join(name::COMMIT);
    if storage.metadata(&commit_path).is_err() {
        // An empty file is no commit: the row checksums decide below.
        directory::create_file(storage, &commit_path, &[])?;
    }
    let files = CacheFiles::open_unchecked(storage, directory, true)?;
    let (report, slot) = inspect(storage, directory, &files)?;
    let mut rows = report.rows;
    let mut next_epoch = 2;
    if slot.is_some() {
        let recovered = files.recover()?;
        next_epoch = recovered.next_epoch;
        if recovered.roll_forward {
            rows = recovery::roll_forward(rows, &files.keys, &files.vectors)?;
        }
    }
    if files.check_keys_header().is_err() {
        files.keys.write_header(&keys::header(&files.meta.uuid))?;
    }
    let (older, damaged) = rows_to_zero(&files, &report)?;
    for rows in [older, damaged] {
        for row in rows {
            files.keys.erase(row)?;
        }
        // The damaged rows are what tells a repair that was cut short which older ones must go.
        files.keys.sync()?;
    }
    files.keys.clear_behind(rows)?;
    files.sync_rows()?;
    files.restore_commit_length()?;
    for epoch in [next_epoch, next_epoch + 1] {
        files.write_slot(Slot { epoch, rows, synced: rows })?;
        files.sync_commit()?;
    }
    files.write_vectors_header(rows)?;
    files.vectors.sync()?;
    if !report.damaged.is_empty() || !report.problems.is_empty() {
        index::remove_all(storage, directory);
    }
    Ok(report)
}

/// The older rows of the keys that the damaged rows seem to have, and the damaged rows.
fn rows_to_zero(files: &CacheFiles, report: &Report) -> Result<(Vec<u64>, Vec<u64>)> {
    let Some(&last) = report.damaged.last() else { return Ok(Default::default()) };
    let records = files.keys.map_or_copy(files.keys.whole_records()?.min(last.saturating_add(1)))?;
    let key_of = |row: u64| record(&records, row).map_or(DEAD, |record| record.key);
    let mut lost: HashSet<Key> = HashSet::new();
    let mut older = Vec::new();
    for row in (0..records.rows()).rev() {
        if report.damaged.binary_search(&row).is_ok() {
            lost.insert(key_of(row));
        } else if lost.contains(&key_of(row)) {
            older.push(row);
        }
    }
    Ok((older, report.damaged.clone()))
}
