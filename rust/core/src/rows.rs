//! The files of the rows: one of numbers, and where rows have elements, of their indices and of where each row ends.

use std::ops::Range;

use crate::batch::{Block, Sizes};
use crate::error::Result;
use crate::format::column::{Column, OFFSET_BYTES};
use crate::format::commit::Extent;
use crate::format::meta::Meta;
use crate::records::{Records, RecordsFile};
use crate::row::{Row, Span};

/// So many bytes are worth writing to the disk before a sync asks for it.
const MANY_BYTES: u64 = 8 << 20;

/// The open files.
#[derive(Debug)]
pub struct RowFiles {
    /// The numbers: an element is a vector, or a number in a sparse cache.
    data: RecordsFile,
    /// The index of each number, in a sparse cache.
    indices: Option<RecordsFile>,
    /// Where each row ends, in elements. None in a dense cache, where each row is one element.
    indptr: Option<RecordsFile>,
    sizes: Sizes,
    max_elements_of_row: u64,
}

impl RowFiles {
    /// Opens each file with `open`.
    pub fn open(meta: &Meta, open: impl Fn(Column) -> Result<RecordsFile>) -> Result<RowFiles> {
        Ok(RowFiles {
            data: open(meta.data())?,
            indices: meta.container.indices().map(&open).transpose()?,
            indptr: meta.container.indptr().map(&open).transpose()?,
            sizes: Sizes::of(meta),
            max_elements_of_row: meta.container.max_elements_of_row(meta.dim),
        })
    }

    /// The files of elements.
    pub(crate) fn of_elements(&self) -> impl Iterator<Item = &RecordsFile> {
        std::iter::once(&self.data).chain(&self.indices)
    }

    /// All files, in the order of [`Meta::columns`]: that of the offsets is the last.
    pub fn all(&self) -> impl Iterator<Item = &RecordsFile> {
        self.of_elements().chain(&self.indptr)
    }

    /// The file of numbers.
    pub fn data(&self) -> &RecordsFile {
        &self.data
    }

    /// The file of indices.
    pub fn indices(&self) -> Option<&RecordsFile> {
        self.indices.as_ref()
    }

    /// The file of where each row ends.
    pub fn indptr(&self) -> Option<&RecordsFile> {
        self.indptr.as_ref()
    }

    /// Bytes of an element in each file.
    pub(crate) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// How much the files hold in full, committed or not.
    pub fn whole(&self) -> Result<Extent> {
        let mut elements = u64::MAX;
        for file in self.of_elements() {
            elements = elements.min(file.whole_records()?);
        }
        let rows = self.indptr.as_ref().map_or(Ok(elements), RecordsFile::whole_records)?;
        Ok(Extent { rows, elements })
    }

    /// The extent of rows that have this many elements together, or in a dense cache one each.
    pub fn extent(&self, rows: u64, elements: u64) -> Extent {
        if self.indptr.is_some() { Extent { rows, elements } } else { Extent::dense(rows) }
    }

    /// The extent up to a row that lies somewhere.
    pub fn extent_behind(&self, row: u64) -> Result<Extent> {
        let span = self.read_spans(row..row.saturating_add(1))?.first().copied().flatten();
        Ok(self.extent(row.saturating_add(1), span.map_or(0, |span| span.end)))
    }

    /// Rejects files that hold less.
    pub fn check_length(&self, extent: Extent) -> Result<()> {
        self.of_elements().try_for_each(|file| file.check_length(extent.elements))?;
        self.indptr.as_ref().map_or(Ok(()), |file| file.check_length(extent.rows))
    }

    /// Writes a block behind `before`.
    ///
    /// The end of the row before it is written again: a power loss may have taken it, and a row begins where the one
    /// before it ends.
    pub(crate) fn append(&self, before: Extent, block: &Block<'_>) -> Result<()> {
        self.data.write_parts(before.elements, block.data())?;
        if let (Some(file), Some(indices)) = (&self.indices, block.indices()) {
            file.write_parts(before.elements, indices)?;
        }
        if let (Some(file), Some(ends)) = (&self.indptr, block.ends(before.elements)) {
            match before.rows.checked_sub(1) {
                Some(last) => file.write(last, &ends)?,
                None => file.write(0, ends.get(OFFSET_BYTES..).unwrap_or_default())?,
            }
        }
        Ok(())
    }

