//! The open files of a cache, and the state that was read from them.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::Result;
use crate::files::CacheFiles;
use crate::format::commit::{Extent, Slot};
use crate::index::{DeltaLimit, Index, READ_AHEAD};
use crate::key::Key;
use crate::key_records::KeyRecords;
use crate::recovery;
use crate::storage::Storage;
use crate::store::Numbering;
use crate::{hollow, parallel, partition};

/// Keys a piece of a parallel look-up holds, and the fewest that are worth a second thread.
const KEYS_PIECE: usize = 4096;
const KEYS_PER_THREAD: usize = 2048;

/// The files of one cache, and the state that this handle knows.
#[derive(Debug)]
pub struct Open {
    pub files: CacheFiles,
    /// Whether the files are open for writing.
    pub is_writable: bool,
    pub state: RwLock<State>,
    /// The epochs of the commit record at the last complete look.
    looked_at: [AtomicU64; 2],
    /// How often rows that are not in the index were scanned for a key.
    searches: AtomicU64,
}

/// After this many scans the rows are entered into the index.
const MOST_SEARCHES: u64 = 4;

/// An epoch that no commit has, since no other could follow it.
const NEVER: u64 = u64::MAX;

/// The state that changes with each commit.
#[derive(Debug, Clone)]
pub struct State {
    pub slot: Slot,
    pub index: Index,
    /// This handle wrote the rows of this extent, or wrote them again. Its next sync makes them durable.
    pub examined: Extent,
}

impl State {
    /// Committed rows.
    #[inline]
    pub fn rows(&self) -> u64 {
        self.slot.committed.rows
    }

    /// Writes the newest row of each key, or [`partition::NO_ROW`], into `rows`, which has the same length. `records`
    /// are those of all committed rows.
    pub fn lookup(&self, records: &KeyRecords, keys: &[Key], rows: &mut [i64]) {
        let pieces: Vec<_> = keys.chunks(KEYS_PIECE).zip(rows.chunks_mut(KEYS_PIECE)).collect();
        parallel::for_each(pieces, keys.len(), KEYS_PER_THREAD, |(keys, rows)| {
            for (keys, rows) in keys.chunks(READ_AHEAD).zip(rows.chunks_mut(READ_AHEAD)) {
                self.index.read_ahead(keys, records);
                for (key, row) in keys.iter().zip(rows) {
                    *row = self.index.get(key, records).map_or(partition::NO_ROW, |row| row as i64);
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
        let slot = files.recover()?.slot;
        hollow::refuse(&files.keys, slot.committed.rows)?;
        let records = files.key_records(slot.committed.rows)?;
        files.rows.check_length(slot.committed)?;
        let index = Index::of_snapshot(storage, directory, &files.meta, &records, slot.erased);
        Ok(Open::with(files, State { slot, index, examined: Extent::default() }, is_writable))
    }

    fn with(files: CacheFiles, state: State, is_writable: bool) -> Open {
        let looked_at = [const { AtomicU64::new(NEVER) }; 2];
        Open { files, is_writable, state: RwLock::new(state), looked_at, searches: AtomicU64::new(0) }
    }

    /// The same cache, with its files open for writing.
    ///
    /// A handle that only reads opens no file for writing: in the layers of a container's image this copies the file.
    /// The copy replaces the file, so the old files are not used any more.
    pub fn for_writing(&self, storage: &dyn Storage, directory: &Path) -> Result<Open> {
        let files = CacheFiles::open(storage, directory, true)?;
        if Numbering::of(&files.meta) != Numbering::of(&self.files.meta) {
            return Open::over(files, storage, directory, true);
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Open::with(files, state, true))
    }

    /// Learns the commits of other handles, if the epochs have changed. Returns false if a compaction may have replaced
    /// the files: its last commit into the old ones is there for this.
    #[inline]
    pub fn catch_up(&self, storage: &dyn Storage, directory: &Path) -> Result<bool> {
        let epochs = self.files.epochs()?;
        let looked_at = [0, 1].map(|slot| self.looked_at[slot].load(Ordering::Relaxed));
        if epochs == looked_at { Ok(true) } else { self.look_again(storage, directory, epochs) }
    }

    #[cold]
    fn look_again(&self, storage: &dyn Storage, directory: &Path, epochs: [u64; 2]) -> Result<bool> {
        if !self.files.have_their_meta(storage, directory) {
            return Ok(false);
        }
        let recovered = self.files.recover()?;
        self.adopt(storage, directory, recovered.slot)?;
        // Otherwise a commit is half written or damaged, and the next read looks again.
        if epochs.contains(&recovered.in_file.epoch) && epochs.iter().all(|epoch| *epoch <= recovered.in_file.epoch) {
            for (looked_at, epoch) in self.looked_at.iter().zip(epochs) {
                looked_at.store(epoch, Ordering::Relaxed);
            }
        }
        Ok(true)
    }

    /// The last commit that this handle knows.
    pub fn slot(&self) -> Slot {
        self.state.read().unwrap_or_else(PoisonError::into_inner).slot
    }

    /// The state, with all committed rows in its index. Opening a cache does not wait for this.
    pub fn indexed(&self) -> Result<RwLockReadGuard<'_, State>> {
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if state.index.rows() >= state.rows() {
                return Ok(state);
            }
            drop(state);
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let records = self.key_records(state.rows())?;
            state.index.extend(&records);
        }
    }

    /// The newest row of one key, with the key records that were searched, and their commit.
    pub fn newest_row(&self, key: &Key) -> Result<(Option<u64>, KeyRecords, Slot)> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let records = self.key_records(state.rows())?;
        if state.index.rows() >= state.rows() {
            return Ok((state.index.get(key, &records), records, state.slot));
        }
        if self.searches.fetch_add(1, Ordering::Relaxed) < MOST_SEARCHES {
            return Ok((state.index.search(key, &records), records, state.slot));
        }
        drop(state);
        let state = self.indexed()?;
        let records = self.key_records(state.rows())?;
        Ok((state.index.get(key, &records), records, state.slot))
    }

    /// The state, with its index counted. Stays locked: later rows would not be counted.
    pub fn counted(&self) -> Result<RwLockWriteGuard<'_, State>> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let records = self.key_records(state.rows())?;
        state.index.extend(&records);
        state.index.count(&records);
        Ok(state)
    }

