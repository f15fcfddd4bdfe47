//! The one seam between the engine and a file system. Crash and fault tests put their own below it.

mod disk;
mod memory;
#[cfg(target_os = "linux")]
mod unwritten;

use std::fmt::Debug;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

pub use disk::DiskStorage;
pub use memory::MemoryStorage;

use crate::mmap::{LiveMapping, Mapping, PrivateMapping};

/// The system keeps pages in folios of up to this many bytes, and forgets one only as a whole.
pub const LARGEST_FOLIO: u64 = 2 << 20;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; fails if the name is taken.
    Create,
    /// A lock file: made if it is missing.
    Lock,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Bytes of a file.
    pub len: u64,
    /// Device and inode: whether two names or handles are one file.
    pub id: (u64, u64),
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// A file system: everything the engine asks of it.
pub trait Storage: Send + Sync + Debug {
    /// Opens a regular file. Symbolic links, pipes and devices are refused.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>>;
    /// The names in a directory, with whether each is a directory.
    fn list(&self, directory: &Path) -> io::Result<Vec<(String, bool)>>;
    /// What lies at the path.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Makes one directory, for its owner alone.
    fn mkdir(&self, path: &Path) -> io::Result<()>;
    /// Opens a directory to its group: new files in it are then the group's to read and write. Nothing to do where
    /// there are no owners.
    fn share(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Whether the directory lies on another machine, whose locks may not hold here.
    fn is_remote(&self, _directory: &Path) -> io::Result<bool> {
        Ok(false)
    }
    /// Renames, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes names in a directory durable.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;
}

/// The first `len` bytes of a file, which the caller knows to be there: mapped, or read where files cannot be mapped.
pub fn map_or_read(file: &dyn StorageFile, len: usize) -> io::Result<Mapping> {
    file.map(len).or_else(|_| {
        let mut bytes = zeros(len)?;
        file.read_at(&mut bytes, 0)?;
        Ok(Mapping::Memory(bytes))
    })
}

/// So many zero bytes; an error where there is no memory for them.
pub fn zeros(len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// An open file.
pub trait StorageFile: Send + Sync + Debug {
    /// Its length and identity, now.
    fn metadata(&self) -> io::Result<Metadata>;
    /// Its length in bytes, now: asked for at every read.
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len)
    }
    /// Fills the buffer; an error if the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Maps the first `len` bytes, which the caller knows to be there.
    fn map(&self, len: usize) -> io::Result<Mapping>;
    /// Maps the first `len` bytes, which the caller knows to be there, to see how they change. Refused where others may
    /// change the file behind this machine's page cache.
    fn map_live(&self, _len: usize) -> io::Result<LiveMapping> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Maps a private copy-on-write range, which the caller knows to be there. Refused where others may change the file
    /// behind this machine's page cache.
    fn map_private(&self, offset: u64, len: usize) -> io::Result<PrivateMapping>;
    /// Makes the file's data and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Asks the system to forget what it keeps in memory of a range of the file, and of what shares a page with it; the end
    /// None is that of the file. Pages that are mapped, or not yet written, stay. Nothing to do where there is no such
    /// memory.
    fn forget_pages(&self, _start: u64, _end: Option<u64>) {}
    /// Makes sure that what is written from `start` on can become durable, after writes there that may have failed. What
    /// lies there must be written again afterwards; what others map stays as it is. `directory` is where the file lies.
    fn renew_unwritten(&self, _directory: &Path, _start: u64) -> io::Result<()> {
        Ok(())
    }
    /// Takes the file's exclusive lock if it is free; says whether.
    fn try_lock(&self) -> io::Result<bool>;
    /// Gives the lock back.
    fn unlock(&self) -> io::Result<()>;
    /// Takes the lock of one byte if it is free; says whether. It is apart from the file's lock, needs no such byte, and
    /// is given back when the file is closed. An error where there is no such lock.
    fn try_lock_byte(&self, _at: u64) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Gives the lock of a byte back.
    fn unlock_byte(&self, _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Whether another open file holds the lock of a byte before `end`.
    fn is_byte_locked_before(&self, _end: u64) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The descriptor that a forked child inherits, if any.
    fn descriptor(&self) -> Option<RawFd>;
}
