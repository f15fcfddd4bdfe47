//! When an index snapshot is written.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Store;
use crate::error::Result;
use crate::format::name;
use crate::index::{self, DeltaLimit, Index};
use crate::lock::HeldLock;

impl Store {
    /// Writes an index snapshot if the delta is longer than this and nobody else is at it. Failing costs only time.
    pub(super) fn write_snapshot_if_due(&self, limit: DeltaLimit) {
        let Ok(open) = self.current() else { return };
        let (slot, due) = {
            let state = open.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.committed, state.index.wants_snapshot(state.committed.synced, limit))
        };
        let is_last = limit == DeltaLimit::CLOSING;
        if !due || !is_last && slot.synced < self.next_snapshot_try.load(Ordering::Relaxed) {
            return;
        }
        let written = (|| -> Result<bool> {
            let lock = HeldLock::try_acquire(&*self.storage, &self.directory.join(name::INDEX_LOCK))?;
            if lock.is_none() {
                return Ok(false);
            }
            let durable = open.keys(slot.synced)?;
            index::write_snapshot(&*self.storage, &self.directory, &open.files.meta.uuid, slot.epoch, &durable)?;
            Ok(true)
        })();
        match written {
            Ok(true) => {
                let mut state = open.state.write().unwrap_or_else(PoisonError::into_inner);
                if let Ok(keys) = open.keys(state.committed.rows) {
                    state.index = Index::open(&*self.storage, &self.directory, &open.files.meta.uuid, &keys);
                }
            }
            Ok(false) => {}
            // Building one takes time, so it is tried again when another would be due, or when this store closes.
            Err(_) => self.next_snapshot_try.store(slot.synced + limit.after(slot.synced), Ordering::Relaxed),
        }
    }
}
