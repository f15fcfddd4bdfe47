//! Checking a whole cache: every row and every file.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::files::CacheFiles;
use crate::format::Defect;
use crate::format::commit::Extent;
use crate::hollow;
use crate::index;
use crate::parallel::{self, Found};
use crate::records::RecordsFile;
use crate::recovery::{self, Recovered};
use crate::storage::Storage;
use crate::texts::TextFiles;
use crate::vectors::{Scratch, Source};

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
    /// Rows without a key: zeroed by a repair, or by a writer after a power loss.
    pub dead: u64,
    /// Rows that a newer row of their key replaces.
    pub replaced: u64,
    /// Rows with a checksum mismatch.
    pub damaged: Vec<u64>,
    /// Rows whose text is kept.
    pub texts: u64,
    /// Rows that are neither dead nor damaged, with another text than that of their key. Only the text is lost.
    pub damaged_texts: Vec<u64>,
    /// One sentence for each file that breaks its format.
    pub problems: Vec<String>,
}

/// How far a check is. Other threads may read it meanwhile.
#[derive(Debug, Default)]
pub struct Progress {
    rows: AtomicU64,
    checked: AtomicU64,
}

impl Progress {
    /// How many rows are to be checked; 0 before that is known.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// How many of them were checked.
    pub fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }
}

/// Checks every row and every file. Takes no lock and writes nothing.
pub fn verify(storage: &dyn Storage, directory: &Path) -> Result<Report> {
    verify_with(storage, directory, &Progress::default())
}

/// Does what [`verify`] does, and counts the rows that were checked.
pub fn verify_with(storage: &dyn Storage, directory: &Path, progress: &Progress) -> Result<Report> {
    let files = CacheFiles::open_unchecked(storage, directory, false)?;
    inspect(storage, directory, &files, progress).map(|(report, ..)| report)
}

/// Checks all rows that the commit record covers. Without a commit record it checks all rows that the files hold.
///
/// Returns the extent of the rows in the report too.
pub(crate) fn inspect(
    storage: &dyn Storage,
    directory: &Path,
    files: &CacheFiles,
    progress: &Progress,
) -> Result<(Report, Option<Recovered>, Extent)> {
    let mut report = Report { problems: header_problems(files), ..Report::default() };
    let recovered = match files.recover_at_rest() {
        Ok(recovered) => Some(recovered),
        Err(error @ Error::Corrupt { .. }) => {
            report.problems.push(error.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    let committed = match recovered {
        None => Extent { rows: files.keys.whole_records()?, elements: 0 },
        Some(recovered) => extent_after_recovery(&recovered, files)?,
    };
    let checked = committed.rows;
    hollow::refuse(&files.keys, checked)?;
    let records = files.key_records(checked)?;
    // Counted after the commit was read: a writer makes the files longer before it commits.
    let whole = files.whole()?;
    let source = Source::of(&files.rows, &records, files.rows.extent(whole.rows.min(checked), whole.elements))?;
    report.damaged = damaged_rows(&source, checked, progress)?;
    if !report.damaged.is_empty() {
        // Meanwhile a writer may have zeroed the record of a row that a power loss took.
        let now = files.key_records(checked)?;
        report.damaged.retain(|&row| !now.is_dead(row));
    }
    let is_damaged = |row: u64| report.damaged.binary_search(&row).is_ok();
    let is_sound = |row: u64| !records.is_dead(row) && !is_damaged(row);
    let extent = match recovered {
        Some(_) => committed,
        // Rows end with the last sound one. The damaged ones behind it are named too, since they may have been
        // committed: older rows of their keys must not come back.
        None => match (0..checked).rev().find(|&row| is_sound(row)) {
            Some(row) => files.rows.extent_behind(row)?,
            None => Extent::default(),
        },
    };
    report.rows = extent.rows;
    report.dead = (0..report.rows).filter(|&row| records.is_dead(row)).count() as u64;
    (report.keys, report.replaced) = index::count_keys((0..report.rows).filter(|&row| is_sound(row)), &records);
    if let Some(texts) = files.texts(storage, directory) {
        let key_of = |row: u64| records.key(row).filter(|_| is_sound(row));
        (report.texts, report.damaged_texts) = texts.verify(report.rows, key_of)?;
        let defects = texts.all().map(|(file, column)| header_problem(file, || TextFiles::check_header(file, column)));
        report.problems.extend(defects.into_iter().flatten());
    }
    if recovered.is_some() {
        let committed = || {
            let slot = files.recover_at_rest()?.slot;
            Ok((files.key_records(slot.committed.rows.max(checked))?, slot.erased))
        };
        for (file, defect) in index::verify_snapshots(storage, directory, &files.meta, committed)? {
            report.problems.push(problem(&directory.join(file), &defect));
        }
    }
    Ok((report, recovered, extent))
}

fn header_problems(files: &CacheFiles) -> Vec<String> {
    let keys = files.check_keys_header().map_err(|defect| problem(files.keys.path(), &defect));
    let rows = files.row_files().filter_map(|(file, column)| header_problem(file, || files.check_header(file, column)));
    keys.err().into_iter().chain(rows).collect()
}

fn header_problem(file: &RecordsFile, check: impl Fn() -> std::result::Result<(), Defect>) -> Option<String> {
    // A writer may be writing it.
    let sound = (0..HEADER_READS).map(|_| check()).find(|checked| checked.is_ok());
    sound.unwrap_or_else(&check).map_err(|defect| problem(file.path(), &defect)).err()
}

fn problem(path: &Path, defect: &Defect) -> String {
    format!("{}: expected {}, found {}", path.display(), defect.expected, defect.found)
}

/// The rows with a checksum mismatch among the first `checked`, ascending.
fn damaged_rows(source: &Source<'_>, checked: u64, progress: &Progress) -> Result<Vec<u64>> {
    progress.rows.store(checked, Ordering::Relaxed);
    let damaged = Found::default();
    let unreadable = Mutex::new(None);
    let pieces = (0..checked.div_ceil(PIECE)).collect();
    let items = usize::try_from(checked).unwrap_or(usize::MAX);
    parallel::for_each(pieces, items, ROWS_PER_THREAD, |piece: u64| {
        let mut scratch = Scratch::default();
        let rows = piece * PIECE..((piece + 1) * PIECE).min(checked);
        let count = rows.end - rows.start;
        for row in rows {
            match source.is_sound(row, &mut scratch) {
                Ok(true) => {}
                Ok(false) => damaged.note(row),
                Err(error) => {
                    unreadable.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        }
        progress.checked.fetch_add(count, Ordering::Relaxed);
    });
    match unreadable.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(damaged.ascending()),
    }
}

/// The extent once lost commits are rolled forward.
fn extent_after_recovery(recovered: &Recovered, files: &CacheFiles) -> Result<Extent> {
    match recovered.roll_forward {
        true => recovery::roll_forward(recovered.slot.committed, recovered.reach(), &files.keys, &files.rows),
        false => Ok(recovered.slot.committed),
    }
}
