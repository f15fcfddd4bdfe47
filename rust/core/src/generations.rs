//! The files of a cache before and after a compaction. `meta.json` names the generation that counts; files of others are
//! what a compaction has not removed yet.

use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::column::Column;
use crate::format::commit::{FILE_BYTES, Slot, Slots};
use crate::format::container::Container;
use crate::format::dtype::Dtype;
use crate::format::meta::Meta;
use crate::format::{name, snapshot};
use crate::storage::{Access, Storage};
use crate::texts::TextFiles;

/// For names that are the same for every dtype.
const ANY_DTYPE: Dtype = Dtype::ALL[0];

/// The files of rows and texts of any cache.
pub(crate) fn every_column() -> impl Iterator<Item = Column> {
    let rows = Container::ALL.into_iter().flat_map(|container| container.columns(ANY_DTYPE, 1));
    rows.chain(TextFiles::columns())
}

/// Whether a file of this name in generation 0 belongs to one generation of a cache.
fn has_a_generation(plain: &str) -> bool {
    [name::KEYS, name::COMMIT].contains(&plain)
        || name::is_of_search(plain)
        || snapshot::Name::parse(plain, 0).is_some()
        || every_column().any(|column| column.file_name == plain)
}

/// Whether a file of this name is one of a cache, of any generation, or a temporary one of these.
pub fn is_of_a_cache(file: &str) -> bool {
    let finished = file.split_once(name::TEMPORARY).map_or(file, |(finished, _)| finished);
    [name::META, name::LOCK, name::INDEX_LOCK, name::PROVEN].contains(&finished)
        || has_a_generation(&name::generation_of(finished).0)
}

/// Removes the files of other generations than that of `meta`, which is durable. The caller holds the writers' lock.
///
/// Readers that still have files of an earlier generation open get a last commit there, so that they look at the path
/// again.
pub(crate) fn remove_others(storage: &dyn Storage, directory: &Path, meta: &Meta) -> Result<()> {
    let of_other = |file: &str| {
        let finished = file.split_once(name::TEMPORARY).map_or(file, |(finished, _)| finished);
        let (plain, generation) = name::generation_of(finished);
        generation != meta.generation && has_a_generation(&plain)
    };
    for file in files(storage, directory)?.iter().filter(|file| of_other(file)) {
        let (plain, generation) = name::generation_of(file);
        if plain == name::COMMIT && generation < meta.generation {
            // Best effort: without it a reader of single texts sees the new files at its next batch.
            let _ = commit_again(storage, directory, &Meta { generation, ..meta.clone() });
        }
    }
    remove_all(storage, directory, of_other)
}

/// Removes all temporary files. The caller holds all locks of the cache, so that nobody is writing one.
pub(crate) fn remove_temporaries(storage: &dyn Storage, directory: &Path) -> Result<()> {
    remove_all(storage, directory, |file| file.contains(name::TEMPORARY))
}

/// Removes the indexes for approximate search.
pub(crate) fn remove_search_indexes(storage: &dyn Storage, directory: &Path) -> Result<()> {
    remove_all(storage, directory, name::is_of_search)
}

fn remove_all(storage: &dyn Storage, directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    for file in files(storage, directory)?.iter().filter(|file| is_wanted(file)) {
        let path = directory.join(file);
        match storage.remove(&path) {
            // Its writer was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.map_err(Error::io("remove", &path))?,
        }
    }
    Ok(())
}

fn files(storage: &dyn Storage, directory: &Path) -> Result<Vec<String>> {
    let names = storage.list(directory).map_err(Error::io("list", directory))?;
    Ok(names.into_iter().filter(|(_, is_directory)| !is_directory).map(|(name, _)| name).collect())
}

/// Writes the newest commit of an earlier generation again, with the next epoch.
fn commit_again(storage: &dyn Storage, directory: &Path, meta: &Meta) -> Result<()> {
    let path = directory.join(meta.file(name::COMMIT));
    let file = storage.open(&path, Access::Write).map_err(Error::opening(&path, true))?;
    let mut bytes = [0; FILE_BYTES];
    file.read_at(&mut bytes, 0).map_err(Error::io("read", &path))?;
    let newest = Slots::parse(&bytes, &meta.uuid, meta.version()).map_err(|defect| defect.at(&path))?.newest;
    let last = Slot { epoch: newest.epoch.saturating_add(1), ..newest };
    file.write_at(&last.to_bytes(&meta.uuid, meta.version()), last.offset()).map_err(Error::io("write", &path))
}
