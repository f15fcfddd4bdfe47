//! Many handles and threads on one cache: every key once on disk, no wrong row, readers never disturbed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{Place, get, in_memory, keys, on_disk, options, reader, vector, vectors};
use dejavec_core::Error;
use dejavec_core::format::container::Container;
use dejavec_core::format::flat::Metric;
use dejavec_core::lock::{HeldLock, Patience};
use dejavec_core::store::{Durability, Options};
use dejavec_core::verify;

const WRITERS: u64 = 4;
const ITEMS: u64 = 2_000;

fn fill_together(place: &Place) {
    place.create(Durability::Close);
    let start = Barrier::new(WRITERS as usize + 2);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let start = &start;
            scope.spawn(move || {
                let store = place.open(options(Durability::Close)).unwrap();
                start.wait();
                for first in (0..ITEMS).step_by(100) {
                    // Each thread starts at another item.
                    let first = (first + writer * 500) % ITEMS;
                    store.append(&keys(first..first + 100), &vectors(first..first + 100, 0), None).unwrap();
                }
                store.close().unwrap();
            });
        }
        for _ in 0..2 {
            let start = &start;
            scope.spawn(move || {
                let store = place.open(reader()).unwrap();
                let items: Vec<u64> = (0..ITEMS + 100).collect();
                start.wait();
                let mut known = 0;
                while known < ITEMS {
                    store.refresh().unwrap();
                    let found = get(&store, &items);
                    let hits = found.iter().flatten().count() as u64;
                    assert!(hits >= known, "rows vanished");
                    for (found, item) in found.iter().zip(&items) {
                        assert!(found.is_none_or(|found| found == vector(*item, 0)));
                    }
                    known = hits;
                }
            });
        }
    });
    let store = place.open(reader()).unwrap();
    let statistics = store.statistics().unwrap();
    assert_eq!((statistics.rows, statistics.keys), (ITEMS, ITEMS));
}

#[test]
fn handles_that_fill_one_cache_store_every_item_once() {
    fill_together(&in_memory());
}

#[test]
fn handles_that_fill_one_cache_store_every_item_once_on_a_real_disk() {
    fill_together(&on_disk());
}

#[test]
fn threads_share_one_store() {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..20 {
                    let first = (thread * 37 + round * 11) % 500;
                    store.append(&keys(first..first + 50), &vectors(first..first + 50, 0), None).unwrap();
                    let items: Vec<u64> = (first..first + 50).collect();
                    for (found, item) in get(store, &items).iter().zip(&items) {
                        assert_eq!(*found, Some(vector(*item, 0)));
                    }
                }
            });
        }
    });
    assert_eq!(store.rows().unwrap(), store.keys().unwrap());
}

/// Verifies a cache over and over while another handle writes groups, snapshots and headers.
fn verify_while_written(place: &Place) {
    const GROUP: u64 = 70_000;
    let writer = place.create(Durability::Close);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for group in 0..4 {
                let items = group * GROUP..(group + 1) * GROUP;
                writer.append(&keys(items.clone()), &vectors(items, 0), None).unwrap();
                writer.sync().unwrap();
            }
            is_done.store(true, Ordering::Relaxed);
        });
        while !is_done.load(Ordering::Relaxed) {
            let report = verify::verify(&*place.storage, &place.path).unwrap();
            assert_eq!((report.damaged, report.problems), (Vec::new(), Vec::new()));
        }
    });
}

#[test]
fn verify_finds_nothing_in_a_sound_cache_that_is_being_written() {
    for container in [Container::Npy, Container::Flat(Metric::L2)] {
        verify_while_written(&in_memory().holding(container));
        verify_while_written(&on_disk().holding(container));
    }
}

#[test]
fn a_writer_whose_lock_file_was_deleted_still_excludes_others() {
    for place in [in_memory(), on_disk()] {
        let store = place.create(Durability::Commit);
        store.put(&keys(0..1), &vectors(0..1, 0)).unwrap();
        let impatient = Patience { timeout: Duration::ZERO, interrupted: || false };
        let other = place.open(Options { patience: impatient, ..options(Durability::Commit) }).unwrap();
        // The locks that a writer still holds after its lock file is deleted.
        let held = HeldLock::of_data(&*place.storage, &place.path.join("commit"), impatient).unwrap();
        place.storage.remove(&place.path.join("LOCK")).unwrap();
        let put = other.put(&keys(1..2), &vectors(1..2, 0));
        assert!(matches!(put, Err(Error::LockTimeout { .. })), "{put:?}");
        let repaired = dejavec_core::repair::repair(&*place.storage, &place.path, impatient);
        assert!(matches!(repaired, Err(Error::LockTimeout { .. })), "{repaired:?}");
        drop(held);
        other.put(&keys(1..2), &vectors(1..2, 0)).unwrap();
        assert_eq!(get(&store, &[0, 1]), [Some(vector(0, 0)), Some(vector(1, 0))]);
    }
}
