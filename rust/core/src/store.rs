//! An open cache: look up, append, gather.

mod append;
mod compact;
mod delete;
mod fresh;
mod learn;
mod opened;
mod snapshot;
mod texts;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use self::append::Writer;
pub use self::compact::{Limits, Pruning};
use self::opened::Open;
use crate::bits::Bits;
use crate::directory::{self, Spec};
use crate::error::{Error, Result};
use crate::format::Uuid;
use crate::format::commit::Slot;
use crate::format::meta::Meta;
use crate::index::DeltaLimit;
use crate::key::{DEAD, Key};
use crate::lock::Patience;
use crate::partition;
use crate::records::{Records, RecordsFile};
use crate::storage::Storage;
use crate::target::Target;
use crate::vectors::{self, MappedRows, Verify};

/// When appended rows become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the append group returns.
    Commit,
    /// When `sync` or `close` returns.
    Close,
}

/// The options of a store.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether it may write.
    pub writable: bool,
    /// When its rows become durable.
    pub durability: Durability,
    /// How long it waits for the writers' lock.
    pub patience: Patience,
    /// Whether a directory that it makes is group-shared.
    pub shared: bool,
    /// Whether it writes on a network file system.
    pub allow_network: bool,
}

/// Counts and sizes of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Committed rows, with replaced and dead ones.
    pub rows: u64,
    /// Different keys.
    pub keys: u64,
    /// Rows known to be durable.
    pub synced: u64,
    /// The number of the last commit.
    pub epoch: u64,
    /// Elements of the committed rows.
    pub elements: u64,
    /// Bytes of a row. The mean where rows have any number of elements.
    pub row_bytes: u64,
    /// Bytes of all files in the directory.
    pub bytes_on_disk: u64,
    /// Rows covered by the index snapshot.
    pub snapshot_rows: u64,
    /// Rows covered by the index delta.
    pub delta_rows: u64,
    /// Rows whose text is kept.
    pub texts: u64,
    /// Rows that a compaction would drop: replaced and dead ones.
    pub reclaimable_rows: u64,
    /// Bytes of rows, keys and texts that a compaction would free.
    pub reclaimable_bytes: u64,
    /// How often the cache was compacted.
    pub generation: u64,
}

/// Which rows are the newest of their key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Committed rows.
    pub rows: u64,
    /// How many of them are replaced by a later row, or dead.
    pub replaced: u64,
    /// The newest ones.
    pub bits: Bits,
}

/// What row numbers belong to: the files of one generation of one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Numbering {
    uuid: Uuid,
    generation: u64,
}

impl Numbering {
    fn of(meta: &Meta) -> Numbering {
        Numbering { uuid: meta.uuid, generation: meta.generation }
    }
}

/// The rows that a look-up saw.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The row of each key, negative for none.
    pub rows: &'a [i64],
    /// What the numbers belong to: [`Store::numbering`] from before the look-up. None if there was no store.
    pub numbering: Option<Numbering>,
}

/// All committed rows, mapped and shared.
#[derive(Debug, Clone)]
pub struct SharedRows {
    /// Their numbers.
    pub data: Records,
    /// The index of each number, in a sparse cache.
    pub indices: Option<Records>,
    /// Where each row ends, in elements. None in a dense cache.
    pub ends: Option<Records>,
}

/// An open cache directory. Its methods may be called from many threads.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    storage: Arc<dyn Storage>,
    options: Options,
    current: RwLock<Option<Arc<Open>>>,
    writer: Mutex<Writer>,
    /// After a snapshot that could not be written, the next try waits for this many rows.
    next_snapshot_try: AtomicU64,
}