    /// The key records of the first `rows` rows.
    pub fn key_records(&self, rows: u64) -> Result<KeyRecords> {
        self.files.key_records(rows)
    }

    /// What the next sync of this handle makes durable.
    pub fn examined(&self) -> Extent {
        self.state.read().unwrap_or_else(PoisonError::into_inner).examined
    }

    /// Notes that the next sync of this handle makes the rows of an extent durable.
    pub fn note_examined(&self, extent: Extent) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.examined = state.examined.longer(extent);
    }

    /// Writes rows of other handles again. See [`recovery::write_again`].
    pub fn examine(&self, storage: &dyn Storage, directory: &Path, rows: Range<u64>, forget: bool) -> Result<()> {
        let lost = recovery::write_again(rows, forget, &self.files.keys, &self.files.rows)?;
        if forget && !lost.is_empty() {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let records = self.key_records(state.rows())?;
            state.index = Index::open(storage, directory, &self.files.meta, &records, state.slot.erased);
        }
        Ok(())
    }

    /// Reads the records of committed rows again, since some were zeroed.
    pub fn forget_keys(&self, storage: &dyn Storage, directory: &Path) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Where nothing can be mapped, the records are a copy, which has keys that are gone.
        self.files.keys.forget_mapping();
        let records = self.key_records(state.rows())?;
        state.index = Index::of_snapshot(storage, directory, &self.files.meta, &records, state.slot.erased);
        Ok(())
    }

    /// Adopts a commit. The row count of a live handle never decreases.
    pub fn adopt(&self, storage: &dyn Storage, directory: &Path, slot: Slot) -> Result<()> {
        let Slot { committed, synced, .. } = slot;
        hollow::refuse(&self.files.keys, committed.rows)?;
        self.files.rows.check_length(committed)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let known = state.slot;
        if committed.rows > known.committed.rows {
            let records = self.key_records(committed.rows)?;
            state.index.extend(&records);
            if state.index.wants_snapshot(synced.rows, DeltaLimit::APPENDING) {
                let newer = state.index.over_newer(storage, directory, &self.files.meta, &records, slot.erased);
                if let Some(newer) = newer {
                    state.index = newer;
                }
            }
        }
        state.slot = Slot { committed: known.committed.longer(committed), synced: known.synced.longer(synced), ..slot };
        if slot.erased != known.erased {
            drop(state);
            self.forget_keys(storage, directory)?;
        }
        Ok(())
    }
}
