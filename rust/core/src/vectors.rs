//! Reading rows: gathered, mapped or read in sequence. Each row is checked against its key record.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::error::Result;
use crate::format::commit::Extent;
use crate::format::keys::Record;
use crate::half::{self, HALF, SINGLE};
use crate::key::Key;
use crate::key_records::KeyRecords;
use crate::mmap::PrivateMapping;
use crate::parallel::{self, Found};
use crate::records::{Records, RecordsFile};
use crate::row::{Row, Span};
use crate::rows::{RowFiles, Spans};
use crate::target::{RowTarget, Target};

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
#[inline]
fn is_right(records: &KeyRecords, key: &Key, row: u64, content: &Row<'_>, verify: Verify) -> bool {
    records.record(row).is_some_and(|record| record.key == *key && (!verify.wants(row) || record.holds(row, content)))
}

/// The rows of an extent and their key records, ready to copy from.
pub(crate) struct Source<'a> {
    files: &'a RowFiles,
    records: &'a KeyRecords,
    spans: Spans<'a>,
    /// None where nothing can be mapped. Then each row is read on its own.
    mapped: Option<Mapped>,
}

/// The mapped elements of an extent.
struct Mapped {
    data: Records,
    indices: Option<Records>,
}

/// Memory for a row that is read on its own.
#[derive(Default)]
pub(crate) struct Scratch {
    data: Vec<u8>,
    indices: Vec<u8>,
}

impl<'a> Source<'a> {
    /// The rows of an extent. `records` may have more, and fewer.
    pub(crate) fn of(files: &'a RowFiles, records: &'a KeyRecords, extent: Extent) -> Result<Source<'a>> {
        let map = |file: &RecordsFile| file.map(extent.elements);
        let mapped =
            map(files.data()).and_then(|data| Ok(Mapped { data, indices: files.indices().map(map).transpose()? }));
        let mapped = match mapped {
            Err(error) if error.is_of_mapping() => None,
            mapped => Some(mapped?),
        };
        Ok(Source { files, records, spans: files.spans(extent)?, mapped })
    }

    /// Prefetches the first element of a row, and its record.
    #[inline]
    fn prefetch(&self, row: i64) {
        let Ok(row) = u64::try_from(row) else { return };
        if let (Some(mapped), Some(span)) = (&self.mapped, self.spans.get(row)) {
            mapped.data.prefetch(span.start);
        }
        self.records.prefetch(row);
    }

    /// The content of a row. None for one that is not in the extent, or lies nowhere.
    fn load<'s>(&'s self, row: u64, scratch: &'s mut Scratch) -> Result<Option<Row<'s>>> {
        let Some(span) = self.spans.get(row) else { return Ok(None) };
        let Some(mapped) = &self.mapped else {
            let (count, sizes) = (usize::try_from(span.len()).unwrap_or(usize::MAX), self.files.sizes());
            scratch.data.resize(count.saturating_mul(sizes.data), 0);
            self.files.data().read(span.start, &mut scratch.data)?;
            if let Some(file) = self.files.indices() {
                scratch.indices.resize(count.saturating_mul(sizes.indices), 0);
                file.read(span.start, &mut scratch.indices)?;
            }
            let indices = self.files.indices().map(|_| scratch.indices.as_slice());
            return Ok(Some(Row { span: self.spans.of_row(span), data: &scratch.data, indices }));
        };
        let bytes = |records: &'s Records| records.range(span.start..span.end);
        let indices = match &mapped.indices {
            None => None,
            Some(indices) => match bytes(indices) {
                None => return Ok(None),
                found => found,
            },
        };
        Ok(bytes(&mapped.data).map(|data| Row { span: self.spans.of_row(span), data, indices }))
    }

    /// Whether a committed row has this key, this content and a matching checksum. Where it lies does not matter.
    pub(crate) fn has(&self, key: &Key, row: u64, content: &Row<'_>, scratch: &mut Scratch) -> Result<bool> {
        let Some(stored) = self.load(row, scratch)? else { return Ok(false) };
        let is_equal = stored.data == content.data && stored.indices == content.indices;
        Ok(is_equal && is_right(self.records, key, row, &stored, Verify::All))
    }

    /// Whether a row is dead, or its checksum matches.
    pub(crate) fn is_sound(&self, row: u64, scratch: &mut Scratch) -> Result<bool> {
        let Some(record) = self.records.record(row) else { return Ok(false) };
        if record.is_dead() {
            return Ok(true);
        }
        Ok(self.load(row, scratch)?.is_some_and(|content| record.holds(row, &content)))
    }

    /// Copies a row. Returns whether it is right, and as long as its target.
    #[inline]
    fn copy(&self, key: &Key, row: u64, target: &mut RowTarget<'_>, verify: Verify) -> Result<bool> {
        let Some(span) = self.spans.get(row) else { return Ok(false) };
        let sizes = self.files.sizes();
        let is_long = |bytes: usize, size: usize| (bytes as u64) == span.len().saturating_mul(size as u64);
        let fits = is_long(target.data.len(), sizes.data)
            && target.indices.as_ref().is_none_or(|indices| is_long(indices.len(), sizes.indices));
        if !fits {
            return Ok(false);
        }
        let copy = |mapped: Option<&Records>, file: &RecordsFile, out: &mut [u8]| -> Result<bool> {
            match mapped.map(|mapped| mapped.range(span.start..span.end)) {
                Some(Some(bytes)) => out.copy_from_slice(bytes),
                None => file.read(span.start, out)?,
                Some(None) => return Ok(false),
            }
            Ok(true)
        };
        let mapped = self.mapped.as_ref();
        if !copy(mapped.map(|mapped| &mapped.data), self.files.data(), target.data)? {
            return Ok(false);
        }
        if let (Some(file), Some(out)) = (self.files.indices(), target.indices.as_deref_mut())
            && !copy(mapped.and_then(|mapped| mapped.indices.as_ref()), file, out)?
        {
            return Ok(false);
        }
        // Checks the copy, not the source: the caller gets the bytes that were checked.
        let content = Row { span: self.spans.of_row(span), data: target.data, indices: target.indices.as_deref() };
        Ok(is_right(self.records, key, row, &content, verify))
    }
}

