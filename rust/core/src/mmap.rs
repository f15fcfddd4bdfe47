//! Memory mappings, and why reading them is safe.
//!
//! Only committed rows are mapped. No cooperating process changes them, with one exception: the key record of a row
//! with a checksum mismatch is zeroed in place. A reader may see such a record half zeroed. It then matches no key and
//! no checksum. The commit record does change. It is mapped as a [`LiveMapping`], which loads single words. No
//! cooperating process shrinks a file. Another process that writes the directory can break both rules. Then a reader
//! may see changing bytes, which every use here compares or checks before it trusts them, or it is killed by SIGBUS.
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
    /// A copy, where nothing can be mapped.
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

    /// Turns the system's read-ahead off, for scattered reads (an index).
    pub fn expect_scattered_reads(&self) {
        if let Mapping::File(mapping) = self {
            // Only a hint: a failure changes nothing.
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

/// The first bytes of a file, which other processes change.
#[derive(Debug)]
pub struct LiveMapping(MmapRaw);

impl LiveMapping {
    /// Maps the first `len` bytes of the file. The caller has checked that the file is that long.
    pub fn of_file(file: &File, len: usize) -> io::Result<LiveMapping> {
        Ok(LiveMapping(MmapOptions::new().len(len).map_raw_read_only(file)?))
    }

    /// The current number in the eight bytes at `offset`. None if they are not mapped, or `offset` is no multiple of
    /// eight.
    pub fn word(&self, offset: usize) -> Option<u64> {
        let end = offset.checked_add(size_of::<u64>())?;
        if end > self.0.len() || !offset.is_multiple_of(align_of::<AtomicU64>()) {
            return None;
        }
        // SAFETY: the eight bytes are in the mapping, which lives as long as `self`. They are aligned, since a mapping
        // begins at a page. This is the only reference to them, and it is atomic, so another process may change them. A
        // load does not write, so a read-only page suffices. No cooperating process shrinks the file.
        let word = unsafe { &*self.0.as_ptr().add(offset).cast::<AtomicU64>() };
        Some(u64::from_le(word.load(Ordering::Acquire)))
    }
}

/// Bytes of a file that the holder may change without changing the file (copy-on-write).
#[derive(Debug)]
pub enum PrivateMapping {
    /// A private mapping of a real file.
    File(MmapMut),
    /// A copy, where nothing can be mapped.
    Memory(Vec<u8>),
}

impl PrivateMapping {
    /// Maps `len` bytes at `offset`, without reserving swap for pages that are never written. The caller has checked
    /// that the file reaches that far.
    pub fn of_file(file: &File, offset: u64, len: usize) -> io::Result<PrivateMapping> {
        // SAFETY: as for `Mapping::of_file`. Writes go to private pages, which no other process maps.
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
