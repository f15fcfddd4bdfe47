//! The real file system.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

#[cfg(target_os = "linux")]
use nix::errno::Errno;
#[cfg(target_os = "linux")]
use nix::fcntl::{FcntlArg, fcntl};
#[cfg(target_os = "linux")]
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, flock};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

#[cfg(target_os = "linux")]
use super::LARGEST_FOLIO;
use super::{Access, Metadata, Storage, StorageFile};
use crate::mmap::{LiveMapping, Mapping, PrivateMapping};

/// Modes of group-shared files and directories. New files inherit the directory's group by its set-group-id bit.
const SHARED_DIRECTORY: u32 = 0o2770;
const SHARED_FILE: u32 = 0o660;

/// Files of the operating system. New directories (0700) and files (0600) are private to their owner. Files in a shared
/// directory are group-shared.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskStorage;

impl From<&std::fs::Metadata> for Metadata {
    fn from(metadata: &std::fs::Metadata) -> Self {
        Metadata { len: metadata.len(), id: (metadata.dev(), metadata.ino()), is_directory: metadata.is_dir() }
    }
}

impl Storage for DiskStorage {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        if access == Access::Lock {
            return match self.open(path, Access::Write) {
                Err(error) if error.kind() == ErrorKind::NotFound => match self.open(path, Access::Create) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => self.open(path, Access::Write),
                    created => created,
                },
                opened => opened,
            };
        }
        let file = OpenOptions::new()
            .read(true)
            .write(access != Access::Read)
            .create_new(access == Access::Create)
            .mode(0o600)
            // Without O_NONBLOCK, opening a pipe would wait for ever.
            .custom_flags(O_NOFOLLOW | O_NONBLOCK)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "expected a regular file"));
        }
        if access == Access::Create && is_shared(path.parent()) {
            // The umask would restrict the mode above.
            file.set_permissions(Permissions::from_mode(SHARED_FILE))?;
        }
        Ok(Box::new(file))
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

    fn share(&self, directory: &Path) -> io::Result<()> {
        std::fs::set_permissions(directory, Permissions::from_mode(SHARED_DIRECTORY))
    }

    fn is_remote(&self, directory: &Path) -> io::Result<bool> {
        Ok(distance(&File::open(directory)?) == Distance::Remote)
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
    fn length(&self) -> io::Result<u64> {
        // Takes a quarter of the time of statx(2). Nothing uses the file position that it moves.
        Seek::seek(&mut &*self, SeekFrom::End(0))
    }

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

    fn map_live(&self, len: usize) -> io::Result<LiveMapping> {
        require_local(self)?;
        LiveMapping::of_file(self, len)
    }

    fn map_private(&self, offset: u64, len: usize) -> io::Result<PrivateMapping> {
        require_local(self)?;
        PrivateMapping::of_file(self, offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn begin_writing(&self, start: u64, end: u64) {
        super::writeback::begin(self, start, end);
    }

    fn forget_pages(&self, start: u64, end: Option<u64>) {
        forget_pages(self, start, end);
    }

    #[cfg(target_os = "linux")]
    fn renew_unwritten(&self, directory: &Path, start: u64) -> io::Result<()> {
        super::unwritten::renew(self, directory, start)
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

    #[cfg(target_os = "linux")]
    fn try_lock_byte(&self, at: u64) -> io::Result<bool> {
        if distance(self) != Distance::Local {
            // Elsewhere a byte lock may conflict with the file's lock.
            return Err(ErrorKind::Unsupported.into());
        }
        match fcntl(self, FcntlArg::F_OFD_SETLK(&bytes(F_WRLCK, at, 1)?)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(target_os = "linux")]
    fn unlock_byte(&self, at: u64) -> io::Result<()> {
        fcntl(self, FcntlArg::F_OFD_SETLK(&bytes(F_UNLCK, at, 1)?))?;
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn first_byte_locked_before(&self, mut end: u64) -> io::Result<Option<u64>> {
        let mut first = None;
        // The system reports any of the locks in the range. A length of 0 would mean all bytes.
        while end > 0 {
            let mut found = bytes(F_WRLCK, 0, end)?;
            fcntl(self, FcntlArg::F_OFD_GETLK(&mut found))?;
            if i32::from(found.l_type) == F_UNLCK {
                break;
            }
            end = u64::try_from(found.l_start).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            first = Some(end);
        }
        Ok(first)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.as_raw_fd())
    }
}

/// The argument of fcntl(2) for the locks of some bytes.
#[cfg(target_os = "linux")]
fn bytes(kind: i32, start: u64, length: u64) -> io::Result<flock> {
    let too_large = |_| io::Error::from(ErrorKind::InvalidInput);
    Ok(flock {
        l_type: kind as i16,
        l_whence: SEEK_SET as i16,
        l_start: i64::try_from(start).map_err(too_large)?,
        l_len: i64::try_from(length).map_err(too_large)?,
        l_pid: 0,
    })
}

/// Refuses a file that others may change behind this machine's page cache.
fn require_local(file: &File) -> io::Result<()> {
    match distance(file) {
        Distance::Local => Ok(()),
        _ => Err(io::Error::new(ErrorKind::Unsupported, "not known to be a local file system")),
    }
}

#[cfg(target_os = "linux")]
fn forget_pages(file: &File, start: u64, end: Option<u64>) {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    let start = start / LARGEST_FOLIO * LARGEST_FOLIO;
    // A length of 0 reaches to the end of the file.
    let len = end.map_or(0, |end| end.next_multiple_of(LARGEST_FOLIO) - start);
    if let (Ok(start), Ok(len)) = (i64::try_from(start), i64::try_from(len)) {
        // Only advice: a failure changes nothing.
        let _ = posix_fadvise(file, start, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

#[cfg(not(target_os = "linux"))]
fn forget_pages(_file: &File, _start: u64, _end: Option<u64>) {}

/// Whether files in a directory are group-shared.
fn is_shared(directory: Option<&Path>) -> bool {
    let mode = directory.and_then(|directory| std::fs::metadata(directory).ok()).map_or(0, |found| found.mode());
    mode & SHARED_DIRECTORY == SHARED_DIRECTORY
}

/// Where a file system stores its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distance {
    /// On this machine.
    Local,
    /// Unknown: in another program, or on the host of a virtual machine.
    Unknown,
    /// On another machine. Others may change files behind this machine's page cache, and locks may not hold.
    Remote,
}

/// Classifies file systems by their magic numbers (statfs(2), linux/magic.h and the file systems' own headers). The
/// remote ones are those of the `stat` of coreutils.
#[cfg(any(target_os = "linux", test))]
fn distance_of(magic: u32) -> Distance {
    match magic {
        0x6969        // NFS
        | 0x517B      // SMB
        | 0xFE53_4D42 // SMB 2
        | 0xFF53_4D42 // CIFS
        | 0x00C3_6400 // Ceph
        | 0x0BD0_0BD0 // Lustre
        | 0x5346_414F // AFS
        | 0x6B41_4653 // AFS of the kernel (kAFS)
        | 0x4750_4653 // GPFS
        | 0x7375_7245 // Coda
        | 0x1983_0326 // BeeGFS, once FhGFS
        | 0xAAD7_AAEA // PanFS
        | 0x7461_636F // OCFS2
        | 0x0116_1970 // GFS2
        | 0xBEEF_DEAD // SNFS
        | 0x0131_11A8 // IBRIX
        | 0x6163_6673 // ACFS
        | 0xA501_FCF5 // VxFS
        | 0x564C      // Novell (NCP)
        | 0xBACB_ACBC // folders of a VMware host (vmhgfs)
        | 0x786F_4256 // folders of a VirtualBox host (vboxsf)
        | 0x7C7C_6673 // folders of a Parallels host
        => Distance::Remote,
        0x0102_1997   // 9P
        | 0x6573_5546 // FUSE
        => Distance::Unknown,
        _ => Distance::Local,
    }
}

#[cfg(target_os = "linux")]
fn distance(file: &File) -> Distance {
    // The magic numbers are 32 bits wide, whatever the width of the field.
    nix::sys::statfs::fstatfs(file)
        .map_or(Distance::Local, |statistics| distance_of(statistics.filesystem_type().0 as u64 as u32))
}

/// Classifies file systems by their names on macOS and the BSDs.
#[cfg(any(target_os = "macos", target_os = "freebsd", test))]
fn distance_named(name: &str) -> Distance {
    match name {
        "nfs" | "smbfs" | "cifs" | "afpfs" | "webdav" | "ftp" | "acfs" | "afs" | "lustre" | "vmhgfs" | "vboxsf"
        | "prl_fs" => Distance::Remote,
        "p9fs" | "AppleVirtIOFS" | "virtiofs" => Distance::Unknown,
        name if name.contains("fuse") => Distance::Unknown,
        _ => Distance::Local,
    }
}

#[cfg(any(target_os = "macos", target_os = "freebsd"))]
fn distance(file: &File) -> Distance {
    nix::sys::statfs::fstatfs(file)
        .map_or(Distance::Local, |statistics| distance_named(statistics.filesystem_type_name()))
}

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
fn distance(_file: &File) -> Distance {
    Distance::Local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_made_is_its_owners_alone_unless_the_directory_is_shared() {
        let root = tempfile::tempdir().unwrap();
        for (name, share, directory_mode, file_mode) in
            [("own", false, 0o700, 0o600), ("shared", true, SHARED_DIRECTORY, SHARED_FILE)]
        {
            let directory = root.path().join(name);
            DiskStorage.mkdir(&directory).unwrap();
            if share {
                DiskStorage.share(&directory).unwrap();
            }
            assert_eq!(mode(&directory), directory_mode);
            for (file, access) in [("created", Access::Create), ("lock", Access::Lock)] {
                DiskStorage.open(&directory.join(file), access).unwrap();
                assert_eq!(mode(&directory.join(file)), file_mode, "{name}/{file}");
            }
        }
    }

    #[test]
    fn links_pipes_and_directories_are_no_files() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::fs::write(path("file"), b"bytes").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "device", "directory", "pipe"] {
            for access in [Access::Read, Access::Write, Access::Lock, Access::Create] {
                assert!(DiskStorage.open(&path(name), access).is_err(), "{name} as {access:?}");
            }
        }
        assert!(DiskStorage.open(&path("file"), Access::Write).is_ok());
    }

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        for (magic, expected) in [
            (0x6969, Distance::Remote),
            (0xFF53_4D42, Distance::Remote),
            (0x1983_0326, Distance::Remote), // BeeGFS
            (0x6B41_4653, Distance::Remote), // kAFS
            (0xAAD7_AAEA, Distance::Remote), // PanFS
            (0x7461_636F, Distance::Remote), // OCFS2
            (0xBEEF_DEAD, Distance::Remote), // SNFS
            (0x0131_11A8, Distance::Remote), // IBRIX
            (0x6163_6673, Distance::Remote), // ACFS
            (0x564C, Distance::Remote),      // Novell
            (0xBACB_ACBC, Distance::Remote), // vmhgfs
            (0x786F_4256, Distance::Remote), // vboxsf
            (0x6573_5546, Distance::Unknown),
            (0xEF53, Distance::Local),      // ext4
            (0x0102_1994, Distance::Local), // tmpfs
        ] {
            assert_eq!(distance_of(magic), expected, "{magic:x}");
        }
        assert!(!DiskStorage.is_remote(Path::new("/")).unwrap());
        for (name, expected) in [
            ("nfs", Distance::Remote),
            ("smbfs", Distance::Remote),
            ("afpfs", Distance::Remote),
            ("macfuse", Distance::Unknown),
            ("osxfuse", Distance::Unknown),
            ("apfs", Distance::Local),
            ("hfs", Distance::Local),
        ] {
            assert_eq!(distance_named(name), expected, "{name}");
        }
    }
}
