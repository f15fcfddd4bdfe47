//! Append groups: lock, learn the commits of others, write, sync, commit.

use std::borrow::Cow;
use std::sync::{MutexGuard, PoisonError};

use super::opened::Open;
use super::{Durability, Store, same_length};
use crate::error::{Error, Result};
use crate::files::FileId;
use crate::format::MAX_ROWS;
use crate::format::commit::Slot;
use crate::format::keys::{RECORD_BYTES, Record};
use crate::index::DeltaLimit;
use crate::key::{DEAD, Key};
use crate::{parallel, partition, vectors};

/// Rows a piece of parallel checksums holds, and the fewest that are worth a second thread.
const RECORDS_PIECE: usize = 512;
const RECORDS_PER_THREAD: usize = 512;

/// State of the writing thread of this handle.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Whether a sync failed. The content of the disk is then unknown, and a retry may succeed without writing.
    pub(super) poisoned: bool,
    /// The files that the fields below describe.
    pub(super) files: Option<[FileId; 3]>,
    /// The commit that this handle wrote last, or wrote again.
    pub(super) own: Option<Slot>,
    /// Whether this handle made the names of the directory and of its files durable.
    pub(super) names_are_durable: bool,
    /// Whether this handle wrote the bytes behind the committed rows.
    pub(super) tail_is_ours: bool,
    /// Whether this handle appended rows.
    pub(super) appended: bool,
    /// Whether there are committed rows that are not synced.
    pub(super) unsynced: bool,
    /// Whether the files were replaced before this handle synced its rows, and no caller knows yet.
    pub(super) lost: bool,
}

impl Writer {
    /// Whether this handle stored rows that are not durable.
    pub(super) fn owes_a_sync(&self) -> bool {
        self.unsynced || self.lost
    }

    /// Resets the state if the files were replaced.
    pub(super) fn is_about(&mut self, files: [FileId; 3]) {
        if self.files.is_some_and(|known| known != files) {
            *self = Writer { poisoned: self.poisoned, lost: self.owes_a_sync(), ..Writer::default() };
        }
        self.files = Some(files);
    }
}

impl Store {
    /// Appends one group and commits it. Returns how many rows were appended.
    ///
    /// `seen` is the row that the caller's look-up saw for each key, negative for none. A key is dropped only if its
    /// newest row is another one now. Keys must differ from each other.
    pub fn append(&self, keys: &[Key], vectors: &[u8], seen: Option<&[i64]>) -> Result<usize> {
        let row_bytes = self.check_rows(keys, vectors)?;
        if let Some(seen) = seen {
            same_length("rows seen", keys.len(), seen.len())?;
        }
        let appended = self.write_group(|open| {
            let state = open.indexed()?;
            let mut newest = vec![partition::NO_ROW; keys.len()];
            state.lookup(&open.key_records(state.committed.rows)?, keys, &mut newest);
            let is_wanted = |position: &usize| {
                // An older row than the seen one is not newer data: the seen row did not survive.
                newest[*position] == partition::NO_ROW || seen.is_some_and(|seen| seen[*position] >= newest[*position])
            };
            let positions: Vec<usize> = (0..keys.len()).filter(is_wanted).collect();
            Ok(Group::new(keys, vectors, row_bytes, positions))
        })?;
        self.write_snapshot_if_due(DeltaLimit::APPENDING);
        Ok(appended)
    }

