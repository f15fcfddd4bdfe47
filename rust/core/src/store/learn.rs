//! The start of an append group: taking the lock, learning the commits of others, and making their rows durable.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::append::{Writer, poisoning};
use super::opened::Open;
use super::{Durability, Store};
use crate::atomic;
use crate::directory;
use crate::error::{Error, Result};
use crate::format::commit::Slot;
use crate::format::name;
use crate::lock::HeldLock;
use crate::recovery::{self, Recovered};

/// Bytes of rows and records to write again under one hold of the lock: a few hundredths of a second.
const EXAMINED_BYTES: u64 = 16 << 20;

/// The locks of a writer: the writers' lock, and the lock of the commit record. The second one excludes other writers
/// even if the first one's file is deleted.
pub(super) struct Locks {
    /// Unlocked first: the next holder of the other one finds it free.
    _commit: HeldLock,
    _writers: HeldLock,
}

impl Store {
    /// Waits for the writers' lock, which excludes other threads and other processes. Holds no mutex meanwhile: a
    /// thread that waits for a mutex cannot time out or be interrupted.
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

    /// Takes the lock and learns the commits of others. Works in pieces, and unlocks between them.
    pub(super) fn begin_group(&self) -> Result<(Locks, MutexGuard<'_, Writer>, Arc<Open>, Recovered)> {
        loop {
            let (locks, mut writer, open) = self.lock_files()?;
            if let Some(recovered) = self.learn(&open, &mut writer)? {
                return Ok((locks, writer, open, recovered));
            }
            drop((writer, locks));
            if self.options.durability == Durability::Commit {
                // Not under the lock. So only the last piece is synced under it.
                if let Err(error) = open.files.sync_rows() {
                    self.writer().poisoned = true;
                    return Err(error);
                }
            }
        }
    }

    /// Takes the lock, and opens the files that the directory has then for writing.
    fn lock_files(&self) -> Result<(Locks, MutexGuard<'_, Writer>, Arc<Open>)> {
        let locked = self.lock().and_then(|lock| Ok((lock, self.open_for_writing()?)));
        let (lock, open) = locked.map_err(|error| {
            let is_gone = || self.storage.metadata(&self.directory.join(name::META)).is_err();
            match error {
                Error::Io { .. } | Error::NotFound { .. } if is_gone() && self.writer().owes_a_sync() => {
                    Error::Replaced { path: self.directory.clone() }
                }
                Error::Io { .. } if is_gone() => Error::NotFound { path: self.directory.clone() },
                other => other,
            }
        })?;
        let commit = HeldLock::of_data(&*self.storage, &self.directory.join(name::COMMIT), self.options.patience)?;
        let mut writer = self.writer();
        self.check_not_poisoned(&writer)?;
        writer.is_about(open.files.identities());
        Ok((Locks { _commit: commit, _writers: lock }, writer, open))
    }

    /// The cache that is at the path now, with its files open for writing.
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

    /// Learns the commits of others, under the lock. Rolls lost commits forward, and makes uncertain rows durable.
    ///
    /// Rows of another handle may be in the page cache only: a failed sync marks their pages clean, and that handle may
    /// have died before it reported the failure. So rows that are not known to be durable are read, their pages are
    /// dropped, and they are written again and synced. No such row is trusted before.
    ///
    /// None if a piece was done and there is more.
    fn learn(&self, open: &Open, writer: &mut Writer) -> Result<Option<Recovered>> {
        let files = &open.files;
        let recovered = files.recover()?;
        if writer.own == Some(recovered.in_file) && !recovered.roll_forward {
            open.adopt(&*self.storage, &self.directory, recovered.slot)?;
            return Ok(Some(recovered));
        }
        writer.tail_is_ours = false;
        if !writer.names_are_durable {
            // The creation of the cache may have been interrupted.
            self.storage.sync_dir(&self.directory).map_err(Error::io("sync the directory", &self.directory))?;
            atomic::sync_name(&*self.storage, &self.directory)?;
            writer.names_are_durable = true;
        }
        // Rows that this handle has seen committed count as claimed, even if their slot is gone.
        let seen = open.slot();
        let claimed = recovered.claimed.longer(seen.committed);
        let mut extent = recovered.slot.committed.longer(seen.committed);
        if recovered.roll_forward {
            extent = recovery::roll_forward(extent, recovered.reach().max(extent.rows), &files.keys, &files.rows)?;
        }
        let synced = recovered.slot.synced.longer(seen.synced);
        let first = synced.longer(open.examined()).shorter(extent);
        poisoning(&mut writer.poisoned, || files.renew_unwritten(first))?;
        let claimed = first.longer(claimed.shorter(extent));
        let behind = extent.rows > recovered.slot.committed.rows;
        if !recovered.roll_forward && !behind && extent.rows > first.rows {
            let most_rows =
                files.rows.first_within(first.rows..extent.rows, files.keys.record_bytes(), EXAMINED_BYTES)?;
            let end = first.rows + most_rows;
            if end < extent.rows {
                open.examine(&*self.storage, &self.directory, first.rows..end, true)?;
                open.note_examined(files.rows.extent_behind(end - 1)?);
                return Ok(None);
            }
        }
        // A damaged row that a valid slot calls not durable was never durable. Damaged rows behind these may have been
        // durable, by a lost commit: they are kept, and hide older rows of their keys.
        open.examine(&*self.storage, &self.directory, first.rows..claimed.rows, true)?;
        open.examine(&*self.storage, &self.directory, claimed.rows..extent.rows, false)?;
        open.note_examined(extent);
        // The next group must not write into pages that a failed sync left.
        files.forget_pages_behind(extent)?;
        if !files.has_whole_headers() {
            files.write_row_headers(synced)?;
        }
        let durable = recovered.roll_forward || behind || self.options.durability == Durability::Commit;
        if durable {
            poisoning(&mut writer.poisoned, || files.sync_rows())?;
        }
        poisoning(&mut writer.poisoned, || files.write_slot_again(recovered.in_file))?;
        if durable {
            // The slot that the next commit overwrites may be the only durable one.
            poisoning(&mut writer.poisoned, || files.sync_commit())?;
        }
        writer.unsynced |= !durable;
        open.adopt(&*self.storage, &self.directory, recovered.slot)?;
        if recovered.roll_forward || behind {
            self.commit(open, writer, Slot { epoch: recovered.next_epoch, committed: extent, synced: extent }, true)?;
            return files.recover().map(Some);
        }
        writer.own = Some(recovered.in_file);
        Ok(Some(recovered))
    }
}
