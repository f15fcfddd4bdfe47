//! A file with a header and records of one size, which only grows. `keys.bin` and the rows file are such files.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::mmap::{Mapping, PrivateMapping};
use crate::prefetch;
use crate::storage::{self, Access, LARGEST_FOLIO, Storage, StorageFile};

/// Bytes that are written at once if they lie apart: so many take as long to copy as a system call takes.
const MOST_GATHERED: usize = 1 << 16;

/// An open file of records.
#[derive(Debug)]
pub struct RecordsFile {
    path: PathBuf,
    file: Box<dyn StorageFile>,
    header_bytes: u64,
    record_bytes: u64,
    /// The largest mapping so far. Older ones live until their last reader drops them.
    mapping: Mutex<Option<Arc<Mapping>>>,
}

impl RecordsFile {
    /// Opens the file, for writing if `writable`.
    pub fn open(
        storage: &dyn Storage,
        path: PathBuf,
        writable: bool,
        header_bytes: usize,
        record_bytes: u64,
    ) -> Result<RecordsFile> {
        let access = if writable { Access::Write } else { Access::Read };
        let file = storage.open(&path, access).map_err(Error::opening(&path, false))?;
        Ok(RecordsFile { path, file, header_bytes: header_bytes as u64, record_bytes, mapping: Mutex::new(None) })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its device and inode.
    pub fn identity(&self) -> Result<(u64, u64)> {
        Ok(self.file.metadata().map_err(Error::io("examine", &self.path))?.id)
    }

    /// Bytes of a record.
    pub fn record_bytes(&self) -> u64 {
        self.record_bytes
    }

    /// The offset of record `row`.
    fn offset(&self, row: u64) -> Result<u64> {
        let offset = row.checked_mul(self.record_bytes).and_then(|bytes| bytes.checked_add(self.header_bytes));
        offset.ok_or_else(|| Error::corrupt(&self.path, "a row number that fits a file", row.to_string()))
    }

    /// The file's current length in bytes.
    fn length(&self) -> Result<u64> {
        self.file.length().map_err(Error::io("examine", &self.path))
    }

    /// How many whole records the file holds now.
    pub fn whole_records(&self) -> Result<u64> {
        Ok(self.length()?.saturating_sub(self.header_bytes) / self.record_bytes)
    }

    /// How many bytes the file has behind its first `rows` records.
    pub fn bytes_behind(&self, rows: u64) -> Result<u64> {
        Ok(self.length()?.saturating_sub(self.offset(rows)?))
    }

    /// The header's bytes.
    pub fn read_header(&self) -> Result<Vec<u8>> {
        let available = self.length()?.min(self.header_bytes);
        let mut bytes = vec![0; usize::try_from(available).unwrap_or(0)];
        self.file.read_at(&mut bytes, 0).map_err(Error::io("read the header", &self.path))?;
        Ok(bytes)
    }

    /// Overwrites the header.
    pub fn write_header(&self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, 0).map_err(Error::io("write the header", &self.path))
    }

    /// Rejects a file with fewer than `rows` records.
    pub fn check_length(&self, rows: u64) -> Result<()> {
        let (expected, found) = (self.offset(rows)?, self.length()?);
        if found < expected {
            return Err(Error::corrupt(
                &self.path,
                format!("at least {expected} bytes for {rows} committed rows"),
                format!("{found} bytes"),
            ));
        }
        Ok(())
    }

    /// Reads records from `row` on, as many as the buffer holds.
    pub fn read(&self, row: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_at(buffer, self.offset(row)?).map_err(Error::io("read", &self.path))
    }

