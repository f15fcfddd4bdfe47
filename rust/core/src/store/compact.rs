//! Compaction: the rows that count are copied into the files of the next generation, and one rename decides.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::thread;

use super::append::{Group, Writer, poisoning};
use super::opened::Open;
use super::{DeltaLimit, Store};
use crate::batch::{Batch, Block};
use crate::bits::Bits;
use crate::error::{Error, Result};
use crate::files::CacheFiles;
use crate::format::commit::{Extent, FILE_BYTES, Slot, fresh_file};
use crate::format::keys::{HEADER_BYTES, RECORD_BYTES};
use crate::format::meta::{MAX_BYTES, Meta};
use crate::format::texts::SPAN_BYTES;
use crate::format::{keys, name};
use crate::key::Key;
use crate::lock::{HOLDER_BYTES, HeldLock};
use crate::parts::Parts;
use crate::recovery::{Piece, Recovered};
use crate::texts::TextFiles;
use crate::{atomic, directory, generations, index, parallel};

/// Bytes of rows and records that are copied together. They stay in the processor's caches.
const COPIED_BYTES: u64 = 1 << 20;

/// Rows whose texts are read together.
const TEXTS_PIECE: usize = 1024;

/// Which rows a pruning drops, oldest first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits<'a> {
    /// How many bytes all files of the cache may have afterwards.
    pub max_bytes: Option<u64>,
    /// How many of the newest rows stay.
    pub max_rows: Option<u64>,
    /// Keys whose rows stay, whatever the other limits say.
    pub keep: &'a [Key],
}

/// What a pruning would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruning {
    /// How many rows that count it would drop.
    pub dropped: u64,
    /// Bytes of rows, keys and texts that it would free.
    pub bytes: u64,
}

/// The amount of the rows that count, and of their texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    rows: u64,
    elements: u64,
    text_bytes: u64,
}

impl Store {
    /// Makes a cache of the rows that count: bytes of deleted and replaced rows are gone from every file. Returns by how
    /// many bytes the files became smaller.
    pub fn compact(&self) -> Result<u64> {
        let before = self.bytes_on_disk()?;
        self.compact_within(Limits::default())?;
        Ok(before.saturating_sub(self.bytes_on_disk()?))
    }

    /// Drops the oldest rows beyond some limits, and compacts. Returns how many rows that counted were dropped.
    pub fn prune(&self, limits: Limits<'_>) -> Result<u64> {
        self.compact_within(limits)
    }

    /// What [`Store::prune`] would do with the rows that this handle knows. Takes no lock and writes nothing.
    pub fn pruning(&self, limits: Limits<'_>) -> Result<Pruning> {
        let open = self.current()?;
        let mut kept = self.newest_of(&open)?.bits;
        let counted = kept.count();
        self.apply(&limits, &open, &mut kept)?;
        let bytes = self.reclaimable(&open, &self.amount(&open, |row| kept.has(row))?)?;
        Ok(Pruning { dropped: counted - kept.count(), bytes })
    }

    fn compact_within(&self, limits: Limits<'_>) -> Result<u64> {
        drop(self.current()?.indexed()?);
        let (locks, mut writer, open, recovered) = self.begin_group()?;
        // Keeps others from writing a snapshot of the old rows.
        let index_lock =
            HeldLock::acquire(&*self.storage, &self.directory.join(name::INDEX_LOCK), self.options.patience)?;
        let records = open.key_records(open.slot().committed.rows)?;
        let mut kept = index::newest_rows(&records);
        let counted = kept.count();
        self.apply(&limits, &open, &mut kept)?;
        let dropped = counted - kept.count();
        let storage = &*self.storage;
        // What an earlier compaction left, of this handle too.
        generations::remove_others(storage, &self.directory, &open.files.meta)?;
        generations::remove_temporaries(storage, &self.directory)?;
        if self.reclaimable(&open, &self.amount(&open, |row| kept.has(row))?)? > 0 {
            self.write_generation(&open, &mut writer, recovered, &kept)?;
        }
        if let Some(most) = limits.max_bytes
            && self.bytes_on_disk()? > most
        {
            generations::remove_search_indexes(storage, &self.directory)?;
        }
        // Privacy: the names of the old files must not come back.
        storage.sync_dir(&self.directory).map_err(Error::io("sync the directory", &self.directory))?;
        drop((writer, index_lock, locks));
        self.reopen_if_replaced()?;
        self.write_snapshot_if_due(DeltaLimit::APPENDING);
        close_behind(open);
        Ok(dropped)
    }

