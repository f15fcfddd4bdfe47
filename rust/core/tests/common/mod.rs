//! Shared parts of the engine's tests: small caches of four-byte rows.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses its own part, and fails by panicking"
)]

pub mod contents;
pub mod history;
pub mod simulated;
pub mod watched;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dejavec_core::directory::Spec;
use dejavec_core::format::container::Container;
use dejavec_core::key::{Key, of_text};
use dejavec_core::lock::Patience;
use dejavec_core::storage::{DiskStorage, MemoryStorage, Storage};
use dejavec_core::store::{Durability, Options, Store};

pub const DIM: usize = 4;

/// Whether all images and faults are wanted, not only the default ones: `DEJAVEC_CRASH_CALLS` is set.
pub fn is_whole() -> bool {
    std::env::var("DEJAVEC_CRASH_CALLS").is_ok()
}

pub fn spec() -> Spec {
    Spec {
        dim: DIM as u32,
        dtype: "|u1".into(),
        container: Container::Npy,
        identity: serde_json::json!({"model": "test"}),
        output: serde_json::json!({}),
    }
}

pub fn options(durability: Durability) -> Options {
    let patience = Patience { timeout: Duration::from_secs(60), interrupted: || false };
    Options { writable: true, durability, patience, shared: false, allow_network: false }
}

pub fn reader() -> Options {
    Options { writable: false, ..options(Durability::Commit) }
}

/// The place of a cache during a test.
pub struct Place {
    pub storage: Arc<dyn Storage>,
    pub path: PathBuf,
    /// Of a cache that is created here.
    pub container: Container,
    _directory: Option<tempfile::TempDir>,
}

pub fn in_memory() -> Place {
    let root = Path::new("/caches");
    Place::of(Arc::new(MemoryStorage::with_root(root)), root.join("one"))
}

pub fn on_disk() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::of(Arc::new(DiskStorage), directory.path().join("one"));
    Place { _directory: Some(directory), ..place }
}

impl Place {
    pub fn of(storage: Arc<dyn Storage>, path: PathBuf) -> Place {
        Place { storage, path, container: Container::Npy, _directory: None }
    }

    /// The same place, for caches in another container.
    pub fn holding(self, container: Container) -> Place {
        Place { container, ..self }
    }

    /// A cache with elements of four bytes.
    pub fn create(&self, durability: Durability) -> Store {
        let spec = contents::small_spec(self.container);
        Store::create(Arc::clone(&self.storage), &self.path, &spec, options(durability)).unwrap()
    }

    pub fn open(&self, options: Options) -> dejavec_core::Result<Store> {
        Store::open(Arc::clone(&self.storage), &self.path, options)
    }

    pub fn write(&self, file: &str, bytes: &[u8], offset: u64) {
        let access = dejavec_core::storage::Access::Write;
        self.storage.open(&self.path.join(file), access).unwrap().write_at(bytes, offset).unwrap();
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        let file = self.storage.open(&self.path.join(file), dejavec_core::storage::Access::Read).unwrap();
        let mut bytes = vec![0; file.metadata().unwrap().len as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Replaces a file by other bytes.
    pub fn replace(&self, file: &str, bytes: &[u8]) {
        self.storage.remove(&self.path.join(file)).unwrap();
        self.add(file, bytes);
    }

    /// Makes a file of these bytes.
    pub fn add(&self, file: &str, bytes: &[u8]) {
        let access = dejavec_core::storage::Access::Create;
        self.storage.open(&self.path.join(file), access).unwrap().write_at(bytes, 0).unwrap();
    }

    /// The files of the rows.
    pub fn files_of_rows(&self) -> Vec<&'static str> {
        contents::columns(self.container).iter().map(|column| column.file_name).collect()
    }

    /// All files of a cache in use, but for snapshots.
    pub fn files(&self) -> Vec<&'static str> {
        [&["meta.json", "keys.bin"], &*self.files_of_rows(), &["commit", "LOCK"]].concat()
    }

    /// Overwrites the numbers of some rows. Each must have elements.
    pub fn overwrite(&self, rows: impl IntoIterator<Item = u64>, byte: u8) {
        for row in rows {
            let (file, bytes) = contents::location(self, row..row + 1).swap_remove(0);
            assert!(!bytes.is_empty(), "row {row} has no numbers");
            self.write(file, &vec![byte; bytes.len()], bytes.start as u64);
        }
    }

    /// Copies the bytes of some rows of another cache, key records included, as far as it has them.
    pub fn copy_rows(&self, other: &Place, rows: Range<u64>) {
        for (file, bytes) in contents::location(other, rows) {
            self.write(file, &other.read(file)[bytes.clone()], bytes.start as u64);
        }
    }

    pub fn snapshots(&self) -> Vec<String> {
        let names = self.storage.list(&self.path).unwrap().into_iter().map(|(name, _)| name);
        names.filter(|name| name.ends_with(".idx")).collect()
    }
}

pub fn key(item: u64) -> Key {
    of_text(&item.to_le_bytes())
}

pub fn keys(items: impl IntoIterator<Item = u64>) -> Vec<Key> {
    items.into_iter().map(key).collect()
}

/// The vector of an item in one of its versions.
pub fn vector(item: u64, version: u8) -> [u8; DIM] {
    let key = key(item);
    [key[0], key[1], key[2], version]
}

pub fn vectors(items: impl IntoIterator<Item = u64>, version: u8) -> Vec<u8> {
    items.into_iter().flat_map(|item| vector(item, version)).collect()
}

/// The vectors of the items in the store. None for a miss. Panics if a row fails its checks.
pub fn get(store: &Store, items: &[u64]) -> Vec<Option<[u8; DIM]>> {
    let keys = keys(items.iter().copied());
    let mut rows = vec![0; keys.len()];
    store.lookup(&keys, &mut rows).unwrap();
    let mut out = vec![0xEE; keys.len() * DIM];
    assert_eq!(store.gather(&keys, &rows, &mut out, true).unwrap(), Vec::<usize>::new());
    rows.iter().zip(out.as_chunks().0).map(|(row, vector)| (*row >= 0).then_some(*vector)).collect()
}
