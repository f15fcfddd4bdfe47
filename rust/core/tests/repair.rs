//! A repair asks before it gives up most rows, and leaves a sound cache that opens cheaply.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::common::contents::{CONTAINERS, in_each, rows, versions};
use crate::common::simulated::{Fault, Image, Injection, Moments, Random, Simulated, Turns};
use crate::common::{Place, in_memory, keys, options, reader};
use dejavec_core::Error;
use dejavec_core::format::commit::FILE_BYTES;
use dejavec_core::format::container::Container;
use dejavec_core::lock::{HeldLock, Patience};
use dejavec_core::repair::{Consent, repair};
use dejavec_core::store::Durability;
use dejavec_core::verify::verify;

fn patience() -> Patience {
    options(Durability::Commit).patience
}

fn forced() -> Consent {
    Consent { force: true, ..patience().into() }
}

/// A cache of items in version 1, since each row then has elements to damage.
fn filled(container: Container, items: u64) -> Place {
    let place = in_memory().holding(container);
    put(&place, 0..items, 1);
    place
}

/// Puts items in a version through a new handle.
fn put(place: &Place, items: std::ops::Range<u64>, version: u8) {
    let store = place.create(Durability::Commit);
    store.put(&keys(items.clone()), rows(place.container, items, version).batch()).unwrap();
}

fn found(place: &Place, items: impl IntoIterator<Item = u64>) -> Vec<Option<u8>> {
    versions(&place.open(reader()).unwrap(), items)
}

fn assert_sound(place: &Place) {
    let report = verify(&*place.storage, &place.path).unwrap();
    assert_eq!((report.damaged, report.problems), (Vec::new(), Vec::new()));
}

/// The files of a cache, but for locks.
fn files(place: &Place) -> Vec<&'static str> {
    place.files().into_iter().filter(|name| *name != "LOCK").collect()
}

fn bytes(place: &Place) -> Vec<Option<Vec<u8>>> {
    let is_there = |name: &str| place.storage.metadata(&place.path.join(name)).is_ok();
    files(place).into_iter().map(|name| is_there(name).then(|| place.read(name))).collect()
}

#[test]
fn a_repair_of_mostly_damaged_rows_changes_nothing_before_it_is_forced() {
    let others: [fn(&Place); 4] = [
        // Another cache's keys. The same without a commit record. One row more than half. The same without a commit
        // record.
        |place| place.replace("keys.bin", &in_another(place)),
        |place| {
            place.replace("keys.bin", &in_another(place));
            place.replace("commit", &[0; FILE_BYTES]);
        },
        |place| place.overwrite(0..11, 0xEE),
        |place| {
            place.overwrite(0..11, 0xEE);
            place.storage.remove(&place.path.join("commit")).unwrap();
        },
    ];
    in_each(|container| {
        for (number, damage) in others.into_iter().enumerate() {
            let place = filled(container, 20);
            damage(&place);
            let before = bytes(&place);
            let refused = repair(&*place.storage, &place.path, patience()).unwrap_err();
            let sentence = refused.to_string();
            assert!(matches!(refused, Error::MostlyDamaged { .. }), "{number}: {sentence}");
            assert!(sentence.contains("nothing was changed"), "{sentence}");
            assert!(before == bytes(&place), "{number}: something was changed");
            repair(&*place.storage, &place.path, forced()).unwrap();
            assert_sound(&place);
        }
        // Half of the rows are not most of them.
        let place = filled(container, 20);
        place.overwrite(0..10, 0xEE);
        assert_eq!(repair(&*place.storage, &place.path, patience()).unwrap().damaged.len(), 10);
    });
}

/// The key records of another cache with the same number of rows.
fn in_another(place: &Place) -> Vec<u8> {
    let other = in_memory().holding(place.container);
    put(&other, 100..120, 1);
    other.read("keys.bin")
}