    /// Copies the kept rows into files of the next generation, and replaces the old ones by them.
    fn write_generation(&self, open: &Open, writer: &mut Writer, recovered: Recovered, kept: &Bits) -> Result<()> {
        let (storage, path) = (&*self.storage, &*self.directory);
        let old = &open.files;
        let meta = next_generation(&old.meta, path)?;
        let meta_bytes = meta.to_bytes();
        if meta_bytes.len() as u64 > MAX_BYTES {
            let expected = format!("an identity that leaves room for a generation in {MAX_BYTES} bytes of meta.json");
            return Err(Error::Argument { expected, found: format!("{} bytes", meta_bytes.len()) });
        }
        let written = self.copy_rows(open, &meta, recovered, kept);
        if let Err(error) = written {
            // They hold nothing that the old ones lack. If this fails too, the next writer removes them.
            let _ = generations::remove_others(storage, path, &old.meta);
            return Err(error);
        }
        // All other names must be durable before `meta.json` changes.
        poisoning(&mut writer.poisoned, || storage.sync_dir(path).map_err(Error::io("sync the directory", path)))?;
        poisoning(&mut writer.poisoned, || atomic::write(storage, &path.join(name::META), &[&meta_bytes]))?;
        generations::remove_others(storage, path, &meta)
    }

    fn copy_rows(&self, open: &Open, meta: &Meta, recovered: Recovered, kept: &Bits) -> Result<()> {
        let (storage, path, old) = (&*self.storage, &*self.directory, &open.files);
        for column in meta.columns() {
            directory::create_file(storage, &path.join(meta.file(column.file_name)), &column.header(0))?;
        }
        let keys_header = keys::header(&meta.uuid, meta.version());
        directory::create_file(storage, &path.join(meta.file(name::KEYS)), &keys_header)?;
        let commit = fresh_file(&meta.uuid, meta.version());
        directory::create_file(storage, &path.join(meta.file(name::COMMIT)), &commit)?;
        let new = CacheFiles::of(storage, path, meta.clone(), old.meta_file(), true)?;
        let old_texts = old.texts(storage, path);
        let texts = match &old_texts {
            None => None,
            Some(old_texts) => {
                let texts = new.create_texts(storage, path)?;
                texts.make_certain()?;
                Some((&**old_texts, texts))
            }
        };
        let (mut end, mut begun) = (Extent::default(), Extent::default());
        let pieces = KeptRows { files: old, kept, committed: open.slot().committed.rows, next: kept.next(0) };
        parallel::for_each_ahead(pieces, |(piece, rows)| {
            let of_piece = Rows::of(&piece, &rows);
            let group = Group { keys: Cow::Borrowed(&of_piece.keys), block: of_piece.block(meta)? };
            new.rows.append(end, &group.block)?;
            if let Some((old, new)) = &texts {
                copy_texts(old, new, &rows, &of_piece.keys, end.rows)?;
            }
            new.keys.write(end.rows, &group.records(end))?;
            end = group.block.after(end);
            if new.rows.begin_writing(begun, end)? {
                begun = end;
            }
            Ok(())
        })?;
        new.sync_rows()?;
        new.write_row_headers(end)?;
        new.rows.sync()?;
        if let Some((_, texts)) = &texts {
            texts.write_headers(end.rows)?;
            texts.sync()?;
        }
        // Both slots: with one alone, a newer commit would seem to be lost.
        for epoch in [recovered.next_epoch, recovered.next_epoch.saturating_add(1)] {
            new.write_slot(Slot { epoch, committed: end, synced: end, erased: 0 })?;
        }
        new.sync_commit()
    }

