//! Blocks that ext4 counts as unwritten although the bytes of their pages were written.
//!
//! ext4 allocates the blocks of new data as unwritten, and marks them as written when the write has succeeded. After a
//! write that failed the page in memory still points to its block, and nothing marks the block any more: later writes
//! of the page reach the disk, sync reports success, and once the page is dropped the block reads as zeros. Dropping
//! the page first mends that, but the system keeps a page that a process maps. Writing with `O_DIRECT` drops it by
//! force: the process reads the old disk content until the write is done.
//!
//! So such blocks are exchanged for other unwritten ones, as a defragmentation does. The kernel keeps the page,
//! detaches it from its old block, and looks the new block up at the next write.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::O_TMPFILE;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};

/// Bytes that are exchanged at a time: so much free room is needed.
const MOST_BYTES: u64 = 8 << 20;

/// Extents that the kernel is asked for at a time.
const EXTENTS: usize = 64;

/// `struct fiemap` of linux/fiemap.h, with room for extents.
#[repr(C)]
struct ExtentMap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved_64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const EXTENT_LAST: u32 = 0x1;
const EXTENT_UNWRITTEN: u32 = 0x800;

/// `struct move_extent` of fs/ext4/ext4.h: numbers of blocks.
#[repr(C)]
struct Exchange {
    reserved: u32,
    donor: u32,
    start: u64,
    donor_start: u64,
    length: u64,
    moved: u64,
}

/// Bytes of `struct fiemap` without extents, which its request number is made of.
const EXTENT_MAP_HEADER: usize = 32;

nix::ioctl_readwrite_bad!(fs_ioc_fiemap, nix::request_code_readwrite!(b'f', 11, EXTENT_MAP_HEADER), ExtentMap);
nix::ioctl_readwrite!(ext4_ioc_move_ext, b'f', 15, Exchange);

/// Exchanges the unwritten blocks of the file from `start` on. The caller writes all bytes there again afterwards. An
/// unnamed file in `directory` lends the new blocks.
///
/// Does nothing on other file systems, and where ext4 cannot exchange blocks (with the feature bigalloc).
pub fn renew(file: &File, directory: &Path, start: u64) -> io::Result<()> {
    if fstatfs(file)?.filesystem_type() != EXT4_SUPER_MAGIC || unwritten(file, start)?.is_empty() {
        return Ok(());
    }
    // Blocks of pages that wait to be written are unwritten too.
    file.sync_data()?;
    let ranges = unwritten(file, start)?;
    if ranges.is_empty() {
        return Ok(());
    }
    let donor = OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(O_TMPFILE).open(directory)?;
    for range in ranges {
        let mut first = range.start;
        while first < range.end {
            let end = range.end.min(first.saturating_add(MOST_BYTES));
            match exchange(file, &donor, first..end) {
                Err(Errno::EOPNOTSUPP) => return Ok(()),
                exchanged => exchanged?,
            }
            donor.set_len(0)?;
            first = end;
        }
    }
    Ok(())
}

