//! The files of a cache and what is known of their contents.

use std::path::Path;
use std::sync::{PoisonError, RwLock};

use crate::directory::CacheFiles;
use crate::error::Result;
use crate::format::commit::Slot;
use crate::index::{Index, Keys};
use crate::storage::Storage;

/// One cache, as it was when its files were opened, and what was learnt since.
#[derive(Debug)]
pub struct Open {
    pub files: CacheFiles,
    pub state: RwLock<State>,
}

/// What changes as rows are committed.
#[derive(Debug)]
pub struct State {
    pub committed: Slot,
    pub index: Index,
}

impl Open {
    pub fn new(storage: &dyn Storage, directory: &Path, writable: bool) -> Result<Open> {
        let files = CacheFiles::open(storage, directory, writable)?;
        let committed = files.recover()?.slot;
        let keys = Keys::new(files.keys.map(committed.rows)?, files.meta.seed);
        files.vectors.check_length(committed.rows)?;
        let index = Index::open(storage, directory, &files.meta.uuid, &keys);
        Ok(Open { files, state: RwLock::new(State { committed, index }) })
    }

    pub fn committed(&self) -> Slot {
        self.state.read().unwrap_or_else(PoisonError::into_inner).committed
    }

    pub fn keys(&self, rows: u64) -> Result<Keys> {
        Ok(Keys::new(self.files.keys.map(rows)?, self.files.meta.seed))
    }

    /// Takes note of a commit. The row count of a live handle never decreases.
    pub fn adopt(&self, storage: &dyn Storage, directory: &Path, slot: Slot) -> Result<()> {
        let keys = self.keys(slot.rows)?;
        self.files.vectors.check_length(slot.rows)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let known = state.committed;
        if slot.rows > known.rows {
            state.index.extend(&keys);
            if state.index.wants_snapshot(slot.synced) {
                // Somebody may have written one since.
                state.index = Index::open(storage, directory, &self.files.meta.uuid, &keys);
            }
        }
        state.committed = Slot { rows: slot.rows.max(known.rows), synced: slot.synced.max(known.synced), ..slot };
        Ok(())
    }
}
