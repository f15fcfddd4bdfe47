//! What a writer does before it builds on a commit: it takes the lock, learns what others committed, and makes sure that
//! this is not only in the system's memory.

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

/// Bytes of rows and records that are made sure under one hold of the lock: a few hundredths of a second.
const EXAMINED_BYTES: u64 = 16 << 20;

/// What a writer holds: the writers' lock, and that of the commit record, which excludes others even if somebody deleted
/// the file of the first.
pub(super) struct Locks {
    /// Given back first: whoever takes the other one finds this one free.
    _commit: HeldLock,
    _writers: HeldLock,
}

impl Store {
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

    /// Takes the lock and learns what others committed. What takes long is done in pieces, between which others get their
    /// turn.
    pub(super) fn begin_group(&self) -> Result<(Locks, MutexGuard<'_, Writer>, Arc<Open>, Recovered)> {
        loop {
            let (locks, mut writer, open) = self.lock_files()?;
            if let Some(recovered) = self.learn(&open, &mut writer)? {
                return Ok((locks, writer, open, recovered));
            }
            drop((writer, locks));
            if self.options.durability == Durability::Commit {
                // Not under the lock: the last piece is then all that is left to sync.
                if let Err(error) = open.files.sync_rows() {
                    self.writer().poisoned = true;
                    return Err(error);
                }
            }
        }
    }

    /// Takes the lock; gives the files that the directory has then, open for writing.
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

    /// The cache that is at the path now, its files open for writing.
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

    /// Under the lock: what is committed, with lost commits rolled forward, and safe to be built upon.
    ///
    /// What another handle committed may be in the system's memory alone, in pages that a failed sync made clean: that
    /// handle may have died before it told anybody. So all that is not known to be durable and holds is read, the system is
    /// asked to forget its pages, and they are written again and synced. Nothing is believed before.
    ///
    /// None if a piece of this was done and there is more.
    fn learn(&self, open: &Open, writer: &mut Writer) -> Result<Option<Recovered>> {
        let files = &open.files;
        let recovered = files.recover()?;
        if writer.own == Some(recovered.in_file) && !recovered.roll_forward {
            open.adopt(&*self.storage, &self.directory, recovered.slot)?;
            return Ok(Some(recovered));
        }
        writer.tail_is_ours = false;
        if !writer.names_are_durable {
            // Whoever made the cache may have been cut short.
            self.storage.sync_dir(&self.directory).map_err(Error::io("sync the directory", &self.directory))?;
            atomic::sync_name(&*self.storage, &self.directory)?;
            writer.names_are_durable = true;
        }
        // What this handle has seen committed counts as claimed, even if the slot that said so is gone.
        let seen = open.committed();
        let claimed = recovered.claimed.max(seen.rows);
        let mut rows = recovered.slot.rows.max(seen.rows);
        if recovered.roll_forward {
            rows = recovery::roll_forward(rows, recovered.reach().max(rows), &files.keys, &files.vectors)?;
        }
        let synced = recovered.slot.synced.max(seen.synced);
        let first = synced.max(open.examined()).min(rows);
        poisoning(&mut writer.poisoned, || files.renew_unwritten(first))?;
        let (claimed, behind) = (first.max(claimed.min(rows)), rows > recovered.slot.rows);
        let most_rows = EXAMINED_BYTES / files.vectors.record_bytes().saturating_add(files.keys.record_bytes()).max(1);
        if !recovered.roll_forward && !behind && rows - first > most_rows {
            open.examine(&*self.storage, &self.directory, first..first + most_rows, true)?;
            return Ok(None);
        }
        // Rows that a valid slot called not yet durable, and that do not hold, never were. Behind them a lost commit may
        // have called rows durable that were damaged since: they are kept, and hide older rows of their keys.
        open.examine(&*self.storage, &self.directory, first..claimed, true)?;
        open.examine(&*self.storage, &self.directory, claimed..rows, false)?;
        // What is written there next must not be written over what a failed sync left.
        files.forget_pages_behind(rows)?;
        if files.check_vectors_header().is_err() {
            files.write_vectors_header(synced)?;
        }
        let durable = recovered.roll_forward || behind || self.options.durability == Durability::Commit;
        if durable {
            poisoning(&mut writer.poisoned, || files.sync_rows())?;
        }
        poisoning(&mut writer.poisoned, || files.write_slot_again(recovered.in_file))?;
        if durable {
            // The slot that is overwritten next may be the only durable one.
            poisoning(&mut writer.poisoned, || files.sync_commit())?;
        }
        writer.unsynced |= !durable;
        open.adopt(&*self.storage, &self.directory, recovered.slot)?;
        if recovered.roll_forward || behind {
            self.commit(open, writer, Slot { epoch: recovered.next_epoch, rows, synced: rows }, true)?;
            return files.recover().map(Some);
        }
        writer.own = Some(recovered.in_file);
        Ok(Some(recovered))
    }
}