impl Store {
    /// Opens the cache in `directory`. A directory with foreign files is rejected with [`Error::Foreign`].
    pub fn open(storage: Arc<dyn Storage>, directory: &Path, options: Options) -> Result<Store> {
        let open = match Open::new(&*storage, directory) {
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
            next_snapshot_try: AtomicU64::new(0),
        })
    }

    /// Makes a cache in `directory`, or opens an existing one with the same dimension, dtype and container.
    pub fn create(storage: Arc<dyn Storage>, directory: &Path, spec: &Spec, options: Options) -> Result<Store> {
        if !options.allow_network {
            directory::refuse_remote(&*storage, directory)?;
        }
        directory::create(&*storage, directory, spec, options.patience, options.shared)?;
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
        if meta.container != spec.container {
            return Err(mismatch("container", &meta.container.name(), &spec.container.name()));
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

    /// The content of `meta.json`.
    pub fn meta(&self) -> Result<Meta> {
        Ok(self.current()?.files.meta.clone())
    }

    /// What the row numbers of this handle belong to. It may change with each call.
    pub fn numbering(&self) -> Result<Numbering> {
        Ok(Numbering::of(&self.current()?.files.meta))
    }

    /// Committed rows that this handle knows.
    pub fn rows(&self) -> Result<u64> {
        Ok(self.current()?.slot().committed.rows)
    }

    /// Different keys in all committed rows, including those of other handles.
    pub fn keys(&self) -> Result<u64> {
        let open = self.caught_up_safely()?;
        Ok(open.counted()?.index.keys())
    }

    /// Copies the keys of `rows` into `keys`. Rows that are dead or not committed give zeros.
    pub fn read_keys(&self, rows: &[i64], keys: &mut [Key]) -> Result<()> {
        same_length("keys", rows.len(), keys.len())?;
        let open = self.current()?;
        let records = open.key_records(open.slot().committed.rows)?;
        for (key, row) in keys.iter_mut().zip(rows) {
            *key = u64::try_from(*row).ok().and_then(|row| records.key(row)).unwrap_or(DEAD);
        }
        Ok(())
    }

    /// Writes the newest row of each key, or [`partition::NO_ROW`], into `rows`. Sees the commits of other handles.
    pub fn lookup(&self, keys: &[Key], rows: &mut [i64]) -> Result<()> {
        same_length("row numbers", keys.len(), rows.len())?;
        if let ([key], [row]) = (keys, &mut *rows) {
            let open = self.caught_up()?;
            *row = open.newest_row(key)?.0.map_or(partition::NO_ROW, |row| row as i64);
            return Ok(());
        }
        let open = self.caught_up_safely()?;
        let state = open.indexed()?;
        state.lookup(&open.key_records(state.rows())?, keys, rows);
        Ok(())
    }

    /// Looks up, and finds the first item with the key of each miss. See [`partition::first_of_each_miss`].
    pub fn partition(&self, keys: &[Key], rows: &mut [i64], first: &mut [i64]) -> Result<()> {
        same_length("positions", keys.len(), first.len())?;
        self.lookup(keys, rows)?;
        partition::first_of_each_miss(keys, rows, first);
        Ok(())
    }

    /// Which rows are the newest of their key.
    pub fn newest(&self) -> Result<Newest> {
        self.newest_of(&*self.current()?)
    }

    fn newest_of(&self, open: &Open) -> Result<Newest> {
        let state = open.counted()?;
        let rows = state.rows();
        let mut bits = Bits::all(rows);
        state.index.replaced().for_each(|row| bits.remove(row));
        Ok(Newest { rows, replaced: rows - bits.count(), bits })
    }

    /// Writes how many elements each of the `rows` has into `lengths`. See [`vectors::lengths`].
    pub fn lengths(&self, rows: &[i64], lengths: &mut [i64]) -> Result<()> {
        same_length("lengths", rows.len(), lengths.len())?;
        let open = self.current()?;
        vectors::lengths(&open.files.rows, open.slot().committed, rows, lengths)
    }

    /// Copies the rows of `keys` into a target. Returns the positions that failed. See [`vectors::gather`].
    pub fn gather<'a>(
        &self,
        keys: &[Key],
        rows: &[i64],
        target: impl Into<Target<'a>>,
        verify: bool,
    ) -> Result<Vec<usize>> {
        let (open, target) = (self.current()?, target.into());
        same_length("row numbers", keys.len(), rows.len())?;
        let container = open.files.meta.container;
        if !container.has_parts(target.indices.is_some(), target.indptr.is_some()) {
            let expected = format!("a target for the container {}", container.name());
            return Err(Error::Argument { expected, found: "one for another container".into() });
        }
        let sizes = open.files.rows.sizes();
        target.check(rows.len(), (sizes.data, sizes.indices))?;
        let slot = open.slot();
        let records = open.key_records(slot.committed.rows)?;
        let stored = (&records, slot.committed);
        vectors::gather(&open.files.rows, stored, keys, rows, target, verify_mode(verify, slot))
    }

    /// [`Store::gather`] for rows of float32 in a dense cache, converted to float16. `out` is half as long.
    pub fn gather_halves(&self, keys: &[Key], rows: &[i64], out: &mut [u8], verify: bool) -> Result<Vec<usize>> {
        let open = self.current()?;
        let meta = &open.files.meta;
        if meta.dtype.descr != "<f4" || !meta.container.is_dense() {
            let found = meta.form();
            return Err(Error::Argument { expected: "vectors of float32 (<f4), one a row".into(), found });
        }
        same_length("row numbers", keys.len(), rows.len())?;
        let row_bytes = open.files.rows.sizes().data;
        same_length("bytes of output", rows.len().saturating_mul(row_bytes / 2), out.len())?;
        let slot = open.slot();
        let records = open.key_records(slot.committed.rows)?;
        let stored = (&records, slot.committed);
        vectors::gather_halves(&open.files.rows, stored, keys, rows, out, verify_mode(verify, slot))
    }

    /// Copies the newest row of one key into `out`, in a dense cache. Returns whether there is one and its checksum
    /// matches. Sees the commits of other handles, without a system call.
    ///
    /// Combines [`Store::lookup`] and [`Store::gather`] for a single key.
    pub fn read_newest(&self, key: &Key, out: &mut [u8], verify: bool) -> Result<bool> {
        let open = self.caught_up()?;
        require_dense(&open)?;
        same_length("bytes of output", open.files.rows.sizes().data, out.len())?;
        let (row, records, slot) = open.newest_row(key)?;
        let Some(row) = row else { return Ok(false) };
        let stored = (&records, slot.committed);
        vectors::read_one(&open.files.rows, stored, key, row, out, verify_mode(verify, slot))
    }

    /// Maps the rows of `keys`, from `first` on, privately. See [`vectors::map`].
    pub fn map_rows(&self, keys: &[Key], first: u64, verify: bool) -> Result<Option<MappedRows>> {
        let open = self.current()?;
        if !open.files.meta.data().is_aligned() {
            return Ok(None);
        }
        let slot = open.slot();
        let records = open.key_records(slot.committed.rows)?;
        vectors::map(&open.files.rows, (&records, slot.committed), keys, first, verify_mode(verify, slot))
    }

    /// Reads the committed rows of a dense cache from `first` on into `out`. Returns the positions that failed. See
    /// [`vectors::read`].
    pub fn read_rows(&self, first: u64, out: &mut [u8], verify: bool) -> Result<Vec<usize>> {
        let open = self.current()?;
        require_dense(&open)?;
        let slot = open.slot();
        let (rows, row_bytes) = (slot.committed.rows, open.files.rows.sizes().data as u64);
        let count = out.len() as u64 / row_bytes;
        if first.checked_add(count).is_none_or(|end| end > rows) || count * row_bytes != out.len() as u64 {
            return Err(Error::Argument {
                expected: format!("whole rows among the {rows} committed"),
                found: format!("{} bytes from row {first} on", out.len()),
            });
        }
        let records = open.key_records(rows)?;
        open.files.rows.check_length(slot.committed)?;
        vectors::read(&open.files.rows, &records, first, out, verify_mode(verify, slot))
    }

    /// All committed rows, shared and read-only.
    pub fn map_all(&self) -> Result<SharedRows> {
        let open = self.current()?;
        let (files, committed) = (&open.files.rows, open.slot().committed);
        let map = |file: &RecordsFile| file.map(committed.elements);
        Ok(SharedRows {
            data: map(files.data())?,
            indices: files.indices().map(map).transpose()?,
            ends: files.indptr().map(|file| file.map(committed.rows)).transpose()?,
        })
    }

    /// Syncs rows that are not durable, and closes the files. Later calls fail with [`Error::Closed`].
    ///
    /// If this store wrote rows, it writes a snapshot of all but a few rows.
    pub fn close(&self) -> Result<()> {
        if self.current().is_ok() {
            let is_behind = self.writer().owes_a_sync();
            if is_behind {
                self.sync()?;
            }
            if self.writer().appended {
                self.write_snapshot_if_due(DeltaLimit::CLOSING);
            }
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Whether the text of any row is kept.
    pub fn has_texts(&self) -> Result<bool> {
        let open = self.current()?;
        let Some(texts) = open.files.texts(&*self.storage, &self.directory) else { return Ok(false) };
        let rows = open.counted()?.rows();
        let records = open.key_records(rows)?;
        for count in texts.counts(rows, |row| records.is_dead(row))? {
            if count? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Counts and sizes of the cache. The whole of it is looked at, but for the vectors.
    pub fn statistics(&self) -> Result<Statistics> {
        let open = self.current()?;
        let bytes_on_disk = self.bytes_on_disk()?;
        let sizes = open.files.rows.sizes();
        let element_bytes = (sizes.data + sizes.indices) as u64;
        let newest = self.newest_of(&open)?;
        let reclaimable_bytes = self.reclaimable(&open, &self.amount(&open, |row| newest.bits.has(row))?)?;
        let state = open.counted()?;
        let records = open.key_records(state.rows())?;
        let committed = state.slot.committed;
        Ok(Statistics {
            rows: state.rows(),
            keys: state.index.keys(),
            synced: state.slot.synced.rows,
            epoch: state.slot.epoch,
            elements: committed.elements,
            row_bytes: match open.files.meta.container.is_dense() {
                true => sizes.data as u64,
                false => committed.elements.saturating_mul(element_bytes) / committed.rows.max(1),
            },
            bytes_on_disk,
            snapshot_rows: state.index.snapshot_rows(),
            delta_rows: state.index.delta_rows(),
            texts: match open.files.texts(&*self.storage, &self.directory) {
                Some(texts) => texts.count(state.rows(), |row| records.is_dead(row))?,
                None => 0,
            },
            reclaimable_rows: newest.replaced,
            reclaimable_bytes,
            generation: open.files.meta.generation,
        })
    }
}

fn verify_mode(verify: bool, slot: Slot) -> Verify {
    if verify { Verify::All } else { Verify::From(slot.synced.rows) }
}

/// Rejects a cache whose rows have any number of elements.
fn require_dense(open: &Open) -> Result<()> {
    match open.files.meta.container.is_dense() {
        true => Ok(()),
        false => Err(Error::Argument { expected: "a cache of one vector a row".into(), found: open.files.meta.form() }),
    }
}

fn same_length(what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(Error::Argument { expected: format!("{expected} {what}"), found: found.to_string() })
    }
}
