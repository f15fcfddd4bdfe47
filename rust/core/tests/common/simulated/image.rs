//! The content of the disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dejavec_core::checksum;

use super::journal::Change;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Directory,
    File(u64),
}

/// The names and files on the disk.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub(super) names: BTreeMap<PathBuf, Name>,
    pub(super) files: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Image {
    /// Equal for equal images.
    pub fn fingerprint(&self) -> u64 {
        let mut sum = checksum::Running::default();
        for (path, name) in &self.names {
            sum.update(path.as_os_str().as_encoded_bytes());
            if let Name::File(number) = name {
                let bytes = self.files.get(number).map_or(&[][..], |bytes| bytes);
                sum.update(&(bytes.len() as u64).to_le_bytes());
                sum.update(bytes);
            }
        }
        sum.digest()
    }

    /// Applies a change, or the part of it that was kept.
    pub(super) fn apply(&mut self, change: &Change, kept: Kept) {
        match change {
            _ if kept == Kept::Nothing => {}
            Change::Directory { path } => drop(self.names.insert(path.clone(), Name::Directory)),
            Change::Name { path, file } => drop(self.names.insert(path.clone(), Name::File(*file))),
            Change::Rename { from, to, file } => {
                self.names.remove(from);
                self.names.insert(to.clone(), Name::File(*file));
            }
            Change::Removal { path } => drop(self.names.remove(path)),
            Change::Write { file, offset, bytes } => {
                let target = Arc::make_mut(self.files.entry(*file).or_default());
                let (from, to) = match kept {
                    Kept::Start(at) => (0, at),
                    Kept::End(at) => (at, bytes.len()),
                    Kept::Length => (bytes.len(), bytes.len()),
                    _ => (0, bytes.len()),
                };
                if target.len() < offset + to {
                    target.resize(offset + to, 0);
                }
                target[offset + from..offset + to].copy_from_slice(&bytes[from..to]);
            }
        }
    }
}

/// The part of a change that a power loss keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Nothing,
    Whole,
    /// The first bytes of a write, up to the end of a sector.
    Start(usize),
    /// The last bytes of a write, from the start of a sector on.
    End(usize),
    /// Only the new length of the file: zeros.
    Length,
}
