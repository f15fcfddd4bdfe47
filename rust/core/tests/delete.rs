//! A deleted key is a miss for everyone from then on, and nothing brings its rows back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common::contents::{self, CONTAINERS, in_each, rows, text, versions};
use crate::common::history::{Call, History, Tally, every_power_loss_around, no_cache};
use crate::common::simulated::Random;
use crate::common::simulated::random::seeds;
use crate::common::{Place, get, in_memory, is_whole, key, keys, on_disk, reader, vector, vectors};
use dejavec_core::batch::Batch;
use dejavec_core::format::container::Container;
use dejavec_core::store::Durability::{self, Close, Commit};
use dejavec_core::store::Store;
use dejavec_core::verify;

/// In memory, where readers hold copies of the records, and on a disk, where they map them.
fn places() -> impl Iterator<Item = Place> {
    CONTAINERS.into_iter().flat_map(|container| [in_memory().holding(container), on_disk().holding(container)])
}

fn put(place: &Place, store: &Store, items: std::ops::Range<u64>, version: u8) {
    store.put(&keys(items.clone()), rows(place.container, items, version).batch()).unwrap();
}

#[test]
fn a_deleted_key_is_a_miss_for_every_open_handle_and_for_new_ones() {
    for place in places() {
        for durability in [Commit, Close] {
            let writer = place.create(durability);
            put(&place, &writer, 0..10, 1);
            put(&place, &writer, 3..6, 2);
            let handles: Vec<Store> = (0..3).map(|_| place.open(reader()).unwrap()).collect();
            let other = place.create(Commit);
            for store in handles.iter().chain([&writer, &other]) {
                assert_eq!(versions(store, [2, 4]), [Some(1), Some(2)]);
                assert_eq!(store.keys().unwrap(), 10);
            }
            assert_eq!(other.delete(&keys([4, 4, 9, 99])).unwrap(), 2);
            let fresh = place.open(reader()).unwrap();
            for store in handles.iter().chain([&fresh, &writer, &other]) {
                assert_eq!(versions(store, [2, 4, 9]), [Some(1), None, None]);
                assert_eq!(store.keys().unwrap(), 8);
                let newest = store.newest().unwrap();
                assert_eq!((newest.rows, newest.replaced), (13, 5), "search skips the dead rows");
            }
            assert_eq!(writer.delete(&keys([4, 9])).unwrap(), 0);
            // Stored again, it is a new row.
            put(&place, &writer, 4..5, 1);
            for store in handles.iter().chain([&fresh, &writer, &other]) {
                assert_eq!(versions(store, [4, 9]), [Some(1), None]);
                assert_eq!(store.keys().unwrap(), 9);
            }
            writer.sync().unwrap();
            let report = verify::verify(&*place.storage, &place.path).unwrap();
            assert_eq!((report.rows, report.keys, report.dead, report.replaced), (14, 9, 3, 2));
            assert_eq!((report.damaged, report.problems), (vec![], vec![]));
            for name in place.files() {
                place.storage.remove(&place.path.join(name)).unwrap();
            }
        }
    }
}

#[test]
fn a_single_read_of_a_handle_that_does_nothing_else_misses_a_deleted_key() {
    for place in [in_memory(), on_disk()] {
        let writer = place.create(Commit);
        writer.put(&keys(0..5), &vectors(0..5, 0)).unwrap();
        let other = place.open(reader()).unwrap();
        let mut out = [0; 4];
        for item in [3, 4] {
            assert!(other.read_newest(&key(item), &mut out, true).unwrap());
            writer.delete(&keys([item])).unwrap();
            assert!(!other.read_newest(&key(item), &mut out, true).unwrap());
        }
    }
}