    /// Appends the vectors that are not stored byte for byte already. The last of equal keys wins.
    pub fn put(&self, keys: &[Key], vectors: &[u8]) -> Result<usize> {
        let row_bytes = self.check_rows(keys, vectors)?;
        let vector = |position: usize| &vectors[position * row_bytes..(position + 1) * row_bytes];
        // Chosen under the lock, after the rows of others were made durable: a vector that is found here is
        // acknowledged.
        let appended = self.write_group(|open| {
            let state = open.indexed()?;
            let records = open.key_records(state.committed.rows)?;
            let mut rows = vec![partition::NO_ROW; keys.len()];
            state.lookup(&records, keys, &mut rows);
            let source = vectors::Source::of(&open.files.vectors, &records)?;
            let mut positions = Vec::new();
            for position in partition::last_of_each_key(keys) {
                let row = u64::try_from(rows[position]).ok();
                let is_stored = row.map_or(Ok(false), |row| source.has(&keys[position], row, vector(position)))?;
                if !is_stored {
                    positions.push(position);
                }
            }
            Ok(Group::new(keys, vectors, row_bytes, positions))
        })?;
        self.write_snapshot_if_due(DeltaLimit::APPENDING);
        Ok(appended)
    }

    fn check_rows(&self, keys: &[Key], vectors: &[u8]) -> Result<usize> {
        let row_bytes = self.current()?.row_bytes();
        same_length("bytes of vectors", keys.len().saturating_mul(row_bytes), vectors.len())?;
        match keys.contains(&DEAD) {
            true => Err(Error::Argument { expected: "SHA-256 keys".into(), found: "a key of zeros".into() }),
            false => Ok(row_bytes),
        }
    }

    /// Makes every committed row durable, including those of other handles. [`Error::Replaced`] means that this was
    /// done, and that rows of this handle are in files that the directory no longer has.
    ///
    /// A handle that stored nothing trusts a commit that calls all rows durable. It then opens no file for writing.
    pub fn sync(&self) -> Result<()> {
        if self.options.writable && self.has_nothing_to_sync()? {
            return Ok(());
        }
        let (_lock, mut writer, open, recovered) = self.begin_group()?;
        self.sync_all(&open, &mut writer)?;
        let Slot { rows, synced, .. } = open.committed();
        if synced < rows {
            self.commit(&open, &mut writer, Slot { epoch: recovered.next_epoch, rows, synced: rows }, true)?;
        }
        writer.unsynced = false;
        let lost = std::mem::take(&mut writer.lost);
        drop((writer, _lock));
        self.write_snapshot_if_due(DeltaLimit::APPENDING);
        if lost { Err(Error::Replaced { path: self.directory.clone() }) } else { Ok(()) }
    }

    /// Whether this handle stored nothing, the last commit calls all rows durable, and no header is torn.
    fn has_nothing_to_sync(&self) -> Result<bool> {
        if self.current()?.is_writable || self.writer().owes_a_sync() {
            return Ok(false);
        }
        let open = self.reopen_if_replaced()?;
        let recovered = open.files.recover()?;
        open.adopt(&*self.storage, &self.directory, recovered.slot)?;
        // Rows that this handle has seen committed count, even if their slot is gone.
        let is_durable = !recovered.roll_forward && recovered.slot.synced >= open.committed().rows;
        Ok(is_durable && open.files.check_vectors_header().is_ok())
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic leaves at most an uncommitted group behind, which the next group overwrites.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One append group: lock, learn the commits of others, choose the rows, write, sync, commit, unlock.
    fn write_group<'a>(&self, choose: impl FnOnce(&Open) -> Result<Group<'a>>) -> Result<usize> {
        // Before the lock: entering many rows into the index takes long.
        drop(self.current()?.indexed()?);
        let (_lock, mut writer, open, recovered) = self.begin_group()?;
        let group = choose(&open)?;
        let durable = self.options.durability == Durability::Commit;
        if group.keys.is_empty() {
            // All committed rows were made durable when the group began.
            return Ok(0);
        }
        let committed = open.committed();
        let rows = committed.rows + group.keys.len() as u64;
        if rows > MAX_ROWS {
            return Err(Error::Argument {
                expected: format!("at most {MAX_ROWS} rows in a cache"),
                found: format!("{rows}"),
            });
        }
        if open.files.keys.clear_behind(committed.rows, !writer.tail_is_ours)? {
            // Synced before the group is written: a power loss may keep the commit and lose the rows. Then there must
            // be no older rows with matching checksums in their place.
            poisoning(&mut writer.poisoned, || open.files.keys.sync())?;
        }
        writer.tail_is_ours = true;
        open.files.vectors.write(committed.rows, &group.vectors)?;
        open.files.keys.write(committed.rows, &group.records(committed.rows))?;
        if durable {
            poisoning(&mut writer.poisoned, || open.files.sync_rows())?;
        }
        let synced = if durable { rows } else { committed.synced };
        self.commit(&open, &mut writer, Slot { epoch: recovered.next_epoch, rows, synced }, durable)?;
        Ok(group.keys.len())
    }

