//! One cache, open: look up, append, gather.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::directory::{self, CacheFiles, Spec};
use crate::error::{Error, Result};
use crate::format::commit::Slot;
use crate::format::keys::{RECORD_BYTES, Record};
use crate::format::meta::Meta;
use crate::format::{MAX_ROWS, name};
use crate::index::{self, Index, Keys};
use crate::key::{DEAD, Key};
use crate::lock::{HeldLock, Patience};
use crate::mmap::PrivateMapping;
use crate::parallel;
use crate::partition;
use crate::records::Records;
use crate::recovery::{self, Recovered};
use crate::storage::Storage;
use crate::vectors::{self, Verify};

/// Keys a piece of a parallel look-up holds, and the fewest that are worth a second thread.
const KEYS_PIECE: usize = 4096;
const KEYS_PER_THREAD: usize = 2048;

/// Rows a piece of parallel checksums holds, and the fewest that are worth a second thread.
const RECORDS_PIECE: usize = 512;
const RECORDS_PER_THREAD: usize = 512;

/// When what was appended is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the append group returns.
    Commit,
    /// When `sync` or `close` returns.
    Close,
}

/// How a store behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether it may write.
    pub writable: bool,
    /// When what it wrote is durable.
    pub durability: Durability,
    /// How long it waits for the writers' lock.
    pub patience: Patience,
}

/// What is known of the cache as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Committed rows, replaced and dead ones included.
    pub rows: u64,
    /// Different keys.
    pub keys: u64,
    /// Rows known to be durable.
    pub synced: u64,
    /// The number of the last commit.
    pub epoch: u64,
    /// Bytes of a row.
    pub row_bytes: u64,
    /// Bytes of all files in the directory.
    pub bytes_on_disk: u64,
    /// Rows covered by the index snapshot.
    pub snapshot_rows: u64,
    /// Rows covered by the index delta.
    pub delta_rows: u64,
}

/// The files of a cache and what is known of their contents.
#[derive(Debug)]
struct Open {
    files: CacheFiles,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    committed: Slot,
    index: Index,
}

/// What only the writing thread of this handle touches.
#[derive(Debug, Default)]
struct Writer {
    /// The commit that this handle wrote last.
    own_epoch: Option<u64>,
    /// Whether something is committed but not synced.
    unsynced: bool,
    /// Whether a sync failed: what is on disk is then unknown, and a retry may lie.
    poisoned: bool,
    /// Whether a snapshot could not be written; it is not tried again.
    snapshot_failed: bool,
}

/// An open cache directory. Its methods may be called from many threads.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    storage: Arc<dyn Storage>,
    options: Options,
    current: RwLock<Option<Arc<Open>>>,
    writer: Mutex<Writer>,
}

impl Open {
    fn new(storage: &dyn Storage, directory: &Path, writable: bool) -> Result<Open> {
        let files = CacheFiles::open(storage, directory, writable)?;
        let committed = files.recover()?.slot;
        let keys = Keys::new(files.keys.map(committed.rows)?, files.meta.seed);
        files.vectors.check_length(committed.rows)?;
        let index = Index::open(storage, directory, &files.meta.uuid, &keys);
        Ok(Open { files, state: RwLock::new(State { committed, index }) })
    }

    fn committed(&self) -> Slot {
        self.state.read().unwrap_or_else(PoisonError::into_inner).committed
    }

    fn keys(&self, rows: u64) -> Result<Keys> {
        Ok(Keys::new(self.files.keys.map(rows)?, self.files.meta.seed))
    }