#[test]
fn the_text_of_a_deleted_key_is_gone_from_what_is_read() {
    in_each(|container| {
        let place = in_memory().holding(container);
        let store = place.create(Commit);
        let texts: Vec<_> = (0..4).map(text).collect();
        let content = rows(container, 0..4, 1);
        store.put(&keys(0..4), Batch { texts: Some(&contents::all_of(&texts)), ..content.batch() }).unwrap();
        let other = place.open(reader()).unwrap();
        let all =
            |store: &Store| store.texts(&[0, 1, 2, 3]).unwrap().iter().map(|text| text.is_some()).collect::<Vec<_>>();
        assert_eq!(all(&other), [true; 4]);
        store.delete(&keys([1])).unwrap();
        for store in [&store, &other, &place.open(reader()).unwrap()] {
            assert_eq!(all(store), [true, false, true, true]);
            store.refresh().unwrap();
            assert_eq!(store.statistics().unwrap().texts, 3);
        }
        // Stored again without its text, it has none.
        put(&place, &store, 1..2, 1);
        assert!(store.texts(&[1, 4]).unwrap().iter().all(|text| text.is_none()));
        assert_eq!(verify::verify(&*place.storage, &place.path).unwrap().texts, 3);
    });
}

#[test]
fn a_snapshot_from_before_a_deletion_counts_no_deleted_row() {
    const ITEMS: u64 = 70_000;
    let place = in_memory();
    let store = place.create(Commit);
    store.append(&keys(0..ITEMS), &vectors(0..ITEMS, 0), None).unwrap();
    store.put(&keys(0..50), &vectors(0..50, 1)).unwrap();
    assert_eq!(place.snapshots().len(), 1);
    // One that the delta replaces, some in the snapshot alone, and the last one of the snapshot, which its header names.
    assert_eq!(store.delete(&keys([7, 60, 61, ITEMS - 1])).unwrap(), 4);
    for store in [&store, &place.open(reader()).unwrap()] {
        assert_eq!(store.statistics().unwrap().snapshot_rows, ITEMS);
        assert_eq!(store.keys().unwrap(), ITEMS - 4);
        let newest = store.newest().unwrap();
        assert_eq!(newest.replaced, 50 + 4);
        let is_newest = |row: u64| newest.bits.has(row);
        assert_eq!(
            [7, 60, ITEMS - 1, ITEMS + 7, 59, ITEMS + 8].map(is_newest),
            [false, false, false, false, true, true]
        );
        assert_eq!(get(store, &[7, 60, 59]), [None, None, Some(vector(59, 0))]);
    }
    assert_eq!(verify::verify(&*place.storage, &place.path).unwrap().problems, Vec::<String>::new());
}

/// Every sequence of calls around a deletion. The power fails at every moment of the last two.
fn every_power_loss(container: Container, durability: [Durability; 2], texts: bool) {
    // First of all a replacement, so that the deleted keys have older rows.
    let calls = [Call::Replace(1), Call::Append(0), Call::Delete(0), Call::Delete(1), Call::Sync(0), Call::Reopen(0)];
    let before = if is_whole() { &calls[..] } else { &calls[..1] };
    every_power_loss_around(Call::Delete(0), before, &calls, container, durability, texts);
}

#[test]
fn a_power_loss_brings_no_deleted_row_back_and_takes_no_other() {
    in_each(|container| every_power_loss(container, [Commit, Commit], false));
    every_power_loss(Container::Npy, [Commit, Commit], true);
}

#[test]
fn a_power_loss_brings_no_deleted_row_back_and_takes_no_other_without_syncs() {
    every_power_loss(Container::Npy, [Close, Commit], false);
    every_power_loss(Container::Ragged, [Close, Close], false);
}

#[test]
fn one_power_loss_after_another_brings_no_deleted_row_back() {
    let calls = [Call::Append(0), Call::Replace(1), Call::Delete(0), Call::Delete(1), Call::Sync(1), Call::Repair];
    let mut tally = Tally::default();
    for (container, durability) in [(Container::Npy, [Commit, Commit]), (Container::Sparse, [Close, Commit])] {
        for seed in 0..seeds(20) {
            let mut random = Random(seed);
            let mut history = History::begin(&no_cache(), container, durability);
            history.open().unwrap();
            for _ in 0..4 {
                for _ in 0..random.below(6) {
                    history.call(calls[random.below(calls.len())]).unwrap();
                }
                history = history.crash(&mut random, &mut tally);
            }
        }
    }
    println!("{} crash images", tally.images);
}
