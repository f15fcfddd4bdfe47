//! Reading rows: gathered, mapped or read in sequence. Each row is checked against its key record.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::error::Result;
use crate::format::keys::Record;
use crate::half::{self, HALF, SINGLE};
use crate::key::{DEAD, Key};
use crate::key_records::KeyRecords;
use crate::mmap::PrivateMapping;
use crate::parallel::{self, Found};
use crate::records::{Records, RecordsFile};

/// Rows a piece of parallel work holds, and the fewest that are worth a second thread.
const PIECE: usize = 1024;
const ROWS_PER_THREAD: usize = 512;

/// How many rows ahead to prefetch. Checking a row takes so many instructions that the processor does not overlap the
/// reads of two rows by itself.
const AHEAD: usize = 2;

/// Which checksums are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Those of all rows.
    All,
    /// Those of the rows from this one on, which are not known to be durable.
    From(u64),
}

impl Verify {
    fn wants(self, row: u64) -> bool {
        match self {
            Verify::All => true,
            Verify::From(first) => row >= first,
        }
    }
}

/// Whether a row is committed under this key and, if `verify` wants it, its checksum matches.
fn is_right(records: &KeyRecords, key: &Key, row: u64, vector: &[u8], verify: Verify) -> bool {
    records.record(row).is_some_and(|record| record.key == *key && (!verify.wants(row) || record.holds(row, vector)))
}

/// The rows file and its key records, ready to copy from.
pub(crate) struct Source<'a> {
    file: &'a RecordsFile,
    records: &'a KeyRecords,
    rows: u64,
    /// None where nothing can be mapped. Then each row is read on its own.
    mapped: Option<Records>,
}

impl<'a> Source<'a> {
    /// All rows that have a key record here.
    pub(crate) fn of(file: &'a RecordsFile, records: &'a KeyRecords) -> Result<Source<'a>> {
        Source::of_first(records.rows(), file, records)
    }

    /// The first `rows` rows of a file that may hold fewer than there are records.
    pub(crate) fn of_first(rows: u64, file: &'a RecordsFile, records: &'a KeyRecords) -> Result<Source<'a>> {
        match file.map(rows) {
            Ok(mapped) => Ok(Source { file, records, rows, mapped: Some(mapped) }),
            Err(error) if error.is_of_mapping() => Ok(Source { file, records, rows, mapped: None }),
            Err(error) => Err(error),
        }
    }

    /// Prefetches a row and its record.
    fn prefetch(&self, row: i64) {
        let Ok(row) = u64::try_from(row) else { return };
        if let Some(mapped) = &self.mapped {
            mapped.prefetch(row);
        }
        self.records.prefetch(row);
    }

    /// Whether a committed row has this key, these bytes and a matching checksum.
    pub(crate) fn has(&self, key: &Key, row: u64, vector: &[u8]) -> Result<bool> {
        if !is_right(self.records, key, row, vector, Verify::All) {
            return Ok(false);
        }
        match &self.mapped {
            Some(mapped) => Ok(mapped.get(row) == Some(vector)),
            None => {
                let mut stored = vec![0; vector.len()];
                self.file.read(row, &mut stored)?;
                Ok(stored == vector)
            }
        }
    }

    /// Whether a row is dead, or its checksum matches.
    pub(crate) fn is_sound(&self, row: u64) -> Result<bool> {
        let Some(record) = self.records.record(row).filter(|_| row < self.rows) else { return Ok(false) };
        if record.key == DEAD {
            return Ok(true);
        }
        match &self.mapped {
            Some(mapped) => Ok(mapped.get(row).is_some_and(|vector| record.holds(row, vector))),
            None => {
                let mut vector = vec![0; usize::try_from(self.file.record_bytes()).unwrap_or(0)];
                self.file.read(row, &mut vector)?;
                Ok(record.holds(row, &vector))
            }
        }
    }

    fn read_one(&self, key: &Key, row: u64, out: &mut [u8], verify: Verify) -> Result<bool> {
        match self.mapped.as_ref().map(|mapped| mapped.get(row)) {
            Some(Some(vector)) => out.copy_from_slice(vector),
            None if row < self.rows => self.file.read(row, out)?,
            _ => return Ok(false),
        }
        // Checks the copy, not the source: the caller gets the bytes that were checked.
        Ok(is_right(self.records, key, row, out, verify))
    }
}

/// Copies one row of a key into `out`. Returns whether the row is right, as for [`gather`].
pub fn read_one(
    file: &RecordsFile,
    records: &KeyRecords,
    key: &Key,
    row: u64,
    out: &mut [u8],
    verify: Verify,
) -> Result<bool> {
    Source::of(file, records)?.read_one(key, row, out, verify)
}

/// Copies the `rows` of `keys` into `out`. Negative row numbers give zeros. Returns the positions that failed,
/// ascending.
///
/// `out` holds one row for each position. A row fails if it is not committed, has another key, or has a checksum mismatch.
pub fn gather(
    file: &RecordsFile,
    records: &KeyRecords,
    keys: &[Key],
    rows: &[i64],
    out: &mut [u8],
    verify: Verify,
) -> Result<Vec<usize>> {
    let source = Source::of(file, records)?;
    let row_bytes = usize::try_from(file.record_bytes()).unwrap_or(usize::MAX);
    gather_each(&source, keys, rows, out, row_bytes, |key, row, target, _| source.read_one(key, row, target, verify))
}