    /// Drops the oldest of the kept rows beyond the limits.
    fn apply(&self, limits: &Limits<'_>, open: &Open, kept: &mut Bits) -> Result<()> {
        if limits.max_bytes.is_none() && limits.max_rows.is_none() {
            return Ok(());
        }
        let committed = open.slot().committed;
        let records = open.key_records(committed.rows)?;
        let wanted: HashSet<&Key> = limits.keep.iter().collect();
        let stays = |row: u64| records.key(row).is_some_and(|key| wanted.contains(&key));
        let (sizes, bytes_on_disk) = (RowSizes::of(self, open)?, self.bytes_on_disk()?);
        // Small enough as it is: otherwise a byte more in `meta.json` would cost a row each time.
        let is_small = limits.max_bytes.is_some_and(|most| bytes_on_disk <= most);
        let mut room = limits.max_bytes.filter(|_| !is_small).map(|most| most.saturating_sub(sizes.fixed));
        let take = |room: &mut Option<u64>, bytes: u64| match room {
            Some(room) => {
                let left = room.checked_sub(bytes);
                *room = left.unwrap_or(0);
                left.is_some()
            }
            None => true,
        };
        let mut pieces: Vec<u64> = (0..committed.rows.div_ceil(TEXTS_PIECE as u64)).collect();
        let rows_of = |piece: u64, kept: &Bits| -> Vec<u64> {
            let first = piece * TEXTS_PIECE as u64;
            (first..committed.rows.min(first + TEXTS_PIECE as u64)).filter(|row| kept.has(*row)).collect()
        };
        if !wanted.is_empty() {
            for piece in &pieces {
                let rows: Vec<u64> = rows_of(*piece, kept).into_iter().filter(|row| stays(*row)).collect();
                for bytes in sizes.of_rows(&rows)? {
                    take(&mut room, bytes);
                }
            }
        }
        let mut newer = 0;
        let mut is_full = false;
        pieces.reverse();
        for piece in pieces {
            let rows = rows_of(piece, kept);
            for (row, bytes) in rows.iter().zip(sizes.of_rows(&rows)?).rev() {
                is_full |= limits.max_rows.is_some_and(|most| newer >= most);
                newer += 1;
                if stays(*row) {
                    continue;
                }
                is_full |= !take(&mut room, bytes);
                if is_full {
                    kept.remove(*row);
                }
            }
        }
        Ok(())
    }

    /// The amount of some rows.
    pub(super) fn amount(&self, open: &Open, is_kept: impl Fn(u64) -> bool) -> Result<Amount> {
        let committed = open.slot().committed;
        let spans = open.files.rows.spans(committed)?;
        let texts = open.files.texts(&*self.storage, &self.directory);
        let mut amount = Amount::default();
        for first in (0..committed.rows).step_by(TEXTS_PIECE) {
            let rows: Vec<u64> =
                (first..committed.rows.min(first + TEXTS_PIECE as u64)).filter(|row| is_kept(*row)).collect();
            amount.rows += rows.len() as u64;
            amount.elements += rows.iter().filter_map(|row| spans.get(*row)).map(|span| span.len()).sum::<u64>();
            if let Some(texts) = &texts {
                amount.text_bytes += texts.lengths(&rows)?.into_iter().sum::<u64>();
            }
        }
        Ok(amount)
    }

