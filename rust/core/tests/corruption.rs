//! Damaged bytes give the right vector, a miss or a typed error: never a wrong vector, never a panic.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common::contents::{self, CONTAINERS, content, rows};
use crate::common::{DIM, Place, in_memory, is_whole, key, keys, options, reader, vector, vectors};
use dejavec_core::Error;
use dejavec_core::files::CacheFiles;
use dejavec_core::format::container::Container;
use dejavec_core::format::name;
use dejavec_core::index::{self, Building, Covered};
use dejavec_core::store::{Durability, Store};
use dejavec_core::verify;

const ITEMS: u64 = 6;
const VECTORS: &str = "vectors.npy";

fn small() -> Place {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    store.append(&keys(0..3), &vectors(0..3, 0), None).unwrap();
    store.append(&keys(3..ITEMS), &vectors(3..ITEMS, 0), None).unwrap();
    place
}

/// Reads all items, together and one by one. Panics on a wrong row. Returns how many were right.
fn right(store: &Store) -> usize {
    let keys = keys(0..ITEMS);
    let Ok(found) = contents::read(store, &keys) else { return 0 };
    let container = store.meta().unwrap().container;
    let mut right = 0;
    for (item, found) in (0..ITEMS).zip(found) {
        let is_right = found.is_some();
        if let Some(found) = found {
            assert_eq!(found, content(container, item, 0), "a wrong row for item {item}");
            right += 1;
        }
        if container.is_dense() {
            let mut alone = [0; DIM];
            assert_eq!(store.read_newest(&key(item), &mut alone, true).unwrap(), is_right, "item {item} alone");
            assert!(!is_right || alone == vector(item, 0), "a wrong vector for item {item} alone");
        }
    }
    right
}

/// All files of a small, sound cache in one container, with an index snapshot.
fn whole(container: Container) -> (Place, Vec<(String, Vec<u8>)>) {
    let place = in_memory().holding(container);
    let store = place.create(Durability::Commit);
    store.append(&keys(0..3), rows(container, 0..3, 0).batch(), None).unwrap();
    store.append(&keys(3..ITEMS), rows(container, 3..ITEMS, 0).batch(), None).unwrap();
    let files = CacheFiles::open(&*place.storage, &place.path, false).unwrap();
    let slot = files.recover().unwrap().slot;
    let covered = Covered { keys: &files.keys, rows: slot.committed.rows, epoch: slot.epoch };
    index::write_snapshot(&*place.storage, &place.path, &files.meta, &covered, slot.erased, Building::default())
        .unwrap();
    let names = place.storage.list(&place.path).unwrap().into_iter().map(|(name, _)| name);
    let originals = names.filter(|name| name != name::LOCK).map(|name| (name.clone(), place.read(&name))).collect();
    (place, originals)
}

/// The same, of a cache that was compacted.
fn whole_after_compaction(container: Container) -> (Place, Vec<(String, Vec<u8>)>) {
    let place = in_memory().holding(container);
    let store = place.create(Durability::Commit);
    store.append(&keys(2..9), rows(container, 2..9, 1).batch(), None).unwrap();
    store.put(&keys(0..ITEMS), rows(container, 0..ITEMS, 0).batch()).unwrap();
    store.delete(&keys(ITEMS..9)).unwrap();
    store.compact().unwrap();
    let names = place.storage.list(&place.path).unwrap().into_iter().map(|(name, _)| name);
    let originals: Vec<_> =
        names.filter(|name| name != name::LOCK).map(|name| (name.clone(), place.read(&name))).collect();
    assert!(originals.iter().any(|(name, _)| name == "commit.1"));
    (place, originals)
}

/// The places where a file is damaged: all of them, but without `DEJAVEC_CRASH_CALLS` only some in the padding of FAISS
/// and ragged caches. The padded files of these are the same as those of other dense caches, and of sparse ones.
fn positions(container: Container, bytes: &[u8]) -> impl Iterator<Item = usize> {
    const NEAR: usize = 32;
    let is_whole = is_whole() || matches!(container, Container::Npy | Container::Sparse);
    (0..bytes.len()).filter(move |at| {
        let around = &bytes[at.saturating_sub(NEAR)..(at + NEAR).min(bytes.len())];
        is_whole || at % 61 == 0 || around.iter().any(|byte| *byte != 0)
    })
}

fn restore(place: &Place, originals: &[(String, Vec<u8>)]) {
    for (name, _) in place.storage.list(&place.path).unwrap() {
        if name != name::LOCK {
            place.storage.remove(&place.path.join(name)).unwrap();
        }
    }
    for (name, original) in originals {
        place.add(name, original);
    }
}