#[test]
fn a_file_that_is_gone_or_empty_is_named_and_said_to_be_rebuildable_or_not() {
    in_each(|container| {
        for name in files(&in_memory().holding(container)) {
            if name == "meta.json" {
                continue; // Then the directory is no cache.
            }
            let rebuildable = name == "commit";
            let place = filled(container, 20);
            let handle = place.open(options(Durability::Commit)).unwrap();
            place.storage.remove(&place.path.join(name)).unwrap();
            let opened = [reader(), options(Durability::Commit)].map(|options| place.open(options).unwrap_err());
            let put = handle.put(&keys(0..1), rows(container, 0..1, 2).batch());
            let open_before = [handle.refresh().unwrap_err(), put.unwrap_err()];
            let verified = verify(&*place.storage, &place.path).unwrap_err();
            for error in opened.into_iter().chain(open_before).chain([verified]) {
                let sentence = error.to_string();
                assert!(matches!(error, Error::Missing { can_be_rebuilt, .. } if can_be_rebuilt == rebuildable));
                assert!(sentence.contains(name), "{sentence}");
            }
            match repair(&*place.storage, &place.path, patience()) {
                Err(error) => assert!(!rebuildable && matches!(error, Error::Missing { .. }), "{error}"),
                Ok(_) => {
                    assert!(rebuildable, "{name}");
                    assert_eq!(found(&place, 0..20), [Some(1); 20]);
                }
            }
        }
        for keep in [0, 30, 64, 64 + 9 * 40] {
            let place = filled(container, 20);
            place.replace("keys.bin", &place.read("keys.bin")[..keep]);
            assert!(matches!(place.open(reader()), Err(Error::Corrupt { .. })));
            let refused = repair(&*place.storage, &place.path, patience());
            assert!(matches!(refused, Err(Error::MostlyDamaged { .. })), "{refused:?}");
            repair(&*place.storage, &place.path, forced()).unwrap();
            assert_sound(&place);
            // Encoding fills the cache again.
            put(&place, 0..20, 1);
            assert_eq!(found(&place, 0..20), [Some(1); 20]);
        }
    });
}

#[test]
fn rows_that_were_never_durable_need_no_force() {
    in_each(|container| {
        let place = filled(container, 3);
        let store = place.open(options(Durability::Close)).unwrap();
        store.put(&keys(0..10), rows(container, 0..10, 2).batch()).unwrap();
        drop(store);
        // The power fails: the commit is on the disk, and none of its rows.
        place.overwrite(3..13, 0);
        assert_eq!(repair(&*place.storage, &place.path, patience()).unwrap().damaged.len(), 10);
        assert_eq!(found(&place, 0..4), [Some(1), Some(1), Some(1), None]);
    });
}

#[test]
fn a_repaired_cache_has_a_snapshot_of_all_its_rows() {
    const ROWS: u64 = 10_000;
    in_each(|container| {
        let place = filled(container, ROWS);
        place.create(Durability::Commit).close().unwrap();
        for damaged in [777, ROWS - 1] {
            place.overwrite([damaged], 0xEE);
            assert_eq!(repair(&*place.storage, &place.path, patience()).unwrap().damaged, [damaged]);
            let statistics = place.open(reader()).unwrap().statistics().unwrap();
            assert_eq!((statistics.snapshot_rows, statistics.delta_rows), (ROWS, 0));
            assert_eq!(place.snapshots().len(), 1);
        }
        let store = place.open(reader()).unwrap();
        let newest = store.newest().unwrap();
        assert_eq!((newest.rows, newest.replaced, store.keys().unwrap()), (ROWS, 2, ROWS - 2));
        assert_eq!(versions(&store, 776..779), [Some(1), None, Some(1)]);
    });
}

#[test]
fn a_repair_writes_on_a_network_file_system_only_if_it_may() {
    in_each(|container| {
        let storage = std::sync::Arc::new(Simulated::of(&Image::default(), std::path::Path::new("/caches")));
        let place = Place::of(storage.clone(), "/caches/one".into()).holding(container);
        put(&place, 0..3, 1);
        place.overwrite([0], 0xEE);
        storage.move_away();
        let before = bytes(&place);
        assert!(matches!(repair(&*storage, &place.path, patience()), Err(Error::Remote { .. })));
        assert!(before == bytes(&place));
        let consent = Consent { allow_network: true, ..patience().into() };
        assert_eq!(repair(&*storage, &place.path, consent).unwrap().damaged, [0]);
        assert_eq!(verify(&*storage, &place.path).unwrap().dead, 1);
    });
}

#[test]
fn a_repair_waits_for_whoever_writes_a_snapshot() {
    let place = filled(Container::Npy, 3);
    let impatient = Patience { timeout: Duration::ZERO, interrupted: || false };
    let held = HeldLock::try_acquire(&*place.storage, &place.path.join("INDEX.LOCK")).unwrap();
    assert!(matches!(repair(&*place.storage, &place.path, impatient), Err(Error::LockTimeout { .. })));
    drop(held);
    repair(&*place.storage, &place.path, impatient).unwrap();
}

