//! The files of a cache and what is known of their contents.

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use crate::directory::CacheFiles;
use crate::error::Result;
use crate::format::commit::Slot;
use crate::index::{DeltaLimit, Index, Keys, READ_AHEAD};
use crate::key::Key;
use crate::recovery;
use crate::storage::Storage;
use crate::{hollow, parallel, partition};

/// Keys a piece of a parallel look-up holds, and the fewest that are worth a second thread.
const KEYS_PIECE: usize = 4096;
const KEYS_PER_THREAD: usize = 2048;

/// One cache, as it was when its files were opened, and what was learnt since.
#[derive(Debug)]
pub struct Open {
    pub files: CacheFiles,
    /// Whether the files are open for writing.
    pub is_writable: bool,
    pub state: RwLock<State>,
}

/// What changes as rows are committed.
#[derive(Debug, Clone)]
pub struct State {
    pub committed: Slot,
    pub index: Index,
    /// Rows below this, and durable ones, are known to hold.
    pub examined: u64,
}

impl State {
    /// Writes the newest row of each key, or [`partition::NO_ROW`], into `rows`, which is as long. `committed` are the
    /// records of all committed rows.
    pub fn lookup(&self, committed: &Keys, keys: &[Key], rows: &mut [i64]) {
        let pieces: Vec<_> = keys.chunks(KEYS_PIECE).zip(rows.chunks_mut(KEYS_PIECE)).collect();
        parallel::for_each(pieces, keys.len(), KEYS_PER_THREAD, |(keys, rows)| {
            for (keys, rows) in keys.chunks(READ_AHEAD).zip(rows.chunks_mut(READ_AHEAD)) {
                self.index.read_ahead(keys, committed);
                for (key, row) in keys.iter().zip(rows) {
                    *row = self.index.get(key, committed).map_or(partition::NO_ROW, |row| row as i64);
                }
            }
        });
    }
}

impl Open {
    /// Opens a cache for reading.
    pub fn new(storage: &dyn Storage, directory: &Path) -> Result<Open> {
        Open::over(CacheFiles::open(storage, directory, false)?, storage, directory, false)
    }

    fn over(files: CacheFiles, storage: &dyn Storage, directory: &Path, is_writable: bool) -> Result<Open> {
        let committed = files.recover()?.slot;
        hollow::refuse(&files.keys, committed.rows)?;
        let keys = Keys::new(files.keys.map_or_copy(committed.rows)?, files.meta.seed);
        files.vectors.check_length(committed.rows)?;
        let index = Index::open(storage, directory, &files.meta.uuid, &keys);
        Ok(Open { files, is_writable, state: RwLock::new(State { committed, index, examined: 0 }) })
    }

    /// The same cache, its files open for writing.
    ///
    /// Whoever only reads opens nothing for writing: where a file is copied as soon as it is opened so (the layers of a
    /// container's image), the copy is the file from then on, so nothing of the old ones is used further.
    pub fn for_writing(&self, storage: &dyn Storage, directory: &Path) -> Result<Open> {
        let files = CacheFiles::open(storage, directory, true)?;
        if files.meta.uuid != self.files.meta.uuid {
            return Open::over(files, storage, directory, true);
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Open { files, is_writable: true, state: RwLock::new(state) })
    }

    pub fn committed(&self) -> Slot {
        self.state.read().unwrap_or_else(PoisonError::into_inner).committed
    }

    /// The state, with its index counted, and locked: rows that others enter meanwhile would not be.
    pub fn counted(&self) -> Result<RwLockWriteGuard<'_, State>> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys(state.committed.rows)?;
        state.index.count(&keys);
        Ok(state)
    }

    /// Bytes of a row in memory.
    pub fn row_bytes(&self) -> usize {
        usize::try_from(self.files.meta.row_bytes()).unwrap_or(usize::MAX)
    }

    pub fn keys(&self, rows: u64) -> Result<Keys> {
        Ok(Keys::new(self.files.keys.map_or_copy(rows)?, self.files.meta.seed))
    }

    /// Zeroes the records of committed rows that were never synced and that a power loss took: nobody was told that
    /// they are durable, and they would hide older rows of their keys that are.
    pub fn forget_lost_rows(&self, storage: &dyn Storage, directory: &Path, slot: Slot) -> Result<()> {
        let examined = self.state.read().unwrap_or_else(PoisonError::into_inner).examined;
        let lost = recovery::lost_rows(slot.synced.max(examined)..slot.rows, &self.files.keys, &self.files.vectors)?;
        for row in &lost {
            self.files.keys.erase(*row)?;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.examined = slot.rows;
        if !lost.is_empty() {
            let keys = self.keys(state.committed.rows)?;
            state.index = Index::open(storage, directory, &self.files.meta.uuid, &keys);
        }
        Ok(())
    }

    /// Takes note of a commit. The row count of a live handle never decreases.
    pub fn adopt(&self, storage: &dyn Storage, directory: &Path, slot: Slot) -> Result<()> {
        hollow::refuse(&self.files.keys, slot.rows)?;
        let keys = self.keys(slot.rows)?;
        self.files.vectors.check_length(slot.rows)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let known = state.committed;
        if slot.rows > known.rows {
            state.index.extend(&keys);
            if state.index.wants_snapshot(slot.synced, DeltaLimit::APPENDING) {
                let newer = state.index.over_newer(storage, directory, &self.files.meta.uuid, &keys);
                if let Some(newer) = newer {
                    state.index = newer;
                }
            }
        }
        state.committed = Slot { rows: slot.rows.max(known.rows), synced: slot.synced.max(known.synced), ..slot };
        Ok(())
    }
}
