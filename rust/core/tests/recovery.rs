//! After a crash or a lost commit the cache continues from the acknowledged rows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::simulated::{Image, Simulated};
use common::{Place, get, in_memory, keys, options, reader, vector, vectors};
use dejavec_core::Error;
use dejavec_core::format::commit::{FILE_BYTES, SLOT_STRIDE};
use dejavec_core::store::{Durability, Store};
use dejavec_core::verify;

fn filled(groups: u64) -> Place {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    for group in 0..groups {
        let items = group * 10..(group + 1) * 10;
        store.append(&keys(items.clone()), &vectors(items, 0), None).unwrap();
    }
    place
}

/// The version of each item in a store. Missing for a miss and for a row with a checksum mismatch.
fn found(store: &Store, items: &[u64]) -> Vec<Option<u8>> {
    let read = |item: &u64| {
        let mut vector = [0; common::DIM];
        store.read_newest(&common::key(*item), &mut vector, true).unwrap().then_some(vector[3])
    };
    items.iter().map(read).collect()
}

fn all_there(place: &Place, items: std::ops::Range<u64>) -> bool {
    let items: Vec<u64> = items.collect();
    let store = place.open(reader()).unwrap();
    get(&store, &items).iter().zip(&items).all(|(found, item)| *found == Some(vector(*item, 0)))
}

#[test]
fn a_torn_newest_commit_gives_the_older_one_to_readers_and_everything_to_the_next_writer() {
    for group in [1_u64, 2, 3, 4] {
        let place = filled(group);
        let slot = (group % 2) * SLOT_STRIDE as u64;
        place.write("commit", &[0xFF; 64], slot);
        assert_eq!(place.open(reader()).unwrap().rows().unwrap(), (group - 1) * 10);
        let writer = place.open(options(Durability::Commit)).unwrap();
        writer.append(&keys(900..901), &vectors(900..901, 0), None).unwrap();
        assert_eq!(writer.rows().unwrap(), group * 10 + 1);
        assert!(all_there(&place, 0..group * 10));
    }
}

#[test]
fn rolling_forward_goes_to_the_last_row_that_holds() {
    let place = filled(2);
    place.write("commit", &[0xFF; 64], 0);
    place.write("vectors.npy", &[1, 2, 3], 128 + 15 * 4);
    let writer = place.open(options(Durability::Commit)).unwrap();
    writer.sync().unwrap();
    assert_eq!(writer.rows().unwrap(), 20);
    assert_eq!(found(&writer, &[14, 15, 16, 19]), [Some(0), None, Some(0), Some(0)]);
    // A damaged last row looks like a row that was never committed.
    let place = filled(2);
    place.write("commit", &[0xFF; 64], 0);
    place.write("vectors.npy", &[1, 2, 3], 128 + 19 * 4);
    let writer = place.open(options(Durability::Commit)).unwrap();
    writer.sync().unwrap();
    assert_eq!(writer.rows().unwrap(), 19);
}

/// A cache of ten items, and two groups that replace some. The slot of the last group is lost, and the given rows are
/// damaged.
fn damaged_behind_a_lost_commit(rows: &[u64]) -> Place {
    let place = filled(1);
    let store = place.open(options(Durability::Commit)).unwrap();
    store.put(&keys(0..10), &vectors(0..10, 1)).unwrap();
    store.put(&keys(5..8), &vectors(5..8, 2)).unwrap();
    place.write("commit", &[0; 64], SLOT_STRIDE as u64);
    for row in rows {
        place.write("vectors.npy", &[0xEE; 4], 128 + row * 4);
    }
    place
}

