//! Texts beside the rows: written with the rows of a group, filled in later, and read back.

use super::append::{Writer, poisoning};
use super::opened::Open;
use super::{Store, same_length};
use crate::error::Result;
use crate::key::{self, Key};
use crate::partition;
use crate::texts::{self, Kept};

impl Store {
    /// The texts of rows. A row that has none, is dead or not committed gives none, and so does one whose text is not
    /// that of its key. Sees the commits of other handles.
    pub fn texts(&self, rows: &[i64]) -> Result<Kept> {
        let open = self.caught_up_safely()?;
        let mut keys = vec![key::DEAD; rows.len()];
        self.read_keys(rows, &mut keys)?;
        let Some(texts) = open.files.texts(&*self.storage, &self.directory) else {
            return Ok(with_empty_texts(Kept::none(rows.len()), &keys));
        };
        let known = |position: &usize| keys[*position] != key::DEAD;
        let mut wanted: Vec<(u64, Key)> =
            (0..rows.len()).filter(known).map(|position| (rows[position] as u64, keys[position])).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let (numbers, their_keys): (Vec<u64>, Vec<Key>) = wanted.into_iter().unzip();
        let read = texts.read(&numbers, &their_keys)?;
        if numbers.iter().map(|row| *row as i64).eq(rows.iter().copied()) {
            return Ok(with_empty_texts(read, &keys));
        }
        let found: Vec<Option<&[u8]>> = read.iter().collect();
        let mut all = Kept::default();
        for row in rows {
            let at = u64::try_from(*row).ok().and_then(|row| numbers.binary_search(&row).ok());
            let text = at.and_then(|at| found[at]);
            all.bytes.extend_from_slice(text.unwrap_or_default());
            all.lengths.push(text.map_or(-1, |text| text.len() as i64));
        }
        Ok(with_empty_texts(all, &keys))
    }

    /// Keeps the texts of keys that are stored and whose newest row has no text. Returns how many. They are durable then.
    pub fn put_texts(&self, keys: &[Key], texts: &[Option<&[u8]>]) -> Result<usize> {
        same_length("texts", keys.len(), texts.len())?;
        let texts = texts::kept(keys, texts);
        drop(self.current()?.indexed()?);
        let (_lock, mut writer, open, _) = self.begin_group()?;
        let mut rows = vec![partition::NO_ROW; keys.len()];
        let state = open.indexed()?;
        let (records, committed) = (open.key_records(state.rows())?, state.rows());
        state.lookup(&records, keys, &mut rows);
        drop(state);
        let mut wanted: Vec<(u64, usize)> = (0..keys.len())
            .filter(|position| texts[*position].is_some())
            .filter_map(|position| Some((u64::try_from(rows[position]).ok()?, position)))
            .collect();
        wanted.sort_unstable();
        wanted.dedup_by_key(|(row, _)| *row);
        if wanted.is_empty() {
            return Ok(0);
        }
        let files = poisoning(&mut writer.poisoned, || open.files.create_texts(&*self.storage, &self.directory))?;
        files.make_certain()?;
        let (numbers, their_keys): (Vec<u64>, Vec<Key>) =
            wanted.iter().map(|(row, position)| (*row, keys[*position])).unzip();
        let mut is_missing = files.read(&numbers, &their_keys)?.lengths.into_iter().map(|length| length < 0);
        wanted.retain(|_| is_missing.next().unwrap_or(false));
        let new: Vec<Option<&[u8]>> = wanted.iter().map(|(_, position)| texts[*position]).collect();
        let places = files.append(&new)?;
        if let Some((first, _)) = wanted.first() {
            poisoning(&mut writer.poisoned, || files.hide_spans_from(*first))?;
        }
        let mut written = 0;
        for run in wanted.chunk_by(|(row, _), (next, _)| row + 1 == *next) {
            files.write_spans(run[0].0, &places[written..written + run.len()])?;
            written += run.len();
        }
        poisoning(&mut writer.poisoned, || files.sync())?;
        poisoning(&mut writer.poisoned, || files.write_headers(committed))?;
        Ok(written)
    }

    /// Writes the texts of a group behind `before` rows. A group without texts leaves no texts of a group before it that
    /// was never committed.
    pub(super) fn write_texts(
        &self,
        open: &Open,
        writer: &mut Writer,
        before: u64,
        keys: &[Key],
        texts: Option<&[Option<&[u8]>]>,
    ) -> Result<()> {
        match texts {
            Some(texts) => {
                let create = || open.files.create_texts(&*self.storage, &self.directory);
                let files = poisoning(&mut writer.poisoned, create)?;
                files.make_certain()?;
                files.write_spans(before, &files.append(&texts::kept(keys, texts))?)
            }
            None => {
                if let Some(files) = open.files.open_files_of_texts() {
                    // A text of another key is none. So this may fail.
                    let _ = files.clear_behind(before);
                }
                Ok(())
            }
        }
    }

    /// Writes the texts of other handles again, which may be in the page cache only. They are derived data: a failure
    /// is none of the rows, and the next writer of texts does it again.
    pub(super) fn make_texts_certain(&self, open: &Open) {
        if let Some(texts) = open.files.texts(&*self.storage, &self.directory) {
            let _ = texts.make_certain();
        }
    }

    /// Writes the headers of the files of texts, once all is durable. They are for other programs only.
    pub(super) fn show_texts(&self, open: &Open, writer: &mut Writer, rows: u64) {
        if let Some(texts) = open.files.open_files_of_texts() {
            let _ = poisoning(&mut writer.poisoned, || texts.write_headers(rows));
        }
    }

    pub(super) fn has_whole_text_headers(&self, open: &Open) -> bool {
        open.files.texts(&*self.storage, &self.directory).is_none_or(|texts| texts.has_whole_headers())
    }
}

/// A row with the key of the empty text has this text, whatever the files hold.
fn with_empty_texts(mut kept: Kept, keys: &[Key]) -> Kept {
    let empty = key::of_text(b"");
    for (length, _) in kept.lengths.iter_mut().zip(keys).filter(|(_, key)| **key == empty) {
        *length = (*length).max(0);
    }
    kept
}
