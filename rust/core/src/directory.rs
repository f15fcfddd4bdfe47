//! The files of one cache directory: making them, opening them, and the commit record that says what counts.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::atomic;
use crate::error::{Error, Result};
use crate::format::commit::{EPOCH_OFFSETS, FILE_BYTES, Slot, Slots, fresh_file};
use crate::format::container::Container;
use crate::format::dtype::Dtype;
use crate::format::meta::{MAX_BYTES, Meta, Refusal};
use crate::format::{Defect, MAX_DIM, VERSION, keys, name};
use crate::lock::{HeldLock, Patience};
use crate::mmap::LiveMapping;
use crate::records::RecordsFile;
use crate::recovery::{self, Recovered};
use crate::storage::{Access, Metadata, Storage, StorageFile};

/// How often a commit record is read before it is called damaged: a reader may meet a writer in the middle of a write.
const COMMIT_READS: usize = 100;

/// Files that only mteb's own cache has.
const MTEB_FILES: [&str; 2] = ["index.json", "dimension"];

/// What a new cache will hold.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Numbers in a vector.
    pub dim: u32,
    /// NumPy's descriptor of a number.
    pub dtype: String,
    /// Which file holds the rows.
    pub container: Container,
    /// Which model and settings make the vectors.
    pub identity: Value,
    /// What kind of array the model returns.
    pub output: Value,
}

/// Reads and checks `meta.json`.
pub fn read_meta(storage: &dyn Storage, directory: &Path) -> Result<Meta> {
    let path = directory.join(name::META);
    let file = match storage.open(&path, Access::Read) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(Error::NotFound { path: directory.to_path_buf() });
        }
        opened => opened.map_err(Error::io("open", &path))?,
    };
    let len = file.length().map_err(Error::io("examine", &path))?;
    if len > MAX_BYTES {
        let (expected, found) = (format!("at most {MAX_BYTES} bytes"), format!("{len} bytes"));
        return Err(Error::CorruptMeta { path, expected, found });
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(&mut bytes, 0).map_err(Error::io("read", &path))?;
    Meta::parse(&bytes).map_err(|refusal| match refusal {
        Refusal::Newer(found) => Error::Version { path: path.clone(), expected: VERSION.into(), found },
        Refusal::Defect(Defect { expected, found }) => Error::CorruptMeta { path: path.clone(), expected, found },
    })
}

/// Refuses a directory without `meta.json` that holds anything but our own files without rows; gives their names.
pub(crate) fn check_unclaimed(storage: &dyn Storage, directory: &Path) -> Result<Vec<String>> {
    match storage.metadata(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("examine", directory)(error)),
        Ok(metadata) if !metadata.is_directory => {
            return Err(Error::Foreign { path: directory.to_path_buf(), found: "a file".into(), mteb: false });
        }
        Ok(_) => {}
    }
    let names = storage.list(directory).map_err(Error::io("list", directory))?;
    let files: Vec<String> =
        names.into_iter().filter(|(_, is_directory)| !is_directory).map(|(name, _)| name).collect();
    let mteb = files.iter().find(|name| MTEB_FILES.contains(&name.as_str()));
    let foreign = |found: &str, mteb| Error::Foreign { path: directory.to_path_buf(), found: found.to_owned(), mteb };
    if let Some(found) = mteb {
        return Err(foreign(found, true));
    }
    for file in &files {
        let plain = file.split_once(name::TEMPORARY).map_or(file.as_str(), |(finished, _)| finished);
        let longest = match plain {
            name::LOCK | name::INDEX_LOCK | name::META | name::PROVEN => u64::MAX,
            name::KEYS => keys::HEADER_BYTES as u64,
            name::COMMIT => FILE_BYTES as u64,
            _ => match Container::ALL.into_iter().find(|container| container.file_name() == plain) {
                Some(container) => container.header_bytes() as u64,
                None => return Err(foreign(file, false)),
            },
        };
        let path = directory.join(file);
        let len = match storage.metadata(&path) {
            // Another process is creating the cache and has renamed its temporary.
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            found => found.map_err(Error::io("examine", &path))?.len,
        };
        if len > longest && storage.metadata(&directory.join(name::META)).is_err() {
            return Err(foreign(&format!("{file} with rows but no {}", name::META), false));
        }
    }
    Ok(files)
}

/// Refuses a directory that lies on another machine, or will once it is made.
pub fn refuse_remote(storage: &dyn Storage, directory: &Path) -> Result<()> {
    let mut existing = directory;
    while storage.metadata(existing).is_err() {
        match existing.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => existing = parent,
            _ => return Ok(()),
        }
    }
    match storage.is_remote(existing).map_err(Error::io("examine", existing))? {
        true => Err(Error::Remote { path: directory.to_path_buf() }),
        false => Ok(()),
    }
}

