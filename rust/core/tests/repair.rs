//! A repair asks before it gives up most rows, and leaves a sound cache that opens cheaply.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::simulated::{Fault, Image, Injection, Moments, Random, Simulated, Turns};
use common::{Place, get, in_memory, keys, options, reader, vector, vectors};
use dejavec_core::Error;
use dejavec_core::format::commit::FILE_BYTES;
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

fn filled(rows: u64) -> Place {
    let place = in_memory();
    place.create(Durability::Commit).append(&keys(0..rows), &vectors(0..rows, 0), None).unwrap();
    place
}

fn bytes(place: &Place) -> Vec<Option<Vec<u8>>> {
    let is_there = |name: &&str| place.storage.metadata(&place.path.join(name)).is_ok();
    ["meta.json", "keys.bin", "vectors.npy", "commit"].map(|name| is_there(&name).then(|| place.read(name))).into()
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
        |place| place.write("vectors.npy", &[0xEE; 4 * 11], 128),
        |place| {
            place.write("vectors.npy", &[0xEE; 4 * 11], 128);
            place.storage.remove(&place.path.join("commit")).unwrap();
        },
    ];
    for (number, damage) in others.into_iter().enumerate() {
        let place = filled(20);
        damage(&place);
        let before = bytes(&place);
        let refused = repair(&*place.storage, &place.path, patience()).unwrap_err();
        let sentence = refused.to_string();
        assert!(matches!(refused, Error::MostlyDamaged { .. }), "{number}: {sentence}");
        assert!(sentence.contains("nothing was changed"), "{sentence}");
        assert!(before == bytes(&place), "{number}: something was changed");
        repair(&*place.storage, &place.path, forced()).unwrap();
        let report = verify(&*place.storage, &place.path).unwrap();
        assert_eq!((report.damaged, report.problems), (Vec::new(), Vec::new()));
    }
    // Half of the rows are not most of them.
    let place = filled(20);
    place.write("vectors.npy", &[0xEE; 4 * 10], 128);
    assert_eq!(repair(&*place.storage, &place.path, patience()).unwrap().damaged.len(), 10);
}

/// The key records of another cache with the same number of rows.
fn in_another(_place: &Place) -> Vec<u8> {
    let other = in_memory();
    other.create(Durability::Commit).append(&keys(100..120), &vectors(100..120, 0), None).unwrap();
    other.read("keys.bin")
}

#[test]
fn a_file_that_is_gone_or_empty_is_named_and_said_to_be_rebuildable_or_not() {
    for (name, rebuildable) in [("keys.bin", false), ("vectors.npy", false), ("commit", true)] {
        let place = filled(20);
        let handle = place.open(options(Durability::Commit)).unwrap();
        place.storage.remove(&place.path.join(name)).unwrap();
        let opened = [reader(), options(Durability::Commit)].map(|options| place.open(options).unwrap_err());
        let open_before = [handle.refresh().unwrap_err(), handle.put(&keys(0..1), &vectors(0..1, 1)).unwrap_err()];
        let verified = verify(&*place.storage, &place.path).unwrap_err();
        for error in opened.into_iter().chain(open_before).chain([verified]) {
            let sentence = error.to_string();
            assert!(matches!(error, Error::Missing { can_be_rebuilt, .. } if can_be_rebuilt == rebuildable));
            assert!(sentence.contains(name), "{sentence}");
        }
        match repair(&*place.storage, &place.path, patience()) {
            Err(error) => assert!(!rebuildable && matches!(error, Error::Missing { .. }), "{error}"),
            Ok(_) => {
                assert_eq!(name, "commit");
                assert!(get(&place.open(reader()).unwrap(), &[0, 19]).iter().all(Option::is_some));
            }
        }
    }
    for keep in [0, 30, 64, 64 + 9 * 40] {
        let place = filled(20);
        place.replace("keys.bin", &place.read("keys.bin")[..keep]);
        assert!(matches!(place.open(reader()), Err(Error::Corrupt { .. })));
        let refused = repair(&*place.storage, &place.path, patience());
        assert!(matches!(refused, Err(Error::MostlyDamaged { .. })), "{refused:?}");
        repair(&*place.storage, &place.path, forced()).unwrap();
        let report = verify(&*place.storage, &place.path).unwrap();
        assert_eq!((report.damaged, report.problems), (Vec::new(), Vec::new()));
        // Encoding fills the cache again.
        place.open(options(Durability::Commit)).unwrap().put(&keys(0..20), &vectors(0..20, 0)).unwrap();
        assert!(get(&place.open(reader()).unwrap(), &[0, 19]).iter().all(Option::is_some));
    }
}

