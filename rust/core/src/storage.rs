//! The interface between the engine and a file system. Crash and fault tests implement it too.

mod disk;
mod memory;
#[cfg(target_os = "linux")]
mod unwritten;
#[cfg(target_os = "linux")]
mod writeback;

use std::fmt::Debug;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

pub use disk::DiskStorage;
pub use memory::MemoryStorage;

use crate::mmap::{LiveMapping, Mapping, PrivateMapping};

/// The largest folio of the page cache. The system drops a folio only as a whole.
pub const LARGEST_FOLIO: u64 = 2 << 20;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing. Fails if the name exists.
    Create,
    /// A lock file: created if it is missing.
    Lock,
}

/// The metadata of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Bytes of a file.
    pub len: u64,
    /// Device and inode. Two names or handles of one file have the same.
    pub id: (u64, u64),
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// A file system, as the engine uses it.
pub trait Storage: Send + Sync + Debug {
    /// Opens a regular file. Symbolic links, pipes and devices are refused.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>>;
    /// The names in a directory, with whether each is a directory.
    fn list(&self, directory: &Path) -> io::Result<Vec<(String, bool)>>;
    /// The metadata of the file or directory at the path.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Makes one directory with access for its owner only.
    fn mkdir(&self, path: &Path) -> io::Result<()>;
    /// Gives the group access to a directory: new files in it can be read and written by the group. Does nothing on a
    /// file system without owners.
    fn share(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Whether the directory is on a network file system, where locks may not hold.
    fn is_remote(&self, _directory: &Path) -> io::Result<bool> {
        Ok(false)
    }
    /// Renames, and replaces an existing file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes names in a directory durable.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;
}

/// The first `len` bytes of a file: mapped, or read where files cannot be mapped. The caller knows that the file is
/// that long.
pub fn map_or_read(file: &dyn StorageFile, len: usize) -> io::Result<Mapping> {
    file.map(len).or_else(|_| {
        let mut bytes = zeros(len)?;
        file.read_at(&mut bytes, 0)?;
        Ok(Mapping::Memory(bytes))
    })
}

/// `len` zero bytes. An error if there is no memory for them.
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
    /// Its current length in bytes. Every read asks for it.
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len)
    }
    /// Fills the buffer. An error if the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Maps the first `len` bytes. The caller knows that the file is that long.
    fn map(&self, len: usize) -> io::Result<Mapping>;
    /// Maps the first `len` bytes to see how they change. The caller knows that the file is that long. Refused where
    /// others may change the file behind this machine's page cache.
    fn map_live(&self, _len: usize) -> io::Result<LiveMapping> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Maps a private copy-on-write range. The caller knows that the file is that long. Refused where others may change
    /// the file behind this machine's page cache.
    fn map_private(&self, offset: u64, len: usize) -> io::Result<PrivateMapping>;
    /// Makes the file's data and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Asks the system to begin to write a range to the disk, and does not wait for it. So a sync that comes later has less
    /// to do. It promises nothing, and says nothing of errors: the sync does.
    fn begin_writing(&self, _start: u64, _end: u64) {}
    /// Asks the system to drop the cached pages of a range, and the folios that overlap it. The end None is the end of
    /// the file. Pages that are mapped or not yet written stay. Does nothing where there is no page cache.
    fn forget_pages(&self, _start: u64, _end: Option<u64>) {}
    /// Makes later writes from `start` on durable at the next sync, even if earlier writes there failed. The caller
    /// writes all bytes there again afterwards. Mappings of other processes do not change. `directory` is the file's
    /// directory.
    fn renew_unwritten(&self, _directory: &Path, _start: u64) -> io::Result<()> {
        Ok(())
    }
    /// Takes the file's exclusive lock if it is free. Returns whether it did.
    fn try_lock(&self) -> io::Result<bool>;
    /// Gives the lock back.
    fn unlock(&self) -> io::Result<()>;
    /// Takes the lock of one byte if it is free. Returns whether it did. This lock is independent of the file's lock.
    /// The byte need not exist. Closing the file unlocks it. An error where there is no such lock.
    fn try_lock_byte(&self, _at: u64) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Gives the lock of a byte back.
    fn unlock_byte(&self, _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The first byte before `end` whose lock another open file holds.
    fn first_byte_locked_before(&self, _end: u64) -> io::Result<Option<u64>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The descriptor that a forked child inherits, if any.
    fn descriptor(&self) -> Option<RawFd>;
}