/// Returns how many images of a power loss were checked.
fn done_again_after_a_failed_sync(container: Container) -> usize {
    let root = std::path::Path::new("/caches");
    let path = root.join("one");
    let of = |storage: &std::sync::Arc<Simulated>| Place::of(storage.clone(), path.clone()).holding(container);
    let damaged = std::sync::Arc::new(Simulated::of(&Image::default(), root));
    let place = of(&damaged);
    put(&place, 0..30, 0);
    put(&place, 0..10, 1);
    put(&place, 5..8, 2);
    // The newest rows of items 6 and 9.
    place.overwrite([41, 39], 0xEE);
    let damaged = damaged.settled();
    let mut images = 0;
    for after in 0.. {
        let mut fired = 0;
        for (kept, is_mapped) in [0, 1, 2, 5, 7].into_iter().flat_map(|kept| [(kept, false), (kept, true)]) {
            let storage = std::sync::Arc::new(Simulated::of(&damaged, root));
            let reading = is_mapped.then(|| of(&storage).open(reader()).unwrap());
            let injection = Injection { fault: Fault::SyncAfter(Turns(kept)), after, for_ever: false, fired: 0 };
            storage.inject(Some(injection));
            let _ = repair(&*storage, &path, patience());
            fired += storage.inject(None).unwrap().fired;
            repair(&*storage, &path, patience()).unwrap();
            drop(reading);
            let mut moments = Moments::of(&storage);
            while moments.advance() {}
            for (image, _) in moments.images(&mut Random(1), 1) {
                let left = of(&std::sync::Arc::new(Simulated::of(&image, root)));
                let expected = [Some(1), Some(2), None, Some(2), Some(1), None, Some(0)];
                assert_eq!(found(&left, 4..11), expected, "sync {after} failed, {kept} kept, mapped {is_mapped}");
                assert_sound(&left);
                images += 1;
            }
        }
        if fired == 0 {
            break;
        }
    }
    images
}

#[test]
fn a_repair_done_again_after_a_failed_sync_survives_a_power_loss() {
    let images: usize = CONTAINERS.into_iter().map(done_again_after_a_failed_sync).sum();
    println!("{images} crash images after repairs whose sync failed");
}

#[test]
fn a_repair_that_a_power_loss_interrupts_brings_no_older_row_back() {
    let root = std::path::Path::new("/caches");
    in_each(|container| {
        let storage = std::sync::Arc::new(Simulated::of(&Image::default(), root));
        let place = Place::of(storage.clone(), root.join("one")).holding(container);
        put(&place, 0..300, 0);
        put(&place, 290..293, 1);
        // The newest row of item 291. Its older row is in another sector than its own.
        place.overwrite([301], 0xEE);
        let damaged = storage.settled();
        let storage = std::sync::Arc::new(Simulated::of(&damaged, root));
        repair(&*storage, &place.path, patience()).unwrap();
        let mut moments = Moments::of(&storage);
        while moments.advance() {
            for (image, _) in moments.images(&mut Random(1), 2) {
                let left = Place::of(std::sync::Arc::new(Simulated::of(&image, root)), place.path.clone());
                repair(&*left.storage, &left.path, patience()).unwrap();
                assert_eq!(found(&left, 289..293), [Some(0), Some(1), None, Some(1)]);
            }
        }
    });
}

#[test]
fn what_a_repair_keeps_of_unsynced_rows_survives_a_power_loss() {
    let root = std::path::Path::new("/caches");
    in_each(|container| {
        let storage = std::sync::Arc::new(Simulated::of(&Image::default(), root));
        let place = Place::of(storage.clone(), root.join("one")).holding(container);
        let store = place.create(Durability::Close);
        store.put(&keys(0..5), rows(container, 0..5, 0).batch()).unwrap();
        store.sync().unwrap();
        store.put(&keys(5..10), rows(container, 5..10, 0).batch()).unwrap();
        let reading = place.open(reader()).unwrap();
        versions(&reading, [0, 9]);
        let fault = Fault::SyncAfter(Turns(0));
        for _ in 0..2 {
            storage.inject(Some(Injection { fault, after: 0, for_ever: true, fired: 0 }));
            for name in files(&place).into_iter().filter(|name| *name != "meta.json") {
                let file = place.storage.open(&place.path.join(name), dejavec_core::storage::Access::Write);
                let _ = file.and_then(|file| file.sync());
            }
            storage.inject(None);
        }
        repair(&*storage, &place.path, patience()).unwrap();
        let mut moments = Moments::of(&storage);
        while moments.advance() {}
        for (image, _) in moments.images(&mut Random(1), 1) {
            let left = Place::of(std::sync::Arc::new(Simulated::of(&image, root)), place.path.clone());
            assert_eq!(found(&left, 0..10), [Some(0); 10]);
        }
    });
}