#[test]
fn rows_that_were_never_durable_need_no_force() {
    let place = filled(3);
    let store = place.open(options(Durability::Close)).unwrap();
    store.put(&keys(0..10), &vectors(0..10, 1)).unwrap();
    drop(store);
    // The power fails: the commit is on the disk, and none of its rows.
    place.write("vectors.npy", &[0; 40], 128 + 3 * 4);
    assert_eq!(repair(&*place.storage, &place.path, patience()).unwrap().damaged.len(), 10);
    let expected: Vec<_> = (0..3).map(|item| Some(vector(item, 0))).collect();
    assert_eq!(get(&place.open(reader()).unwrap(), &[0, 1, 2]), expected);
}

#[test]
fn a_repaired_cache_has_a_snapshot_of_all_its_rows() {
    const ROWS: u64 = 10_000;
    let place = filled(ROWS);
    place.create(Durability::Commit).close().unwrap();
    for damaged in [777, ROWS - 1] {
        place.write("vectors.npy", &[0xEE; 4], 128 + damaged * 4);
        assert_eq!(repair(&*place.storage, &place.path, patience()).unwrap().damaged, [damaged]);
        let statistics = place.open(reader()).unwrap().statistics().unwrap();
        assert_eq!((statistics.snapshot_rows, statistics.delta_rows), (ROWS, 0));
        assert_eq!(place.snapshots().len(), 1);
    }
    let store = place.open(reader()).unwrap();
    let newest = store.newest().unwrap();
    assert_eq!((newest.rows, newest.replaced, store.keys().unwrap()), (ROWS, 2, ROWS - 2));
    assert_eq!(get(&store, &[776, 777, 778]), [Some(vector(776, 0)), None, Some(vector(778, 0))]);
}

#[test]
fn a_repair_writes_on_a_network_file_system_only_if_it_may() {
    let storage = std::sync::Arc::new(Simulated::of(&Image::default(), std::path::Path::new("/caches")));
    let place = Place::of(storage.clone(), "/caches/one".into());
    place.create(Durability::Commit).put(&keys(0..3), &vectors(0..3, 0)).unwrap();
    place.write("vectors.npy", &[0xEE; 4], 128);
    storage.move_away();
    let before = bytes(&place);
    assert!(matches!(repair(&*storage, &place.path, patience()), Err(Error::Remote { .. })));
    assert!(before == bytes(&place));
    let consent = Consent { allow_network: true, ..patience().into() };
    assert_eq!(repair(&*storage, &place.path, consent).unwrap().damaged, [0]);
    assert_eq!(verify(&*storage, &place.path).unwrap().dead, 1);
}

#[test]
fn a_repair_waits_for_whoever_writes_a_snapshot() {
    let place = filled(3);
    let impatient = Patience { timeout: Duration::ZERO, interrupted: || false };
    let held = HeldLock::try_acquire(&*place.storage, &place.path.join("INDEX.LOCK")).unwrap();
    assert!(matches!(repair(&*place.storage, &place.path, impatient), Err(Error::LockTimeout { .. })));
    drop(held);
    repair(&*place.storage, &place.path, impatient).unwrap();
}

