//! Memory mappings, and what makes them safe to read.
//!
//! What is mapped is committed: rows below a cache's row count. No cooperating process changes them, with one
//! exception: the key record of a row that does not hold is zeroed in place, so a reader may see it half zeroed; it then
//! matches no key and no checksum. Nobody shrinks a file. Whoever can write the directory can break both rules: then a
//! reader may see changing bytes, which every use here compares or checks before it trusts them, or be killed by SIGBUS.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::{Advice, Mmap, MmapMut, MmapOptions};

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
