//! The files of texts. They are derived data: what is read counts only if its SHA-256 is the key of its row.
//!
//! No commit covers these files. The header of each shows what is known to be durable, and whatever lies behind it may
//! be in the page cache only, in pages that a failed sync marked as clean. So a writer writes that again before it
//! builds on it. Before a span below the header's count changes, the header is lowered and synced.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::format::Defect;
use crate::format::column::Column;
use crate::format::npy;
use crate::format::texts::{self as format, MAX_BYTES, MAX_TEXT_BYTES, Place, SPAN_BYTES};
use crate::key::{self, DEAD, Key};
use crate::parallel;
use crate::records::RecordsFile;
use crate::row::Span;
use crate::sha256;
use crate::storage::{self, Storage};

/// Rows a piece of parallel reading holds, and the fewest that are worth a second thread.
const PIECE: usize = 1024;
const ROWS_PER_THREAD: usize = 512;

/// Texts that lie one behind the other are read together, up to this many bytes.
const READ_BYTES: u64 = 1 << 18;

/// Bytes that are collected before they are written.
const WRITTEN_BYTES: usize = 4 << 20;

/// The open files.
#[derive(Debug)]
pub struct TextFiles {
    bytes: RecordsFile,
    spans: RecordsFile,
    known: Mutex<[Known; 2]>,
    names_are_durable: AtomicBool,
}

/// What this handle knows of one file.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The count in its header, as this handle saw or wrote it last. None for a damaged header.
    shown: Option<u64>,
    /// The next sync of this handle makes the records before this one durable. None if nothing is known.
    certain: Option<u64>,
}

/// Texts, one behind the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Their UTF-8 bytes, with lone surrogates as by Python's `surrogatepass`.
    pub bytes: Vec<u8>,
    /// The length of each in bytes, negative for none.
    pub lengths: Vec<i64>,
}

impl Kept {
    /// No text for any of some rows.
    pub(crate) fn none(rows: usize) -> Kept {
        Kept { bytes: Vec::new(), lengths: vec![-1; rows] }
    }

    /// Each text, or None.
    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = self.bytes.as_slice();
        self.lengths.iter().map(move |length| {
            let (text, behind) = rest.split_at_checked(usize::try_from(*length).ok()?)?;
            rest = behind;
            Some(text)
        })
    }
}

/// The texts that are kept: those whose SHA-256 is the key. An item with more than text has another key. An empty text
/// needs no bytes: its key says it.
pub(crate) fn kept<'a>(keys: &[Key], texts: &[Option<&'a [u8]>]) -> Vec<Option<&'a [u8]>> {
    let mut digests = vec![DEAD; texts.len()];
    key::of_texts(|at| texts.get(at).copied().flatten().unwrap_or_default(), &mut digests);
    let is_kept = |(text, (key, digest)): (&Option<&'a [u8]>, (&Key, &Key))| {
        text.filter(|text| key == digest && (1..=MAX_TEXT_BYTES).contains(&(text.len() as u64)))
    };
    texts.iter().zip(keys.iter().zip(&digests)).map(is_kept).collect()
}

impl TextFiles {
    /// The files, in the order in which they are written.
    pub fn columns() -> [Column; 2] {
        [format::bytes(), format::spans()]
    }

    /// Opens each file with `open`.
    pub fn open(open: impl Fn(Column) -> Result<RecordsFile>) -> Result<TextFiles> {
        let [bytes, spans] = TextFiles::columns();
        Ok(TextFiles {
            bytes: open(bytes)?,
            spans: open(spans)?,
            known: Mutex::default(),
            names_are_durable: AtomicBool::new(false),
        })
    }

    /// The files, each with its description.
    pub fn all(&self) -> [(&RecordsFile, Column); 2] {
        let [bytes, spans] = TextFiles::columns();
        [(&self.bytes, bytes), (&self.spans, spans)]
    }

    /// Whether these files are at their paths.
    pub fn are_in_place(&self, storage: &dyn Storage) -> bool {
        let is_there = |file: &RecordsFile| {
            file.identity().is_ok_and(|id| storage.metadata(file.path()).is_ok_and(|found| found.id == id))
        };
        self.all().iter().all(|(file, _)| is_there(file))
    }

