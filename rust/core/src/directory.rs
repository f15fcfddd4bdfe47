//! Making a cache directory. A directory with foreign files is rejected.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::atomic;
use crate::error::{Error, Result};
use crate::format::commit::{FILE_BYTES, fresh_file};
use crate::format::container::Container;
use crate::format::dtype::Dtype;
use crate::format::meta::{MAX_BYTES, Meta};
use crate::format::{keys, name};
use crate::generations::every_column;
use crate::lock::{HeldLock, Patience};
use crate::storage::{Access, Storage};

/// For names and lengths that are the same for every dtype.
const ANY_DTYPE: Dtype = Dtype::ALL[0];

/// The description of a new cache.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Numbers in a vector.
    pub dim: u32,
    /// NumPy's descriptor of the dtype.
    pub dtype: String,
    /// Which files hold the rows.
    pub container: Container,
    /// The identity.
    pub identity: Value,
    /// The array kind that the model returns.
    pub output: Value,
}

/// Rejects a directory without `meta.json` that holds anything but files of an unfinished creation. Returns their
/// names.
pub(crate) fn check_unclaimed(storage: &dyn Storage, directory: &Path) -> Result<Vec<String>> {
    match storage.metadata(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("examine", directory)(error)),
        Ok(metadata) if !metadata.is_directory => {
            return Err(Error::Foreign { path: directory.to_path_buf(), found: "a file".into() });
        }
        Ok(_) => {}
    }
    let names = storage.list(directory).map_err(Error::io("list", directory))?;
    let files: Vec<String> =
        names.into_iter().filter(|(_, is_directory)| !is_directory).map(|(name, _)| name).collect();
    let foreign = |found: &str| Error::Foreign { path: directory.to_path_buf(), found: found.to_owned() };
    for file in &files {
        let plain = file.split_once(name::TEMPORARY).map_or(file.as_str(), |(finished, _)| finished);
        let longest = match plain {
            name::LOCK | name::INDEX_LOCK | name::META | name::PROVEN => u64::MAX,
            name::KEYS => keys::HEADER_BYTES as u64,
            name::COMMIT => FILE_BYTES as u64,
            _ => match every_column().find(|column| column.file_name == plain) {
                Some(column) => column.header_bytes() as u64,
                None => return Err(foreign(file)),
            },
        };
        let path = directory.join(file);
        let len = match storage.metadata(&path) {
            // Another process is creating the cache and has renamed its temporary file.
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            found => found.map_err(Error::io("examine", &path))?.len,
        };
        if len > longest && storage.metadata(&directory.join(name::META)).is_err() {
            return Err(foreign(&format!("{file} with rows but no {}", name::META)));
        }
    }
    Ok(files)
}

/// Rejects a directory on a network file system, also one that does not exist yet.
pub fn refuse_remote(storage: &dyn Storage, directory: &Path) -> Result<()> {
    let mut existing = directory;
    while storage.metadata(existing).is_err() {
        match existing.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => existing = parent,
            _ => return Ok(()),
        }
    }
    match storage.is_remote(existing).map_err(Error::io("examine", existing))? {
        true => Err(Error::Remote { path: directory.to_path_buf() }),
        false => Ok(()),
    }
}

/// Makes the cache, unless the directory has one.
///
/// With `shared`, a directory that is made here is group-shared.
pub fn create(storage: &dyn Storage, directory: &Path, spec: &Spec, patience: Patience, shared: bool) -> Result<()> {
    let (meta_path, lock_path) = (directory.join(name::META), directory.join(name::LOCK));
    if storage.metadata(&meta_path).is_ok() {
        return Ok(());
    }
    let dtype = check_spec(spec)?;
    check_unclaimed(storage, directory)?;
    atomic::create_directories(storage, directory, shared)?;
    let _lock = HeldLock::acquire(storage, &lock_path, patience)?;
    if storage.metadata(&meta_path).is_ok() {
        return Ok(());
    }
    let unfinished = check_unclaimed(storage, directory)?;
    for file in unfinished.iter().filter(|file| ![name::LOCK, name::INDEX_LOCK, name::PROVEN].contains(&file.as_str()))
    {
        let path = directory.join(file);
        storage.remove(&path).map_err(Error::io("remove the unfinished file", &path))?;
    }
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(|error| {
        Error::io("draw random bytes for a cache", directory)(std::io::Error::other(error.to_string()))
    })?;
    let mut meta = Meta {
        uuid: [0; 16],
        dim: spec.dim,
        dtype,
        container: spec.container,
        seed: 0,
        identity: spec.identity.clone(),
        output: spec.output.clone(),
        made_by: concat!("dejavec ", env!("CARGO_PKG_VERSION")).to_owned(),
        generation: 0,
    };
    let (uuid, seed) = random.split_at(16);
    meta.uuid.copy_from_slice(uuid);
    meta.seed = seed.first_chunk().copied().map_or(0, u64::from_le_bytes);
    let meta_bytes = meta.to_bytes();
    if meta_bytes.len() as u64 > MAX_BYTES {
        return Err(Error::Argument {
            expected: format!("an identity that fits {MAX_BYTES} bytes of meta.json"),
            found: format!("{} bytes", meta_bytes.len()),
        });
    }
    if Meta::parse(&meta_bytes).as_ref() != Ok(&meta) {
        return Err(Error::Argument {
            expected: "an identity that can be read back".into(),
            found: "one that is nested too deeply".into(),
        });
    }
    for column in meta.columns() {
        create_file(storage, &directory.join(column.file_name), &column.header(0))?;
    }
    create_file(storage, &directory.join(name::KEYS), &keys::header(&meta.uuid, meta.version()))?;
    create_file(storage, &directory.join(name::COMMIT), &fresh_file(&meta.uuid, meta.version()))?;
    // All other names must be durable before `meta.json` gets its name.
    storage.sync_dir(directory).map_err(Error::io("sync the directory", directory))?;
    atomic::sync_names(storage, directory)?;
    atomic::write(storage, &meta_path, &[&meta_bytes])
}

fn check_spec(spec: &Spec) -> Result<Dtype> {
    if !spec.container.has_dim(spec.dim) {
        return Err(Error::Argument {
            expected: format!("a dimension of 1 to {}", spec.container.max_dim()),
            found: spec.dim.to_string(),
        });
    }
    let held = Dtype::ALL.into_iter().filter(|dtype| spec.container.holds(*dtype));
    held.clone().find(|dtype| dtype.descr == spec.dtype).ok_or_else(|| Error::Argument {
        expected: format!(
            "a dtype among {} for {}",
            held.map(|dtype| dtype.descr).collect::<Vec<_>>().join(" "),
            spec.container.data(ANY_DTYPE, spec.dim).file_name
        ),
        found: spec.dtype.clone(),
    })
}

pub(crate) fn create_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    let file = storage.open(path, Access::Create).map_err(Error::io("create", path))?;
    file.write_at(bytes, 0).map_err(Error::io("write", path))?;
    file.sync().map_err(Error::io("sync", path))
}