/// Copies one row of a key into `out`. Returns whether the row is right, as for [`gather`].
pub fn read_one(
    files: &RowFiles,
    (records, committed): (&KeyRecords, Extent),
    key: &Key,
    row: u64,
    out: &mut [u8],
    verify: Verify,
) -> Result<bool> {
    let mut target = RowTarget { data: out, indices: None };
    Source::of(files, records, committed)?.copy(key, row, &mut target, verify)
}

/// How many elements each of the `rows` has. 0 for a negative row number, and for a row that is not committed or lies
/// nowhere.
pub fn lengths(files: &RowFiles, committed: Extent, rows: &[i64], out: &mut [i64]) -> Result<()> {
    let spans = files.spans(committed)?;
    for (row, length) in rows.iter().zip(out) {
        let span = u64::try_from(*row).ok().and_then(|row| spans.get(row));
        *length = span.map_or(0, |span| span.len() as i64);
    }
    Ok(())
}

/// Copies the `rows` of `keys` into a target with a place for each. Negative row numbers give zeros. Returns the
/// positions that failed, ascending.
///
/// A row fails if it is not committed, has another key, is not as long as its place, or has a checksum mismatch.
pub fn gather(
    files: &RowFiles,
    (records, committed): (&KeyRecords, Extent),
    keys: &[Key],
    rows: &[i64],
    target: Target<'_>,
    verify: Verify,
) -> Result<Vec<usize>> {
    let source = Source::of(files, records, committed)?;
    let (data, indices) = (files.sizes().data, files.sizes().indices);
    gather_each(&source, keys, rows, target, (data, indices), |key, row, target, _| {
        source.copy(key, row, target, verify)
    })
}

/// [`gather`] for dense rows of float32, converted to float16.
pub fn gather_halves(
    files: &RowFiles,
    (records, committed): (&KeyRecords, Extent),
    keys: &[Key],
    rows: &[i64],
    out: &mut [u8],
    verify: Verify,
) -> Result<Vec<usize>> {
    let source = Source::of(files, records, committed)?;
    let row_bytes = files.sizes().data;
    gather_each(&source, keys, rows, out.into(), (row_bytes / SINGLE * HALF, 0), |key, row, target, copy| {
        copy.resize(row_bytes, 0);
        let is_right = source.copy(key, row, &mut RowTarget { data: copy, indices: None }, verify)?;
        half::write_halves(copy, target.data);
        Ok(is_right)
    })
}

