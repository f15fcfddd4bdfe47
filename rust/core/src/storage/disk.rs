//! The real file system.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::{Access, Metadata, Storage, StorageFile};
use crate::mmap::{Mapping, PrivateMapping};

/// Files of the operating system. New directories are private to their owner (0700), and so are files (0600).
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskStorage;

impl From<&std::fs::Metadata> for Metadata {
    fn from(metadata: &std::fs::Metadata) -> Self {
        Metadata { len: metadata.len(), id: (metadata.dev(), metadata.ino()), is_directory: metadata.is_dir() }
    }
}

impl Storage for DiskStorage {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(access != Access::Read)
            .create(access == Access::Lock)
            .create_new(access == Access::Create)
            .mode(0o600)
            // Without O_NONBLOCK, opening a pipe in place of a file would wait for ever.
            .custom_flags(O_NOFOLLOW | O_NONBLOCK)
            .open(path)?;
        if file.metadata()?.is_file() {
            Ok(Box::new(file))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a regular file"))
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, bool)>> {
        std::fs::read_dir(directory)?
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_dir()))
            })
            .collect()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        Ok(Metadata::from(&std::fs::metadata(path)?))
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

impl StorageFile for File {
    fn metadata(&self) -> io::Result<Metadata> {
        Ok(Metadata::from(&File::metadata(self)?))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        Mapping::of_file(self, len)
    }

    fn map_private(&self, offset: u64, len: usize) -> io::Result<PrivateMapping> {
        if is_on_network(self) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "network file system"));
        }
        PrivateMapping::of_file(self, offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        match File::try_lock(self) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        File::unlock(self)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.as_raw_fd())
    }
}

/// Whether another machine may change the file behind our page cache (statfs(2), magic numbers of linux/magic.h and of
/// the file systems' own headers).
#[cfg(target_os = "linux")]
fn is_on_network(file: &File) -> bool {
    const NETWORK: [u32; 11] = [
        0x6969,      // NFS
        0x517B,      // SMB
        0xFE53_4D42, // SMB 2
        0xFF53_4D42, // CIFS
        0x0102_1997, // 9P
        0x00C3_6400, // Ceph
        0x0BD0_0BD0, // Lustre
        0x5346_414F, // AFS
        0x4750_4653, // GPFS
        0x7375_7245, // Coda
        0x6573_5546, // FUSE: nobody knows what lies behind it
    ];
    // The magic numbers are 32 bits wide, whatever the width of the field.
    nix::sys::statfs::fstatfs(file)
        .is_ok_and(|statistics| NETWORK.contains(&(statistics.filesystem_type().0 as u64 as u32)))
}

#[cfg(not(target_os = "linux"))]
fn is_on_network(_file: &File) -> bool {
    false
}
