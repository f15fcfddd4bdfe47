//! The start of an append group: take the locks, read the commits of other handles, and make their rows durable.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::append::{Writer, poisoning};
use super::opened::Open;
use super::{Durability, Store};
use crate::atomic;
use crate::directory;
use crate::error::{Error, Result};
use crate::format::commit::Slot;
use crate::format::name;
use crate::generations;
use crate::lock::HeldLock;
use crate::recovery::{self, Recovered};

/// How many bytes of rows and records to write again before the locks are released for others. This takes a few
/// hundredths of a second.
const EXAMINED_BYTES: u64 = 16 << 20;

/// The locks of a writer: of the file `LOCK`, and of the file `commit`. The second one excludes other writers even if
/// the file `LOCK` is deleted.
pub(super) struct Locks {
    /// Fields are dropped in this order, so `commit` is unlocked first. The next holder of `LOCK` then finds it free.
    _commit: HeldLock,
    _writers: HeldLock,
}

impl Store {
    /// Waits for the lock of `LOCK`, which excludes other threads and other processes. Does not hold the writer's mutex
    /// while it waits: a thread that waits for a mutex cannot time out or be interrupted.
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

    /// Takes the locks and makes the rows of other handles durable, in pieces. Releases the locks between two pieces,
    /// so that other writers need not wait for all of them.
    pub(super) fn begin_group(&self) -> Result<(Locks, MutexGuard<'_, Writer>, Arc<Open>, Recovered)> {
        loop {
            let (locks, mut writer, open) = self.lock_files()?;
            if let Some(recovered) = self.learn(&open, &mut writer)? {
                return Ok((locks, writer, open, recovered));
            }
            drop((writer, locks));
            if self.options.durability == Durability::Commit {
                // Syncs this piece without the locks. Only the last piece is synced in `learn`, under the locks.
                if let Err(error) = open.files.sync_rows() {
                    self.writer().poisoned = true;
                    return Err(error);
                }
            }
        }
    }

    /// Takes the locks, and opens the files that are at the path now for writing.
    fn lock_files(&self) -> Result<(Locks, MutexGuard<'_, Writer>, Arc<Open>)> {
        let locked = self.lock().and_then(|lock| Ok((lock, self.open_for_writing()?)));
        let (lock, open) = locked.map_err(|error| {
            let is_gone = || self.storage.metadata(&self.directory.join(name::META)).is_err();
            match error {
                // The directory is gone, and with it rows of this handle that were not synced.
                Error::Io { .. } | Error::NotFound { .. } if is_gone() && self.writer().owes_a_sync() => {
                    Error::Replaced { path: self.directory.clone() }
                }
                Error::Io { .. } if is_gone() => Error::NotFound { path: self.directory.clone() },
                other => other,
            }
        })?;
        let commit = HeldLock::of_data(&*self.storage, open.files.commit_path(), self.options.patience)?;
        let mut writer = self.writer();
        self.check_not_poisoned(&writer)?;
        writer.is_about(&open.files);
        Ok((Locks { _commit: commit, _writers: lock }, writer, open))
    }