    /// Writes records from `row` on.
    pub fn write(&self, row: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, self.offset(row)?).map_err(Error::io("write", &self.path))
    }

    /// Writes records from `row` on that lie apart in memory. Small parts are gathered.
    pub fn write_parts(&self, row: u64, parts: &[&[u8]]) -> Result<()> {
        if let [bytes] = parts {
            return self.write(row, bytes);
        }
        let mut offset = self.offset(row)?;
        let mut write = |bytes: &[u8]| {
            if bytes.is_empty() {
                return Ok(());
            }
            self.file.write_at(bytes, offset).map_err(Error::io("write", &self.path))?;
            offset += bytes.len() as u64;
            Ok(())
        };
        let mut gathered: Vec<u8> = Vec::new();
        for part in parts {
            if gathered.len() + part.len() > MOST_GATHERED {
                write(&gathered)?;
                gathered.clear();
            }
            if part.len() > MOST_GATHERED {
                write(part)?;
            } else {
                gathered.extend_from_slice(part);
            }
        }
        write(&gathered)
    }

    /// Zeroes the records of rows, which are ascending. The rows are dead from then on.
    ///
    /// Records between those that lie near each other are written again, with the same bytes: one write takes longer
    /// than some kilobytes of it.
    pub fn erase(&self, rows: &[u64]) -> Result<()> {
        const NEAR: u64 = 128;
        const LONGEST: usize = 1 << 14;
        let record_bytes = usize::try_from(self.record_bytes).unwrap_or(0);
        let near = rows.chunk_by(|row, next| next.saturating_sub(*row) <= NEAR);
        for run in near.flat_map(|run| run.chunks(LONGEST)) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let position = |row: u64| usize::try_from(row - first).unwrap_or(usize::MAX);
            let count = position(*last).saturating_add(1);
            let mut bytes = vec![0; count.saturating_mul(record_bytes)];
            if run.len() < count {
                self.read(*first, &mut bytes)?;
                for row in run {
                    let start = position(*row) * record_bytes;
                    bytes[start..start + record_bytes].fill(0);
                }
            }
            self.write(*first, &bytes)?;
        }
        self.forget_mapping();
        Ok(())
    }

    /// Drops the mapping. Where nothing can be mapped it is a copy, which gets stale, and the system drops no mapped
    /// page.
    pub fn forget_mapping(&self) {
        *self.mapping.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Asks the system to drop the cached pages of some records, and the folios that overlap them.
    pub fn forget_pages(&self, rows: Range<u64>) -> Result<()> {
        self.forget_mapping();
        self.file.forget_pages(self.offset(rows.start)?, Some(self.offset(rows.end)?));
        Ok(())
    }

    /// Asks the system to drop the cached pages behind the first `rows` records.
    pub fn forget_pages_behind(&self, rows: u64) -> Result<()> {
        let start = self.offset(rows)?;
        if self.length()? > start {
            self.forget_mapping();
            self.file.forget_pages(start, None);
        }
        Ok(())
    }

    /// Makes later writes from row `rows` on durable at the next sync, even if earlier writes failed. See
    /// [`StorageFile::renew_unwritten`].
    pub fn renew_unwritten(&self, rows: u64) -> Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let renewed = self.file.renew_unwritten(directory, self.offset(rows)?);
        renewed.map_err(Error::io("renew unwritten blocks", &self.path))
    }

    /// Writes the records from `row` to the end of the file again, with the same bytes. They may not be on the disk. The
    /// next sync makes them durable or fails.
    pub fn write_again(&self, row: u64) -> Result<()> {
        self.renew_unwritten(row)?;
        let (mut start, len) = (self.offset(row)?, self.length()?);
        while start < len {
            // A dropped folio must not have bytes of the next piece.
            let end = start.saturating_add(1).checked_next_multiple_of(4 * LARGEST_FOLIO).unwrap_or(len).min(len);
            let mut piece = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
            self.file.read_at(&mut piece, start).map_err(Error::io("read", &self.path))?;
            self.file.forget_pages(start, Some(end));
            self.file.write_at(&piece, start).map_err(Error::io("write", &self.path))?;
            start = end;
        }
        Ok(())
    }

    /// The bytes behind the first `rows` records, up to the end of the largest folio that the last one may be in.
    pub fn read_behind(&self, rows: u64) -> Result<Vec<u8>> {
        let (start, len) = (self.offset(rows)?, self.length()?);
        let end = start.checked_next_multiple_of(LARGEST_FOLIO).unwrap_or(len).min(len);
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
        self.read(rows, &mut bytes)?;
        Ok(bytes)
    }

    /// Zeroes the bytes behind the first `rows` records: the rest of a group that was never committed. Returns whether
    /// it wrote any. With `again` it also rewrites zeros, which another handle may have written and not synced.
    ///
    /// Without this, a later recovery could take such a rest for rows that lost their commit record.
    pub fn clear_behind(&self, rows: u64, again: bool) -> Result<bool> {
        const PIECE: usize = 1 << 16;
        let (mut offset, end) = (self.offset(rows)?, self.length()?);
        let mut found = false;
        while offset < end {
            let size = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
            let mut piece = vec![0; size];
            self.file.read_at(&mut piece, offset).map_err(Error::io("read", &self.path))?;
            if again || piece.iter().any(|&byte| byte != 0) {
                found = true;
                piece.fill(0);
                self.file.write_at(&piece, offset).map_err(Error::io("write", &self.path))?;
            }
            offset += size as u64;
        }
        Ok(found)
    }

    /// Begins to write records to the disk, and does not wait for it.
    pub fn begin_writing(&self, rows: Range<u64>) -> Result<()> {
        self.file.begin_writing(self.offset(rows.start)?, self.offset(rows.end)?);
        Ok(())
    }

    /// Makes all that was written durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync().map_err(Error::io("sync", &self.path))
    }

    /// The first `rows` records, mapped. A file that is too short is an error, unless `rows` is 0.
    pub fn map(&self, rows: u64) -> Result<Records> {
        if rows > 0 {
            self.check_length(rows)?;
        } else {
            return Ok(self.records(Arc::new(Mapping::Memory(Vec::new())), rows));
        }
        let len = self.offset(rows)?;
        let mut newest = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mapping) = newest.as_ref().filter(|mapping| mapping.len() as u64 >= len) {
            return Ok(self.records(Arc::clone(mapping), rows));
        }
        let len = usize::try_from(len).map_err(|_| Error::corrupt(&self.path, "a mappable file", len.to_string()))?;
        let mapping = Arc::new(self.file.map(len).map_err(Error::mapping(&self.path))?);
        *newest = Some(Arc::clone(&mapping));
        Ok(self.records(mapping, rows))
    }

    /// The first `rows` records, mapped, or copied where the file cannot be mapped. A copy only reads the new records.
    pub fn map_or_copy(&self, rows: u64) -> Result<Records> {
        match self.map(rows) {
            Err(error) if error.is_of_mapping() => {}
            mapped => return mapped,
        }
        let len = usize::try_from(self.offset(rows)?).unwrap_or(usize::MAX);
        let mut newest = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = storage::zeros(len).map_err(Error::io("read", &self.path))?;
        let known = newest.as_ref().map_or(0, |known| {
            let known = &known[..known.len().min(len)];
            bytes[..known.len()].copy_from_slice(known);
            known.len()
        });
        self.file.read_at(&mut bytes[known..], known as u64).map_err(Error::io("read", &self.path))?;
        let copy = Arc::new(Mapping::Memory(bytes));
        *newest = Some(Arc::clone(&copy));
        Ok(self.records(copy, rows))
    }

    fn records(&self, mapping: Arc<Mapping>, rows: u64) -> Records {
        Records {
            mapping,
            rows,
            header_bytes: usize::try_from(self.header_bytes).unwrap_or(usize::MAX),
            record_bytes: usize::try_from(self.record_bytes).unwrap_or(usize::MAX),
        }
    }

    /// A private, writable mapping of `count` records. None where the system refuses.
    pub fn map_private(&self, first: u64, count: u64) -> Result<Option<PrivateMapping>> {
        let (start, end) = (self.offset(first)?, self.offset(first.saturating_add(count))?);
        self.check_length(first.saturating_add(count))?;
        let len = usize::try_from(end - start).unwrap_or(usize::MAX);
        Ok(self.file.map_private(start, len).ok())
    }
}

