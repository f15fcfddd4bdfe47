//! Checking a whole cache: every row and every file.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::files::CacheFiles;
use crate::format::Defect;
use crate::hollow;
use crate::index;
use crate::parallel::{self, Found};
use crate::recovery::{self, Recovered};
use crate::storage::Storage;
use crate::vectors::Source;

/// Rows a piece of a parallel check holds, and the fewest that are worth a second thread.
const PIECE: u64 = 4096;
const ROWS_PER_THREAD: usize = 2048;

/// How often a header is read before it is called damaged: a reader may meet a writer in the middle of a write.
const HEADER_READS: usize = 100;

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Committed rows.
    pub rows: u64,
    /// Different keys among the rows that are neither dead nor damaged.
    pub keys: u64,
    /// Rows without a key: zeroed by a repair.
    pub dead: u64,
    /// Rows that a newer row of their key replaces.
    pub replaced: u64,
    /// Rows with a checksum mismatch.
    pub damaged: Vec<u64>,
    /// One sentence for each file that breaks its format.
    pub problems: Vec<String>,
}

/// Checks every row and every file. Takes no lock and writes nothing.
pub fn verify(storage: &dyn Storage, directory: &Path) -> Result<Report> {
    let files = CacheFiles::open_unchecked(storage, directory, false)?;
    inspect(storage, directory, &files).map(|(report, _)| report)
}

/// Checks all rows that the commit record covers. Without a commit record it checks all rows that the files hold.
pub(crate) fn inspect(
    storage: &dyn Storage,
    directory: &Path,
    files: &CacheFiles,
) -> Result<(Report, Option<Recovered>)> {
    let mut report = Report { problems: header_problems(files), ..Report::default() };
    let recovered = match files.recover_at_rest() {
        Ok(recovered) => Some(recovered),
        Err(error @ Error::Corrupt { .. }) => {
            report.problems.push(error.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    let checked = match recovered {
        None => files.keys.whole_records()?,
        Some(recovered) => rows_after_recovery(&recovered, files)?,
    };
    hollow::refuse(&files.keys, checked)?;
    let records = files.key_records(checked)?;
    // Counted after the commit was read: a writer makes the files longer before it commits.
    let source = Source::of_first(checked.min(files.whole_rows()?), &files.vectors, &records)?;
    report.damaged = damaged_rows(&source, checked)?;
    if !report.damaged.is_empty() {
        // Meanwhile a writer may have zeroed the record of a row that a power loss took.
        let now = files.key_records(checked)?;
        report.damaged.retain(|&row| !now.is_dead(row));
    }
    let is_damaged = |row: u64| report.damaged.binary_search(&row).is_ok();
    let is_sound = |row: u64| !records.is_dead(row) && !is_damaged(row);
    report.rows = match recovered {
        Some(_) => checked,
        // Rows end with the last sound one. The damaged ones behind it are named too, since they may have been
        // committed: older rows of their keys must not come back.
        None => (0..checked).rev().find(|&row| is_sound(row)).map_or(0, |row| row + 1),
    };
    report.dead = (0..report.rows).filter(|&row| records.is_dead(row)).count() as u64;
    (report.keys, report.replaced) = index::count_keys((0..report.rows).filter(|&row| is_sound(row)), &records);
    if recovered.is_some() {
        let committed = || files.key_records(files.recover_at_rest()?.slot.rows.max(checked));
        for (file, defect) in index::verify_snapshots(storage, directory, &files.meta.uuid, committed)? {
            report.problems.push(problem(&directory.join(file), &defect));
        }
    }
    Ok((report, recovered))
}

fn header_problems(files: &CacheFiles) -> Vec<String> {
    let keys = files.check_keys_header().map_err(|defect| problem(files.keys.path(), &defect));
    // A writer may be writing it.
    let sound = (0..HEADER_READS).map(|_| files.check_vectors_header()).find(|checked| checked.is_ok());
    let vectors = sound.unwrap_or_else(|| files.check_vectors_header());
    let vectors = vectors.map_err(|defect| problem(files.vectors.path(), &defect));
    [keys, vectors].into_iter().filter_map(|checked| checked.err()).collect()
}

fn problem(path: &Path, defect: &Defect) -> String {
    format!("{}: expected {}, found {}", path.display(), defect.expected, defect.found)
}

/// The rows with a checksum mismatch among the first `checked`, ascending.
fn damaged_rows(source: &Source<'_>, checked: u64) -> Result<Vec<u64>> {
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
    match unreadable.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(damaged.ascending()),
    }
}

/// How many rows there are once lost commits are rolled forward.
fn rows_after_recovery(recovered: &Recovered, files: &CacheFiles) -> Result<u64> {
    match recovered.roll_forward {
        true => recovery::roll_forward(recovered.slot.rows, recovered.reach(), &files.keys, &files.vectors),
        false => Ok(recovered.slot.rows),
    }
}
