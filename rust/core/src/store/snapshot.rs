//! Writing index snapshots when they are due.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Store;
use crate::error::Result;
use crate::format::name;
use crate::index::{self, Building, Covered, DeltaLimit, Index};
use crate::lock::HeldLock;

impl Store {
    /// Writes an index snapshot if the delta is longer than `limit` and no other process is writing one. Best effort:
    /// without a snapshot, opening takes longer.
    pub(super) fn write_snapshot_if_due(&self, limit: DeltaLimit) {
        let Ok(open) = self.current() else { return };
        let (slot, due) = {
            let state = open.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.slot, state.index.wants_snapshot(state.slot.synced.rows, limit))
        };
        let is_last = limit == DeltaLimit::CLOSING;
        if !due || !is_last && slot.synced.rows < self.next_snapshot_try.load(Ordering::Relaxed) {
            return;
        }
        let written = (|| -> Result<bool> {
            let lock = HeldLock::try_acquire(&*self.storage, &self.directory.join(name::INDEX_LOCK))?;
            // Not of files that a compaction replaced.
            if lock.is_none() || !open.files.have_their_meta(&*self.storage, &self.directory) {
                return Ok(false);
            }
            let covered = Covered { keys: &open.files.keys, rows: slot.synced.rows, epoch: slot.epoch };
            let meta = &open.files.meta;
            index::write_snapshot(&*self.storage, &self.directory, meta, &covered, slot.erased, Building::default())?;
            Ok(true)
        })();
        match written {
            Ok(true) => {
                let mut state = open.state.write().unwrap_or_else(PoisonError::into_inner);
                if let Ok(records) = open.key_records(state.rows()) {
                    let (meta, erased) = (&open.files.meta, state.slot.erased);
                    state.index = Index::open(&*self.storage, &self.directory, meta, &records, erased);
                }
            }
            Ok(false) => {}
            // Building a snapshot takes time. The next try is when another one is due, or when this store closes.
            Err(_) => self.next_snapshot_try.store(slot.synced.rows + limit.after(slot.synced.rows), Ordering::Relaxed),
        }
    }
}
