//! Checking a whole cache, and making a damaged one good again.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::directory::{self, CacheFiles};
use crate::error::{Error, Result};
use crate::format::commit::Slot;
use crate::format::{keys, name};
use crate::hollow;
use crate::index::{self, DeltaLimit, Index, Keys};
use crate::key::{DEAD, Key};
use crate::lock::{HeldLock, Patience};
use crate::parallel::{self, Found};
use crate::recovery::{self, Recovered};
use crate::storage::Storage;
use crate::vectors::{Source, record};

/// Rows a piece of a parallel check holds, and the fewest that are worth a second thread.
const PIECE: u64 = 4096;
const ROWS_PER_THREAD: usize = 2048;

/// How often a header is read before it is called damaged: a reader may meet a writer in the middle of a write.
const HEADER_READS: usize = 100;

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
fn inspect(storage: &dyn Storage, directory: &Path, files: &CacheFiles) -> Result<(Report, Option<Recovered>)> {
    let mut report = Report::default();
    let mut problem = |path: &Path, error: String| report.problems.push(format!("{}: {error}", path.display()));
    if let Err(defect) = files.check_keys_header() {
        problem(files.keys.path(), format!("expected {}, found {}", defect.expected, defect.found));
    }
    // A writer may be at it.
    let header = (0..HEADER_READS).map(|_| files.check_vectors_header()).find(|checked| checked.is_ok());
    if let Err(defect) = header.unwrap_or_else(|| files.check_vectors_header()) {
        problem(files.vectors.path(), format!("expected {}, found {}", defect.expected, defect.found));
    }
    let recovered = match files.recover_at_rest() {
        Ok(recovered) => Some(recovered),
        Err(error @ Error::Corrupt { .. }) => {
            report.problems.push(error.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    let key_rows = files.keys.whole_records()?;
    let checked = match recovered {
        None => key_rows,
        Some(recovered) => rows_after_recovery(&recovered, files)?,
    };
    hollow::refuse(&files.keys, checked)?;
    let keys = Keys::new(files.keys.map_or_copy(checked)?, files.meta.seed);
    let records = keys.records();
    // Asked for after the commit was read: a writer makes the files longer before it commits.
    let source = Source::of_first(checked.min(files.whole_rows()?), &files.vectors, records)?;
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
    if !report.damaged.is_empty() {
        // A writer may have been forgetting a row that a power loss took.
        let records = files.keys.map_or_copy(checked)?;
        let is_dead = |row: u64| record(&records, row).is_some_and(|record| record.key == DEAD);
        report.damaged.retain(|&row| !is_dead(row));
    }
    let is_damaged = |row: u64| report.damaged.binary_search(&row).is_ok();
    let key_of = |row: u64| record(records, row).map_or(DEAD, |record| record.key);
    if recovered.is_none() {
        // Without a commit record, rows end with the last that holds. Damaged ones behind it may have been committed,
        // so they are named: older rows of their keys must not come back.
        report.rows = (0..checked).rev().find(|&row| key_of(row) != DEAD && !is_damaged(row)).map_or(0, |row| row + 1);
    } else {
        report.rows = checked;
    }
    report.dead = (0..report.rows).filter(|&row| key_of(row) == DEAD).count() as u64;
    let is_sound = |row| key_of(row) != DEAD && !is_damaged(row);
    (report.keys, report.replaced) = index::count_keys((0..report.rows).filter(|&row| is_sound(row)), &keys);
    if recovered.is_some() {
        let committed = || {
            let rows = files.recover_at_rest()?.slot.rows.max(checked);
            Ok(Keys::new(files.keys.map_or_copy(rows)?, files.meta.seed))
        };
        for (file, defect) in index::verify_snapshots(storage, directory, &files.meta.uuid, committed)? {
            let path = directory.join(file);
            report.problems.push(format!("{}: expected {}, found {}", path.display(), defect.expected, defect.found));
        }
    }
    Ok((report, recovered))
}

/// How many rows there are once lost commits are rolled forward.
fn rows_after_recovery(recovered: &Recovered, files: &CacheFiles) -> Result<u64> {
    match recovered.roll_forward {
        true => recovery::roll_forward(recovered.slot.rows, recovered.reach(), &files.keys, &files.vectors),
        false => Ok(recovered.slot.rows),
    }
}

/// What a repair may do, and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Consent {
    /// How long it waits for the locks.
    pub patience: Patience,
    /// Whether it goes on if more rows are damaged than sound.
    pub force: bool,
    /// Whether it writes on a network file system.
    pub allow_network: bool,
}

impl From<Patience> for Consent {
    fn from(patience: Patience) -> Consent {
        Consent { patience, force: false, allow_network: false }
    }
}

/// Makes a damaged cache openable again; gives what was wrong.
///
/// Under the writers' lock, and that of the index: restores headers and a missing commit record, takes back rows that lost
/// their commit, zeroes the key records of the older rows of each damaged row's key (which must not come back in its place),
/// then those of the damaged rows, and replaces the snapshots of a cache that had any damage.
pub fn repair(storage: &dyn Storage, directory: &Path, consent: impl Into<Consent>) -> Result<Report> {
    let consent = consent.into();
    directory::read_meta(storage, directory)?;
    if !consent.allow_network {
        directory::refuse_remote(storage, directory)?;
    }
    let _lock = HeldLock::acquire(storage, &directory.join(name::LOCK), consent.patience)?;
    let commit_path = directory.join(name::COMMIT);
    let is_new = storage.metadata(&commit_path).is_err();
    if is_new {
        // An empty file is no commit: the row checksums decide below.
        directory::create_file(storage, &commit_path, &[])?;
    }
    let _commit_lock = HeldLock::of_data(storage, &commit_path, consent.patience)?;
    // Nobody writes a snapshot of what is about to change. Where there can be no such lock there are no snapshots.
    let _index_lock = match HeldLock::acquire(storage, &directory.join(name::INDEX_LOCK), consent.patience) {
        Err(Error::Io { .. }) => None,
        acquired => Some(acquired?),
    };
    let files = CacheFiles::open_unchecked(storage, directory, true)?;
    let (report, recovered) = inspect(storage, directory, &files)?;
    let (older, damaged) = rows_to_zero(&files, &report, recovered)?;
    let never_durable = recovered.map_or(0..0, |recovered| recovered.slot.synced..recovered.claimed);
    let lost = damaged.iter().filter(|row| !never_durable.contains(row)).count() as u64;
    // Rows whose records are gone with the end of `keys.bin`: without a commit that fits nothing else counts them.
    let cut = match recovered {
        None => files.vectors.whole_records()?.saturating_sub(files.keys.whole_records()?),
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
    // Written in any case: after a repair whose sync failed they may be sound in the system's memory alone.
    files.keys.write_header(&keys::header(&files.meta.uuid))?;
    for erased in [older, damaged] {
        let records = files.keys.map_or_copy(files.keys.whole_records()?)?;
        let is_dead = |row: &u64| record(&records, *row).is_some_and(|record| record.key == DEAD);
        let mut dead: Vec<u64> = (0..rows).filter(is_dead).chain(erased).collect();
        dead.sort_unstable();
        files.keys.erase(&dead)?;
        // The damaged rows are what tells a repair that was cut short which older ones must go.
        files.keys.sync()?;
    }
    let synced = recovered.map_or(0, |recovered| recovered.slot.synced);
    files.renew_unwritten(synced.min(rows))?;
    recovery::write_again(synced.min(rows)..rows, false, &files.keys, &files.vectors)?;
    files.keys.clear_behind(rows, true)?;
    files.sync_rows()?;
    let next_epoch = recovered.map_or(2, |recovered| recovered.next_epoch);
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
    let keys = Keys::new(files.keys.map_or_copy(rows)?, files.meta.seed);
    let uuid = &files.meta.uuid;
    if Index::of_snapshot(storage, directory, uuid, &keys).wants_snapshot(rows, DeltaLimit::CLOSING) {
        // Without one, whoever opens the cache enters all rows into a table. Failing to write it costs only that.
        let _ = index::write_snapshot(storage, directory, uuid, next_epoch + 1, &keys);
    }
    Ok(report)
}

/// The older rows of the keys that the damaged rows seem to have, and the damaged rows.
///
/// A row that a valid slot called not yet durable, and that does not hold, never was: older rows of its key still count.
fn rows_to_zero(files: &CacheFiles, report: &Report, recovered: Option<Recovered>) -> Result<(Vec<u64>, Vec<u64>)> {
    let Some(&last) = report.damaged.last() else { return Ok(Default::default()) };
    let records = files.keys.map_or_copy(files.keys.whole_records()?.min(last.saturating_add(1)))?;
    let key_of = |row: u64| record(&records, row).map_or(DEAD, |record| record.key);
    let never_durable = recovered.map_or(0..0, |recovered| recovered.slot.synced..recovered.claimed);
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
