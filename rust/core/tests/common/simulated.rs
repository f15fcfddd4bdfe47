//! A file system in memory. It keeps a journal of all operations, injects faults, and computes what a power loss may
//! leave.

mod faults;
mod image;
mod journal;
mod moments;
mod pages;
pub mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dejavec_core::mmap::{Mapping, PrivateMapping};
use dejavec_core::storage::{Access, MemoryStorage, Metadata, Storage, StorageFile};

pub use self::faults::{Fault, Injection};
use self::faults::{Kind, error};
pub use self::image::Image;
use self::image::Name;
pub use self::journal::Turns;
use self::journal::{Change, Operation};
pub use self::moments::Moments;
pub use self::random::Random;

#[derive(Debug, Default)]
struct Inner {
    journal: Vec<Operation>,
    injection: Option<Injection>,
    /// How many syncs of each file failed. Each handle reports a failure once. A handle that is opened after the report
    /// does not report it.
    failures: BTreeMap<u64, usize>,
    /// How many bytes of a file each handle maps. The system keeps these pages.
    mapped: BTreeMap<(u64, usize), usize>,
    /// Bytes of each file with a failed first write, as on ext4: the disk has zeros there, even after later writes,
    /// while their page stays in memory.
    stuck: BTreeMap<u64, BTreeSet<usize>>,
    handles: usize,
    /// Pages that were dropped on request.
    pages_forgotten: usize,
    locks_taken: usize,
    is_remote: bool,
}

impl Inner {
    fn fires(&mut self, kind: Kind) -> Option<Fault> {
        self.injection.as_mut()?.fires(kind)
    }
}

/// The file system.
#[derive(Debug, Clone)]
pub struct Simulated {
    live: MemoryStorage,
    inner: Arc<Mutex<Inner>>,
    /// What was durable when the journal began.
    durable: Image,
}

#[derive(Debug)]
struct SimulatedFile {
    live: Box<dyn StorageFile>,
    number: u64,
    /// The content of a lock file is for people, so writes to it are not recorded.
    is_lock: bool,
    system: Simulated,
    handle: usize,
    /// Failed syncs of the file that this handle reported, or that were reported before it was opened.
    told: AtomicUsize,
}

fn step(inner: &Mutex<Inner>, kind: Kind) -> io::Result<()> {
    inner.lock().unwrap().fires(kind).map_or(Ok(()), |fault| Err(error(fault)))
}

impl Simulated {
    /// A file system in which all of the image is durable.
    pub fn of(image: &Image, root: &Path) -> Simulated {
        let live = MemoryStorage::with_root(root);
        let mut durable = Image::default();
        for (path, name) in &image.names {
            let parent = path.parent().unwrap();
            if parent != root && durable.names.get(parent) != Some(&Name::Directory) {
                continue; // Its directory is lost.
            }
            match name {
                Name::Directory => {
                    live.mkdir(path).unwrap();
                    durable.names.insert(path.clone(), Name::Directory);
                }
                Name::File(number) => {
                    let file = live.open(path, Access::Create).unwrap();
                    let bytes = image.files.get(number).cloned().unwrap_or_default();
                    file.write_at(&bytes, 0).unwrap();
                    let number = file.metadata().unwrap().id.1;
                    durable.names.insert(path.clone(), Name::File(number));
                    durable.files.insert(number, bytes);
                }
            }
        }
        Simulated { live, inner: Arc::default(), durable }
    }

    /// The current state as a durable image.
    pub fn settled(&self) -> Image {
        let journal = &self.inner.lock().unwrap().journal;
        Moments::at_the_end(self, journal).settled()
    }

    /// How many pages were dropped on request.
    pub fn pages_forgotten(&self) -> usize {
        self.inner.lock().unwrap().pages_forgotten
    }

    /// From now on it is a network file system.
    pub fn move_away(&self) {
        self.inner.lock().unwrap().is_remote = true;
    }

    pub fn locks_taken(&self) -> usize {
        self.inner.lock().unwrap().locks_taken
    }

    pub fn journal_len(&self) -> usize {
        self.inner.lock().unwrap().journal.len()
    }

    pub fn inject(&self, injection: Option<Injection>) -> Option<Injection> {
        std::mem::replace(&mut self.inner.lock().unwrap().injection, injection)
    }

    fn note(&self, change: Change) {
        self.inner.lock().unwrap().journal.push(Operation::Change(change));
    }
}

