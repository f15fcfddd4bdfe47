//! A file system in memory: for tests of the engine, and the base of the crash and fault tests.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::{Access, Metadata, Storage, StorageFile};
use crate::mmap::{Mapping, PrivateMapping};

#[derive(Debug, Default)]
struct Inode {
    number: u64,
    bytes: RwLock<Vec<u8>>,
    /// The handle that holds the lock.
    locked_by: Mutex<Option<u64>>,
    /// The handles that hold locks of bytes.
    locked_bytes: Mutex<BTreeMap<u64, u64>>,
}

#[derive(Debug, Clone)]
enum Node {
    Directory(u64),
    File(Arc<Inode>),
}

#[derive(Debug, Default)]
struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    /// The last inode or handle number.
    last_number: u64,
}

impl Tree {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn get(&self, path: &Path) -> io::Result<&Node> {
        self.nodes.get(path).ok_or_else(not_found)
    }
}

/// A tree of files in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage(Arc<Mutex<Tree>>);

#[derive(Debug)]
struct Handle {
    inode: Arc<Inode>,
    number: u64,
    writable: bool,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl MemoryStorage {
    /// An empty file system with one directory at `root`.
    pub fn with_root(root: &Path) -> Self {
        let storage = MemoryStorage::default();
        storage.tree().nodes.insert(root.to_path_buf(), Node::Directory(0));
        storage
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        let mut tree = self.tree();
        let number = tree.next_number();
        let inode = match tree.nodes.get(path) {
            Some(_) if access == Access::Create => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(Node::File(inode)) => Arc::clone(inode),
            Some(Node::Directory(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            None if matches!(access, Access::Create | Access::Lock) => {
                let parent = path.parent().ok_or_else(not_found)?;
                tree.get(parent)?;
                let inode = Arc::new(Inode { number, ..Inode::default() });
                tree.nodes.insert(path.to_path_buf(), Node::File(Arc::clone(&inode)));
                inode
            }
            None => return Err(not_found()),
        };
        let number = tree.next_number();
        Ok(Box::new(Handle { inode, number, writable: access != Access::Read }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, bool)>> {
        let tree = self.tree();
        tree.get(directory)?;
        let children = tree.nodes.iter().filter(|(path, _)| path.parent() == Some(directory));
        Ok(children
            .filter_map(|(path, node)| {
                Some((path.file_name()?.to_string_lossy().into_owned(), matches!(node, Node::Directory(_))))
            })
            .collect())
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        Ok(match self.tree().get(path)? {
            Node::Directory(number) => Metadata { len: 0, id: (0, *number), is_directory: true },
            Node::File(inode) => inode.metadata(),
        })
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        if tree.nodes.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let Some(parent) = path.parent() {
            tree.get(parent)?;
        }
        let number = tree.next_number();
        tree.nodes.insert(path.to_path_buf(), Node::Directory(number));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        let node = tree.nodes.remove(from).ok_or_else(not_found)?;
        tree.nodes.insert(to.to_path_buf(), node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.tree().nodes.remove(path).map(drop).ok_or_else(not_found)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.tree().get(directory).map(drop)
    }
}

impl Inode {
    fn metadata(&self) -> Metadata {
        let len = self.bytes.read().unwrap_or_else(PoisonError::into_inner).len() as u64;
        Metadata { len, id: (1, self.number), is_directory: false }
    }

    /// A copy of a range. An error if the file ends before.
    fn range(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let range = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)?.get(..len));
        range.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn holder(&self) -> MutexGuard<'_, Option<u64>> {
        self.locked_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn byte_holders(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.locked_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageFile for Handle {
    fn metadata(&self) -> io::Result<Metadata> {
        Ok(self.inode.metadata())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        buffer.copy_from_slice(&self.inode.range(offset, buffer.len())?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let end = usize::try_from(offset).ok().and_then(|start| start.checked_add(bytes.len()));
        let end = end.ok_or(io::ErrorKind::FileTooLarge)?;
        let mut file = self.inode.bytes.write().unwrap_or_else(PoisonError::into_inner);
        if file.len() < end {
            file.resize(end, 0);
        }
        file[end - bytes.len()..end].copy_from_slice(bytes);
        Ok(())
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        // A copy serves as well: only committed rows are mapped, and they do not change.
        Ok(Mapping::Memory(self.inode.range(0, len)?))
    }

    fn map_private(&self, offset: u64, len: usize) -> io::Result<PrivateMapping> {
        Ok(PrivateMapping::Memory(self.inode.range(offset, len)?))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut holder = self.inode.holder();
        let free = holder.is_none_or(|number| number == self.number);
        if free {
            *holder = Some(self.number);
        }
        Ok(free)
    }

    fn unlock(&self) -> io::Result<()> {
        self.inode.holder().take_if(|number| *number == self.number);
        Ok(())
    }

    fn try_lock_byte(&self, at: u64) -> io::Result<bool> {
        Ok(*self.inode.byte_holders().entry(at).or_insert(self.number) == self.number)
    }

    fn unlock_byte(&self, at: u64) -> io::Result<()> {
        self.inode.byte_holders().retain(|byte, holder| *byte != at || *holder != self.number);
        Ok(())
    }

    fn first_byte_locked_before(&self, end: u64) -> io::Result<Option<u64>> {
        let holders = self.inode.byte_holders();
        Ok(holders.range(..end).find(|(_, holder)| **holder != self.number).map(|(byte, _)| *byte))
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.unlock();
        self.inode.byte_holders().retain(|_, holder| *holder != self.number);
    }
}