#[test]
fn a_repair_done_again_after_a_failed_sync_survives_a_power_loss() {
    let root = std::path::Path::new("/caches");
    let path = root.join("one");
    let place = filled(30);
    let store = place.create(Durability::Commit);
    store.put(&keys(0..10), &vectors(0..10, 1)).unwrap();
    store.put(&keys(5..8), &vectors(5..8, 2)).unwrap();
    // The newest rows of items 6 and 9.
    place.write("vectors.npy", &[0xEE; 4], 128 + 41 * 4);
    place.write("vectors.npy", &[0xEE; 4], 128 + 39 * 4);
    let damaged = Simulated::of(&Image::default(), root);
    let simulated = std::sync::Arc::new(damaged);
    let copy = Place::of(simulated.clone(), path.clone());
    copy.storage.mkdir(&path).unwrap();
    for name in ["meta.json", "keys.bin", "vectors.npy", "commit"] {
        copy.add(name, &place.read(name));
    }
    let damaged = simulated.settled();
    let mut images = 0;
    for after in 0.. {
        let mut fired = 0;
        for (kept, is_mapped) in [0, 1, 2, 5, 7].into_iter().flat_map(|kept| [(kept, false), (kept, true)]) {
            let storage = std::sync::Arc::new(Simulated::of(&damaged, root));
            let copy = Place::of(storage.clone(), path.clone());
            let reading = is_mapped.then(|| copy.open(reader()).unwrap());
            let injection = Injection { fault: Fault::SyncAfter(Turns(kept)), after, for_ever: false, fired: 0 };
            storage.inject(Some(injection));
            let _ = repair(&*storage, &path, patience());
            fired += storage.inject(None).unwrap().fired;
            repair(&*storage, &path, patience()).unwrap();
            drop(reading);
            let mut moments = Moments::of(&storage);
            while moments.advance() {}
            for (image, _) in moments.images(&mut Random(1), 1) {
                let left = Place::of(std::sync::Arc::new(Simulated::of(&image, root)), path.clone());
                let found = get(&left.open(reader()).unwrap(), &[4, 5, 6, 7, 8, 9, 10]);
                let expected = [Some(1), Some(2), None, Some(2), Some(1), None, Some(0)];
                assert_eq!(found.map_versions(), expected, "sync {after} failed, {kept} kept, mapped {is_mapped}");
                let report = verify(&*left.storage, &path).unwrap();
                assert_eq!((report.damaged, report.problems), (Vec::new(), Vec::new()));
                images += 1;
            }
        }
        if fired == 0 {
            break;
        }
    }
    println!("{images} crash images after repairs whose sync failed");
}

#[test]
fn a_repair_that_a_power_loss_interrupts_brings_no_older_row_back() {
    let root = std::path::Path::new("/caches");
    let storage = std::sync::Arc::new(Simulated::of(&Image::default(), root));
    let place = Place::of(storage.clone(), root.join("one"));
    let store = place.create(Durability::Commit);
    store.put(&keys(0..300), &vectors(0..300, 0)).unwrap();
    store.put(&keys(290..293), &vectors(290..293, 1)).unwrap();
    // The newest row of item 291. Its older row is in another sector than its own.
    place.write("vectors.npy", &[0xEE; 4], 128 + 301 * 4);
    let damaged = storage.settled();
    let storage = std::sync::Arc::new(Simulated::of(&damaged, root));
    repair(&*storage, &place.path, patience()).unwrap();
    let mut moments = Moments::of(&storage);
    while moments.advance() {
        for (image, _) in moments.images(&mut Random(1), 2) {
            let left = Place::of(std::sync::Arc::new(Simulated::of(&image, root)), place.path.clone());
            repair(&*left.storage, &left.path, patience()).unwrap();
            let found = get(&left.open(reader()).unwrap(), &[289, 290, 291, 292]);
            assert_eq!(found.map_versions(), [Some(0), Some(1), None, Some(1)]);
        }
    }
}

#[test]
fn what_a_repair_keeps_of_unsynced_rows_survives_a_power_loss() {
    let root = std::path::Path::new("/caches");
    let storage = std::sync::Arc::new(Simulated::of(&Image::default(), root));
    let place = Place::of(storage.clone(), root.join("one"));
    let store = place.create(Durability::Close);
    store.put(&keys(0..5), &vectors(0..5, 0)).unwrap();
    store.sync().unwrap();
    store.put(&keys(5..10), &vectors(5..10, 0)).unwrap();
    let reading = place.open(reader()).unwrap();
    get(&reading, &[0, 9]);
    let fault = Fault::SyncAfter(Turns(0));
    for _ in 0..2 {
        storage.inject(Some(Injection { fault, after: 0, for_ever: true, fired: 0 }));
        for name in ["keys.bin", "vectors.npy", "commit"] {
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
        assert!(get(&left.open(reader()).unwrap(), &[0, 4, 5, 9]).iter().all(Option::is_some));
    }
}

trait Versions {
    fn map_versions(&self) -> Vec<Option<u8>>;
}

impl Versions for Vec<Option<[u8; common::DIM]>> {
    fn map_versions(&self) -> Vec<Option<u8>> {
        self.iter().map(|vector| vector.map(|vector| vector[3])).collect()
    }
}