/// Reads, heals and repairs a cache with one damage in `file`. Panics on a wrong vector.
fn check_damaged(
    place: &Place,
    container: Container,
    file: &str,
    originals: &[(String, Vec<u8>)],
    damaged: &[u8],
    what: &str,
) {
    if let Ok(store) = place.open(reader()) {
        right(&store);
    }
    if let Ok(store) = place.open(options(Durability::Commit)) {
        right(&store);
        // Encoding again heals all losses.
        let mut seen = vec![0; ITEMS as usize];
        let items = rows(container, 0..ITEMS, 0);
        if store.lookup(&keys(0..ITEMS), &mut seen).is_ok()
            && store.append(&keys(0..ITEMS), items.batch(), Some(&seen)).is_ok()
        {
            assert_eq!(right(&store), ITEMS as usize, "{what}");
        }
    }
    restore(place, originals);
    place.replace(file, damaged);
    let patience = options(Durability::Commit).patience;
    let repaired = dejavec_core::repair::repair(&*place.storage, &place.path, patience);
    assert_eq!(repaired.is_err(), file == name::META && place.open(reader()).is_err(), "{what}: {repaired:?}");
    if repaired.is_ok() {
        right(&place.open(reader()).unwrap());
        let report = verify::verify(&*place.storage, &place.path).unwrap();
        assert!(report.damaged.is_empty() && report.problems.is_empty(), "{what}: {report:?}");
    }
}

#[test]
fn every_flipped_bit_is_harmless_and_repair_heals() {
    let mut variants = 0;
    for container in CONTAINERS {
        let (place, originals) = whole(container);
        for (file, good) in &originals {
            for at in positions(container, good) {
                let mut damaged = good.clone();
                damaged[at] ^= 1 << (at % 8);
                place.replace(file, &damaged);
                check_damaged(&place, container, file, &originals, &damaged, &format!("{file} byte {at}"));
                restore(&place, &originals);
                variants += 1;
            }
        }
    }
    println!("{variants} variants with a flipped bit");
    assert!(variants > 45_000);
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_compacted_cache_is_harmless() {
    let mut variants = 0;
    for container in CONTAINERS {
        let (place, originals) = whole_after_compaction(container);
        for (file, good) in &originals {
            for at in (0..good.len()).filter(|at| is_whole() || at % 61 == 0) {
                let mut flipped = good.clone();
                flipped[at] ^= 1 << (at % 8);
                place.replace(file, &flipped);
                check_damaged(&place, container, file, &originals, &flipped, &format!("{file} byte {at}"));
                restore(&place, &originals);
                place.replace(file, &good[..at]);
                for options in [reader(), options(Durability::Commit)] {
                    if let Ok(store) = place.open(options) {
                        right(&store);
                    }
                }
                place.replace(file, good);
                variants += 2;
            }
        }
    }
    println!("{variants} variants of a compacted cache");
}

#[test]
fn damaged_rows_are_named_and_become_misses() {
    let place = small();
    place.write(VECTORS, &[0xFF; 2], 128 + 4 * DIM as u64);
    place.write(name::KEYS, &[0xFF; 2], 64 + 40);
    let report = verify::verify(&*place.storage, &place.path).unwrap();
    assert_eq!(report.damaged, [1, 4]);
    let patience = options(Durability::Commit).patience;
    dejavec_core::repair::repair(&*place.storage, &place.path, patience).unwrap();
    let report = verify::verify(&*place.storage, &place.path).unwrap();
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
    for container in CONTAINERS {
        let (place, originals) = whole(container);
        for (file, good) in &originals {
            for cut in positions(container, good) {
                place.replace(file, &good[..cut]);
                for options in [reader(), options(Durability::Commit)] {
                    if let Ok(store) = place.open(options) {
                        right(&store);
                    }
                }
                variants += 1;
            }
            place.replace(file, good);
        }
    }
    println!("{variants} variants cut short");
    assert!(variants > 45_000);
}

#[test]
fn files_of_another_cache_are_refused_or_hold_nothing() {
    for container in CONTAINERS {
        for (file, _) in whole(container).1 {
            let ((place, _), (_, others)) = (whole(container), whole(container));
            let (_, theirs) = others.iter().find(|(name, _)| *name == file).unwrap();
            place.replace(&file, theirs);
            match place.open(reader()) {
                // Rows do not name their cache. Their checksums only match the same key and row number, as here.
                Ok(store) => {
                    assert!(
                        [VECTORS, "vectors.faiss", "values.npy", "indices.npy", "indptr.npy"].contains(&file.as_str())
                            || file.ends_with(".idx"),
                        "{file}"
                    );
                    assert_eq!(right(&store), ITEMS as usize, "{file}");
                }
                Err(_) => assert!([name::META, name::KEYS, name::COMMIT].contains(&file.as_str()), "{file}"),
            }
        }
    }
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
fn a_damaged_meta_json_is_an_error_of_its_own_since_no_repair_can_mend_it() {
    let place = in_memory();
    let store =
        Store::create(place.storage.clone(), &place.path, &crate::common::spec(), options(Durability::Commit)).unwrap();
    store.append(&keys(0..1), &vectors(0..1, 0), None).unwrap();
    place.write(name::META, b"X", 100);
    for error in [
        Store::open(place.storage.clone(), &place.path, reader()).unwrap_err(),
        verify::verify(&*place.storage, &place.path).unwrap_err(),
    ] {
        assert!(matches!(error, Error::CorruptMeta { .. }), "{error:?}");
    }
}