    pub(super) fn sync_all(&self, open: &Open, writer: &mut Writer) -> Result<()> {
        poisoning(&mut writer.poisoned, || open.files.sync_rows())?;
        poisoning(&mut writer.poisoned, || open.files.sync_commit())
    }

    /// Writes the commit record of rows that are written, and synced up to `slot.synced`. Adopts the commit.
    pub(super) fn commit(&self, open: &Open, writer: &mut Writer, slot: Slot, durable: bool) -> Result<()> {
        poisoning(&mut writer.poisoned, || open.files.write_slot(slot))?;
        if durable {
            poisoning(&mut writer.poisoned, || open.files.sync_commit())?;
        }
        writer.own = Some(slot);
        writer.appended = true;
        open.note_examined(slot.rows);
        writer.unsynced |= slot.synced < slot.rows;
        if slot.synced > 0 {
            // For other programs only. The next group writes it again.
            let _ = open.files.write_vectors_header(slot.synced);
        }
        open.adopt(&*self.storage, &self.directory, slot)
    }
}

/// The rows of one append group.
#[derive(Debug, Default)]
struct Group<'a> {
    keys: Cow<'a, [Key]>,
    vectors: Cow<'a, [u8]>,
    row_bytes: usize,
}

impl<'a> Group<'a> {
    /// The chosen positions of a batch, ascending. Copies only if they are not the whole batch.
    fn new(keys: &'a [Key], vectors: &'a [u8], row_bytes: usize, positions: Vec<usize>) -> Group<'a> {
        if positions.len() == keys.len() {
            return Group { keys: keys.into(), vectors: vectors.into(), row_bytes };
        }
        let chosen: Vec<u8> = positions
            .iter()
            .flat_map(|position| &vectors[position * row_bytes..(position + 1) * row_bytes])
            .copied()
            .collect();
        let keys: Vec<Key> = positions.iter().map(|&position| keys[position]).collect();
        Group { keys: keys.into(), vectors: chosen.into(), row_bytes }
    }

    /// The key records of the group, from row number `first` on.
    fn records(&self, first: u64) -> Vec<u8> {
        let mut records = vec![0; self.keys.len() * RECORD_BYTES];
        let keys = self.keys.chunks(RECORDS_PIECE);
        let vectors = self.vectors.chunks(RECORDS_PIECE * self.row_bytes);
        let targets = records.chunks_mut(RECORDS_PIECE * RECORD_BYTES);
        let pieces: Vec<_> = keys.zip(vectors).zip(targets).enumerate().collect();
        parallel::for_each(pieces, self.keys.len(), RECORDS_PER_THREAD, |(piece, ((keys, vectors), targets))| {
            let first = first + (piece * RECORDS_PIECE) as u64;
            let rows =
                keys.iter().zip(vectors.chunks_exact(self.row_bytes)).zip(targets.chunks_exact_mut(RECORD_BYTES));
            for (row, ((key, vector), target)) in (first..).zip(rows) {
                target.copy_from_slice(&Record::of_row(key, row, vector).to_bytes());
            }
        });
        records
    }
}

/// Runs a step. If it fails, the content of the disk is unknown.
pub(super) fn poisoning<T>(poisoned: &mut bool, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = step();
    *poisoned |= done.is_err();
    done
}
