//! A directory is copied, restored or moved under an open handle. Later puts go to the files at the path, and lost rows
//! are an error.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::simulated::{Image, Moments, Random, Simulated};
use common::{Place, get, in_memory, keys, on_disk, options, reader, spec, vector, vectors};
use dejavec_core::Error;
use dejavec_core::storage::{Access, Storage};
use dejavec_core::store::{Durability, Store};

const FILES: [&str; 5] = ["meta.json", "keys.bin", "vectors.npy", "commit", "LOCK"];

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
    restore(&*place.storage, &place.path, &FILES);
}

fn places() -> [Place; 2] {
    [in_memory(), on_disk()]
}

#[test]
fn what_is_put_after_a_restore_goes_to_the_files_at_the_path() {
    for place in places() {
        for files in [&FILES[..], &FILES[..4], &["keys.bin"], &["vectors.npy"], &["commit"]] {
            let store = place.create(Durability::Commit);
            store.put(&keys(0..5), &vectors(0..5, 0)).unwrap();
            restore(&*place.storage, &place.path, files);
            // The handle must not assume that the old files' last commit is in the new ones.
            let fresh = place.open(options(Durability::Commit)).unwrap();
            fresh.put(&keys(5..8), &vectors(5..8, 0)).unwrap();
            assert_eq!(store.put(&keys(8..10), &vectors(8..10, 0)).unwrap(), 2, "{files:?}");
            store.sync().unwrap();
            let items: Vec<u64> = (0..10).collect();
            let expected: Vec<_> = items.iter().map(|item| Some(vector(*item, 0))).collect();
            assert_eq!(get(&place.open(reader()).unwrap(), &items), expected, "{files:?}");
            assert_eq!(get(&store, &items), expected, "{files:?}");
            drop((store, fresh));
            for name in FILES {
                place.storage.remove(&place.path.join(name)).unwrap();
            }
        }
    }
}

#[test]
fn a_reader_that_refreshes_sees_what_lies_at_the_path() {
    for place in places() {
        place.create(Durability::Commit).put(&keys(0..5), &vectors(0..5, 0)).unwrap();
        let old = place.open(reader()).unwrap();
        restored(&place);
        place.create(Durability::Commit).put(&keys(5..8), &vectors(5..8, 0)).unwrap();
        assert_eq!(old.refresh().unwrap(), 8);
        assert_eq!(get(&old, &[0, 7]), [Some(vector(0, 0)), Some(vector(7, 0))]);
    }
}

#[test]
fn rows_that_went_unsynced_with_the_old_files_are_an_error_that_says_so() {
    let ways: [fn(&Store) -> dejavec_core::Result<()>; 2] = [Store::sync, Store::close];
    for (place, end) in places().into_iter().zip(ways) {
        for refreshed in [false, true] {
            let store = place.create(Durability::Close);
            store.put(&keys(0..5), &vectors(0..5, 0)).unwrap();
            restored(&place);
            if refreshed {
                store.refresh().unwrap();
            }
            // Later puts are stored as usual.
            store.put(&keys(5..8), &vectors(5..8, 0)).unwrap();
            assert!(matches!(end(&store), Err(Error::Replaced { .. })));
            end(&store).unwrap();
            let statistics = place.open(reader()).unwrap().statistics().unwrap();
            assert_eq!((statistics.rows, statistics.synced), (8, 8));
            for name in FILES {
                place.storage.remove(&place.path.join(name)).unwrap();
            }
        }
    }
}

#[test]
fn rows_that_went_unsynced_with_a_directory_that_is_gone_are_an_error() {
    for (durability, expected) in [(Durability::Close, "moved"), (Durability::Commit, "no cache at")] {
        let place = on_disk();
        let store = place.create(durability);
        store.put(&keys(0..5), &vectors(0..5, 0)).unwrap();
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
        store.put(&keys(0..1), &vectors(0..1, 0)).unwrap();
        restored(&place);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(store.refresh()));
            scope.spawn(|| store.close().unwrap());
        });
        assert!(matches!(store.rows(), Err(Error::Closed { .. })));
    }
}

#[test]
fn what_is_acknowledged_after_a_restore_survives_a_power_loss() {
    let path = Path::new("/caches/one");
    let mut images = 0;
    for durability in [Durability::Commit, Durability::Close] {
        for (unsynced_before, names_are_durable) in [(false, true), (true, true), (false, false)] {
            let storage = Arc::new(Simulated::of(&Image::default(), Path::new("/caches")));
            let create =
                || Store::create(Arc::<Simulated>::clone(&storage), path, &spec(), options(durability)).unwrap();
            let (store, other) = (create(), create());
            store.put(&keys(0..5), &vectors(0..5, 0)).unwrap();
            if !unsynced_before {
                store.sync().unwrap();
            }
            restore(&*storage, path, &FILES);
            if names_are_durable {
                storage.sync_dir(path).unwrap();
            }
            let mut ends = vec![(storage.journal_len(), 0)];
            for (handle, items) in [(&store, 5..8), (&other, 8..10), (&store, 10..12)] {
                handle.put(&keys(items.clone()), &vectors(items.clone(), 0)).unwrap();
                if durability == Durability::Close {
                    // Reports the lost rows, after it has synced.
                    let _ = handle.sync();
                }
                ends.push((storage.journal_len(), items.end));
            }
            let mut moments = Moments::of(&storage);
            loop {
                let at = moments.at();
                if let Some((_, acknowledged)) = ends.iter().rev().find(|(end, _)| *end <= at) {
                    let items: Vec<u64> = (5.min(*acknowledged)..*acknowledged).collect();
                    let expected: Vec<_> = items.iter().map(|item| Some(vector(*item, 0))).collect();
                    for (image, torn) in moments.images(&mut Random(at as u64), 2) {
                        let left = Arc::new(Simulated::of(&image, Path::new("/caches")));
                        if torn {
                            // A torn commit is rolled forward by the next writer.
                            let storage: Arc<dyn Storage> = Arc::<Simulated>::clone(&left);
                            Store::create(storage, path, &spec(), options(durability)).unwrap().sync().unwrap();
                        }
                        assert_eq!(get(&Store::open(left, path, reader()).unwrap(), &items), expected);
                        images += 1;
                    }
                }
                if !moments.advance() {
                    break;
                }
            }
        }
    }
    println!("{images} crash images after a restore");
}
