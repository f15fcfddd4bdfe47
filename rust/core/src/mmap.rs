//! Memory mappings, and what makes them safe to read.
//!
//! What is mapped is committed: rows below a cache's row count. No cooperating process changes them, with one
//! exception: the key record of a row that does not hold is zeroed in place, so a reader may see it half zeroed; it then
//! matches no key and no checksum. The commit record, which does change, is mapped as a [`LiveMapping`]: words that are
//! loaded one by one. Nobody shrinks a file. Whoever can write the directory can break both rules: then a
//! reader may see changing bytes, which every use here compares or checks before it trusts them, or be killed by SIGBUS.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, Mmap, MmapMut, MmapOptions, MmapRaw};

/// Read-only bytes of a file, shared with every process that maps it.
#[derive(Debug)]
pub enum Mapping {
    /// A mapping of a real file.
    File(Mmap),
    /// A copy, where there is nothing to map.
    Memory(Vec<u8>),
}

impl Mapping {
    /// Maps the first `len` bytes of the file. The caller has checked that the file is that long.
    pub fn of_file(file: &File, len: usize) -> io::Result<Mapping> {
        if len == 0 {
            return Ok(Mapping::Memory(Vec::new()));
        }
        // SAFETY: the mapping is read-only, and by the contract of this room the mapped range neither changes in a way
        // that code relies on nor vanishes, as long as only cooperating processes write the directory.
        let mapping = unsafe { MmapOptions::new().len(len).map(file)? };
        Ok(Mapping::File(mapping))
    }

    /// Tells the system that reads will be scattered (an index), so that it does not read ahead.
    pub fn expect_scattered_reads(&self) {
        if let Mapping::File(mapping) = self {
            // Only a hint: refusing it changes nothing.
            let _ = mapping.advise(Advice::Random);
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Mapping::File(mapping) => mapping,
            Mapping::Memory(bytes) => bytes,
        }
    }
}

/// The first bytes of a file as they are now: other processes change them.
#[derive(Debug)]
pub struct LiveMapping(MmapRaw);

impl LiveMapping {
    /// Maps the first `len` bytes of the file. The caller has checked that the file is that long.
    pub fn of_file(file: &File, len: usize) -> io::Result<LiveMapping> {
        Ok(LiveMapping(MmapOptions::new().len(len).map_raw_read_only(file)?))
    }

    /// The number that the eight bytes at `offset` are now; None if they are not mapped or `offset` is no multiple of eight.
    pub fn word(&self, offset: usize) -> Option<u64> {
        let end = offset.checked_add(size_of::<u64>())?;
        if end > self.0.len() || !offset.is_multiple_of(align_of::<AtomicU64>()) {
            return None;
        }
        // SAFETY: the eight bytes lie in the mapping, which lives as long as `self`, and are aligned, since a mapping begins
        // at a page. Rust makes no reference to them but this one, of an atomic, so that a change by another process is
        // one of a value that may change. A load does not write, so that a read-only page serves. As for the other
        // mappings of this room, nobody shrinks the file.
        let word = unsafe { &*self.0.as_ptr().add(offset).cast::<AtomicU64>() };
        Some(u64::from_le(word.load(Ordering::Acquire)))
    }
}

/// Bytes of a file that its holder may change without the file knowing (copy-on-write).
#[derive(Debug)]
pub enum PrivateMapping {
    /// A private mapping of a real file.
    File(MmapMut),
    /// A copy, where there is nothing to map.
    Memory(Vec<u8>),
}

impl PrivateMapping {
    /// Maps `len` bytes at `offset`, without reserving swap for pages that are never written. The caller has checked
    /// that the file reaches that far.
    pub fn of_file(file: &File, offset: u64, len: usize) -> io::Result<PrivateMapping> {
        // SAFETY: as for `Mapping::of_file`; writes go to pages of our own, which nobody else maps.
        let mapping = unsafe { MmapOptions::new().offset(offset).len(len).no_reserve_swap().map_copy(file)? };
        Ok(PrivateMapping::File(mapping))
    }
}

impl Deref for PrivateMapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            PrivateMapping::File(mapping) => mapping,
            PrivateMapping::Memory(bytes) => bytes,
        }
    }
}

impl DerefMut for PrivateMapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            PrivateMapping::File(mapping) => mapping,
            PrivateMapping::Memory(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_live_mapping_shows_what_the_file_has_now_and_nothing_behind_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 64]).unwrap();
        let mapping = LiveMapping::of_file(&file, 64).unwrap();
        assert_eq!([0, 8, 56].map(|offset| mapping.word(offset)), [Some(0); 3]);
        file.write_all_at(&0x0102_0304_0506_0708_u64.to_le_bytes(), 56).unwrap();
        assert_eq!(mapping.word(56), Some(0x0102_0304_0506_0708));
        for outside in [4, 57, 60, 64, usize::MAX, usize::MAX - 7] {
            assert_eq!(mapping.word(outside), None, "offset {outside}");
        }
    }
}
