//! Append groups: lock, learn what others committed, write, sync, commit.

use std::borrow::Cow;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::opened::Open;
use super::{Durability, Store, same_length};
use crate::directory;
use crate::error::{Error, Result};
use crate::format::commit::Slot;
use crate::format::keys::{RECORD_BYTES, Record};
use crate::format::{MAX_ROWS, name};
use crate::index::DeltaLimit;
use crate::key::{DEAD, Key};
use crate::lock::HeldLock;
use crate::recovery::{self, Recovered};
use crate::{parallel, partition, vectors};

/// Rows a piece of parallel checksums holds, and the fewest that are worth a second thread.
const RECORDS_PIECE: usize = 512;
const RECORDS_PER_THREAD: usize = 512;

/// What only the writing thread of this handle touches.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// The commit that this handle wrote last.
    pub(super) own_epoch: Option<u64>,
    /// Whether something is committed but not synced.
    pub(super) unsynced: bool,
    /// Whether a sync failed: what is on disk is then unknown, and a retry may lie.
    poisoned: bool,
}

impl Store {
    /// Appends one group and commits it; gives how many rows were appended.
    ///
    /// `seen` is the row that the caller's look-up saw for each key, negative for none. A key is dropped only if its
    /// newest row is now another one. Keys must differ from each other.
    pub fn append(&self, keys: &[Key], vectors: &[u8], seen: Option<&[i64]>) -> Result<usize> {
        let row_bytes = self.check_rows(keys, vectors)?;
        if let Some(seen) = seen {
            same_length("rows seen", keys.len(), seen.len())?;
        }
        let appended = self.write_group(|open| {
            let state = open.state.read().unwrap_or_else(PoisonError::into_inner);
            let mut newest = vec![partition::NO_ROW; keys.len()];
            state.lookup(&open.keys(state.committed.rows)?, keys, &mut newest);
            let is_wanted = |position: &usize| {
                newest[*position] == partition::NO_ROW || seen.is_some_and(|seen| seen[*position] == newest[*position])
            };
            let positions: Vec<usize> = (0..keys.len()).filter(is_wanted).collect();
            Ok(Group::new(keys, vectors, row_bytes, positions))
        })?;
        self.write_snapshot_if_due(DeltaLimit::APPENDING);
        Ok(appended)
    }

    /// Appends the vectors that are not stored byte for byte already; the last of equal keys wins.
    pub fn put(&self, keys: &[Key], vectors: &[u8]) -> Result<usize> {
        let row_bytes = self.check_rows(keys, vectors)?;
        // What others stored since counts as seen: else this put would be dropped in favour of theirs.
        self.refresh()?;
        let vector = |position: usize| &vectors[position * row_bytes..(position + 1) * row_bytes];
        let mut rows = vec![partition::NO_ROW; keys.len()];
        self.lookup(keys, &mut rows)?;
        let open = self.current()?;
        let records = open.files.keys.map_or_copy(open.committed().rows)?;
        let source = vectors::Source::of(&open.files.vectors, &records)?;
        let mut positions = Vec::new();
        for position in partition::last_of_each_key(keys) {
            let row = u64::try_from(rows[position]).ok();
            let is_stored = row.map_or(Ok(false), |row| source.has(&keys[position], row, vector(position)))?;
            if !is_stored {
                positions.push(position);
            }
        }
        let group = Group::new(keys, vectors, row_bytes, positions.clone());
        let seen: Vec<i64> = positions.iter().map(|&position| rows[position]).collect();
        self.append(&group.keys, &group.vectors, Some(&seen))
    }

    fn check_rows(&self, keys: &[Key], vectors: &[u8]) -> Result<usize> {
        let row_bytes = self.current()?.row_bytes();
        same_length("bytes of vectors", keys.len().saturating_mul(row_bytes), vectors.len())?;
        match keys.contains(&DEAD) {
            true => Err(Error::Argument { expected: "SHA-256 keys".into(), found: "a key of zeros".into() }),
            false => Ok(row_bytes),
        }
    }

    /// Makes every committed row durable, whoever wrote it.
    pub fn sync(&self) -> Result<()> {
        let open = self.current()?;
        if self.options.writable && !open.is_writable {
            // Of a handle that has not written nothing is written here either, unless there is something to write.
            let Recovered { slot, roll_forward, .. } = open.files.recover()?;
            if slot.synced == slot.rows && !roll_forward && open.files.check_vectors_header().is_ok() {
                open.files.sync()?;
                return open.adopt(&*self.storage, &self.directory, slot);
            }
        }
        let (_lock, mut writer, open, recovered) = self.begin_group()?;
        self.sync_all(&open, &mut writer)?;
        let Slot { rows, synced, .. } = open.committed();
        if synced < rows {
            self.commit(&open, &mut writer, Slot { epoch: recovered.next_epoch, rows, synced: rows }, true)?;
        }
        writer.unsynced = false;
        drop((writer, _lock));
        self.write_snapshot_if_due(DeltaLimit::APPENDING);
        Ok(())
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic under the mutex leaves at most an uncommitted group behind, which the next group overwrites.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the lock that keeps threads apart as it does processes. No mutex is held meanwhile: whoever waits for
    /// one could neither give up in time nor be interrupted.
    fn lock(&self) -> Result<HeldLock> {
        if !self.options.writable {
            return Err(Error::ReadOnly { path: self.directory.clone() });
        }
        if let Ok(writer) = self.writer.try_lock() {
            self.check_not_poisoned(&writer)?;
        }
        if !self.options.allow_network {
            directory::refuse_remote(&*self.storage, &self.directory)?;
        }
        HeldLock::acquire(&*self.storage, &self.directory.join(name::LOCK), self.options.patience)
    }

    fn check_not_poisoned(&self, writer: &Writer) -> Result<()> {
        if writer.poisoned { Err(Error::Poisoned { path: self.directory.clone() }) } else { Ok(()) }
    }

    /// The cache that is at the path now, its files open for writing.
    fn open_for_writing(&self) -> Result<Arc<Open>> {
        let open = self.reopen_if_replaced()?;
        if open.is_writable {
            return Ok(open);
        }
        let open = Arc::new(open.for_writing(&*self.storage, &self.directory)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&open));
        Ok(open)
    }

