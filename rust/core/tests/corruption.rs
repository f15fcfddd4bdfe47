//! Damaged bytes give the right vector, a miss or a typed error: never a wrong vector, never a panic.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{DIM, Place, in_memory, key, keys, options, reader, vector, vectors};
use dejavec_core::format::name;
use dejavec_core::store::{Durability, Store};

const ITEMS: u64 = 6;
const VECTORS: &str = "vectors.npy";
const FILES: [&str; 4] = [name::META, name::KEYS, VECTORS, name::COMMIT];

fn small() -> Place {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    store.append(&keys(0..3), &vectors(0..3, 0), None).unwrap();
    store.append(&keys(3..ITEMS), &vectors(3..ITEMS, 0), None).unwrap();
    place
}

/// Reads all items; panics on a wrong vector. Gives how many were right.
fn right(store: &Store) -> usize {
    let keys = keys(0..ITEMS);
    let mut rows = vec![0; keys.len()];
    let mut out = vec![0; keys.len() * DIM];
    if store.lookup(&keys, &mut rows).is_err() {
        return 0;
    }
    let Ok(failed) = store.gather(&keys, &rows, &mut out, true) else { return 0 };
    let mut right = 0;
    for item in 0..ITEMS {
        let position = item as usize;
        if rows[position] >= 0 && !failed.contains(&position) {
            assert_eq!(out[position * DIM..(position + 1) * DIM], vector(item, 0), "a wrong vector for item {item}");
            right += 1;
        }
    }
    right
}

#[test]
fn every_flipped_bit_is_harmless_and_repair_heals() {
    let mut variants = 0;
    for file in FILES {
        let place = small();
        let originals = FILES.map(|file| place.read(file));
        let good = place.read(file);
        for (at, byte) in good.iter().enumerate() {
            if file == name::COMMIT && at % 4096 > 70 {
                continue; // Nothing is stored there.
            }
            place.write(file, &[byte ^ (1 << (at % 8))], at as u64);
            if let Ok(store) = place.open(reader()) {
                right(&store);
            }
            if let Ok(store) = place.open(options(Durability::Commit)) {
                right(&store);
                // Encoding again heals whatever was lost.
                let mut rows = vec![0; ITEMS as usize];
                if store.lookup(&keys(0..ITEMS), &mut rows).is_ok()
                    && store.append(&keys(0..ITEMS), &vectors(0..ITEMS, 0), Some(&rows)).is_ok()
                {
                    assert_eq!(right(&store), ITEMS as usize, "{file} byte {at}");
                }
            }
            for (file, original) in FILES.iter().zip(&originals) {
                place.replace(file, original);
            }
            variants += 1;
        }
    }
    println!("{variants} corrupted variants");
    assert!(variants > 800);
}

#[test]
fn damaged_rows_are_named_and_become_misses() {
    let place = small();
    place.write(VECTORS, &[0xFF; 2], 128 + 4 * DIM as u64);
    place.write(name::KEYS, &[0xFF; 2], 64 + 40);
    let report = dejavec_core::repair::verify(&*place.storage, &place.path).unwrap();
    assert_eq!(report.damaged, [1, 4]);
    let patience = options(Durability::Commit).patience;
    dejavec_core::repair::repair(&*place.storage, &place.path, patience).unwrap();
    let report = dejavec_core::repair::verify(&*place.storage, &place.path).unwrap();
    assert_eq!((report.damaged.len(), report.dead, report.problems.len()), (0, 2, 0));
    let store = place.open(reader()).unwrap();
    assert_eq!(right(&store), 4);
}

#[test]
fn an_older_row_does_not_come_back_when_the_newer_is_lost() {
    let place = small();
    place.open(options(Durability::Commit)).unwrap().put(&[key(2)], &vector(2, 5)).unwrap();
    place.write(VECTORS, &[0xAA; DIM], 128 + 6 * DIM as u64);
    let patience = options(Durability::Commit).patience;
    dejavec_core::repair::repair(&*place.storage, &place.path, patience).unwrap();
    let mut rows = [0];
    place.open(reader()).unwrap().lookup(&[key(2)], &mut rows).unwrap();
    assert_eq!(rows, [-1]);
}

#[test]
fn every_cut_of_every_file_is_harmless() {
    let mut variants = 0;
    for file in FILES {
        let place = small();
        let good = place.read(file);
        for cut in 0..good.len() {
            if file == name::COMMIT && cut % 64 != 0 {
                continue;
            }
            place.replace(file, &good[..cut]);
            if let Ok(store) = place.open(reader()) {
                right(&store);
            }
            variants += 1;
        }
    }
    println!("{variants} cut variants");
}

#[test]
fn files_of_another_cache_are_refused() {
    for file in [name::KEYS, name::COMMIT] {
        let (place, other) = (small(), small());
        place.replace(file, &other.read(file));
        assert!(place.open(reader()).is_err(), "{file}");
    }
    // The rows file carries no name; its rows fail their checks.
    let (place, other) = (small(), in_memory());
    let store = other.create(Durability::Commit);
    store.append(&keys(50..56), &vectors(50..56, 1), None).unwrap();
    place.replace(VECTORS, &other.read(VECTORS));
    assert_eq!(right(&place.open(reader()).unwrap()), 0);
}

#[test]
fn a_repair_that_is_cut_short_brings_no_older_row_back() {
    let place = small();
    place.open(options(Durability::Commit)).unwrap().put(&[key(2)], &vector(2, 5)).unwrap();
    place.write(VECTORS, &[0xAA; DIM], 128 + 6 * DIM as u64);
    // The first half of a repair: the older row is zeroed, the damaged one not yet.
    place.write(name::KEYS, &[0; 40], 64 + 2 * 40);
    let patience = options(Durability::Commit).patience;
    let report = dejavec_core::repair::repair(&*place.storage, &place.path, patience).unwrap();
    assert_eq!(report.damaged, [6]);
    let mut rows = [0];
    place.open(reader()).unwrap().lookup(&[key(2)], &mut rows).unwrap();
    assert_eq!(rows, [-1]);
}

#[test]
fn without_a_commit_a_damaged_last_row_does_not_give_way_to_an_older_one() {
    let place = small();
    place.open(options(Durability::Commit)).unwrap().put(&[key(2)], &vector(2, 5)).unwrap();
    place.write(VECTORS, &[0xAA; DIM], 128 + 6 * DIM as u64);
    place.replace(name::COMMIT, &[]);
    let patience = options(Durability::Commit).patience;
    dejavec_core::repair::repair(&*place.storage, &place.path, patience).unwrap();
    let mut rows = [0];
    place.open(reader()).unwrap().lookup(&[key(2)], &mut rows).unwrap();
    assert_eq!(rows, [-1]);
}

#[test]
fn a_damaged_meta_json_sends_nobody_to_a_repair_that_cannot_mend_it() {
    let place = in_memory();
    let store =
        Store::create(place.storage.clone(), &place.path, &common::spec(), options(Durability::Commit)).unwrap();
    store.append(&keys(0..1), &vectors(0..1, 0), None).unwrap();
    place.write(name::META, b"X", 100);
    for error in [
        Store::open(place.storage.clone(), &place.path, reader()).unwrap_err(),
        dejavec_core::repair::verify(&*place.storage, &place.path).unwrap_err(),
    ] {
        let sentence = error.to_string();
        assert!(sentence.contains("restore it from a copy") && !sentence.contains("--repair"), "{sentence}");
    }
}
