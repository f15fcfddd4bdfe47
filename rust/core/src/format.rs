//! The bytes on disk: every structure is built and parsed here. Nothing here touches a file.
//!
//! `docs/format.md` draws each structure. Parsers are total: any bytes give a value or a [`Defect`], never a panic.

pub mod column;
pub mod commit;
pub mod container;
pub mod dtype;
pub mod flat;
pub mod keys;
pub mod meta;
pub mod npy;
pub mod snapshot;
pub mod texts;

use std::path::Path;

use crate::error::Error;

/// The newest format version that this build reads. Which one it writes depends on the container and the generation.
pub const NEWEST_VERSION: u32 = 4;

/// Largest dimension of a dense vector.
pub const MAX_DIM: u32 = 65_536;

/// Most elements of a cache.
pub const MAX_ELEMENTS: u64 = 1 << 40;

/// Most tokens of a row.
pub const MAX_TOKENS: u64 = 65_536;

/// Most rows of a cache: row number + 1 must fit the 40 bits of an index slot.
pub const MAX_ROWS: u64 = (1 << 40) - 2;

/// Names of the files of a cache directory.
pub mod name {
    /// The description of the cache. Creation renames it into place last.
    pub const META: &str = "meta.json";
    /// The writers' lock.
    pub const LOCK: &str = "LOCK";
    /// The lock for writing an index snapshot.
    pub const INDEX_LOCK: &str = "INDEX.LOCK";
    /// The key records.
    pub const KEYS: &str = "keys.bin";
    /// The two commit slots.
    pub const COMMIT: &str = "commit";
    /// The descriptions of models that are proven for the vectors. The core keeps the file and does not read it.
    pub const PROVEN: &str = "proven.json";
    /// Part of the name of every temporary file.
    pub const TEMPORARY: &str = ".tmp-";
    /// Whether a name is one of an index for approximate search. The core only removes them.
    pub fn is_of_search(file: &str) -> bool {
        file.starts_with("search-") && (file.ends_with(".faiss") || file.ends_with(".tmp"))
    }

    /// The name of a file in a generation of the cache: the generation stands before the ending. Generation 0 has no
    /// number in its names.
    pub fn in_generation(file: &str, generation: u64) -> String {
        match (generation, file.rsplit_once('.')) {
            (0, _) => file.to_owned(),
            (_, Some((stem, ending))) => format!("{stem}.{generation}.{ending}"),
            (_, None) => format!("{file}.{generation}"),
        }
    }

    /// The name that a file has in generation 0, and its generation.
    pub fn generation_of(file: &str) -> (String, u64) {
        let parts = file.rsplit_once('.').map(|(stem, ending)| match stem.rsplit_once('.') {
            Some((stem, number)) => (format!("{stem}.{ending}"), number),
            None => (stem.to_owned(), ending),
        });
        let numbered = parts.and_then(|(plain, number)| Some((plain, number.parse().ok()?)));
        // Only names that this module makes.
        match numbered
            .filter(|(plain, number)| *number > 0 && !plain.is_empty() && in_generation(plain, *number) == file)
        {
            Some(found) => found,
            None => (file.to_owned(), 0),
        }
    }
}

/// Identifies a cache. All its files hold it.
pub type Uuid = [u8; 16];

/// Bytes that break the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The content that the format demands.
    pub expected: String,
    /// The content that was read.
    pub found: String,
}

impl Defect {
    /// A defect with these two halves.
    pub fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Defect { expected: expected.into(), found: found.into() }
    }

    /// The error for a file with this defect.
    pub fn at(self, path: &Path) -> Error {
        Error::Corrupt { path: path.to_path_buf(), expected: self.expected, found: self.found }
    }
}

/// Hexadecimal digits of some bytes, for messages and `meta.json`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Copies `N` bytes at `offset`. A shorter slice gives zeros, so callers check its length first.
fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(slice) = bytes.get(offset..).and_then(|rest| rest.get(..N)) {
        out.copy_from_slice(slice);
    }
    out
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, offset))
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// Checks the common parts of all binary headers: length, magic, version, and the checksum in the last eight bytes.
fn check_header(bytes: &[u8], length: usize, magic: &[u8; 8], version: u32, what: &str) -> Result<(), Defect> {
    if bytes.len() != length {
        return Err(Defect::new(format!("{what} of {length} bytes"), format!("{} bytes", bytes.len())));
    }
    if bytes[..8] != *magic {
        return Err(Defect::new(format!("the magic bytes {} of {what}", hex(magic)), hex(&bytes[..8])));
    }
    let found = u32_at(bytes, 8);
    if found != version {
        return Err(Defect::new(format!("{what} of format version {version}"), format!("version {found}")));
    }
    let (stored, computed) = (u64_at(bytes, length - 8), crate::checksum::block(&bytes[..length - 8]));
    if stored != computed {
        return Err(Defect::new(format!("{what} with checksum {stored:016x}, as it says"), format!("{computed:016x}")));
    }
    Ok(())
}

fn seal(bytes: &mut [u8]) {
    let at = bytes.len() - 8;
    let sum = crate::checksum::block(&bytes[..at]).to_le_bytes();
    put(bytes, at, &sum);
}

#[cfg(test)]
mod tests {
    use super::name::{generation_of, in_generation};

    #[test]
    fn a_name_in_a_generation_is_read_back() {
        for (plain, second) in [
            ("vectors.npy", "vectors.2.npy"),
            ("keys.bin", "keys.2.bin"),
            ("commit", "commit.2"),
            ("index-7-100.idx", "index-7-100.2.idx"),
        ] {
            assert_eq!((in_generation(plain, 0), in_generation(plain, 2)), (plain.into(), second.into()));
            assert_eq!((generation_of(plain), generation_of(second)), ((plain.into(), 0), (plain.into(), 2)));
        }
        for other in ["commit.0", "keys.02.bin", "keys.+2.bin", "a..npy", ".2", "LOCK", "x.18446744073709551616.npy"] {
            assert_eq!(generation_of(other), (other.into(), 0), "{other}");
        }
    }
}
