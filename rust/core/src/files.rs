//! The open files of a cache, and its commit record.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::atomic;
use crate::error::{Error, Result};
use crate::format::column::Column;
use crate::format::commit::{EPOCH_OFFSETS, Extent, FILE_BYTES, Slot, Slots};
use crate::format::meta::{MAX_BYTES, Meta, Refusal};
use crate::format::{Defect, NEWEST_VERSION, keys, name};
use crate::key_records::KeyRecords;
use crate::mmap::LiveMapping;
use crate::records::RecordsFile;
use crate::recovery::{self, Recovered};
use crate::rows::RowFiles;
use crate::storage::{Access, Metadata, Storage, StorageFile};
use crate::texts::TextFiles;

/// How often a commit record is read before it is called damaged: a reader may meet a writer in the middle of a write.
const COMMIT_READS: usize = 100;

/// How often `meta.json` is read again if its files are gone: a reader may meet a compaction.
const META_READS: usize = 100;

/// Reads and checks `meta.json`.
pub fn read_meta(storage: &dyn Storage, directory: &Path) -> Result<Meta> {
    read_meta_file(storage, directory).map(|(meta, _)| meta)
}

/// Reads and checks `meta.json`. Returns the metadata of the file too.
fn read_meta_file(storage: &dyn Storage, directory: &Path) -> Result<(Meta, Metadata)> {
    let path = directory.join(name::META);
    let file = match storage.open(&path, Access::Read) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(Error::NotFound { path: directory.to_path_buf() });
        }
        opened => opened.map_err(Error::io("open", &path))?,
    };
    let found = file.metadata().map_err(Error::io("examine", &path))?;
    let len = found.len;
    if len > MAX_BYTES {
        let (expected, found) = (format!("at most {MAX_BYTES} bytes"), format!("{len} bytes"));
        return Err(Error::CorruptMeta { path, expected, found });
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(&mut bytes, 0).map_err(Error::io("read", &path))?;
    let parsed = Meta::parse(&bytes).map_err(|refusal| match refusal {
        Refusal::Newer(found) => Error::Version { path: path.clone(), expected: NEWEST_VERSION.into(), found },
        Refusal::Defect(Defect { expected, found }) => Error::CorruptMeta { path: path.clone(), expected, found },
    });
    Ok((parsed?, found))
}

/// The open files of a cache.
#[derive(Debug)]
pub struct CacheFiles {
    /// The content of `meta.json`.
    pub meta: Meta,
    /// `keys.bin`.
    pub keys: RecordsFile,
    /// The rows.
    pub rows: RowFiles,
    commit: Box<dyn StorageFile>,
    commit_path: PathBuf,
    /// The commit record, mapped. None where it cannot be mapped.
    commit_words: Option<LiveMapping>,
    /// Device and inode of the files above, and the metadata of `meta.json`.
    identities: Vec<FileId>,
    meta_file: Metadata,
    is_writable: bool,
    /// The files of texts, once they were used.
    texts: Mutex<Option<Arc<TextFiles>>>,
}

/// Device and inode.
pub type FileId = (u64, u64);

impl CacheFiles {
    /// Opens the files. Only reads `meta.json`.
    ///
    /// If a compaction removes the files meanwhile, it opens the new ones.
    pub fn open_unchecked(storage: &dyn Storage, directory: &Path, writable: bool) -> Result<CacheFiles> {
        let (mut meta, mut meta_file) = read_meta_file(storage, directory)?;
        for _ in 0..META_READS {
            let opened = CacheFiles::of(storage, directory, meta, meta_file, writable);
            if opened.is_ok() || has_meta_file(storage, directory, &meta_file) {
                return opened;
            }
            (meta, meta_file) = read_meta_file(storage, directory)?;
        }
        CacheFiles::of(storage, directory, meta, meta_file, writable)
    }

    /// Opens the files that a `meta.json` names.
    pub(crate) fn of(
        storage: &dyn Storage,
        directory: &Path,
        meta: Meta,
        meta_file: Metadata,
        writable: bool,
    ) -> Result<CacheFiles> {
        let keys_path = directory.join(meta.file(name::KEYS));
        let keys = RecordsFile::open(storage, keys_path, writable, keys::HEADER_BYTES, keys::RECORD_BYTES as u64)?;
        let rows = RowFiles::open(&meta, |column| open_column(storage, directory, &meta, writable, column))?;
        let commit_path = directory.join(meta.file(name::COMMIT));
        let access = if writable { Access::Write } else { Access::Read };
        let commit = storage.open(&commit_path, access).map_err(Error::opening(&commit_path, true))?;
        let commit_identity = commit.metadata().map_err(Error::io("examine", &commit_path))?.id;
        let is_whole = commit.length().is_ok_and(|len| len >= FILE_BYTES as u64);
        let commit_words = if is_whole { commit.map_live(FILE_BYTES).ok() } else { None };
        let mut identities = vec![keys.identity()?, commit_identity];
        for file in rows.all() {
            identities.push(file.identity()?);
        }
        Ok(CacheFiles {
            meta,
            keys,
            rows,
            commit,
            commit_path,
            commit_words,
            identities,
            meta_file,
            is_writable: writable,
            texts: Mutex::default(),
        })
    }