    /// Takes note of a commit. The row count of a live handle never decreases.
    fn adopt(&self, storage: &dyn Storage, directory: &Path, slot: Slot) -> Result<()> {
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

impl Store {
    /// Opens the cache in `directory`. A directory that no cache can be made in is refused as [`Error::Foreign`].
    pub fn open(storage: Arc<dyn Storage>, directory: &Path, options: Options) -> Result<Store> {
        let open = match Open::new(&*storage, directory, options.writable) {
            Err(missing @ Error::NotFound { .. }) => {
                directory::check_unclaimed(&*storage, directory)?;
                return Err(missing);
            }
            opened => opened?,
        };
        Ok(Store {
            directory: directory.to_path_buf(),
            storage,
            options,
            current: RwLock::new(Some(Arc::new(open))),
            writer: Mutex::default(),
        })
    }

    /// Makes a cache in `directory`, or opens the one that is there if it holds the same dimension and dtype.
    pub fn create(storage: Arc<dyn Storage>, directory: &Path, spec: &Spec, options: Options) -> Result<Store> {
        directory::create(&*storage, directory, spec, options.patience)?;
        let store = Store::open(storage, directory, options)?;
        let meta = store.meta()?;
        let mismatch = |what, expected: &dyn ToString, found: &dyn ToString| Error::Mismatch {
            path: directory.to_path_buf(),
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        };
        if meta.dim != spec.dim {
            return Err(mismatch("dimension", &meta.dim, &spec.dim));
        }
        if meta.dtype.descr != spec.dtype {
            return Err(mismatch("dtype", &meta.dtype.descr, &spec.dtype));
        }
        Ok(store)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn current(&self) -> Result<Arc<Open>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(Arc::clone).ok_or_else(|| Error::Closed { path: self.directory.clone() })
    }

    /// What the cache is.
    pub fn meta(&self) -> Result<Meta> {
        Ok(self.current()?.files.meta.clone())
    }

    /// Committed rows that this handle knows of.
    pub fn rows(&self) -> Result<u64> {
        Ok(self.current()?.committed().rows)
    }

    /// Different keys in them.
    pub fn keys(&self) -> Result<u64> {
        let open = self.current()?;
        let state = open.state.read().unwrap_or_else(PoisonError::into_inner);
        Ok(state.index.keys())
    }

    /// Copies the keys of the committed rows into `keys`, one a row; those of dead rows are zeros.
    pub fn read_keys(&self, keys: &mut [Key]) -> Result<()> {
        let open = self.current()?;
        let records = open.files.keys.map(open.committed().rows.min(keys.len() as u64))?;
        same_length("keys", usize::try_from(records.rows()).unwrap_or(usize::MAX), keys.len())?;
        for (key, record) in keys.iter_mut().zip(records.bytes().as_chunks::<RECORD_BYTES>().0) {
            *key = Record::from_bytes(record).key;
        }
        Ok(())
    }

    /// Writes the newest row of each key, or [`partition::NO_ROW`], into `rows`.
    pub fn lookup(&self, keys: &[Key], rows: &mut [i64]) -> Result<()> {
        same_length("row numbers", keys.len(), rows.len())?;
        let open = self.current()?;
        let state = open.state.read().unwrap_or_else(PoisonError::into_inner);
        let committed = open.keys(state.committed.rows)?;
        let items = keys.len();
        let pieces: Vec<_> = keys.chunks(KEYS_PIECE).zip(rows.chunks_mut(KEYS_PIECE)).collect();
        parallel::for_each(pieces, items, KEYS_PER_THREAD, |(keys, rows)| {
            for (key, row) in keys.iter().zip(rows) {
                let newest = if *key == DEAD { None } else { state.index.get(key, &committed) };
                *row = newest.map_or(partition::NO_ROW, |row| row as i64);
            }
        });
        Ok(())
    }

    /// Looks up, and tells for each miss the first item with its key; see [`partition::first_of_each_miss`].
    pub fn partition(&self, keys: &[Key], rows: &mut [i64], first: &mut [i64]) -> Result<()> {
        same_length("positions", keys.len(), first.len())?;
        self.lookup(keys, rows)?;
        partition::first_of_each_miss(keys, rows, first);
        Ok(())
    }

    /// Copies the rows of `keys` into `out`; gives the positions that failed. See [`vectors::gather`].
    pub fn gather(&self, keys: &[Key], rows: &[i64], out: &mut [u8], verify: bool) -> Result<Vec<usize>> {
        let open = self.current()?;
        let row_bytes = usize::try_from(open.files.meta.row_bytes()).unwrap_or(usize::MAX);
        same_length("row numbers", keys.len(), rows.len())?;
        same_length("bytes of output", rows.len().saturating_mul(row_bytes), out.len())?;
        let committed = open.committed();
        let records = open.files.keys.map(committed.rows)?;
        vectors::gather(&open.files.vectors, &records, keys, rows, out, verify_mode(verify, committed))
    }

    /// Maps the rows of `keys`, from `first` on, for the caller alone; see [`vectors::map`].
    pub fn map_rows(&self, keys: &[Key], first: u64, verify: bool) -> Result<Option<(PrivateMapping, Vec<usize>)>> {
        let open = self.current()?;
        let committed = open.committed();
        let records = open.files.keys.map(committed.rows)?;
        vectors::map(&open.files.vectors, &records, keys, first, verify_mode(verify, committed))
    }

    /// All committed rows, shared and read-only.
    pub fn map_all(&self) -> Result<Records> {
        let open = self.current()?;
        open.files.vectors.map(open.committed().rows)
    }

    /// Learns what others have committed; gives the row count.
    ///
    /// If the directory was replaced by another cache, this handle moves to that one.
    pub fn refresh(&self) -> Result<u64> {
        let open = self.reopen_if_replaced()?;
        let slot = open.files.recover()?.slot;
        open.adopt(&*self.storage, &self.directory, slot)?;
        Ok(open.committed().rows)
    }

    fn reopen_if_replaced(&self) -> Result<Arc<Open>> {
        let open = self.current()?;
        if directory::read_meta(&*self.storage, &self.directory)?.uuid == open.files.meta.uuid {
            return Ok(open);
        }
        let fresh = Arc::new(Open::new(&*self.storage, &self.directory, self.options.writable)?);
        let (old, new) = (&open.files.meta, &fresh.files.meta);
        if (old.dim, old.dtype, &old.identity) != (new.dim, new.dtype, &new.identity) {
            return Err(Error::Mismatch {
                path: self.directory.clone(),
                what: "the vectors of",
                expected: format!("{} × {} {}", new.dim, new.dtype.descr, new.identity),
                found: format!("{} × {} {}", old.dim, old.dtype.descr, old.identity),
            });
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

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
            let committed = open.keys(state.committed.rows)?;
            let wanted = |position: &usize| match state.index.get(&keys[*position], &committed) {
                Some(newest) => seen.is_some_and(|seen| seen[*position] == newest as i64),
                None => true,
            };
            let positions: Vec<usize> = (0..keys.len()).filter(wanted).collect();
            Ok(Group::new(keys, vectors, row_bytes, positions))
        })?;
        self.write_snapshot_if_due();
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
        let stored = self.map_all()?;
        let open = self.current()?;
        let records = open.files.keys.map(stored.rows())?;
        let is_stored = |position: usize| {
            u64::try_from(rows[position]).is_ok_and(|row| {
                vectors::record(&records, row)
                    .is_some_and(|record| record.key == keys[position] && record.holds(row, vector(position)))
                    && stored.get(row) == Some(vector(position))
            })
        };
        let mut positions = partition::last_of_each_key(keys);
        positions.retain(|&position| !is_stored(position));
        let group = Group::new(keys, vectors, row_bytes, positions.clone());
        let seen: Vec<i64> = positions.iter().map(|&position| rows[position]).collect();
        self.append(&group.keys, &group.vectors, Some(&seen))
    }

    fn check_rows(&self, keys: &[Key], vectors: &[u8]) -> Result<usize> {
        let row_bytes = usize::try_from(self.current()?.files.meta.row_bytes()).unwrap_or(usize::MAX);
        same_length("bytes of vectors", keys.len().saturating_mul(row_bytes), vectors.len())?;
        match keys.contains(&DEAD) {
            true => Err(Error::Argument { expected: "SHA-256 keys".into(), found: "a key of zeros".into() }),
            false => Ok(row_bytes),
        }
    }

    /// Makes every committed row durable, whoever wrote it.
    pub fn sync(&self) -> Result<()> {
        let mut writer = self.writer();
        let (_lock, open, recovered) = self.begin_group(&mut writer)?;
        self.sync_all(&open, &mut writer)?;
        let Slot { rows, synced, .. } = open.committed();
        if synced < rows {
            self.commit(&open, &mut writer, Slot { epoch: recovered.next_epoch, rows, synced: rows }, true)?;
        }
        writer.unsynced = false;
        drop((writer, _lock));
        self.write_snapshot_if_due();
        Ok(())
    }

    /// Syncs what is not durable and lets go of the files. Later calls say that the store is closed.
    pub fn close(&self) -> Result<()> {
        if self.current().is_ok() && self.writer().unsynced {
            self.sync()?;
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// What is known of the cache as it is.
    pub fn statistics(&self) -> Result<Statistics> {
        let open = self.current()?;
        let names = self.storage.list(&self.directory).map_err(Error::io("list", &self.directory))?;
        let size = |name: &str| self.storage.metadata(&self.directory.join(name)).map_or(0, |metadata| metadata.len);
        let state = open.state.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Statistics {
            rows: state.committed.rows,
            keys: state.index.keys(),
            synced: state.committed.synced,
            epoch: state.committed.epoch,
            row_bytes: open.files.meta.row_bytes(),
            bytes_on_disk: names.iter().filter(|(_, is_directory)| !is_directory).map(|(name, _)| size(name)).sum(),
            snapshot_rows: state.index.snapshot_rows(),
            delta_rows: state.index.delta_rows(),
        })
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic under the mutex leaves at most an uncommitted group behind, which the next group overwrites.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self, writer: &Writer) -> Result<HeldLock> {
        if !self.options.writable {
            return Err(Error::ReadOnly { path: self.directory.clone() });
        }
        if writer.poisoned {
            return Err(Error::Poisoned { path: self.directory.clone() });
        }
        HeldLock::acquire(&*self.storage, &self.directory.join(name::LOCK), self.options.patience)
    }

    /// Takes the lock and learns what others committed.
    fn begin_group(&self, writer: &mut Writer) -> Result<(HeldLock, Arc<Open>, Recovered)> {
        let lock = self.lock(writer)?;
        let open = self.reopen_if_replaced()?;
        let recovered = self.learn(&open, writer)?;
        Ok((lock, open, recovered))
    }

    /// One append group: lock, learn what others committed, choose the rows, write, sync, commit, unlock.
    fn write_group<'a>(&self, choose: impl FnOnce(&Open) -> Result<Group<'a>>) -> Result<usize> {
        let mut writer = self.writer();
        let (_lock, open, recovered) = self.begin_group(&mut writer)?;
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
        open.files.vectors.write(committed.rows, &group.vectors)?;
        open.files.keys.write(committed.rows, &group.records(committed.rows))?;
        open.files.keys.clear_behind(rows)?;
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
        open.adopt(&*self.storage, &self.directory, recovered.slot)?;
        let own = writer.own_epoch == Some(recovered.slot.epoch) && !recovered.roll_forward;
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

    /// Writes an index snapshot if the delta has become long and nobody else is at it. Failing costs only time.
    fn write_snapshot_if_due(&self) {
        let Ok(open) = self.current() else { return };
        let (slot, due) = {
            let state = open.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.committed, state.index.wants_snapshot(state.committed.synced))
        };
        if !due || self.writer().snapshot_failed {
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
            Err(_) => self.writer().snapshot_failed = true,
        }
    }
}

/// The rows of one append group.
#[derive(Debug, Default)]
struct Group<'a> {
    keys: std::borrow::Cow<'a, [Key]>,
    vectors: std::borrow::Cow<'a, [u8]>,
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

fn verify_mode(verify: bool, committed: Slot) -> Verify {
    if verify { Verify::All } else { Verify::From(committed.synced) }
}

/// Runs a step whose failure leaves the disk in an unknown state.
fn poisoning<T>(poisoned: &mut bool, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = step();
    *poisoned |= done.is_err();
    done
}

fn same_length(what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(Error::Argument { expected: format!("{expected} {what}"), found: found.to_string() })
    }
}
