//! Many handles and threads on one cache: every key once on disk, no wrong row, readers never disturbed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Barrier;
use std::thread;

use common::{Place, get, in_memory, keys, on_disk, options, reader, vector, vectors};
use dejavec_core::store::Durability;

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
                    // Each walks the items from another place.
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