/// Fills the places of a target by `read(key, row, place, scratch)`, on all cores. `sizes` are the bytes of an element
/// in the target.
fn gather_each(
    source: &Source<'_>,
    keys: &[Key],
    rows: &[i64],
    target: Target<'_>,
    sizes: (usize, usize),
    read: impl Fn(&Key, u64, &mut RowTarget<'_>, &mut Vec<u8>) -> Result<bool> + Sync,
) -> Result<Vec<usize>> {
    let failed = Found::default();
    let first_error = Mutex::new(None);
    let targets = target.pieces(PIECE, rows.len(), sizes);
    let pieces: Vec<_> = keys.chunks(PIECE).zip(rows.chunks(PIECE)).zip(targets).enumerate().collect();
    parallel::for_each(pieces, rows.len(), ROWS_PER_THREAD, |(piece, ((keys, rows), mut places))| {
        let mut scratch = Vec::new();
        for (i, (key, row)) in keys.iter().zip(rows).enumerate() {
            if let Some(row) = rows.get(i + AHEAD) {
                source.prefetch(*row);
            }
            let mut place = places.next_row();
            let Ok(row) = u64::try_from(*row) else {
                place.fill_with_zeros();
                continue;
            };
            match read(key, row, &mut place, &mut scratch) {
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

/// Contiguous rows, mapped privately.
#[derive(Debug)]
pub struct MappedRows {
    /// Their numbers.
    pub data: PrivateMapping,
    /// The index of each number, in a sparse cache.
    pub indices: Option<PrivateMapping>,
    /// Where each row begins, and where the last one ends, in elements. None in a dense cache.
    pub indptr: Option<Vec<i64>>,
    /// The positions that failed, ascending.
    pub failed: Vec<usize>,
}

/// Maps the rows of `keys`, which are contiguous from `first` on, privately.
///
/// None where the system cannot map, if not all of these rows are committed, or if one lies nowhere.
pub fn map(
    files: &RowFiles,
    (records, committed): (&KeyRecords, Extent),
    keys: &[Key],
    first: u64,
    verify: Verify,
) -> Result<Option<MappedRows>> {
    let spans = files.spans(committed)?;
    let rows = first..first.saturating_add(keys.len() as u64);
    if rows.is_empty() || rows.end > committed.rows {
        return Ok(None);
    }
    let Some(offsets) = offsets_of(&spans, rows) else { return Ok(None) };
    let (start, count) = (offsets.start, offsets.total);
    let map = |file: &RecordsFile| file.map_private(start, count);
    let Some(data) = map(files.data())? else { return Ok(None) };
    let indices = match files.indices().map(map).transpose()? {
        None => None,
        Some(None) => return Ok(None),
        Some(mapped) => mapped,
    };
    let sizes = files.sizes();
    let failed = Found::default();
    let pieces: Vec<_> = keys.chunks(PIECE).enumerate().collect();
    parallel::for_each(pieces, keys.len(), ROWS_PER_THREAD, |(piece, keys)| {
        for (i, key) in keys.iter().enumerate() {
            let position = piece * PIECE + i;
            let (from, to) = offsets.of(position);
            let content = Row {
                span: offsets.ends.as_ref().map(|_| Span { start: start + from as u64, end: start + to as u64 }),
                data: &data[from * sizes.data..to * sizes.data],
                indices: indices.as_ref().map(|all| &all[from * sizes.indices..to * sizes.indices]),
            };
            if !is_right(records, key, first + position as u64, &content, verify) {
                failed.note(position);
            }
        }
    });
    let indptr = offsets.ends;
    Ok(Some(MappedRows { data, indices, indptr, failed: failed.ascending() }))
}

/// Where contiguous rows lie, counted from the first.
struct Offsets {
    start: u64,
    total: u64,
    /// None in a dense cache.
    ends: Option<Vec<i64>>,
}

impl Offsets {
    #[inline]
    fn of(&self, position: usize) -> (usize, usize) {
        match &self.ends {
            None => (position, position + 1),
            Some(ends) => (ends[position] as usize, ends[position + 1] as usize),
        }
    }
}

/// None if one of the rows lies nowhere.
fn offsets_of(spans: &Spans<'_>, rows: Range<u64>) -> Option<Offsets> {
    let start = spans.get(rows.start)?;
    if spans.of_row(start).is_none() {
        return Some(Offsets { start: rows.start, total: rows.end - rows.start, ends: None });
    }
    let mut ends = vec![0];
    for row in rows {
        ends.push(i64::try_from(spans.get(row)?.end.checked_sub(start.start)?).ok()?);
    }
    let total = u64::try_from(*ends.last()?).ok()?;
    Some(Offsets { start: start.start, total, ends: Some(ends) })
}

/// Reads the rows of a dense cache from `first` on into `out`, without a mapping, whose pages would count as the
/// process's memory. Returns the positions that are dead or, if `verify` wants it, have a checksum mismatch.
pub fn read(files: &RowFiles, records: &KeyRecords, first: u64, out: &mut [u8], verify: Verify) -> Result<Vec<usize>> {
    files.data().read(first, out)?;
    let row_bytes = files.sizes().data;
    let failed = Found::default();
    let items = out.len() / row_bytes;
    let pieces: Vec<_> = out.chunks(PIECE.saturating_mul(row_bytes)).enumerate().collect();
    parallel::for_each(pieces, items, ROWS_PER_THREAD, |(piece, bytes)| {
        for (i, vector) in bytes.chunks_exact(row_bytes).enumerate() {
            let position = piece * PIECE + i;
            let row = first.saturating_add(position as u64);
            let content = Row::dense(vector);
            let is_sound = |record: Record| !record.is_dead() && (!verify.wants(row) || record.holds(row, &content));
            if !records.record(row).is_some_and(is_sound) {
                failed.note(position);
            }
        }
    });
    Ok(failed.ascending())
}
