//! The index is derived data: look-ups give the same rows with, without and with damaged snapshots.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common::{Place, get, in_memory, key, keys, options, reader, vector, vectors};
use dejavec_core::files::CacheFiles;
use dejavec_core::index::{self, Building, Covered};
use dejavec_core::store::{Durability, Store};

/// Enough rows for a snapshot, some of them replaced.
const ITEMS: u64 = 70_000;

fn large() -> Place {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    store.append(&keys(0..100), &vectors(0..100, 0), None).unwrap();
    store.put(&keys(0..ITEMS), &vectors(0..ITEMS, 1)).unwrap();
    assert_eq!(place.snapshots().len(), 1);
    store.put(&keys(0..50), &vectors(0..50, 2)).unwrap();
    place
}

fn check(store: &Store) {
    let mut rows = vec![0; ITEMS as usize];
    store.lookup(&keys(0..ITEMS), &mut rows).unwrap();
    for item in 0..ITEMS {
        let row = if item < 50 { ITEMS + 100 + item } else { 100 + item };
        assert_eq!(rows[item as usize], row as i64, "item {item}");
    }
    let mut missing = [0];
    store.lookup(&[key(ITEMS)], &mut missing).unwrap();
    assert_eq!(missing, [-1]);
    assert_eq!(store.keys().unwrap(), ITEMS);
}

#[test]
fn a_snapshot_and_its_delta_answer_like_the_keys_themselves() {
    let place = large();
    let store = place.open(reader()).unwrap();
    let statistics = store.statistics().unwrap();
    assert_eq!((statistics.snapshot_rows, statistics.delta_rows), (ITEMS + 100, 50));
    check(&store);
    for name in place.snapshots() {
        place.storage.remove(&place.path.join(name)).unwrap();
    }
    let store = place.open(reader()).unwrap();
    assert_eq!(store.statistics().unwrap().snapshot_rows, 0);
    check(&store);
}

#[test]
fn a_key_that_is_searched_for_has_the_row_that_the_index_gives_it() {
    let place = in_memory();
    let store = place.create(Durability::Close);
    store.append(&keys(0..300), &vectors(0..300, 0), None).unwrap();
    store.put(&keys(100..200), &vectors(100..200, 1)).unwrap();
    store.sync().unwrap();
    for covered in [0, 250, 350, 400] {
        for name in place.snapshots() {
            place.storage.remove(&place.path.join(name)).unwrap();
        }
        let files = CacheFiles::open(&*place.storage, &place.path, false).unwrap();
        let covered = Covered { keys: &files.keys, rows: covered, epoch: 1 };
        index::write_snapshot(&*place.storage, &place.path, &files.meta, &covered, 0, Building::default()).unwrap();
        for item in [0, 99, 100, 199, 200, 299, 300] {
            // The first read of a handle scans the rows. A batch enters them into the index.
            let (searching, indexed) = (place.open(reader()).unwrap(), place.open(reader()).unwrap());
            let mut rows = [0; 2];
            indexed.lookup(&keys([item, 0]), &mut rows).unwrap();
            let mut row = [0];
            searching.lookup(&keys([item]), &mut row).unwrap();
            assert_eq!(row[0], rows[0], "item {item}");
            let mut alone = [0; crate::common::DIM];
            let found = searching.read_newest(&key(item), &mut alone, true).unwrap();
            assert_eq!(found.then_some(alone), get(&indexed, &[item])[0], "item {item}");
            for _ in 0..5 {
                searching.lookup(&keys([item]), &mut row).unwrap();
                assert_eq!(row[0], rows[0], "item {item}");
            }
        }
    }
}

#[test]
fn a_writer_that_closes_leaves_few_rows_behind_the_snapshot() {
    let place = large();
    let writer = place.create(Durability::Close);
    writer.append(&keys(ITEMS..ITEMS + 10_000), &vectors(ITEMS..ITEMS + 10_000, 1), None).unwrap();
    assert_eq!(writer.statistics().unwrap().delta_rows, 10_050);
    writer.close().unwrap();
    let reader = place.open(reader()).unwrap();
    assert_eq!(reader.statistics().unwrap().delta_rows, 0);
    reader.close().unwrap();
    assert_eq!(place.snapshots().len(), 1);
}

