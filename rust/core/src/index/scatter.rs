//! Entries that are sorted into parts. Those that do not fit into a given memory go to a scratch file.

use std::path::Path;

use crate::atomic;
use crate::error::{Error, Result};
use crate::storage::{Storage, StorageFile};

/// Entries of `BYTES` bytes, a power of two, in parts. Each part keeps its order.
///
/// The scratch file is written in sequence: a part that fills its share of the memory is written behind all others. It
/// has no name, so that nothing is left of it however the process ends.
pub(super) struct Scatter<'a, const BYTES: usize> {
    storage: &'a dyn Storage,
    /// The file that the entries are for. The scratch file is made beside it.
    beside: &'a Path,
    parts: Vec<Part>,
    /// Bytes of a part that are kept in memory.
    most: usize,
    scratch: Option<Box<dyn StorageFile>>,
    /// Bytes of the scratch file.
    written: u64,
}

#[derive(Default)]
struct Part {
    waiting: Vec<u8>,
    /// Where its earlier bytes are in the scratch file, in pieces of `most` bytes.
    pieces: Vec<u64>,
}

impl<'a, const BYTES: usize> Scatter<'a, BYTES> {
    /// No entries yet, in `parts` parts, with `memory` bytes for all of them.
    pub(super) fn new(storage: &'a dyn Storage, beside: &'a Path, parts: u64, memory: usize) -> Self {
        let count = usize::try_from(parts).unwrap_or(usize::MAX);
        // A power of two, so that a growing buffer ends with this capacity.
        let most = 1 << (memory / count.max(1)).max(BYTES).ilog2();
        let parts = (0..count).map(|_| Part::default()).collect();
        Scatter { storage, beside, parts, most, scratch: None, written: 0 }
    }

    /// Adds an entry to a part. Without such a part it is dropped.
    pub(super) fn put(&mut self, part: u64, entry: &[u8; BYTES]) -> Result<()> {
        let Some(part) = usize::try_from(part).ok().and_then(|part| self.parts.get_mut(part)) else { return Ok(()) };
        part.waiting.extend_from_slice(entry);
        if part.waiting.len() < self.most {
            return Ok(());
        }
        let scratch = match &mut self.scratch {
            Some(scratch) => scratch,
            none => none.insert(atomic::scratch(self.storage, self.beside)?),
        };
        scratch.write_at(&part.waiting, self.written).map_err(Error::io("write a scratch file for", self.beside))?;
        part.pieces.push(self.written);
        self.written += part.waiting.len() as u64;
        part.waiting.clear();
        Ok(())
    }

    /// Hands over the entries of a part, in the order in which they came, and frees their memory.
    pub(super) fn take(&mut self, part: u64, mut each: impl FnMut(&[u8; BYTES]) -> Result<()>) -> Result<()> {
        let Some(part) = usize::try_from(part).ok().and_then(|part| self.parts.get_mut(part)) else { return Ok(()) };
        let Part { waiting, pieces } = std::mem::take(part);
        if let Some(scratch) = self.scratch.as_ref().filter(|_| !pieces.is_empty()) {
            let mut piece = vec![0; self.most];
            for offset in pieces {
                let read = scratch.read_at(&mut piece, offset);
                read.map_err(Error::io("read a scratch file for", self.beside))?;
                piece.as_chunks().0.iter().try_for_each(&mut each)?;
            }
        }
        waiting.as_chunks().0.iter().try_for_each(each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn each_part_keeps_its_entries_in_order_with_any_memory_and_leaves_no_file() {
        let root = Path::new("/c");
        let storage = MemoryStorage::with_root(root);
        let path = root.join("file");
        for memory in [0, 64, 1 << 20] {
            let mut scatter = Scatter::<8>::new(&storage, &path, 7, memory);
            for number in 0..1000_u64 {
                scatter.put(number % 7, &number.to_le_bytes()).unwrap();
            }
            assert_eq!(scatter.scratch.is_some(), memory < 8000, "{memory}");
            assert!(storage.list(root).unwrap().is_empty());
            for part in 0..7 {
                let mut found = Vec::new();
                let collect = |entry: &[u8; 8]| {
                    found.push(u64::from_le_bytes(*entry));
                    Ok(())
                };
                scatter.take(part, collect).unwrap();
                assert_eq!(found, (0..1000).filter(|number| number % 7 == part).collect::<Vec<_>>());
            }
            scatter.take(7, |_| panic!("no such part")).unwrap();
        }
    }
}