#[test]
fn a_damaged_row_behind_a_lost_commit_costs_no_sound_row_and_brings_no_replaced_one_back() {
    // The newest rows: 20 of item 5, 21 of item 6, 22 of item 7, 19 of item 9.
    let expected = [Some(1), Some(2), None, Some(2), Some(1), None];
    let items = [4, 5, 6, 7, 8, 9];
    for writer_first in [true, false] {
        let place = damaged_behind_a_lost_commit(&[19, 21]);
        if writer_first {
            let writer = place.open(options(Durability::Commit)).unwrap();
            writer.append(&keys(900..901), &vectors(900..901, 0), None).unwrap();
            assert_eq!(found(&writer, &items), expected);
        }
        let patience = options(Durability::Commit).patience;
        let report = dejavec_core::repair::repair(&*place.storage, &place.path, patience).unwrap();
        assert_eq!(report.damaged, [19, 21]);
        assert_eq!(found(&place.open(reader()).unwrap(), &items), expected);
        let report = verify::verify(&*place.storage, &place.path).unwrap();
        assert_eq!((report.damaged, report.problems), (Vec::new(), Vec::new()));
    }
}

#[test]
fn a_row_that_was_never_durable_gives_way_to_the_one_that_it_replaced() {
    for repair in [false, true] {
        let place = filled(1);
        let store = place.open(options(Durability::Close)).unwrap();
        store.put(&keys(0..4), &vectors(0..4, 1)).unwrap();
        // The power fails: the commit and two of the rows are on the disk.
        place.write("vectors.npy", &[0; 8], 128 + 11 * 4);
        drop(store);
        if repair {
            let patience = options(Durability::Commit).patience;
            let report = dejavec_core::repair::repair(&*place.storage, &place.path, patience).unwrap();
            assert_eq!(report.damaged, [11, 12]);
        } else {
            place.open(options(Durability::Commit)).unwrap().sync().unwrap();
        }
        let store = place.open(reader()).unwrap();
        assert_eq!(found(&store, &[0, 1, 2, 3, 4]), [Some(1), Some(0), Some(0), Some(1), Some(0)]);
    }
}

#[test]
fn the_rest_of_a_group_that_was_never_committed_does_not_come_back() {
    let place = filled(1);
    // A writer died after writing ten rows of version 9, before its commit.
    let other = filled(1);
    let dead = other.open(options(Durability::Commit)).unwrap();
    dead.put(&keys(0..10), &vectors(0..10, 9)).unwrap();
    let (keys_left, vectors_left) = (other.read("keys.bin"), other.read("vectors.npy"));
    place.write("keys.bin", &keys_left[64 + 10 * 40..], 64 + 10 * 40);
    place.write("vectors.npy", &vectors_left[128 + 10 * 4..], 128 + 10 * 4);
    // Another writer writes two rows over them. Then its commit is torn.
    let writer = place.open(options(Durability::Commit)).unwrap();
    writer.append(&keys(50..52), &vectors(50..52, 0), None).unwrap();
    place.write("commit", &[0xFF; 64], 0);
    let next = place.open(options(Durability::Commit)).unwrap();
    next.sync().unwrap();
    assert_eq!(next.rows().unwrap(), 12);
    assert!(all_there(&place, 0..10) && all_there(&place, 50..52));
}

#[test]
fn pages_lost_in_the_middle_of_a_group_do_not_bring_back_what_lay_there_before() {
    // A writer died after writing ten rows of version 9, which replace the first ten, before its commit.
    let (place, other) = (filled(1), filled(1));
    other.open(options(Durability::Commit)).unwrap().put(&keys(0..10), &vectors(0..10, 9)).unwrap();
    let (keys_left, vectors_left) = (other.read("keys.bin"), other.read("vectors.npy"));
    place.write("keys.bin", &keys_left[64 + 10 * 40..], 64 + 10 * 40);
    place.write("vectors.npy", &vectors_left[128 + 10 * 4..], 128 + 10 * 4);
    let before = place.read("vectors.npy");
    let writer = place.open(options(Durability::Close)).unwrap();
    writer.append(&keys(50..58), &vectors(50..58, 0), None).unwrap();
    // The power fails: the commit is torn. In the middle of the group the disk has the old rows and the zeroed records.
    place.write("commit", &[0xFF; 64], 0);
    place.write("vectors.npy", &before[128 + 12 * 4..128 + 15 * 4], 128 + 12 * 4);
    place.write("keys.bin", &[0; 40 * 3], 64 + 12 * 40);
    let next = place.open(options(Durability::Commit)).unwrap();
    next.sync().unwrap();
    assert_eq!(next.rows().unwrap(), 18);
    assert!(all_there(&place, 0..10) && all_there(&place, 50..52) && all_there(&place, 55..58));
    assert_eq!(found(&next, &[52, 53, 54]), [None; 3]);
}

