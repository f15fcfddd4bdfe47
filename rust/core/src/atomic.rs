//! Files that appear whole or not at all.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{hex, name};
use crate::storage::{Access, Storage};

/// A name beside `path` that nobody else uses.
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
/// The pieces are written one behind the other. On failure nothing has the name `path` that had it not before.
pub fn write(storage: &dyn Storage, path: &Path, pieces: &[&[u8]]) -> Result<()> {
    let temporary = temporary(path)?;
    let written = (|| {
        let file = storage.open(&temporary, Access::Create)?;
        let mut offset = 0;
        for piece in pieces {
            file.write_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        file.sync()?;
        storage.rename(&temporary, path)
    })();
    if written.is_err() {
        // The error that counts is the first one.
        let _ = storage.remove(&temporary);
    }
    written.map_err(Error::io("write", path))?;
    let directory = path.parent().unwrap_or(path);
    storage.sync_dir(directory).map_err(Error::io("sync the directory", directory))
}

/// Makes a directory and its missing parents, each durable in its own parent; `shared` opens them to their group.
pub fn create_directories(storage: &dyn Storage, path: &Path, shared: bool) -> Result<()> {
    if storage.metadata(path).is_ok_and(|metadata| metadata.is_directory) {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_directories(storage, parent, shared)?;
    }
    match storage.mkdir(path) {
        // Another process may have been faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => {
            made.map_err(Error::io("make the directory", path))?;
            if shared {
                storage.share(path).map_err(Error::io("share the directory", path))?;
            }
        }
    }
    let parent = parent.unwrap_or(Path::new("."));
    storage.sync_dir(parent).map_err(Error::io("sync the directory", parent))
}