    /// Begins to write the elements between two extents to the disk, if they are many. Returns whether it did.
    ///
    /// A few would be written again and again, since pages are written whole.
    pub(crate) fn begin_writing(&self, before: Extent, after: Extent) -> Result<bool> {
        let elements = before.elements..after.elements;
        let span = Span { start: elements.start, end: elements.end };
        let are_many = self.bytes_of(Some(span)) >= MANY_BYTES;
        if are_many {
            self.of_elements().try_for_each(|file| file.begin_writing(elements.clone()))?;
        }
        Ok(are_many)
    }

    /// Makes the rows durable.
    pub fn sync(&self) -> Result<()> {
        self.all().try_for_each(RecordsFile::sync)
    }

    /// Asks the system to drop the cached pages behind the rows of an extent.
    pub fn forget_pages_behind(&self, extent: Extent) -> Result<()> {
        self.of_elements().try_for_each(|file| file.forget_pages_behind(extent.elements))?;
        self.indptr.as_ref().map_or(Ok(()), |file| file.forget_pages_behind(extent.rows))
    }

    /// Makes later writes behind an extent durable at the next sync, even if earlier writes failed.
    pub fn renew_unwritten(&self, extent: Extent) -> Result<()> {
        self.of_elements().try_for_each(|file| file.renew_unwritten(extent.elements))?;
        // The end of the last row of the extent is written again with the rows behind it.
        self.indptr.as_ref().map_or(Ok(()), |file| file.renew_unwritten(extent.rows.saturating_sub(1)))
    }

    /// Where each of the rows lies. None for one that lies nowhere: damaged offsets, or elements that are not there.
    fn read_spans(&self, rows: Range<u64>) -> Result<Vec<Option<Span>>> {
        let Some(file) = &self.indptr else {
            return Ok(rows.map(|row| Some(Span { start: row, end: row + 1 })).collect());
        };
        let elements = self.whole()?.elements;
        let first = rows.start.saturating_sub(1);
        let mut entries =
            vec![[0; OFFSET_BYTES]; usize::try_from(rows.end.saturating_sub(first)).unwrap_or(usize::MAX)];
        file.read(first, entries.as_flattened_mut())?;
        let before_first = (rows.start == 0).then_some(0);
        let ends = before_first.into_iter().chain(entries.iter().map(|entry| u64::from_le_bytes(*entry)));
        let pairs = ends.clone().zip(ends.skip(1));
        Ok(pairs.map(|(start, end)| self.possible(start, end, elements)).collect())
    }

    /// The span of these bounds, if a row can lie there among so many elements.
    #[inline]
    fn possible(&self, start: u64, end: u64, elements: u64) -> Option<Span> {
        let length = end.checked_sub(start)?;
        (length <= self.max_elements_of_row && end <= elements).then_some(Span { start, end })
    }

    /// Bytes of the elements of a row.
    fn bytes_of(&self, span: Option<Span>) -> u64 {
        span.map_or(0, Span::len).saturating_mul((self.sizes.data + self.sizes.indices) as u64)
    }

    /// How many of the first rows of a range have at most `budget` bytes together, each with `extra` bytes more. At
    /// least one.
    pub(crate) fn first_within(&self, rows: Range<u64>, extra: u64, budget: u64) -> Result<u64> {
        let most = rows.end.saturating_sub(rows.start).min((budget / extra.max(1)).max(1));
        if self.indptr.is_none() {
            let row_bytes = self.bytes_of(Some(Span { start: 0, end: 1 })).saturating_add(extra);
            return Ok((budget / row_bytes.max(1)).max(1).min(most));
        }
        let spans = self.read_spans(rows.start..rows.start + most)?;
        Ok(self.within(spans.into_iter(), extra, budget))
    }

    /// As [`RowFiles::first_within`], of the last rows of a range.
    pub(crate) fn last_within(&self, rows: Range<u64>, extra: u64, budget: u64) -> Result<u64> {
        let most = rows.end.saturating_sub(rows.start).min((budget / extra.max(1)).max(1));
        if self.indptr.is_none() {
            return self.first_within(rows, extra, budget);
        }
        let spans = self.read_spans(rows.end - most..rows.end)?;
        Ok(self.within(spans.into_iter().rev(), extra, budget))
    }