/// Allocates blocks for the range in the donor, and exchanges them with the blocks of the file. The range is whole
/// blocks.
fn exchange(file: &File, donor: &File, range: Range<u64>) -> nix::Result<()> {
    let block = File::metadata(file).map_err(|_| Errno::EIO)?.blksize().max(1);
    let signed = |number: u64| i64::try_from(number).map_err(|_| Errno::EFBIG);
    fallocate(donor, FallocateFlags::empty(), signed(range.start)?, signed(range.end - range.start)?)?;
    let donor = u32::try_from(donor.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let (mut start, end) = (range.start / block, range.end.div_ceil(block));
    while start < end {
        let mut request = Exchange { reserved: 0, donor, start, donor_start: start, length: end - start, moved: 0 };
        // SAFETY: this request takes a `struct move_extent`, and `request` has its layout. The kernel reads and writes
        // no other memory of this process. Both descriptors stay open during the call. Mapped pages keep their bytes.
        unsafe { ext4_ioc_move_ext(file.as_raw_fd(), &raw mut request) }?;
        if request.moved == 0 {
            return Err(Errno::EIO);
        }
        start = start.saturating_add(request.moved);
    }
    Ok(())
}

/// The ranges of the file from `start` on whose blocks are allocated and unwritten. Empty where the file system does
/// not know.
fn unwritten(file: &File, start: u64) -> io::Result<Vec<Range<u64>>> {
    let mut found = extents(file, start)?;
    found.retain(|extent| extent.flags & EXTENT_UNWRITTEN != 0);
    Ok(found.iter().map(|extent| extent.logical..extent.logical.saturating_add(extent.length)).collect())
}

/// The extents of the file from `start` on.
fn extents(file: &File, start: u64) -> io::Result<Vec<Extent>> {
    let (mut start, end) = (start, File::metadata(file)?.len());
    let mut found = Vec::new();
    while start < end {
        let mut map = ExtentMap {
            start,
            length: end - start,
            flags: 0,
            mapped: 0,
            count: EXTENTS as u32,
            reserved: 0,
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: this request takes a `struct fiemap`, and `map` begins with its layout. The kernel writes at most
        // `count` extents behind it, and `map` has room for them. The descriptor stays open during the call.
        match unsafe { fs_ioc_fiemap(file.as_raw_fd(), &raw mut map) } {
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY) => return Ok(found),
            asked => asked?,
        };
        let extents = map.extents.get(..map.mapped as usize).unwrap_or_default();
        found.extend_from_slice(extents);
        let next = extents.last().map_or(end, |last| last.logical.saturating_add(last.length));
        let is_last = extents.last().is_none_or(|last| last.flags & EXTENT_LAST != 0);
        start = if is_last || next <= start { end } else { next };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(std::mem::offset_of!(ExtentMap, extents), EXTENT_MAP_HEADER);
        assert_eq!((size_of::<Extent>(), size_of::<Exchange>()), (56, 40));
    }

    #[test]
    fn unwritten_blocks_are_exchanged_and_what_a_reader_maps_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile_in(directory.path()).unwrap();
        if fstatfs(&file).unwrap().filesystem_type() != EXT4_SUPER_MAGIC {
            return;
        }
        let block = File::metadata(&file).unwrap().blksize();
        file.write_all_at(&vec![1; block as usize], 0).unwrap();
        file.sync_all().unwrap();
        fallocate(&file, FallocateFlags::empty(), block as i64, 20 << 20).unwrap();
        let end = block + (20 << 20);
        let all = |ranges: Vec<Range<u64>>| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        let mapped = crate::mmap::Mapping::of_file(&file, end as usize).unwrap();
        assert_eq!((mapped[0], mapped[end as usize - 1]), (1, 0));
        assert_eq!(all(unwritten(&file, 0).unwrap()), 20 << 20);
        // The place on the disk of each block of the file. A later piece may get the blocks that an earlier one gave up.
        let places = || {
            let found = extents(&file, block).unwrap();
            let blocks = |extent: &Extent| (0..extent.length / block).map(|at| at * block).collect::<Vec<_>>();
            found
                .iter()
                .flat_map(|extent| blocks(extent).into_iter().map(|at| extent.physical + at))
                .collect::<Vec<_>>()
        };
        let before = places();
        renew(&file, directory.path(), 0).unwrap();
        assert_eq!(all(unwritten(&file, 0).unwrap()), 20 << 20, "they are unwritten still");
        let after = places();
        assert_eq!((before.len(), after.len()), ((20 << 20) / block as usize, before.len()));
        assert!(before.iter().zip(&after).all(|(one, other)| one != other), "{before:?}, then {after:?}");
        file.write_all_at(&vec![2; 20 << 20], block).unwrap();
        file.sync_all().unwrap();
        assert_eq!(unwritten(&file, 0).unwrap(), []);
        renew(&file, directory.path(), 0).unwrap();
        assert_eq!((mapped[0], mapped[end as usize - 1]), (1, 2));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
