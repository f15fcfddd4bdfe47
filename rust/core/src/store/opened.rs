//! The files of a cache and what is known of their contents.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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
    /// The epochs in the commit record when it was looked at last and nothing was left to learn.
    looked_at: [AtomicU64; 2],
    /// How many keys were searched for among rows that are not in the index yet.
    searches: AtomicU64,
}

/// So many keys are searched for; then a handle is in use, and the rows are entered into the index.
const MOST_SEARCHES: u64 = 4;

/// No epoch: a commit of this number could not be followed.
const NEVER: u64 = u64::MAX;

/// What changes as rows are committed.
#[derive(Debug, Clone)]
pub struct State {
    pub committed: Slot,
    pub index: Index,
    /// Rows below this are as sure as what this handle writes: it wrote them, or wrote them again.
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
        let index = Index::of_snapshot(storage, directory, &files.meta.uuid, &keys);
        Ok(Open::with(files, State { committed, index, examined: 0 }, is_writable))
    }

    fn with(files: CacheFiles, state: State, is_writable: bool) -> Open {
        let looked_at = [const { AtomicU64::new(NEVER) }; 2];
        Open { files, is_writable, state: RwLock::new(state), looked_at, searches: AtomicU64::new(0) }
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
        Ok(Open::with(files, state, true))
    }

    /// Learns what others have committed, if the epochs say that there is something.
    #[inline]
    pub fn catch_up(&self, storage: &dyn Storage, directory: &Path) -> Result<()> {
        let epochs = self.files.epochs()?;
        let looked_at = [0, 1].map(|slot| self.looked_at[slot].load(Ordering::Relaxed));
        if epochs == looked_at { Ok(()) } else { self.look_again(storage, directory, epochs) }
    }

    #[cold]
    fn look_again(&self, storage: &dyn Storage, directory: &Path, epochs: [u64; 2]) -> Result<()> {
        let recovered = self.files.recover()?;
        self.adopt(storage, directory, recovered.slot)?;
        // Else a commit is half written or damaged, and the next read looks again.
        if epochs.contains(&recovered.in_file.epoch) && epochs.iter().all(|epoch| *epoch <= recovered.in_file.epoch) {
            for (looked_at, epoch) in self.looked_at.iter().zip(epochs) {
                looked_at.store(epoch, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    pub fn committed(&self) -> Slot {
        self.state.read().unwrap_or_else(PoisonError::into_inner).committed
    }

    /// The state, with all committed rows in its index. Whoever opens a cache does not wait for that.
    pub fn indexed(&self) -> Result<RwLockReadGuard<'_, State>> {
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if state.index.rows() >= state.committed.rows {
                return Ok(state);
            }
            drop(state);
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let keys = self.keys(state.committed.rows)?;
            state.index.extend(&keys);
        }
    }

    /// The newest row of one key, with the records that it was found in and the commit that they belong to.
    pub fn newest_row(&self, key: &Key) -> Result<(Option<u64>, Keys, Slot)> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys(state.committed.rows)?;
        if state.index.rows() >= state.committed.rows {
            return Ok((state.index.get(key, &keys), keys, state.committed));
        }
        if self.searches.fetch_add(1, Ordering::Relaxed) < MOST_SEARCHES {
            return Ok((state.index.search(key, &keys), keys, state.committed));
        }
        drop(state);
        let state = self.indexed()?;
        let keys = self.keys(state.committed.rows)?;
        Ok((state.index.get(key, &keys), keys, state.committed))
    }

    /// The state, with its index counted, and locked: rows that others enter meanwhile would not be.
    pub fn counted(&self) -> Result<RwLockWriteGuard<'_, State>> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys(state.committed.rows)?;
        state.index.extend(&keys);
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

    /// The first row of which this handle does not know that it lies on the disk, or will after its next sync.
    pub fn examined(&self) -> u64 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).examined
    }

    /// Takes note that the rows below this are as sure as what this handle writes.
    pub fn note_examined(&self, rows: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.examined = state.examined.max(rows);
    }

    /// Makes sure of rows that somebody else wrote, as [`recovery::write_again`] says.
    pub fn examine(&self, storage: &dyn Storage, directory: &Path, rows: Range<u64>, forget: bool) -> Result<()> {
        let end = rows.end;
        let lost = recovery::write_again(rows, forget, &self.files.keys, &self.files.vectors)?;
        if forget && !lost.is_empty() {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let keys = self.keys(state.committed.rows)?;
            state.index = Index::open(storage, directory, &self.files.meta.uuid, &keys);
        }
        self.note_examined(end);
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