#[test]
fn a_live_handle_never_loses_rows() {
    let place = filled(1);
    let store = place.open(options(Durability::Commit)).unwrap();
    store.append(&keys(10..20), &vectors(10..20, 0), None).unwrap();
    place.write("commit", &[0xFF; 64], 0);
    assert_eq!(store.refresh().unwrap(), 20);
    store.append(&keys(20..30), &vectors(20..30, 0), None).unwrap();
    assert_eq!(store.rows().unwrap(), 30);
    assert!(all_there(&place, 0..30));
}

#[test]
fn two_invalid_slots_are_an_error_and_repair_rebuilds_the_commit() {
    let place = filled(3);
    place.write("commit", &[0; FILE_BYTES], 0);
    assert!(matches!(place.open(reader()), Err(Error::Corrupt { .. })));
    let patience = options(Durability::Commit).patience;
    dejavec_core::repair::repair(&*place.storage, &place.path, patience).unwrap();
    assert!(all_there(&place, 0..30));
}

#[test]
fn files_that_lost_unsynced_rows_open_with_the_durable_ones() {
    let place = filled(1);
    let store = place.open(options(Durability::Close)).unwrap();
    for group in 1..4_u64 {
        let items = group * 10..(group + 1) * 10;
        store.append(&keys(items.clone()), &vectors(items, 0), None).unwrap();
    }
    // The power fails: the commits are on disk, the rows are not.
    let (keys, vectors) = (place.read("keys.bin"), place.read("vectors.npy"));
    place.replace("keys.bin", &keys[..64 + 12 * 40]);
    place.replace("vectors.npy", &vectors[..128 + 15 * 4]);
    assert_eq!(place.open(reader()).unwrap().rows().unwrap(), 10);
    let writer = place.open(options(Durability::Commit)).unwrap();
    writer.sync().unwrap();
    assert_eq!(writer.rows().unwrap(), 12);
    assert!(all_there(&place, 0..12));
}

#[test]
fn an_unfinished_creation_is_finished_and_a_foreign_directory_refused() {
    let place = in_memory();
    place.storage.mkdir(&place.path).unwrap();
    let create = |name: &str, bytes: &[u8]| {
        let access = dejavec_core::storage::Access::Create;
        place.storage.open(&place.path.join(name), access).unwrap().write_at(bytes, 0).unwrap();
    };
    create("vectors.npy", b"half");
    create("meta.json.tmp-0123", b"{");
    place.create(Durability::Commit).put(&keys(0..3), &vectors(0..3, 0)).unwrap();
    assert!(all_there(&place, 0..3));
    for name in ["notes.txt", "index.json"] {
        let place = in_memory();
        place.storage.mkdir(&place.path).unwrap();
        let access = dejavec_core::storage::Access::Create;
        place.storage.open(&place.path.join(name), access).unwrap();
        let opened = dejavec_core::store::Store::create(
            std::sync::Arc::clone(&place.storage),
            &place.path,
            &common::spec(),
            options(Durability::Commit),
        );
        match opened {
            Err(Error::Foreign { found, .. }) => assert_eq!(found, name),
            other => panic!("expected a refusal, got {other:?}"),
        }
        assert_eq!(place.storage.list(&place.path).unwrap().len(), 1, "nothing was written");
    }
}

#[test]
fn a_directory_replaced_under_an_open_handle_never_gives_a_wrong_vector() {
    let place = filled(1);
    let store = place.open(options(Durability::Commit)).unwrap();
    let mut rows = vec![0; 10];
    store.lookup(&keys(0..10), &mut rows).unwrap();
    for name in ["meta.json", "keys.bin", "vectors.npy", "commit", "LOCK"] {
        place.storage.remove(&place.path.join(name)).unwrap();
    }
    let other = place.create(Durability::Commit);
    other.append(&keys(100..120), &vectors(100..120, 7), None).unwrap();
    store.append(&keys(0..1), &vectors(0..1, 0), None).unwrap();
    let mut out = vec![0; 40];
    let failed = store.gather(&keys(0..10), &rows, &mut out, false).unwrap();
    assert_eq!(failed, (0..10).collect::<Vec<_>>());
    assert_eq!(get(&store, &[0, 100, 5]), [Some(vector(0, 0)), Some(vector(100, 7)), None]);
}

