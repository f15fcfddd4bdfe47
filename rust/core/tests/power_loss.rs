//! What a sync acknowledged survives the loss of everything that was not synced, wherever the power fails.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::{Place, get, keys, options, spec, vector, vectors};
use dejavec_core::mmap::{Mapping, PrivateMapping};
use dejavec_core::storage::{Access, MemoryStorage, Metadata, Storage, StorageFile};
use dejavec_core::store::{Durability, Store};

type Inode = (u64, u64);

/// What is on the platter.
#[derive(Debug, Default)]
struct Platter {
    syncs: usize,
    power_fails_after: usize,
    names: BTreeMap<PathBuf, Inode>,
    contents: HashMap<Inode, Vec<u8>>,
}

impl Platter {
    /// Counts a sync; says whether there still was power for it.
    fn has_power(&mut self) -> bool {
        self.syncs += 1;
        self.syncs <= self.power_fails_after
    }
}

/// A file system that remembers what was synced before the power failed; it goes on living afterwards.
#[derive(Debug)]
struct Failing {
    live: MemoryStorage,
    platter: Arc<Mutex<Platter>>,
}

#[derive(Debug)]
struct FailingFile {
    live: Box<dyn StorageFile>,
    platter: Arc<Mutex<Platter>>,
}

impl Failing {
    fn new(root: &Path, power_fails_after: usize) -> Failing {
        let platter = Platter { power_fails_after, ..Platter::default() };
        Failing { live: MemoryStorage::with_root(root), platter: Arc::new(Mutex::new(platter)) }
    }

    /// The file system after the power came back.
    fn restart(&self, root: &Path, cache: &Path) -> MemoryStorage {
        let platter = self.platter.lock().unwrap();
        let storage = MemoryStorage::with_root(root);
        if platter.names.contains_key(cache) {
            storage.mkdir(cache).unwrap();
            for (name, inode) in platter.names.iter().filter(|(name, _)| name.parent() == Some(cache)) {
                let file = storage.open(name, Access::Create).unwrap();
                // A name whose file was never synced is an empty file.
                file.write_at(platter.contents.get(inode).map_or(&[], Vec::as_slice), 0).unwrap();
            }
        }
        storage
    }
}

impl Storage for Failing {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(FailingFile { live: self.live.open(path, access)?, platter: Arc::clone(&self.platter) }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, bool)>> {
        self.live.list(directory)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.live.metadata(path)
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.live.mkdir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.live.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.live.remove(path)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let mut platter = self.platter.lock().unwrap();
        if platter.has_power() {
            platter.names.retain(|name, _| name.parent() != Some(directory));
            for (name, _) in self.live.list(directory)? {
                let path = directory.join(name);
                let inode = self.live.metadata(&path)?.id;
                platter.names.insert(path, inode);
            }
        }
        Ok(())
    }
}

impl StorageFile for FailingFile {
    fn metadata(&self) -> io::Result<Metadata> {
        self.live.metadata()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.live.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.live.write_at(bytes, offset)
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        self.live.map(len)
    }

    fn map_private(&self, offset: u64, len: usize) -> io::Result<PrivateMapping> {
        self.live.map_private(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut platter = self.platter.lock().unwrap();
        if platter.has_power() {
            let metadata = self.live.metadata()?;
            let mut bytes = vec![0; metadata.len as usize];
            self.live.read_at(&mut bytes, 0)?;
            platter.contents.insert(metadata.id, bytes);
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.live.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.live.unlock()
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.live.descriptor()
    }
}

/// Ten rows at a time, by one handle or two; says after which sync each group was acknowledged.
fn fill(storage: &Arc<Failing>, cache: &Path, durability: Durability, handles: usize) -> Vec<usize> {
    let open = || {
        let storage: Arc<dyn Storage> = Arc::<Failing>::clone(storage);
        Store::create(storage, cache, &spec(), options(durability)).unwrap()
    };
    let stores: Vec<Store> = (0..handles).map(|_| open()).collect();
    (0..6_u64)
        .map(|group| {
            let items = group * 10..(group + 1) * 10;
            let store = &stores[group as usize % handles];
            store.append(&keys(items.clone()), &vectors(items, 0), None).unwrap();
            if durability == Durability::Close {
                store.sync().unwrap();
            }
            storage.platter.lock().unwrap().syncs
        })
        .collect()
}

fn check(durability: Durability, handles: usize) {
    let root = Path::new("/caches");
    let cache = root.join("one");
    let all = Arc::new(Failing::new(root, usize::MAX));
    let last_sync = *fill(&all, &cache, durability, handles).last().unwrap();
    for power_fails_after in 0..=last_sync {
        let storage = Arc::new(Failing::new(root, power_fails_after));
        let acknowledged = fill(&storage, &cache, durability, handles);
        let kept = acknowledged.iter().filter(|&&sync| sync <= power_fails_after).count() as u64 * 10;
        let place = Place::of(Arc::new(storage.restart(root, &cache)), cache.clone());
        let store = place.create(Durability::Commit);
        store.sync().unwrap();
        let items: Vec<u64> = (0..60).collect();
        let found = get(&store, &items);
        for (item, found) in items.iter().zip(&found) {
            let expected = Some(vector(*item, 0));
            assert!(*found == expected || (*item >= kept && found.is_none()), "item {item} after {power_fails_after}");
        }
        let rows = found.iter().take_while(|found| found.is_some()).count();
        assert!(found.iter().skip(rows).all(Option::is_none), "not a prefix after sync {power_fails_after}");
        store.append(&keys(60..70), &vectors(60..70, 0), None).unwrap();
    }
}

#[test]
fn every_acknowledged_group_survives_when_each_group_is_synced() {
    check(Durability::Commit, 1);
}

#[test]
fn every_acknowledged_group_survives_with_two_writers_in_turn() {
    check(Durability::Commit, 2);
}

#[test]
fn every_acknowledged_sync_survives_when_only_sync_acknowledges() {
    check(Durability::Close, 1);
    check(Durability::Close, 2);
}