    /// The file of the commit record.
    pub fn commit_path(&self) -> &Path {
        &self.commit_path
    }

    /// The metadata of `meta.json` when it was read.
    pub(crate) fn meta_file(&self) -> Metadata {
        self.meta_file
    }

    /// Whether the directory still has the `meta.json` of these files, or none. A compaction replaces it.
    pub(crate) fn have_their_meta(&self, storage: &dyn Storage, directory: &Path) -> bool {
        has_meta_file(storage, directory, &self.meta_file)
    }

    /// Device and inode of the key records, the commit record and the rows. They do not change while the files are
    /// open.
    pub fn identities(&self) -> &[FileId] {
        &self.identities
    }

    /// Whether the directory still has these files. A copied, restored or moved directory has other files with the same
    /// uuid.
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
        let paths = [self.keys.path(), &self.commit_path].into_iter().chain(self.rows.all().map(RecordsFile::path));
        let is_there =
            |(path, identity): (&Path, &FileId)| storage.metadata(path).is_ok_and(|metadata| metadata.id == *identity);
        Ok(paths.zip(&self.identities).all(is_there))
    }

    /// Opens the files and checks their headers.
    pub fn open(storage: &dyn Storage, directory: &Path, writable: bool) -> Result<CacheFiles> {
        let files = CacheFiles::open_unchecked(storage, directory, writable)?;
        files.check_keys_header().map_err(|defect| defect.at(files.keys.path()))?;
        for (file, column) in files.row_files() {
            column.check_but_counts(&file.read_header()?).map_err(|defect| defect.at(file.path()))?;
        }
        Ok(files)
    }

    /// The files of the rows, each with its description.
    pub fn row_files(&self) -> impl Iterator<Item = (&RecordsFile, Column)> {
        self.rows.all().zip(self.meta.columns())
    }

    fn known_texts(&self) -> MutexGuard<'_, Option<Arc<TextFiles>>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of texts that the directory has now. None if it has none, and for files that cannot be opened: texts
    /// are derived data.
    pub fn texts(&self, storage: &dyn Storage, directory: &Path) -> Option<Arc<TextFiles>> {
        self.open_texts(storage, directory).ok()
    }

    fn open_texts(&self, storage: &dyn Storage, directory: &Path) -> Result<Arc<TextFiles>> {
        let mut known = self.known_texts();
        if let Some(texts) = known.as_ref().filter(|texts| texts.are_in_place(storage)) {
            return Ok(Arc::clone(texts));
        }
        *known = None;
        let texts = TextFiles::open(|column| open_column(storage, directory, &self.meta, self.is_writable, column))?;
        Ok(Arc::clone(known.insert(Arc::new(texts))))
    }

    /// The files of texts, made if the directory has none. The caller holds the writers' lock.
    pub(crate) fn create_texts(&self, storage: &dyn Storage, directory: &Path) -> Result<Arc<TextFiles>> {
        for column in TextFiles::columns() {
            let path = directory.join(self.meta.file(column.file_name));
            match storage.metadata(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    atomic::write(storage, &path, &[&column.header(0)])?;
                }
                found => drop(found.map_err(Error::io("examine", &path))?),
            }
        }
        let texts = self.open_texts(storage, directory)?;
        texts.make_names_durable(storage, directory)?;
        Ok(texts)
    }

    /// The files of texts that are open, also if the directory has others now.
    pub(crate) fn open_files_of_texts(&self) -> Option<Arc<TextFiles>> {
        self.known_texts().clone()
    }

    /// Checks the header of `keys.bin`.
    pub fn check_keys_header(&self) -> std::result::Result<(), Defect> {
        let bytes = self.keys.read_header().map_err(unreadable)?;
        keys::check(&bytes, &self.meta.uuid, self.meta.version())
    }

    /// Checks the header of a file of rows against `meta.json`, with its counts.
    pub fn check_header(&self, file: &RecordsFile, column: Column) -> std::result::Result<(), Defect> {
        column.check(&file.read_header().map_err(unreadable)?)
    }

    /// Whether the headers of all files of rows are whole.
    pub fn has_whole_headers(&self) -> bool {
        self.row_files().all(|(file, column)| self.check_header(file, column).is_ok())
    }

    /// Writes the headers of the files of rows, which show durable rows to other programs.
    ///
    /// The offsets never show rows whose elements another file does not show, also after a power loss. So the other
    /// headers are synced first.
    pub fn write_row_headers(&self, synced: Extent) -> Result<()> {
        let indptr = self.meta.container.indptr();
        for (file, column) in self.row_files() {
            let is_of_offsets = Some(column) == indptr;
            if is_of_offsets {
                self.rows.of_elements().try_for_each(RecordsFile::sync)?;
            }
            let count = if is_of_offsets { synced.rows } else { synced.elements };
            file.write_header(&column.header(count))?;
        }
        Ok(())
    }

    /// The commit that counts.
    pub fn recover(&self) -> Result<Recovered> {
        let mut refused = Defect::new("a commit record", "none");
        for _ in 0..COMMIT_READS {
            match self.read_slots()? {
                Err(defect) => refused = defect,
                Ok(slots) => {
                    let whole = self.whole()?;
                    if let Some(recovered) = recovery::choose(&slots, whole) {
                        return Ok(recovered);
                    }
                    let amount = |Extent { rows, elements }| match self.meta.container.is_dense() {
                        true => format!("{rows} whole rows"),
                        false => format!("{rows} whole rows and {elements} elements"),
                    };
                    refused = Defect::new(
                        format!("files that hold the {} of the last commit", amount(slots.newest.committed)),
                        amount(whole),
                    );
                }
            }
            std::thread::yield_now();
        }
        Err(refused.at(&self.commit_path))
    }

    /// The commit that counts. Reads again for a while if a newer one seems lost: a reader may have met a writer.
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

    /// How much the files hold in full, committed or not.
    pub fn whole(&self) -> Result<Extent> {
        let whole = self.rows.whole()?;
        Ok(self.rows.extent(whole.rows.min(self.keys.whole_records()?), whole.elements))
    }

    /// The epochs of the two slots, unchecked. Each commit changes one of them. Takes nanoseconds where the file can be
    /// mapped.
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

    /// Rejects a commit record that is too short: its mapping would fault.
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
        Ok(Slots::parse(&bytes, &self.meta.uuid, self.meta.version()))
    }

    /// The key records of the first `rows` rows.
    pub fn key_records(&self, rows: u64) -> Result<KeyRecords> {
        Ok(KeyRecords::new(self.keys.map_or_copy(rows)?, self.meta.seed))
    }

    /// Writes a commit into its slot. The other slot does not change.
    pub fn write_slot(&self, slot: Slot) -> Result<()> {
        let bytes = slot.to_bytes(&self.meta.uuid, self.meta.version());
        self.commit.write_at(&bytes, slot.offset()).map_err(Error::io("write", &self.commit_path))
    }

    /// Extends a short commit file to its full length.
    pub fn restore_commit_length(&self) -> Result<()> {
        let len = self.commit.length().map_err(Error::io("examine", &self.commit_path))?;
        let missing = (FILE_BYTES as u64).saturating_sub(len);
        let zeros = vec![0; usize::try_from(missing).unwrap_or(FILE_BYTES)];
        self.commit.write_at(&zeros, len).map_err(Error::io("write", &self.commit_path))
    }

    /// Drops the page of a slot from the cache and writes the slot again.
    pub fn write_slot_again(&self, slot: Slot) -> Result<()> {
        self.commit.forget_pages(0, None);
        self.write_slot(slot)
    }

    /// Asks the system to drop the cached pages behind the rows of an extent.
    pub fn forget_pages_behind(&self, extent: Extent) -> Result<()> {
        self.rows.forget_pages_behind(extent)?;
        self.keys.forget_pages_behind(extent.rows)
    }

    /// Makes later writes behind an extent durable at the next sync, even if earlier writes failed. All rows there
    /// must be written again afterwards.
    pub fn renew_unwritten(&self, extent: Extent) -> Result<()> {
        self.rows.renew_unwritten(extent)?;
        self.keys.renew_unwritten(extent.rows)
    }

    /// Makes the commit record durable.
    pub fn sync_commit(&self) -> Result<()> {
        self.commit.sync().map_err(Error::io("sync", &self.commit_path))
    }

    /// Makes all files durable.
    pub fn sync(&self) -> Result<()> {
        self.sync_rows()?;
        self.sync_commit()
    }

    /// Makes the rows durable, and their texts.
    pub fn sync_rows(&self) -> Result<()> {
        self.rows.sync()?;
        self.open_files_of_texts().map_or(Ok(()), |texts| texts.sync())?;
        self.keys.sync()
    }
}

/// Whether the directory has this `meta.json`, or none.
fn has_meta_file(storage: &dyn Storage, directory: &Path, known: &Metadata) -> bool {
    storage.metadata(&directory.join(name::META)).map_or(true, |found| found == *known)
}

fn open_column(
    storage: &dyn Storage,
    directory: &Path,
    meta: &Meta,
    writable: bool,
    column: Column,
) -> Result<RecordsFile> {
    let path = directory.join(meta.file(column.file_name));
    RecordsFile::open(storage, path, writable, column.header_bytes(), column.element_bytes())
}

fn unreadable(error: Error) -> Defect {
    Defect::new("a readable header", error.to_string())
}
