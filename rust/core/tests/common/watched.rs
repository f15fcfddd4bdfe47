//! A file system that records how files are opened, and refuses to open or map some.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dejavec_core::mmap::{Mapping, PrivateMapping};
use dejavec_core::storage::{Access, Metadata, Storage, StorageFile};

/// Called with a file's name before it is opened or mapped. An error refuses it.
type Refusal = Box<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// Another file system, watched.
pub struct Watched {
    inner: Arc<dyn Storage>,
    opened: Mutex<Vec<(String, Access)>>,
    refuse_open: Refusal,
    refuse_map: Arc<Refusal>,
}

impl Watched {
    pub fn new(inner: Arc<dyn Storage>) -> Watched {
        Watched {
            inner,
            opened: Mutex::default(),
            refuse_open: Box::new(|_| Ok(())),
            refuse_map: Arc::new(Box::new(|_| Ok(()))),
        }
    }

    /// The same, where opening a file of some names fails.
    pub fn refusing(self, refuse: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Watched {
        Watched { refuse_open: Box::new(refuse), ..self }
    }

    /// The same, where mapping a file of some names fails.
    pub fn unmappable(self, refuse: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Watched {
        Watched { refuse_map: Arc::new(Box::new(refuse)), ..self }
    }

    /// How files were opened since the last call of this, by their names.
    pub fn opened(&self) -> BTreeMap<String, Vec<Access>> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for (name, access) in self.opened.lock().unwrap().drain(..) {
            found.entry(name).or_default().push(access);
        }
        found
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Storage for Watched {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        let name = name_of(path);
        (self.refuse_open)(&name)?;
        self.opened.lock().unwrap().push((name, access));
        let (inner, refuse_map) = (self.inner.open(path, access)?, Arc::clone(&self.refuse_map));
        Ok(Box::new(WatchedFile { inner, path: path.to_path_buf(), refuse_map }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, bool)>> {
        self.inner.list(directory)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.inner.mkdir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.inner.sync_dir(directory)
    }
}

struct WatchedFile {
    inner: Box<dyn StorageFile>,
    path: PathBuf,
    refuse_map: Arc<Refusal>,
}

impl std::fmt::Debug for WatchedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl StorageFile for WatchedFile {
    fn metadata(&self) -> io::Result<Metadata> {
        self.inner.metadata()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        (self.refuse_map)(&name_of(&self.path))?;
        self.inner.map(len)
    }

    fn map_private(&self, offset: u64, len: usize) -> io::Result<PrivateMapping> {
        (self.refuse_map)(&name_of(&self.path))?;
        self.inner.map_private(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.inner.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }

    fn descriptor(&self) -> Option<i32> {
        self.inner.descriptor()
    }
}
