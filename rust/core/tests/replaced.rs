//! A directory is copied, restored or moved under an open handle. Later puts go to the files at the path, and lost rows
//! are an error.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::common::contents::{CONTAINERS, rows, versions};
use crate::common::simulated::{Image, Moments, Random, Simulated};
use crate::common::{Place, in_memory, keys, on_disk, options, reader};
use dejavec_core::Error;
use dejavec_core::format::container::Container;
use dejavec_core::storage::{Access, Storage};
use dejavec_core::store::{Durability, Store};

/// Replaces each file by a copy: the same bytes, another inode.
fn restore(storage: &dyn Storage, path: &Path, files: &[&str]) {
    for name in files {
        let (original, copy) = (path.join(name), path.join("copy"));
        let file = storage.open(&original, Access::Read).unwrap();
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        let file = storage.open(&copy, Access::Create).unwrap();
        file.write_at(&bytes, 0).unwrap();
        file.sync().unwrap();
        storage.rename(&copy, &original).unwrap();
    }
}

fn restored(place: &Place) {
    restore(&*place.storage, &place.path, &place.files());
}

fn put(place: &Place, store: &Store, items: std::ops::Range<u64>) -> usize {
    store.put(&keys(items.clone()), rows(place.container, items, 0).batch()).unwrap()
}

fn removed(place: &Place) {
    for name in place.files() {
        place.storage.remove(&place.path.join(name)).unwrap();
    }
}

/// In memory and on a disk, for each container.
fn places() -> impl Iterator<Item = Place> {
    CONTAINERS.into_iter().flat_map(|container| [in_memory().holding(container), on_disk().holding(container)])
}

#[test]
fn what_is_put_after_a_restore_goes_to_the_files_at_the_path() {
    for place in places() {
        let all = place.files();
        let unlocked = &all[..all.len() - 1];
        // All files, all but the lock, and each one.
        for files in [&*all, unlocked].into_iter().chain(unlocked[1..].chunks(1)) {
            let store = place.create(Durability::Commit);
            put(&place, &store, 0..5);
            restore(&*place.storage, &place.path, files);
            // The handle must not assume that the old files' last commit is in the new ones.
            let fresh = place.open(options(Durability::Commit)).unwrap();
            put(&place, &fresh, 5..8);
            assert_eq!(put(&place, &store, 8..10), 2, "{files:?}");
            store.sync().unwrap();
            assert_eq!(versions(&place.open(reader()).unwrap(), 0..10), [Some(0); 10], "{files:?}");
            assert_eq!(versions(&store, 0..10), [Some(0); 10], "{files:?}");
            drop((store, fresh));
            removed(&place);
        }
    }
}

#[test]
fn a_reader_that_refreshes_sees_what_lies_at_the_path() {
    for place in places() {
        put(&place, &place.create(Durability::Commit), 0..5);
        let old = place.open(reader()).unwrap();
        restored(&place);
        put(&place, &place.create(Durability::Commit), 5..8);
        assert_eq!(old.refresh().unwrap(), 8);
        assert_eq!(versions(&old, [0, 7]), [Some(0); 2]);
    }
}

#[test]
fn rows_that_went_unsynced_with_the_old_files_are_an_error_that_says_so() {
    let ways: [fn(&Store) -> dejavec_core::Result<()>; 2] = [Store::sync, Store::close];
    // In memory with a sync, on a disk with a close.
    for (place, end) in places().zip(ways.into_iter().cycle()) {
        for refreshed in [false, true] {
            let store = place.create(Durability::Close);
            put(&place, &store, 0..5);
            restored(&place);
            if refreshed {
                store.refresh().unwrap();
            }
            // Later puts are stored as usual.
            put(&place, &store, 5..8);
            assert!(matches!(end(&store), Err(Error::Replaced { .. })));
            end(&store).unwrap();
            let statistics = place.open(reader()).unwrap().statistics().unwrap();
            assert_eq!((statistics.rows, statistics.synced), (8, 8));
            removed(&place);
        }
    }
}

#[test]
fn rows_that_went_unsynced_with_a_directory_that_is_gone_are_an_error() {
    for (durability, expected) in [(Durability::Close, "moved"), (Durability::Commit, "no cache at")] {
        let place = on_disk();
        let store = place.create(durability);
        put(&place, &store, 0..5);
        std::fs::remove_dir_all(&place.path).unwrap();
        let sentence = store.sync().unwrap_err().to_string();
        assert!(sentence.contains(expected), "{sentence}");
    }
}

#[test]
fn a_store_that_was_closed_is_not_reopened_by_a_thread_that_finds_other_files() {
    let place = in_memory();
    for _ in 0..200 {
        let store = place.create(Durability::Commit);
        put(&place, &store, 0..1);
        restored(&place);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(store.refresh()));
            scope.spawn(|| store.close().unwrap());
        });
        assert!(matches!(store.rows(), Err(Error::Closed { .. })));
    }
}

/// Returns how many images of a power loss were checked.
fn every_power_loss(
    container: Container,
    durability: Durability,
    unsynced_before: bool,
    names_are_durable: bool,
) -> usize {
    let root = Path::new("/caches");
    let storage = Arc::new(Simulated::of(&Image::default(), root));
    let place = Place::of(storage.clone(), root.join("one")).holding(container);
    let (store, other) = (place.create(durability), place.create(durability));
    put(&place, &store, 0..5);
    if !unsynced_before {
        store.sync().unwrap();
    }
    restored(&place);
    if names_are_durable {
        storage.sync_dir(&place.path).unwrap();
    }
    let mut ends = vec![(storage.journal_len(), 0)];
    for (handle, items) in [(&store, 5..8), (&other, 8..10), (&store, 10..12)] {
        put(&place, handle, items.clone());
        if durability == Durability::Close {
            // Reports the lost rows, after it has synced.
            let _ = handle.sync();
        }
        ends.push((storage.journal_len(), items.end));
    }
    let mut moments = Moments::of(&storage);
    let mut seen = HashSet::new();
    loop {
        let at = moments.at();
        if let Some((_, acknowledged)) = ends.iter().rev().find(|(end, _)| *end <= at) {
            let items = 5.min(*acknowledged)..*acknowledged;
            for (image, torn) in moments.images(&mut Random(at as u64), 2) {
                // The same image is left at several moments.
                if !seen.insert((image.fingerprint(), torn, *acknowledged)) {
                    continue;
                }
                let left = Place::of(Arc::new(Simulated::of(&image, root)), place.path.clone()).holding(container);
                if torn {
                    // A torn commit is rolled forward by the next writer.
                    left.create(durability).sync().unwrap();
                }
                assert!(versions(&left.open(reader()).unwrap(), items.clone()).iter().all(Option::is_some));
            }
        }
        if !moments.advance() {
            return seen.len();
        }
    }
}

#[test]
fn what_is_acknowledged_after_a_restore_survives_a_power_loss() {
    let mut images = 0;
    for container in CONTAINERS {
        for durability in [Durability::Commit, Durability::Close] {
            for (unsynced_before, names_are_durable) in [(false, true), (true, true), (false, false)] {
                images += every_power_loss(container, durability, unsynced_before, names_are_durable);
            }
        }
    }
    println!("{images} crash images after a restore");
}