/// [`gather`] for rows of float32, converted to float16.
pub fn gather_halves(
    file: &RecordsFile,
    records: &KeyRecords,
    keys: &[Key],
    rows: &[i64],
    out: &mut [u8],
    verify: Verify,
) -> Result<Vec<usize>> {
    let source = Source::of(file, records)?;
    let row_bytes = usize::try_from(file.record_bytes()).unwrap_or(usize::MAX);
    gather_each(&source, keys, rows, out, row_bytes / SINGLE * HALF, |key, row, target, copy| {
        copy.resize(row_bytes, 0);
        let is_right = source.read_one(key, row, copy, verify)?;
        half::write_halves(copy, target);
        Ok(is_right)
    })
}

/// Fills the rows of `out`, of `row_bytes` each, by `read(key, row, target, scratch)`, on all cores.
fn gather_each(
    source: &Source<'_>,
    keys: &[Key],
    rows: &[i64],
    out: &mut [u8],
    row_bytes: usize,
    read: impl Fn(&Key, u64, &mut [u8], &mut Vec<u8>) -> Result<bool> + Sync,
) -> Result<Vec<usize>> {
    let failed = Found::default();
    let first_error = Mutex::new(None);
    let targets = out.chunks_mut(PIECE.saturating_mul(row_bytes));
    let pieces: Vec<_> = keys.chunks(PIECE).zip(rows.chunks(PIECE)).zip(targets).enumerate().collect();
    parallel::for_each(pieces, rows.len(), ROWS_PER_THREAD, |(piece, ((keys, rows), out))| {
        let mut scratch = Vec::new();
        for (i, ((key, row), target)) in keys.iter().zip(rows).zip(out.chunks_exact_mut(row_bytes)).enumerate() {
            if let Some(row) = rows.get(i + AHEAD) {
                source.prefetch(*row);
            }
            let Ok(row) = u64::try_from(*row) else {
                target.fill(0);
                continue;
            };
            match read(key, row, target, &mut scratch) {
                Ok(true) => {}
                Ok(false) => failed.note(piece * PIECE + i),
                Err(error) => {
                    first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        }
    });
    match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(failed.ascending()),
    }
}

/// Maps the rows of `keys`, which are contiguous from `first` on, privately. Returns the positions that failed,
/// ascending.
///
/// None where the system cannot map, or if not all of these rows are committed.
pub fn map(
    file: &RecordsFile,
    records: &KeyRecords,
    keys: &[Key],
    first: u64,
    verify: Verify,
) -> Result<Option<(PrivateMapping, Vec<usize>)>> {
    let count = keys.len() as u64;
    let committed = first.checked_add(count).is_some_and(|end| end <= records.rows());
    if count == 0 || !committed {
        return Ok(None);
    }
    let Some(mapping) = file.map_private(first, count)? else { return Ok(None) };
    let row_bytes = usize::try_from(file.record_bytes()).unwrap_or(usize::MAX);
    let failed = Found::default();
    let pieces: Vec<_> = keys.chunks(PIECE).zip(mapping.chunks(PIECE.saturating_mul(row_bytes))).enumerate().collect();
    parallel::for_each(pieces, keys.len(), ROWS_PER_THREAD, |(piece, (keys, bytes))| {
        for (i, (key, vector)) in keys.iter().zip(bytes.chunks_exact(row_bytes)).enumerate() {
            let position = piece * PIECE + i;
            if !is_right(records, key, first + position as u64, vector, verify) {
                failed.note(position);
            }
        }
    });
    Ok(Some((mapping, failed.ascending())))
}

/// Reads the rows from `first` on into `out`, without a mapping, whose pages would count as the process's memory.
/// Returns the positions that are dead or, if `verify` wants it, have a checksum mismatch.
pub fn read(
    file: &RecordsFile,
    records: &KeyRecords,
    first: u64,
    out: &mut [u8],
    verify: Verify,
) -> Result<Vec<usize>> {
    file.read(first, out)?;
    let row_bytes = usize::try_from(file.record_bytes()).unwrap_or(usize::MAX);
    let failed = Found::default();
    let items = out.len() / row_bytes;
    let pieces: Vec<_> = out.chunks(PIECE.saturating_mul(row_bytes)).enumerate().collect();
    parallel::for_each(pieces, items, ROWS_PER_THREAD, |(piece, bytes)| {
        for (i, vector) in bytes.chunks_exact(row_bytes).enumerate() {
            let position = piece * PIECE + i;
            let row = first.saturating_add(position as u64);
            let is_sound = |record: Record| record.key != DEAD && (!verify.wants(row) || record.holds(row, vector));
            if !records.record(row).is_some_and(is_sound) {
                failed.note(position);
            }
        }
    });
    Ok(failed.ascending())
}