#[test]
fn a_put_through_a_handle_that_has_not_refreshed_still_wins() {
    let place = in_memory();
    let (one, two) = (place.create(Durability::Commit), place.create(Durability::Commit));
    one.put(&keys(0..1), &vector(0, 1)).unwrap();
    two.put(&keys(0..1), &vector(0, 2)).unwrap();
    assert_eq!(one.put(&keys(0..1), &vector(0, 1)).unwrap(), 1);
    assert_eq!(get(&place.open(reader()).unwrap(), &[0]), [Some(vector(0, 1))]);
}

#[test]
fn durable_rows_that_are_gone_are_damage_not_a_smaller_cache() {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    store.put(&keys(0..1), &vector(0, 1)).unwrap();
    store.put(&keys(0..1), &vector(0, 2)).unwrap();
    let vectors = place.read("vectors.npy");
    place.replace("vectors.npy", &vectors[..vectors.len() - 1]);
    assert!(matches!(place.open(reader()), Err(Error::Corrupt { .. })));
    // The lost row's key is known: its older row does not come back.
    dejavec_core::repair::repair(&*place.storage, &place.path, options(Durability::Commit).patience).unwrap();
    assert_eq!(get(&place.open(reader()).unwrap(), &[0]), [None]);
}

#[test]
fn rows_of_another_handle_that_a_put_relies_on_are_durable_after_close() {
    let place = in_memory();
    let (one, two) = (place.create(Durability::Close), place.create(Durability::Close));
    one.append(&keys(0..3), &vectors(0..3, 0), None).unwrap();
    assert_eq!(two.put(&keys(0..3), &vectors(0..3, 0)).unwrap(), 0);
    two.close().unwrap();
    let statistics = place.open(reader()).unwrap().statistics().unwrap();
    assert_eq!((statistics.rows, statistics.synced), (3, 3));
}

#[test]
fn an_identity_that_could_not_be_read_back_makes_no_cache() {
    let place = in_memory();
    let mut identity = serde_json::json!({});
    for _ in 0..126 {
        identity = serde_json::json!({ "deeper": identity });
    }
    let spec = dejavec_core::directory::Spec { identity, ..common::spec() };
    let storage = std::sync::Arc::clone(&place.storage);
    let made = dejavec_core::store::Store::create(storage, &place.path, &spec, options(Durability::Commit));
    assert!(matches!(made, Err(Error::Argument { .. })));
    assert!(place.storage.metadata(&place.path.join("meta.json")).is_err());
}

#[test]
fn what_a_killed_writer_left_is_made_sure_in_pieces_between_which_others_write() {
    let path = std::path::Path::new("/caches/one");
    let storage = Arc::new(Simulated::of(&Image::default(), std::path::Path::new("/caches")));
    let spec = dejavec_core::directory::Spec { dim: 65_536, ..common::spec() };
    let create =
        |durability| Store::create(Arc::<Simulated>::clone(&storage), path, &spec, options(durability)).unwrap();
    let vector = |item: u64| vec![item as u8; 65_536];
    let killed = create(Durability::Close);
    for items in [0..600, 600..1200_u64] {
        let vectors: Vec<u8> = items.clone().flat_map(vector).collect();
        killed.append(&keys(items), &vectors, None).unwrap();
    }
    drop(killed);
    let next = create(Durability::Commit);
    let before = storage.locks_taken();
    next.put(&keys([1200]), &vector(1200)).unwrap();
    // 79 MB, 17 of them under one hold of the lock. The lock of the commit record is held too.
    assert_eq!(storage.locks_taken() - before, 5 * 2);
    let statistics = next.statistics().unwrap();
    assert_eq!((statistics.rows, statistics.synced), (1201, 1201));
    let mut found = vec![0; 65_536];
    for item in [0, 599, 600, 1199, 1200] {
        assert!(next.read_newest(&common::key(item), &mut found, true).unwrap() && found == vector(item));
    }
}