/// Makes the cache unless the directory has one; either way it has one afterwards.
///
/// `shared` opens the directory to its group, if it is made here.
pub fn create(storage: &dyn Storage, directory: &Path, spec: &Spec, patience: Patience, shared: bool) -> Result<()> {
    let (meta_path, lock_path) = (directory.join(name::META), directory.join(name::LOCK));
    if storage.metadata(&meta_path).is_ok() {
        return Ok(());
    }
    let dtype = check_spec(spec)?;
    check_unclaimed(storage, directory)?;
    atomic::create_directories(storage, directory, shared)?;
    let _lock = HeldLock::acquire(storage, &lock_path, patience)?;
    if storage.metadata(&meta_path).is_ok() {
        return Ok(());
    }
    let unfinished = check_unclaimed(storage, directory)?;
    for file in unfinished.iter().filter(|file| ![name::LOCK, name::INDEX_LOCK, name::PROVEN].contains(&file.as_str()))
    {
        let path = directory.join(file);
        storage.remove(&path).map_err(Error::io("remove the unfinished file", &path))?;
    }
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(|error| {
        Error::io("draw random bytes for a cache", directory)(std::io::Error::other(error.to_string()))
    })?;
    let mut meta = Meta {
        uuid: [0; 16],
        dim: spec.dim,
        dtype,
        container: spec.container,
        seed: 0,
        identity: spec.identity.clone(),
        output: spec.output.clone(),
        made_by: concat!("dejavec ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let (uuid, seed) = random.split_at(16);
    meta.uuid.copy_from_slice(uuid);
    meta.seed = seed.first_chunk().copied().map_or(0, u64::from_le_bytes);
    let meta_bytes = meta.to_bytes();
    if meta_bytes.len() as u64 > MAX_BYTES {
        return Err(Error::Argument {
            expected: format!("an identity that fits {MAX_BYTES} bytes of meta.json"),
            found: format!("{} bytes", meta_bytes.len()),
        });
    }
    if Meta::parse(&meta_bytes).as_ref() != Ok(&meta) {
        return Err(Error::Argument {
            expected: "an identity that can be read back".into(),
            found: "one that is nested too deeply".into(),
        });
    }
    let header = spec.container.header(dtype, spec.dim, 0);
    create_file(storage, &directory.join(spec.container.file_name()), &header)?;
    create_file(storage, &directory.join(name::KEYS), &keys::header(&meta.uuid))?;
    create_file(storage, &directory.join(name::COMMIT), &fresh_file(&meta.uuid))?;
    // Once `meta.json` has its name, so must all others.
    storage.sync_dir(directory).map_err(Error::io("sync the directory", directory))?;
    atomic::sync_names(storage, directory)?;
    atomic::write(storage, &meta_path, &[&meta_bytes])
}

fn check_spec(spec: &Spec) -> Result<Dtype> {
    if !(1..=MAX_DIM).contains(&spec.dim) {
        return Err(Error::Argument {
            expected: format!("a dimension of 1 to {MAX_DIM}"),
            found: spec.dim.to_string(),
        });
    }
    let held = Dtype::ALL.into_iter().filter(|dtype| spec.container.holds(*dtype));
    held.clone().find(|dtype| dtype.descr == spec.dtype).ok_or_else(|| Error::Argument {
        expected: format!(
            "a dtype among {} for {}",
            held.map(|dtype| dtype.descr).collect::<Vec<_>>().join(" "),
            spec.container.file_name()
        ),
        found: spec.dtype.clone(),
    })
}

pub(crate) fn create_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    let file = storage.open(path, Access::Create).map_err(Error::io("create", path))?;
    file.write_at(bytes, 0).map_err(Error::io("write", path))?;
    file.sync().map_err(Error::io("sync", path))
}

/// The open files of a cache.
#[derive(Debug)]
pub struct CacheFiles {
    /// What the cache is.
    pub meta: Meta,
    /// `keys.bin`.
    pub keys: RecordsFile,
    /// The rows.
    pub vectors: RecordsFile,
    commit: Box<dyn StorageFile>,
    commit_path: PathBuf,
    /// None where it cannot be mapped so that changes are seen.
    commit_words: Option<LiveMapping>,
    /// Device and inode of the files above, and what `meta.json` was.
    identities: [Identity; 3],
    meta_file: Metadata,
}

/// Device and inode.
pub type Identity = (u64, u64);

impl CacheFiles {
    /// Opens the files without looking into them, except `meta.json`.
    pub fn open_unchecked(storage: &dyn Storage, directory: &Path, writable: bool) -> Result<CacheFiles> {
        let meta_path = directory.join(name::META);
        let meta = read_meta(storage, directory)?;
        let meta_file = storage.metadata(&meta_path).map_err(Error::io("examine", &meta_path))?;
        let records = |file, header_bytes, record_bytes| {
            RecordsFile::open(storage, directory.join(file), writable, header_bytes, record_bytes)
        };
        let keys = records(name::KEYS, keys::HEADER_BYTES, keys::RECORD_BYTES as u64)?;
        let container = meta.container;
        let vectors = records(container.file_name(), container.header_bytes(), meta.row_bytes())?;
        let commit_path = directory.join(name::COMMIT);
        let access = if writable { Access::Write } else { Access::Read };
        let commit = storage.open(&commit_path, access).map_err(Error::opening(&commit_path, true))?;
        let commit_identity = commit.metadata().map_err(Error::io("examine", &commit_path))?.id;
        let is_whole = commit.length().is_ok_and(|len| len >= FILE_BYTES as u64);
        let commit_words = if is_whole { commit.map_live(FILE_BYTES).ok() } else { None };
        let identities = [keys.identity()?, vectors.identity()?, commit_identity];
        Ok(CacheFiles { meta, keys, vectors, commit, commit_path, commit_words, identities, meta_file })
    }

    /// Device and inode of the key records, the rows and the commit record: they stay while the files are open.
    pub fn identities(&self) -> [Identity; 3] {
        self.identities
    }

    /// Whether the directory still has these files. A directory that was copied, restored or moved has others, of the
    /// same cache.
    pub fn are_in(&self, storage: &dyn Storage, directory: &Path) -> Result<bool> {
        let meta_path = directory.join(name::META);
        match storage.metadata(&meta_path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(Error::NotFound { path: directory.to_path_buf() });
            }
            Err(error) => return Err(Error::io("examine", &meta_path)(error)),
            Ok(found) if found != self.meta_file => return Ok(false),
            Ok(_) => {}
        }
        let paths = [self.keys.path(), self.vectors.path(), self.commit_path.as_path()];
        let is_there = |(path, identity): (&&Path, &Identity)| {
            storage.metadata(path).is_ok_and(|metadata| metadata.id == *identity)
        };
        Ok(paths.iter().zip(&self.identities).all(is_there))
    }

    /// Opens the files and checks their headers.
    pub fn open(storage: &dyn Storage, directory: &Path, writable: bool) -> Result<CacheFiles> {
        let files = CacheFiles::open_unchecked(storage, directory, writable)?;
        files.check_keys_header().map_err(|defect| defect.at(files.keys.path()))?;
        let Meta { container, dtype, dim, .. } = files.meta;
        let header = files.vectors.read_header()?;
        container.check_but_counts(&header, dtype, dim).map_err(|defect| defect.at(files.vectors.path()))?;
        Ok(files)
    }

    /// Checks the header of `keys.bin`.
    pub fn check_keys_header(&self) -> std::result::Result<(), Defect> {
        let bytes = self.keys.read_header().map_err(unreadable)?;
        keys::check(&bytes, &self.meta.uuid)
    }

    /// Checks the header of the rows file against `meta.json`, its counts included.
    pub fn check_vectors_header(&self) -> std::result::Result<(), Defect> {
        let bytes = self.vectors.read_header().map_err(unreadable)?;
        self.meta.container.check(&bytes, self.meta.dtype, self.meta.dim)
    }

    /// Writes the header of the rows file: what other programs see of it. `rows` are durable.
    pub fn write_vectors_header(&self, rows: u64) -> Result<()> {
        self.vectors.write_header(&self.meta.container.header(self.meta.dtype, self.meta.dim, rows))
    }

    /// The commit that counts.
    pub fn recover(&self) -> Result<Recovered> {
        let mut refused = Defect::new("a commit record", "none");
        for _ in 0..COMMIT_READS {
            match self.read_slots()? {
                Err(defect) => refused = defect,
                Ok(slots) => {
                    let whole_rows = self.whole_rows()?;
                    if let Some(recovered) = recovery::choose(&slots, whole_rows) {
                        return Ok(recovered);
                    }
                    refused = Defect::new(
                        format!("files that hold the {} rows of the last commit", slots.newest.rows),
                        format!("{whole_rows} whole rows"),
                    );
                }
            }
            std::thread::yield_now();
        }
        Err(refused.at(&self.commit_path))
    }

    /// The commit that counts, read again for a while if one seems lost: a reader may have met a writer.
    pub fn recover_at_rest(&self) -> Result<Recovered> {
        let mut recovered = self.recover()?;
        for _ in 1..COMMIT_READS {
            if !recovered.roll_forward {
                break;
            }
            std::thread::yield_now();
            recovered = self.recover()?;
        }
        Ok(recovered)
    }

    /// Whole rows that both files hold, committed or not.
    pub fn whole_rows(&self) -> Result<u64> {
        Ok(self.keys.whole_records()?.min(self.vectors.whole_records()?))
    }

    /// What stands where the slots have their epochs: it changes with each commit. Costs next to nothing where the file can
    /// be mapped.
    pub fn epochs(&self) -> Result<[u64; 2]> {
        let mut words = [0; 2];
        for (word, offset) in words.iter_mut().zip(EPOCH_OFFSETS) {
            *word = match self.commit_words.as_ref().and_then(|mapped| mapped.word(offset)) {
                Some(word) => word,
                None => {
                    let mut bytes = [0; 8];
                    let read = self.commit.read_at(&mut bytes, offset as u64);
                    read.map_err(Error::io("read", &self.commit_path))?;
                    u64::from_le_bytes(bytes)
                }
            };
        }
        Ok(words)
    }

    /// Refuses a commit record that was cut: what is mapped of it is no longer there.
    pub fn check_commit_length(&self) -> Result<()> {
        let len = self.commit.length().map_err(Error::io("examine", &self.commit_path))?;
        if len < FILE_BYTES as u64 {
            return Err(Error::corrupt(&self.commit_path, format!("{FILE_BYTES} bytes"), format!("{len} bytes")));
        }
        Ok(())
    }

    fn read_slots(&self) -> Result<std::result::Result<Slots, Defect>> {
        let len = self.commit.length().map_err(Error::io("examine", &self.commit_path))?;
        let mut bytes = [0; FILE_BYTES];
        if len < FILE_BYTES as u64 {
            return Ok(Err(Defect::new(format!("{FILE_BYTES} bytes"), format!("{len} bytes"))));
        }
        self.commit.read_at(&mut bytes, 0).map_err(Error::io("read", &self.commit_path))?;
        Ok(Slots::parse(&bytes, &self.meta.uuid))
    }

    /// Writes a commit into its slot; the other slot stays.
    pub fn write_slot(&self, slot: Slot) -> Result<()> {
        let bytes = slot.to_bytes(&self.meta.uuid);
        self.commit.write_at(&bytes, slot.offset()).map_err(Error::io("write", &self.commit_path))
    }

    /// Gives a commit file that was cut its full length again.
    pub fn restore_commit_length(&self) -> Result<()> {
        let len = self.commit.length().map_err(Error::io("examine", &self.commit_path))?;
        let missing = (FILE_BYTES as u64).saturating_sub(len);
        let zeros = vec![0; usize::try_from(missing).unwrap_or(FILE_BYTES)];
        self.commit.write_at(&zeros, len).map_err(Error::io("write", &self.commit_path))
    }

    /// Writes a slot once more, as it lies there, having had the system forget its page.
    pub fn write_slot_again(&self, slot: Slot) -> Result<()> {
        self.commit.forget_pages(0, None);
        self.write_slot(slot)
    }

    /// Has the system forget what it keeps in memory of what lies behind the first `rows` rows.
    pub fn forget_pages_behind(&self, rows: u64) -> Result<()> {
        self.vectors.forget_pages_behind(rows)?;
        self.keys.forget_pages_behind(rows)
    }

    /// Makes sure that rows from `rows` on can become durable, after writes that may have failed. They must be written again
    /// afterwards.
    pub fn renew_unwritten(&self, rows: u64) -> Result<()> {
        self.vectors.renew_unwritten(rows)?;
        self.keys.renew_unwritten(rows)
    }

    /// Makes the commit record durable.
    pub fn sync_commit(&self) -> Result<()> {
        self.commit.sync().map_err(Error::io("sync", &self.commit_path))
    }

    /// Makes all three files durable.
    pub fn sync(&self) -> Result<()> {
        self.sync_rows()?;
        self.sync_commit()
    }

    /// Makes the rows durable.
    pub fn sync_rows(&self) -> Result<()> {
        self.vectors.sync()?;
        self.keys.sync()
    }
}

fn unreadable(error: Error) -> Defect {
    Defect::new("a readable header", error.to_string())
}