    fn within(&self, spans: impl Iterator<Item = Option<Span>>, extra: u64, budget: u64) -> u64 {
        let mut sum = 0_u64;
        let sums = spans.map(|span| {
            sum = sum.saturating_add(self.bytes_of(span)).saturating_add(extra);
            sum
        });
        (sums.take_while(|sum| *sum <= budget).count() as u64).max(1)
    }

    /// Copies contiguous rows.
    pub(crate) fn copy(&self, rows: Range<u64>) -> Result<Copied> {
        let spans = self.read_spans(rows.clone())?;
        let mut copied = Copied {
            first: rows.start,
            starts: Vec::with_capacity(spans.len()),
            data: Vec::new(),
            indices: Vec::new(),
            sizes: self.sizes,
            is_dense: self.indptr.is_none(),
            has_indices: self.indices.is_some(),
            spans,
        };
        let mut elements = 0;
        for span in &copied.spans {
            copied.starts.push(elements);
            elements += usize::try_from(span.map_or(0, Span::len)).unwrap_or(usize::MAX);
        }
        copied.data.resize(elements.saturating_mul(self.sizes.data), 0);
        copied.indices.resize(elements.saturating_mul(self.sizes.indices), 0);
        for run in copied.runs(0..copied.spans.len()) {
            let (first, at) = (run.elements.start, run.at);
            self.data.read(first, &mut copied.data[at.start * self.sizes.data..at.end * self.sizes.data])?;
            if let Some(file) = &self.indices {
                file.read(first, &mut copied.indices[at.start * self.sizes.indices..at.end * self.sizes.indices])?;
            }
        }
        Ok(copied)
    }

    /// The bytes that share a folio with the end of some copied rows, and lie behind it.
    pub(crate) fn copy_behind(&self, copied: &Copied) -> Result<Behind> {
        let Some(Range { end, .. }) = copied.elements() else { return Ok(Behind::default()) };
        Ok(Behind {
            elements: end,
            data: self.data.read_behind(end)?,
            indices: self.indices.as_ref().map_or(Ok(Vec::new()), |file| file.read_behind(end))?,
            ends: self.indptr.as_ref().map_or(Ok(Vec::new()), |file| file.read_behind(copied.end()))?,
        })
    }

    /// Asks the system to drop the cached pages of some copied rows, and the folios that overlap them.
    pub(crate) fn forget_pages(&self, copied: &Copied) -> Result<()> {
        let Some(elements) = copied.elements() else { return Ok(()) };
        self.of_elements().try_for_each(|file| file.forget_pages(elements.clone()))?;
        let entries = copied.first.saturating_sub(1)..copied.end();
        self.indptr.as_ref().map_or(Ok(()), |file| file.forget_pages(entries))
    }

    /// Writes some of the copied rows again.
    pub(crate) fn write_again(&self, copied: &Copied, rows: Range<u64>) -> Result<()> {
        for run in copied.runs(copied.position(rows.start)..copied.position(rows.end)) {
            let (first, at) = (run.elements.start, run.at);
            self.data.write(first, &copied.data[at.start * self.sizes.data..at.end * self.sizes.data])?;
            if let Some(file) = &self.indices {
                file.write(first, &copied.indices[at.start * self.sizes.indices..at.end * self.sizes.indices])?;
            }
            if let Some(file) = &self.indptr {
                // A row begins where the one before it ends.
                let row = copied.first + run.positions.start as u64;
                let mut ends: Vec<u8> = Vec::new();
                let spans = &copied.spans[run.positions.clone()];
                let bounds = spans.iter().flatten();
                ends.extend(bounds.clone().take(1).filter(|_| row > 0).flat_map(|span| span.start.to_le_bytes()));
                ends.extend(bounds.flat_map(|span| span.end.to_le_bytes()));
                file.write(row.saturating_sub(1), &ends)?;
            }
        }
        Ok(())
    }

    /// Writes bytes behind some rows again.
    pub(crate) fn write_behind(&self, copied: &Copied, behind: &Behind) -> Result<()> {
        self.data.write(behind.elements, &behind.data)?;
        if let Some(file) = &self.indices {
            file.write(behind.elements, &behind.indices)?;
        }
        self.indptr.as_ref().map_or(Ok(()), |file| file.write(copied.end(), &behind.ends))
    }