    /// The cache that is at the path now, with its files open for writing. A store opens no file for writing before its
    /// first group.
    fn open_for_writing(&self) -> Result<Arc<Open>> {
        let open = self.reopen_if_replaced()?;
        if open.is_writable {
            return Ok(open);
        }
        let open = Arc::new(open.for_writing(&*self.storage, &self.directory)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match current.as_mut() {
            // Another thread closed the store meanwhile.
            None => Err(Error::Closed { path: self.directory.clone() }),
            Some(now) => {
                *now = Arc::clone(&open);
                Ok(open)
            }
        }
    }

    /// Reads the commits of other handles, under the locks. Rolls lost commits forward, and makes uncertain rows
    /// durable.
    ///
    /// Rows of another handle may be in the page cache only: a failed sync marks their pages clean, and that handle may
    /// have died before it reported the failure. So rows that are not known to be durable are read, their pages are
    /// dropped, and they are written again and synced. No such row counts as stored before.
    ///
    /// Returns None if it wrote one piece of these rows again and more pieces remain. The caller then calls it again.
    fn learn(&self, open: &Open, writer: &mut Writer) -> Result<Option<Recovered>> {
        let files = &open.files;
        let recovered = files.recover()?;
        // This handle wrote the newest commit, or wrote it again before. So nothing is uncertain, unless it has seen a
        // newer one, which a failed sync lost.
        let is_newest = recovered.slot.committed.rows >= open.slot().committed.rows;
        if writer.own == Some(recovered.in_file) && !recovered.roll_forward && is_newest {
            open.adopt(&*self.storage, &self.directory, recovered.slot)?;
            return Ok(Some(recovered));
        }
        writer.tail_is_ours = false;
        if !writer.names_are_durable {
            // The creation of the cache may have been interrupted before it synced the directory.
            self.storage.sync_dir(&self.directory).map_err(Error::io("sync the directory", &self.directory))?;
            atomic::sync_name(&*self.storage, &self.directory)?;
            writer.names_are_durable = true;
            // What a compaction left that was cut short. It is done again by the next handle, or the next compaction.
            let _ = generations::remove_others(&*self.storage, &self.directory, &files.meta);
        }
        // Rows that this handle has seen committed count as claimed, even if their slot is lost.
        let seen = open.slot();
        let claimed = recovered.claimed.longer(seen.committed);
        // What counts from now on.
        let mut extent = recovered.slot.committed.longer(seen.committed);
        if recovered.roll_forward {
            extent = recovery::roll_forward(extent, recovered.reach().max(extent.rows), &files.keys, &files.rows)?;
        }
        let synced = recovered.slot.synced.longer(seen.synced);
        // The rows from `first` to the end of `extent` are uncertain: they are not known to be durable, and this handle
        // has neither written them nor written them again.
        let first = synced.longer(open.examined()).shorter(extent);
        poisoning(&mut writer.poisoned, || files.renew_unwritten(first))?;
        // `behind` means that more rows count than the slot says, so that a new commit is needed.
        let behind = extent.rows > recovered.slot.committed.rows;
        if !recovered.roll_forward && !behind && first.rows < extent.rows {
            let uncertain = first.rows..extent.rows;
            let end = first.rows + files.rows.first_within(uncertain, files.keys.record_bytes(), EXAMINED_BYTES)?;
            if end < extent.rows {
                open.examine(&*self.storage, &self.directory, first.rows..end, true)?;
                // Where the elements of a damaged last row end is unknown. Where the piece began is safe.
                open.note_examined(files.rows.extent(end, first.elements));
                return Ok(None);
            }
        }
        // Below this row, a valid slot calls the uncertain rows not durable. So a row with a checksum mismatch was never
        // durable, and its record is zeroed. From there on, the rows belong to a lost commit, which may have made them
        // durable. A row with a checksum mismatch keeps its record there: it is a miss, and hides older rows of its key.
        let not_durable = first.rows.max(claimed.rows.min(extent.rows));
        open.examine(&*self.storage, &self.directory, first.rows..not_durable, true)?;
        open.examine(&*self.storage, &self.directory, not_durable..extent.rows, false)?;
        open.note_examined(extent);
        self.make_texts_certain(open);
        // The next group must not write into pages that a failed sync marked as clean.
        files.forget_pages_behind(extent)?;
        writer.shown = None;
        if !files.has_whole_headers() {
            poisoning(&mut writer.poisoned, || files.write_row_headers(synced))?;
        }
        let durable = recovered.roll_forward || behind || self.options.durability == Durability::Commit;
        if durable {
            poisoning(&mut writer.poisoned, || files.sync_rows())?;
        }
        poisoning(&mut writer.poisoned, || files.write_slot_again(recovered.in_file))?;
        if durable {
            // The next commit overwrites the other slot, which may be the only durable one until this sync.
            poisoning(&mut writer.poisoned, || files.sync_commit())?;
        }
        writer.unsynced |= !durable;
        open.adopt(&*self.storage, &self.directory, recovered.slot)?;
        if recovered.roll_forward || behind {
            let erased = recovered.slot.erased.max(seen.erased);
            let slot = Slot { epoch: recovered.next_epoch, committed: extent, synced: extent, erased };
            self.commit(open, writer, slot, true)?;
            return files.recover().map(Some);
        }
        writer.own = Some(recovered.in_file);
        Ok(Some(recovered))
    }
}