/// The first records of a file, as bytes. Cheap to clone. Stays valid while the file grows.
#[derive(Debug, Clone)]
pub struct Records {
    mapping: Arc<Mapping>,
    rows: u64,
    header_bytes: usize,
    record_bytes: usize,
}

impl Records {
    /// How many records there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Record `row`, if it is one of them.
    #[inline]
    pub fn get(&self, row: u64) -> Option<&[u8]> {
        if row >= self.rows {
            return None;
        }
        let start = self.offset(row)?;
        self.mapping.get(start..start.checked_add(self.record_bytes)?)
    }

    /// The records of a range in one piece, if all of it are there.
    #[inline]
    pub fn range(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.end > self.rows {
            return None;
        }
        // Without records nothing is mapped, not even the header.
        if range.is_empty() {
            return Some(&[]);
        }
        self.mapping.get(self.offset(range.start)?..self.offset(range.end)?)
    }

    #[inline]
    fn offset(&self, row: u64) -> Option<usize> {
        usize::try_from(row).ok()?.checked_mul(self.record_bytes)?.checked_add(self.header_bytes)
    }

    /// Prefetches record `row`.
    pub fn prefetch(&self, row: u64) {
        if let Some(record) = self.get(row) {
            prefetch::fetch(record);
        }
    }

    /// All records in one piece.
    pub fn bytes(&self) -> &[u8] {
        let len = usize::try_from(self.rows).unwrap_or(0).saturating_mul(self.record_bytes);
        self.mapping.get(self.header_bytes..self.header_bytes.saturating_add(len)).unwrap_or_default()
    }
}
