//! Files that appear complete or not at all.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{hex, name};
use crate::storage::{Access, Storage, StorageFile};

/// An unused name beside `path`.
fn temporary(path: &Path) -> Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| Error::Io {
        action: "draw random bytes for a temporary name",
        path: path.to_path_buf(),
        source: std::io::Error::other(error.to_string()),
    })?;
    let mut file_name = path.file_name().unwrap_or_default().to_os_string();
    file_name.push(format!("{}{}", name::TEMPORARY, hex(&random)));
    Ok(path.with_file_name(file_name))
}

/// Writes a file under a temporary name, syncs it and renames it to `path`, then syncs the directory.
///
/// The pieces are written one after the other. On failure `path` does not change.
pub fn write(storage: &dyn Storage, path: &Path, pieces: &[&[u8]]) -> Result<()> {
    write_by(storage, path, |file| {
        let mut offset = 0;
        for piece in pieces {
            file.write_at(piece, offset).map_err(Error::io("write", path))?;
            offset += piece.len() as u64;
        }
        Ok(())
    })
}

/// [`write()`] with the content that `fill` writes, in any order. Returns what `fill` does.
pub fn write_by<T>(storage: &dyn Storage, path: &Path, fill: impl FnOnce(&dyn StorageFile) -> Result<T>) -> Result<T> {
    let temporary = temporary(path)?;
    let written = (|| {
        let file = storage.open(&temporary, Access::Create).map_err(Error::io("write", path))?;
        let filled = fill(&*file)?;
        file.sync().map_err(Error::io("write", path))?;
        storage.rename(&temporary, path).map_err(Error::io("write", path))?;
        Ok(filled)
    })();
    if written.is_err() {
        // Report the first error, not this one.
        let _ = storage.remove(&temporary);
    }
    let filled = written?;
    let directory = path.parent().unwrap_or(path);
    storage.sync_dir(directory).map_err(Error::io("sync the directory", directory))?;
    Ok(filled)
}

/// An empty file without a name, in the directory of `path`. It is gone when it is closed.
pub fn scratch(storage: &dyn Storage, path: &Path) -> Result<Box<dyn StorageFile>> {
    let temporary = temporary(path)?;
    let file = storage.open(&temporary, Access::Create).map_err(Error::io("make a scratch file for", path))?;
    storage.remove(&temporary).map_err(Error::io("make a scratch file for", path))?;
    Ok(file)
}

/// The parent directory of a path, if it has a name.
fn above(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

/// Makes a directory and its missing parents, and syncs the parent of each. With `shared` they are group-shared.
pub fn create_directories(storage: &dyn Storage, path: &Path, shared: bool) -> Result<()> {
    if storage.metadata(path).is_ok_and(|metadata| metadata.is_directory) {
        return Ok(());
    }
    let parent = above(path).unwrap_or(path);
    if parent != path {
        create_directories(storage, parent, shared)?;
    }
    match storage.mkdir(path) {
        // Another process may have been faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => {
            made.map_err(Error::io("make the directory", path))?;
            if shared {
                storage.share(path).map_err(Error::io("share the directory", path))?;
            }
        }
    }
    storage.sync_dir(parent).map_err(Error::io("sync the directory", parent))
}

/// Syncs the parent of a directory, so that its name is durable. False if the parent may not be read: then this user
/// did not make the directory.
pub fn sync_name(storage: &dyn Storage, path: &Path) -> Result<bool> {
    let Some(parent) = above(path) else { return Ok(false) };
    match storage.sync_dir(parent) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
        synced => synced.map(|()| true).map_err(Error::io("sync the directory", parent)),
    }
}

/// Makes the names of a directory and of all directories above it durable, up to the root of the file system. An
/// earlier creation of one of them may have been interrupted.
pub fn sync_names(storage: &dyn Storage, path: &Path) -> Result<()> {
    let device = |path: &Path| storage.metadata(path).ok().map(|metadata| metadata.id.0);
    let mut path = path;
    while let Some(parent) = above(path).filter(|parent| *parent != path && device(parent) == device(path)) {
        if !sync_name(storage, path)? {
            break;
        }
        path = parent;
    }
    Ok(())
}