impl Storage for Simulated {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        step(&self.inner, Kind::Other)?;
        let is_new = self.live.metadata(path).is_err();
        let live = self.live.open(path, access)?;
        let number = live.metadata()?.id.1;
        if is_new {
            self.note(Change::Name { path: path.to_path_buf(), file: number });
        }
        let is_lock = access == Access::Lock;
        let mut inner = self.inner.lock().unwrap();
        inner.handles += 1;
        let (handle, told) = (inner.handles, inner.failures.get(&number).copied().unwrap_or(0));
        drop(inner);
        Ok(Box::new(SimulatedFile { live, number, is_lock, system: self.clone(), handle, told: told.into() }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, bool)>> {
        step(&self.inner, Kind::Other)?;
        self.live.list(directory)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        step(&self.inner, Kind::Other)?;
        self.live.metadata(path)
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        step(&self.inner, Kind::Other)?;
        self.live.mkdir(path)?;
        self.note(Change::Directory { path: path.to_path_buf() });
        Ok(())
    }

    fn is_remote(&self, _directory: &Path) -> io::Result<bool> {
        step(&self.inner, Kind::Other)?;
        Ok(self.inner.lock().unwrap().is_remote)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        step(&self.inner, Kind::Other)?;
        let file = self.live.metadata(from)?.id.1;
        self.live.rename(from, to)?;
        self.note(Change::Rename { from: from.to_path_buf(), to: to.to_path_buf(), file });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        step(&self.inner, Kind::Other)?;
        self.live.remove(path)?;
        self.note(Change::Removal { path: path.to_path_buf() });
        Ok(())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        step(&self.inner, Kind::Sync)?;
        self.live.sync_dir(directory)?;
        self.inner.lock().unwrap().journal.push(Operation::SyncDirectory { path: directory.to_path_buf() });
        Ok(())
    }
}

impl SimulatedFile {
    fn note_mapped(&self, len: usize) {
        let mut inner = self.system.inner.lock().unwrap();
        let mapped = inner.mapped.entry((self.number, self.handle)).or_default();
        *mapped = (*mapped).max(len);
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        self.system.inner.lock().unwrap().mapped.remove(&(self.number, self.handle));
    }
}

impl StorageFile for SimulatedFile {
    fn metadata(&self) -> io::Result<Metadata> {
        step(&self.system.inner, Kind::Other)?;
        self.live.metadata()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        step(&self.system.inner, Kind::Other)?;
        self.live.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.system.inner.lock().unwrap();
        let failed = inner.fires(Kind::Write);
        let bytes = match failed {
            None => bytes,
            Some(Fault::ShortWrite) => &bytes[..bytes.len() / 2],
            Some(fault) => return Err(error(fault)),
        };
        self.live.write_at(bytes, offset)?;
        if !self.is_lock && !bytes.is_empty() {
            let (mut on_disk, first) = (bytes.to_vec(), offset as usize);
            for at in inner.stuck.entry(self.number).or_default().range(first..first + bytes.len()) {
                on_disk[at - first] = 0;
            }
            let change = Change::Write { file: self.number, offset: first, bytes: on_disk.into() };
            inner.journal.push(Operation::Change(change));
        }
        failed.map_or(Ok(()), |fault| Err(error(fault)))
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        step(&self.system.inner, Kind::Other)?;
        self.note_mapped(len);
        self.live.map(len)
    }

    fn map_private(&self, offset: u64, len: usize) -> io::Result<PrivateMapping> {
        step(&self.system.inner, Kind::Other)?;
        self.note_mapped(offset as usize + len);
        self.live.map_private(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.system.inner.lock().unwrap();
        let file = self.number;
        let failed = inner.fires(Kind::Sync);
        if let Some(fault) = failed {
            let kept = if let Fault::SyncAfter(kept) = fault { kept } else { Turns(0) };
            self.system.note_stuck(&mut inner, file, kept);
            inner.journal.push(Operation::FailedSync { file, kept });
            *inner.failures.entry(file).or_default() += 1;
        } else {
            inner.journal.push(Operation::Sync { file });
        }
        let failures = inner.failures.get(&file).copied().unwrap_or(0);
        if failures > self.told.swap(failures, Ordering::Relaxed) {
            return Err(error(Fault::Sync));
        }
        Ok(())
    }

    fn forget_pages(&self, start: u64, end: Option<u64>) {
        self.system.forget_pages(&*self.live, start, end);
    }

    fn renew_unwritten(&self, _directory: &Path, start: u64) -> io::Result<()> {
        let is_stuck =
            |inner: &Inner| inner.stuck.get(&self.number).is_some_and(|at| at.range(start as usize..).count() > 0);
        if is_stuck(&self.system.inner.lock().unwrap()) {
            self.sync()?;
            self.system.inner.lock().unwrap().stuck.entry(self.number).or_default().split_off(&(start as usize));
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        step(&self.system.inner, Kind::Other)?;
        let taken = self.live.try_lock()?;
        self.system.inner.lock().unwrap().locks_taken += usize::from(taken);
        Ok(taken)
    }

    fn unlock(&self) -> io::Result<()> {
        self.live.unlock()
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}