#[test]
fn a_damaged_snapshot_costs_misses_at_most() {
    let place = large();
    let name = place.snapshots().remove(0);
    let len = place.read(&name).len() as u64;
    for at in (0..len).step_by(9973) {
        place.write(&name, &[0x5A; 16], at.min(len - 16));
    }
    let store = place.open(reader()).unwrap();
    let all = keys(0..ITEMS);
    let mut rows = vec![0; all.len()];
    store.lookup(&all, &mut rows).unwrap();
    let mut out = vec![0; all.len() * crate::common::DIM];
    assert_eq!(store.gather(&all, &rows, &mut out, true).unwrap(), Vec::<usize>::new());
    for item in 0..ITEMS {
        let (position, newest) = (item as usize, if item < 50 { 2 } else { 1 });
        if rows[position] >= 0 {
            assert_eq!(out[position * crate::common::DIM..][..crate::common::DIM], vector(item, newest));
        }
    }
    let report = dejavec_core::verify::verify(&*place.storage, &place.path).unwrap();
    assert_eq!(report.problems.len(), 1);
}

#[test]
fn a_fingerprint_without_the_full_key_is_no_hit() {
    let place = large();
    let name = place.snapshots().remove(0);
    let meta = dejavec_core::format::meta::Meta::parse(&place.read("meta.json")).unwrap();
    let missing = key(ITEMS + 7);
    let fingerprint = dejavec_core::checksum::index_hash(&missing, meta.seed) & 0xFF_FFFF;
    // Every slot claims that the key may be in row 500.
    let slot = ((500 + 1) << 24 | fingerprint).to_le_bytes();
    let slots = (place.read(&name).len() - 4096) / 8 - 1024;
    place.write(&name, &slot.repeat(slots), 4096);
    let store = place.open(reader()).unwrap();
    let mut rows = [0];
    store.lookup(&[missing], &mut rows).unwrap();
    assert_eq!(rows, [-1]);
}

#[test]
fn a_damaged_slot_that_names_an_older_row_of_the_key_is_a_miss() {
    let place = large();
    let name = place.snapshots().remove(0);
    let bytes = place.read(&name);
    // Item 70 has its first version in row 70 and its second in row 170.
    let at = bytes[4096..].chunks_exact(8).position(|slot| u64::from_le_bytes(slot.try_into().unwrap()) >> 24 == 171);
    let at = 4096 + at.unwrap() * 8;
    let slot = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    place.write(&name, &((slot & 0xFF_FFFF) | (71 << 24)).to_le_bytes(), at as u64);
    let store = place.open(reader()).unwrap();
    let mut rows = [0];
    store.lookup(&[key(70)], &mut rows).unwrap();
    assert_eq!(rows, [-1]);
}

#[test]
fn a_table_without_an_empty_slot_does_not_spin() {
    let place = large();
    let name = place.snapshots().remove(0);
    let slots = place.read(&name).len() - 4096 - 1024;
    place.write(&name, &vec![0xFF; slots], 4096);
    let store = place.open(reader()).unwrap();
    let mut rows = [0];
    store.lookup(&[key(60_000)], &mut rows).unwrap();
    assert_eq!(rows, [-1]);
}

#[test]
fn snapshots_never_cover_rows_that_are_not_durable() {
    let place = in_memory();
    let store = place.create(Durability::Close);
    store.append(&keys(0..ITEMS), &vectors(0..ITEMS, 0), None).unwrap();
    assert_eq!(place.snapshots().len(), 0);
    store.sync().unwrap();
    assert_eq!(place.snapshots().len(), 1);
}

#[test]
fn only_the_newest_snapshot_stays() {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    for group in 0..4 {
        let items = group * ITEMS..(group + 1) * ITEMS;
        store.append(&keys(items.clone()), &vectors(items, 0), None).unwrap();
    }
    assert_eq!(place.snapshots().len(), 1);
    let fresh = place.open(options(Durability::Commit)).unwrap();
    assert_eq!(fresh.keys().unwrap(), 4 * ITEMS);
}