    /// Makes the names of the files durable: another handle may have made them, and failed to.
    pub(crate) fn make_names_durable(&self, storage: &dyn Storage, directory: &Path) -> Result<()> {
        if !self.names_are_durable.load(Ordering::Relaxed) {
            storage.sync_dir(directory).map_err(Error::io("sync the directory", directory))?;
            self.names_are_durable.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The count in the header of a file: how many of its records are durable. A damaged header, or one that shows more
    /// than the file holds, is a defect.
    fn shown(file: &RecordsFile, column: Column) -> Result<std::result::Result<u64, Defect>> {
        let header = file.read_header()?;
        let whole = file.whole_records()?;
        Ok(column.check(&header).and_then(|()| npy::Header::parse(&header)).and_then(|header| match header.rows {
            rows if rows <= whole => Ok(rows),
            rows => Err(Defect::new(format!("{rows} entries, as the header says"), whole.to_string())),
        }))
    }

    /// Checks the header of a file.
    pub(crate) fn check_header(file: &RecordsFile, column: Column) -> std::result::Result<(), Defect> {
        let shown = TextFiles::shown(file, column);
        shown.map_err(|error| Defect::new("a readable header", error.to_string()))?.map(drop)
    }

    /// Whether both headers are whole.
    pub(crate) fn has_whole_headers(&self) -> bool {
        self.all().iter().all(|(file, column)| TextFiles::check_header(file, *column).is_ok())
    }

    fn known(&self) -> MutexGuard<'_, [Known; 2]> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes again what another handle may not have synced. The next sync of this handle makes it durable.
    pub(crate) fn make_certain(&self) -> Result<()> {
        for ((file, column), known) in self.all().into_iter().zip(self.known().iter_mut()) {
            let shown = TextFiles::shown(file, column)?.ok();
            let end = file.whole_records()?;
            let durable = shown.unwrap_or(0);
            // A header that others changed says that spans before it were changed too.
            let first = match *known {
                Known { shown: before, certain: Some(certain) } if before == shown => certain.max(durable),
                _ => durable,
            };
            *known = Known::default();
            if first < end {
                file.write_again(first)?;
            }
            *known = Known { shown, certain: Some(end) };
        }
        Ok(())
    }

    /// Writes texts behind all others, which are certain. Returns the place of each.
    pub(crate) fn append(&self, texts: &[Option<&[u8]>]) -> Result<Vec<Place>> {
        let mut end = self.bytes.whole_records()?;
        let (mut start, mut collected) = (end, Vec::new());
        let mut places = Vec::with_capacity(texts.len());
        for text in texts {
            let length = text.map_or(0, <[u8]>::len) as u64;
            let Some(text) = text.filter(|_| end.saturating_add(length) <= MAX_BYTES && length > 0) else {
                places.push(Place::Nowhere);
                continue;
            };
            if collected.len().saturating_add(text.len()) > WRITTEN_BYTES {
                self.bytes.write(start, &collected)?;
                collected.clear();
                start = end;
            }
            collected.extend_from_slice(text);
            places.push(Place::At(Span { start: end, end: end + length }));
            end += length;
        }
        if !collected.is_empty() {
            self.bytes.write(start, &collected)?;
        }
        self.known()[0].certain = Some(end);
        Ok(places)
    }

    /// Writes the places of the texts of contiguous rows.
    pub(crate) fn write_spans(&self, first: u64, places: &[Place]) -> Result<()> {
        let bytes: Vec<u8> = places.iter().flat_map(|place| place.to_bytes()).collect();
        self.spans.write(first, &bytes)?;
        let known = &mut self.known()[1].certain;
        *known = known.map(|certain| certain.max(first.saturating_add(places.len() as u64)));
        Ok(())
    }

    /// Shows other programs, durably, only the spans before a row: one behind it is about to change.
    pub(crate) fn hide_spans_from(&self, row: u64) -> Result<()> {
        if self.known()[1].shown.is_none_or(|shown| shown <= row) {
            return Ok(());
        }
        self.spans.write_header(&format::spans().header(row))?;
        self.spans.sync()?;
        self.known()[1].shown = Some(row);
        Ok(())
    }

    /// Zeroes the spans behind the first `rows`: those of a group that was never committed.
    pub(crate) fn clear_behind(&self, rows: u64) -> Result<()> {
        self.spans.clear_behind(rows, false).map(drop)
    }

    /// Drops the texts of rows, which are ascending.
    pub(crate) fn erase(&self, rows: &[u64]) -> Result<()> {
        self.spans.erase(rows)
    }

    /// Makes all that was written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.bytes.sync()?;
        self.spans.sync()
    }

    /// Writes the headers, once all that is certain is durable. They show the texts of the first `rows` rows to other
    /// programs.
    pub(crate) fn write_headers(&self, rows: u64) -> Result<()> {
        for (((file, column), known), most) in self.all().into_iter().zip(self.known().iter_mut()).zip([u64::MAX, rows])
        {
            let Some(count) = known.certain.map(|certain| certain.min(most)) else { continue };
            if known.shown != Some(count) {
                known.shown = None;
                file.write_header(&column.header(count))?;
                known.shown = Some(count);
            }
        }
        Ok(())
    }

    /// Where the texts of rows lie, which are ascending.
    fn places(&self, rows: &[u64], file_bytes: u64) -> Result<Vec<Place>> {
        let held = self.spans.whole_records()?;
        let mut places = Vec::with_capacity(rows.len());
        for run in rows[..rows.partition_point(|row| *row < held)].chunk_by(|row, next| row + 1 == *next) {
            for piece in run.chunks(PIECE) {
                let mut spans = vec![[0; SPAN_BYTES]; piece.len()];
                self.spans.read(piece[0], spans.as_flattened_mut())?;
                places.extend(spans.iter().map(|span| Place::parse(span, file_bytes)));
            }
        }
        places.resize(rows.len(), Place::Nowhere);
        Ok(places)
    }

    /// The length of the text of each of some rows, which are ascending; 0 for none.
    pub(crate) fn lengths(&self, rows: &[u64]) -> Result<Vec<u64>> {
        let places = self.places(rows, self.bytes.whole_records()?)?;
        let length = |place: &Place| if let Place::At(span) = place { span.len() } else { 0 };
        Ok(places.iter().map(length).collect())
    }

    /// How many bytes of texts there are, of any rows or none.
    pub(crate) fn whole_bytes(&self) -> Result<u64> {
        self.bytes.whole_records()
    }

    /// How many of the first `rows` rows have a place, without the dead ones.
    pub(crate) fn count(&self, rows: u64, is_dead: impl Fn(u64) -> bool) -> Result<u64> {
        self.counts(rows, is_dead)?.sum()
    }

    /// The same, a piece of rows at a time.
    pub(crate) fn counts(&self, rows: u64, is_dead: impl Fn(u64) -> bool) -> Result<impl Iterator<Item = Result<u64>>> {
        let bytes = self.bytes.whole_records()?;
        let rows = rows.min(self.spans.whole_records()?);
        Ok(pieces(rows).map(move |rows| {
            let alive: Vec<u64> = rows.filter(|row| !is_dead(*row)).collect();
            let places = self.places(&alive, bytes)?;
            Ok(places.iter().filter(|place| matches!(place, Place::At(_))).count() as u64)
        }))
    }

    /// Reads the texts at some places, and calls `each` with the position of each place and its text. The text is None
    /// if its digest is not the key, or if it is longer than `longest`.
    fn visit(
        &self,
        places: &[Place],
        keys: &[Key],
        longest: u64,
        mut each: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        let (mut memory, mut digests) = (Vec::new(), Vec::new());
        let span_at = |at: usize| match places.get(at)? {
            Place::At(span) if span.len() <= longest => Some(*span),
            _ => None,
        };
        let mut at = 0;
        while at < places.len() {
            let Some(first) = span_at(at) else {
                if places[at] != Place::Nowhere {
                    each(at, None);
                }
                at += 1;
                continue;
            };
            let (mut end, mut until) = (first.end, at + 1);
            while let Some(next) = span_at(until).filter(|next| next.start == end) {
                if next.end - first.start > READ_BYTES {
                    break;
                }
                (end, until) = (next.end, until + 1);
            }
            let length = usize::try_from(end - first.start).unwrap_or(usize::MAX);
            if memory.len() < length {
                memory = storage::zeros(length).map_err(Error::io("read", self.bytes.path()))?;
            }
            self.bytes.read(first.start, &mut memory[..length])?;
            let text = |position: usize| {
                let span = span_at(at + position).unwrap_or(first);
                let offset = |byte: u64| usize::try_from(byte - first.start).unwrap_or(usize::MAX);
                &memory[offset(span.start)..offset(span.end)]
            };
            digests.resize(until - at, DEAD);
            sha256::digest_all(text, &mut digests);
            for (position, digest) in digests.iter().enumerate() {
                each(at + position, keys.get(at + position).filter(|key| *key == digest).map(|_| text(position)));
            }
            at = until;
        }
        Ok(())
    }

    /// The texts of rows, which are ascending and differ from each other, with their keys.
    pub(crate) fn read(&self, rows: &[u64], keys: &[Key]) -> Result<Kept> {
        let file_bytes = self.bytes.whole_records()?;
        let places = self.places(rows, file_bytes)?;
        let longest = longest_plausible(|each| places.iter().for_each(each), file_bytes);
        let mut read: Vec<Result<Kept>> = places.chunks(PIECE).map(|places| Ok(Kept::none(places.len()))).collect();
        let work: Vec<_> = places.chunks(PIECE).zip(keys.chunks(PIECE)).zip(read.iter_mut()).collect();
        parallel::for_each(work, rows.len(), ROWS_PER_THREAD, |((places, keys), target)| {
            let mut kept = Kept::none(places.len());
            let done = self.visit(places, keys, longest, |at, text| {
                if let Some(text) = text {
                    kept.bytes.extend_from_slice(text);
                    kept.lengths[at] = text.len() as i64;
                }
            });
            *target = done.map(|()| kept);
        });
        let mut all = Kept::default();
        for kept in read {
            let kept = kept?;
            all.bytes.extend_from_slice(&kept.bytes);
            all.lengths.extend_from_slice(&kept.lengths);
        }
        Ok(all)
    }

    /// Checks the texts of the first `rows` rows. Returns how many there are, and the rows whose text is damaged,
    /// ascending. `key_of` gives the key of a row; None if nothing can be said of its text.
    pub(crate) fn verify(&self, rows: u64, key_of: impl Fn(u64) -> Option<Key> + Sync) -> Result<(u64, Vec<u64>)> {
        let file_bytes = self.bytes.whole_records()?;
        let rows = rows.min(self.spans.whole_records()?);
        let mut unreadable = Ok(());
        let longest = longest_plausible(
            |each| {
                for piece in pieces(rows) {
                    match self.places(&piece.collect::<Vec<_>>(), file_bytes) {
                        Ok(places) => places.iter().for_each(&mut *each),
                        Err(error) => unreadable = Err(error),
                    }
                }
            },
            file_bytes,
        );
        unreadable?;
        let found = Mutex::new(Ok((0, Vec::new())));
        let items = usize::try_from(rows).unwrap_or(usize::MAX);
        parallel::for_each(pieces(rows).collect(), items, ROWS_PER_THREAD, |piece: Range<u64>| {
            let rows: Vec<u64> = piece.filter(|row| key_of(*row).is_some()).collect();
            let keys: Vec<Key> = rows.iter().map(|row| key_of(*row).unwrap_or(DEAD)).collect();
            let (mut sound, mut damaged) = (0, Vec::new());
            let visited = self.places(&rows, file_bytes).and_then(|places| {
                self.visit(&places, &keys, longest, |at, text| match text {
                    Some(_) => sound += 1,
                    None => damaged.push(rows[at]),
                })
            });
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match (visited, &mut *found) {
                (Err(error), _) => *found = Err(error),
                (Ok(()), Ok((all_sound, all_damaged))) => {
                    *all_sound += sound;
                    all_damaged.append(&mut damaged);
                }
                (Ok(()), Err(_)) => {}
            }
        });
        let (sound, mut damaged) = found.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        damaged.sort_unstable();
        Ok((sound, damaged))
    }
}

/// The first rows, in pieces.
fn pieces(rows: u64) -> impl Iterator<Item = Range<u64>> {
    let piece = PIECE as u64;
    (0..rows.div_ceil(piece)).map(move |at| at * piece..((at + 1) * piece).min(rows))
}

/// The longest text that may be read. Texts of different rows do not overlap, so together they are no longer than the
/// file. If forged places have more than twice its bytes, the longest of them are not read: they would cost memory and
/// time that no file's size justifies. `places` calls its argument with each place.
fn longest_plausible(mut places: impl FnMut(&mut dyn FnMut(&Place)), file_bytes: u64) -> u64 {
    let length = |place: &Place| match place {
        Place::At(span) => span.len(),
        _ => 0,
    };
    let (mut sum, budget) = (0_u64, file_bytes.saturating_mul(2));
    places(&mut |place| sum = sum.saturating_add(length(place)));
    if sum <= budget {
        return MAX_TEXT_BYTES;
    }
    let mut lengths = Vec::new();
    places(&mut |place| lengths.push(length(place)));
    lengths.sort_unstable();
    let mut sum = 0_u64;
    let fitting = lengths.iter().take_while(|length| {
        sum = sum.saturating_add(**length);
        sum <= budget
    });
    // Of several places of one length either all are read, or none.
    match lengths.get(fitting.count()) {
        Some(first_left_out) => first_left_out.saturating_sub(1),
        None => MAX_TEXT_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_places_are_not_read_and_others_still_are() {
        let at = |start, end| Place::At(Span { start, end });
        let of = |places: &[Place]| longest_plausible(|each| places.iter().for_each(each), 100);
        assert_eq!(of(&[at(0, 60), at(60, 100), Place::Nowhere]), MAX_TEXT_BYTES);
        assert_eq!(of(&[at(0, 100), at(0, 100), at(0, 100), at(10, 20), Place::Impossible]), 99);
        assert_eq!(of(&[at(0, 80), at(0, 90), at(0, 100), at(10, 20)]), 99);
    }
}