    /// How many bytes of rows, keys and texts a compaction to this amount would free.
    pub(super) fn reclaimable(&self, open: &Open, amount: &Amount) -> Result<u64> {
        let (files, mut bytes) = (&open.files, 0);
        for (file, column) in files.row_files() {
            let used = if Some(column) == files.meta.container.indptr() { amount.rows } else { amount.elements };
            bytes += file.bytes_behind(used)?;
        }
        bytes += files.keys.bytes_behind(amount.rows)?;
        if let Some(texts) = files.texts(&*self.storage, &self.directory) {
            bytes += texts.whole_bytes()?.saturating_sub(amount.text_bytes);
        }
        Ok(bytes)
    }

    /// Bytes of all files in the directory.
    pub fn bytes_on_disk(&self) -> Result<u64> {
        let names = self.storage.list(&self.directory).map_err(Error::io("list", &self.directory))?;
        let size = |name: &str| self.storage.metadata(&self.directory.join(name)).map_or(0, |metadata| metadata.len);
        Ok(names.iter().filter(|(_, is_directory)| !is_directory).map(|(name, _)| size(name)).sum())
    }
}

/// Closes files that the directory may have no more, in a thread for which nobody waits: the system then frees their
/// pages and blocks, which takes long.
fn close_behind(open: Arc<Open>) {
    // If no thread can be started, they are closed here.
    let _ = thread::Builder::new().spawn(move || drop(open));
}

/// The description of the next generation. Its index has another seed, so no snapshot of an earlier one fits it.
fn next_generation(meta: &Meta, path: &std::path::Path) -> Result<Meta> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)
        .map_err(|error| Error::io("draw random bytes for a cache", path)(std::io::Error::other(error.to_string())))?;
    let generation = meta.generation.saturating_add(1);
    Ok(Meta { generation, seed: u64::from_le_bytes(seed), ..meta.clone() })
}

/// Copies the texts of some rows, which are `first` and the next ones in the new files.
fn copy_texts(old: &TextFiles, new: &TextFiles, rows: &[u64], keys: &[Key], mut first: u64) -> Result<()> {
    for (rows, keys) in rows.chunks(TEXTS_PIECE).zip(keys.chunks(TEXTS_PIECE)) {
        let kept = old.read(rows, keys)?;
        let texts: Vec<Option<&[u8]>> = kept.iter().collect();
        if texts.iter().any(Option::is_some) {
            new.write_spans(first, &new.append(&texts)?)?;
        }
        first += rows.len() as u64;
    }
    Ok(())
}

/// The rows of a cache in pieces, with the numbers of those that are kept, which are sound.
struct KeptRows<'a> {
    files: &'a CacheFiles,
    kept: &'a Bits,
    committed: u64,
    /// The first row of the next piece.
    next: Option<u64>,
}

impl Iterator for KeptRows<'_> {
    type Item = Result<(Piece, Vec<u64>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.next?;
        let read = self.read(first);
        // None after an error.
        self.next = read.as_ref().ok().and_then(|(piece, _)| self.kept.next(piece.rows.end()));
        Some(read)
    }
}

impl KeptRows<'_> {
    /// The piece that begins at a row.
    fn read(&self, first: u64) -> Result<(Piece, Vec<u64>)> {
        let CacheFiles { rows: files, keys, .. } = self.files;
        let count = files.first_within(first..self.committed, RECORD_BYTES as u64, COPIED_BYTES)?;
        let piece = Piece::read(first..self.committed.min(first.saturating_add(count)), keys, files)?;
        let rows: Vec<u64> = (first..piece.rows.end()).filter(|row| self.kept.has(*row)).collect();
        if let Some(damaged) = rows.iter().find(|row| !piece.is_sound(**row)) {
            let found = format!("a checksum mismatch in row {damaged}");
            return Err(Error::corrupt(files.data().path(), "sound rows, to compact them", found));
        }
        Ok((piece, rows))
    }
}

/// Rows of a piece, one after the other.
#[derive(Default)]
struct Rows {
    keys: Vec<Key>,
    data: Vec<u8>,
    indices: Option<Vec<u8>>,
    indptr: Option<Vec<i64>>,
    elements: i64,
}