    /// Takes the lock and learns what others committed.
    fn begin_group(&self) -> Result<(HeldLock, MutexGuard<'_, Writer>, Arc<Open>, Recovered)> {
        let lock = self.lock()?;
        let mut writer = self.writer();
        self.check_not_poisoned(&writer)?;
        let open = self.open_for_writing()?;
        let recovered = self.learn(&open, &mut writer)?;
        Ok((lock, writer, open, recovered))
    }

    /// One append group: lock, learn what others committed, choose the rows, write, sync, commit, unlock.
    fn write_group<'a>(&self, choose: impl FnOnce(&Open) -> Result<Group<'a>>) -> Result<usize> {
        let (_lock, mut writer, open, recovered) = self.begin_group()?;
        let group = choose(&open)?;
        let durable = self.options.durability == Durability::Commit;
        if group.keys.is_empty() {
            if durable {
                // Whoever committed these rows may not have synced them.
                self.sync_all(&open, &mut writer)?;
            }
            let Slot { rows, synced, .. } = open.committed();
            writer.unsynced |= !durable && synced < rows;
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
        if open.files.keys.clear_behind(committed.rows)? {
            // Before anything is written: a power loss may keep the commit and lose the rows, and then must not find
            // others that hold in their place.
            poisoning(&mut writer.poisoned, || open.files.keys.sync())?;
        }
        open.files.vectors.write(committed.rows, &group.vectors)?;
        open.files.keys.write(committed.rows, &group.records(committed.rows))?;
        if durable {
            poisoning(&mut writer.poisoned, || open.files.sync_rows())?;
        }
        let synced = if durable { rows } else { committed.synced };
        self.commit(&open, &mut writer, Slot { epoch: recovered.next_epoch, rows, synced }, durable)?;
        Ok(group.keys.len())
    }

    fn sync_all(&self, open: &Open, writer: &mut Writer) -> Result<()> {
        poisoning(&mut writer.poisoned, || open.files.sync_rows())?;
        poisoning(&mut writer.poisoned, || open.files.sync_commit())
    }

    /// Under the lock: what is committed, with lost commits rolled forward, and safe to be built upon.
    fn learn(&self, open: &Open, writer: &mut Writer) -> Result<Recovered> {
        let files = &open.files;
        let recovered = files.recover()?;
        let own = writer.own_epoch == Some(recovered.slot.epoch) && !recovered.roll_forward;
        if !own {
            open.forget_lost_rows(&*self.storage, &self.directory, recovered.slot)?;
            if files.check_vectors_header().is_err() {
                files.write_vectors_header(recovered.slot.synced)?;
            }
        }
        open.adopt(&*self.storage, &self.directory, recovered.slot)?;
        if !own && self.options.durability == Durability::Commit {
            // The slot that is overwritten next may be the only durable one.
            self.sync_all(open, writer)?;
        }
        if !recovered.roll_forward {
            return Ok(recovered);
        }
        let known = open.committed().rows;
        let rows = recovery::roll_forward(known, &files.keys, &files.vectors)?;
        poisoning(&mut writer.poisoned, || files.sync_rows())?;
        self.commit(open, writer, Slot { epoch: recovered.next_epoch, rows, synced: rows }, true)?;
        files.recover()
    }

    /// Writes the commit record of rows that are written (and synced up to `slot.synced`), and takes note of them.
    fn commit(&self, open: &Open, writer: &mut Writer, slot: Slot, durable: bool) -> Result<()> {
        poisoning(&mut writer.poisoned, || open.files.write_slot(slot))?;
        if durable {
            poisoning(&mut writer.poisoned, || open.files.sync_commit())?;
        }
        writer.own_epoch = Some(slot.epoch);
        writer.unsynced |= slot.synced < slot.rows;
        if slot.synced > 0 {
            // For other programs only; the next group writes it again.
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
    /// The chosen positions of a batch, ascending; copied only if they are not all of it.
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

    /// The key records of the group, its first row being `first`.
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

/// Runs a step whose failure leaves the disk in an unknown state.
fn poisoning<T>(poisoned: &mut bool, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = step();
    *poisoned |= done.is_err();
    done
}