    /// Where the rows of an extent lie.
    pub(crate) fn spans(&self, extent: Extent) -> Result<Spans<'_>> {
        let ends = self.indptr.as_ref().map(|file| file.map_or_copy(extent.rows)).transpose()?;
        Ok(Spans { files: self, ends, extent })
    }
}

/// Where the rows of an extent lie. Stays valid while the files grow.
#[derive(Debug, Clone)]
pub(crate) struct Spans<'a> {
    files: &'a RowFiles,
    /// None in a dense cache.
    ends: Option<Records>,
    extent: Extent,
}

impl Spans<'_> {
    /// Where a row lies. None for one that is not in the extent, or lies nowhere.
    #[inline]
    pub(crate) fn get(&self, row: u64) -> Option<Span> {
        let Some(ends) = &self.ends else {
            return (row < self.extent.rows).then_some(Span { start: row, end: row + 1 });
        };
        let end_of = |row: u64| Some(u64::from_le_bytes(ends.get(row)?.try_into().ok()?));
        let start = if row == 0 { 0 } else { end_of(row - 1)? };
        self.files.possible(start, end_of(row)?, self.extent.elements)
    }

    /// The span, for the checksum of a row. None in a dense cache.
    #[inline]
    pub(crate) fn of_row(&self, span: Span) -> Option<Span> {
        self.ends.is_some().then_some(span)
    }
}

/// Contiguous rows, copied from their files.
#[derive(Debug)]
pub(crate) struct Copied {
    first: u64,
    spans: Vec<Option<Span>>,
    /// Where the elements of each row begin in the copy.
    starts: Vec<usize>,
    data: Vec<u8>,
    indices: Vec<u8>,
    sizes: Sizes,
    is_dense: bool,
    has_indices: bool,
}

/// Rows with contiguous elements.
struct Run {
    positions: Range<usize>,
    /// Their elements in the files.
    elements: Range<u64>,
    /// Their elements in the copy.
    at: Range<usize>,
}

impl Copied {
    /// The row behind the last.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.spans.len() as u64
    }

    fn position(&self, row: u64) -> usize {
        usize::try_from(row.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.spans.len())
    }

    /// Where a row lies, if it lies anywhere.
    pub(crate) fn span(&self, row: u64) -> Option<Span> {
        self.spans.get(usize::try_from(row.checked_sub(self.first)?).ok()?).copied().flatten()
    }

    /// The content of a row, if it lies anywhere.
    pub(crate) fn row(&self, row: u64) -> Option<Row<'_>> {
        let span = self.span(row)?;
        let start = *self.starts.get(self.position(row))?;
        let end = start.checked_add(usize::try_from(span.len()).ok()?)?;
        Some(Row {
            span: (!self.is_dense).then_some(span),
            data: self.data.get(start * self.sizes.data..end * self.sizes.data)?,
            indices: match self.has_indices {
                true => Some(self.indices.get(start * self.sizes.indices..end * self.sizes.indices)?),
                false => None,
            },
        })
    }

    /// From the first element to the last. None if no row lies anywhere.
    fn elements(&self) -> Option<Range<u64>> {
        let start = self.spans.iter().flatten().map(|span| span.start).min()?;
        Some(start..self.spans.iter().flatten().map(|span| span.end).max()?)
    }

    /// The rows at some positions that lie anywhere, those with contiguous elements together.
    fn runs(&self, positions: Range<usize>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for position in positions {
            let Some(span) = self.spans[position] else { continue };
            let end_at = self.starts[position] + span.len() as usize;
            match runs.last_mut() {
                Some(run) if run.positions.end == position && run.elements.end == span.start => {
                    run.positions.end = position + 1;
                    run.elements.end = span.end;
                    run.at.end = end_at;
                }
                _ => runs.push(Run {
                    positions: position..position + 1,
                    elements: span.start..span.end,
                    at: self.starts[position]..end_at,
                }),
            }
        }
        runs
    }
}

/// Bytes behind some rows, which share their last folio.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    elements: u64,
    data: Vec<u8>,
    indices: Vec<u8>,
    ends: Vec<u8>,
}