impl Rows {
    fn of(piece: &Piece, rows: &[u64]) -> Rows {
        let mut all = Rows::default();
        for row in rows {
            let Some(content) = piece.rows.row(*row) else { continue };
            all.keys.push(piece.record(*row).key);
            all.data.extend_from_slice(content.data);
            if let Some(indices) = content.indices {
                all.indices.get_or_insert_default().extend_from_slice(indices);
            }
            if let Some(span) = content.span {
                all.elements += span.len() as i64;
                all.indptr.get_or_insert_with(|| vec![0]).push(all.elements);
            }
        }
        all
    }

    fn block(&self, meta: &Meta) -> Result<Block<'_>> {
        let (indices, indptr) = (self.indices.as_deref(), self.indptr.as_deref());
        Block::of(Batch { data: Parts::One(&self.data), indices, indptr, texts: None }, self.keys.len(), meta)
    }
}

/// How many bytes each row takes in the files of a compacted cache.
struct RowSizes<'a> {
    open: &'a Open,
    texts: Option<Arc<TextFiles>>,
    committed: Extent,
    /// Bytes of the files without rows.
    fixed: u64,
    /// Bytes of a row in the index snapshot.
    of_row: u64,
}

impl<'a> RowSizes<'a> {
    /// A slot and a half in an index snapshot, which is written once there are enough rows.
    const OF_SNAPSHOT: u64 = 12;
    /// The first page of a snapshot, and the last block checksum.
    const OF_EMPTY_SNAPSHOT: u64 = 4096 + 8;

    fn of(store: &Store, open: &'a Open) -> Result<RowSizes<'a>> {
        let texts = open.files.texts(&*store.storage, &store.directory);
        let headers: u64 = open.files.meta.columns().iter().map(|column| column.header_bytes() as u64).sum();
        let texts_headers =
            texts.as_ref().map_or(0, |_| TextFiles::columns().iter().map(|column| column.header_bytes() as u64).sum());
        let meta_bytes = next_generation(&open.files.meta, &store.directory)?.to_bytes().len();
        let size = |name: &str| store.storage.metadata(&store.directory.join(name)).map_or(0, |metadata| metadata.len);
        // A pruning takes both locks, which makes their files.
        let locks = [name::LOCK, name::INDEX_LOCK].map(|name| size(name).max(HOLDER_BYTES)).iter().sum::<u64>();
        let others = locks + size(name::PROVEN);
        let fixed = headers + texts_headers + (HEADER_BYTES + FILE_BYTES + meta_bytes) as u64 + others;
        let committed = open.slot().committed;
        let has_snapshot = committed.rows > DeltaLimit::CLOSING.after(0);
        let (snapshot, of_row) = if has_snapshot { (Self::OF_EMPTY_SNAPSHOT, Self::OF_SNAPSHOT) } else { (0, 0) };
        let fixed = fixed + snapshot;
        Ok(RowSizes { open, texts, committed, fixed, of_row })
    }

    fn of_rows(&self, rows: &[u64]) -> Result<Vec<u64>> {
        let files = &self.open.files;
        let spans = files.rows.spans(self.committed)?;
        let sizes = files.rows.sizes();
        let indptr = files.meta.container.indptr().map_or(0, |column| column.element_bytes());
        let texts = match &self.texts {
            None => vec![0; rows.len()],
            Some(texts) => texts.lengths(rows)?.into_iter().map(|length| length + SPAN_BYTES as u64).collect(),
        };
        let bytes = |(row, text): (&u64, u64)| {
            let elements = spans.get(*row).map_or(0, |span| span.len());
            let row_bytes = elements.saturating_mul((sizes.data + sizes.indices) as u64);
            row_bytes + RECORD_BYTES as u64 + indptr + self.of_row + text
        };
        Ok(rows.iter().zip(texts).map(bytes).collect())
    }
}
