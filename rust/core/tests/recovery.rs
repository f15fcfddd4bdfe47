//! After a crash or a lost commit the cache continues from the acknowledged rows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use crate::common::contents::{self, Contents, in_each, rows, versions};
use crate::common::simulated::{Image, Simulated};
use crate::common::{Place, in_memory, keys, options, reader};
use dejavec_core::Error;
use dejavec_core::format::commit::{FILE_BYTES, SLOT_STRIDE};
use dejavec_core::format::container::Container;
use dejavec_core::store::{Durability, Store};
use dejavec_core::verify;

fn filled(container: Container, groups: u64) -> Place {
    let place = in_memory().holding(container);
    let store = place.create(Durability::Commit);
    for group in 0..groups {
        let items = group * 10..(group + 1) * 10;
        store.append(&keys(items.clone()), rows(container, items, 0).batch(), None).unwrap();
    }
    place
}

fn repaired(place: &Place) -> verify::Report {
    dejavec_core::repair::repair(&*place.storage, &place.path, options(Durability::Commit).patience).unwrap()
}

fn all_there(place: &Place, items: std::ops::Range<u64>) -> bool {
    versions(&place.open(reader()).unwrap(), items).iter().all(|version| *version == Some(0))
}

#[test]
fn a_torn_newest_commit_gives_the_older_one_to_readers_and_everything_to_the_next_writer() {
    in_each(|container| {
        for group in [1_u64, 2, 3, 4] {
            let place = filled(container, group);
            let slot = (group % 2) * SLOT_STRIDE as u64;
            place.write("commit", &[0xFF; 64], slot);
            assert_eq!(place.open(reader()).unwrap().rows().unwrap(), (group - 1) * 10);
            let writer = place.open(options(Durability::Commit)).unwrap();
            writer.append(&keys(900..901), rows(container, 900..901, 0).batch(), None).unwrap();
            assert_eq!(writer.rows().unwrap(), group * 10 + 1);
            assert!(all_there(&place, 0..group * 10));
        }
    });
}

#[test]
fn rolling_forward_goes_to_the_last_row_that_holds() {
    in_each(|container| {
        let place = filled(container, 2);
        place.write("commit", &[0xFF; 64], 0);
        place.overwrite([15], 1);
        let writer = place.open(options(Durability::Commit)).unwrap();
        writer.sync().unwrap();
        assert_eq!(writer.rows().unwrap(), 20);
        assert_eq!(versions(&writer, [14, 15, 16, 19]), [Some(0), None, Some(0), Some(0)]);
        // A damaged last row looks like a row that was never committed.
        let place = filled(container, 2);
        place.write("commit", &[0xFF; 64], 0);
        place.overwrite([19], 1);
        let writer = place.open(options(Durability::Commit)).unwrap();
        writer.sync().unwrap();
        assert_eq!(writer.rows().unwrap(), 19);
    });
}

/// A cache of ten items, and two groups that replace some. The slot of the last group is lost, and the given rows are
/// damaged.
fn damaged_behind_a_lost_commit(container: Container, damaged: [u64; 2]) -> Place {
    let place = filled(container, 1);
    let store = place.open(options(Durability::Commit)).unwrap();
    store.put(&keys(0..10), rows(container, 0..10, 1).batch()).unwrap();
    store.put(&keys(5..8), rows(container, 5..8, 2).batch()).unwrap();
    place.write("commit", &[0; 64], SLOT_STRIDE as u64);
    place.overwrite(damaged, 0xEE);
    place
}

#[test]
fn a_damaged_row_behind_a_lost_commit_costs_no_sound_row_and_brings_no_replaced_one_back() {
    // The newest rows: 20 of item 5, 21 of item 6, 22 of item 7, 19 of item 9.
    let expected = [Some(1), Some(2), None, Some(2), Some(1), None];
    in_each(|container| {
        for writer_first in [true, false] {
            let place = damaged_behind_a_lost_commit(container, [19, 21]);
            if writer_first {
                let writer = place.open(options(Durability::Commit)).unwrap();
                writer.append(&keys(900..901), rows(container, 900..901, 0).batch(), None).unwrap();
                assert_eq!(versions(&writer, 4..10), expected);
            }
            assert_eq!(repaired(&place).damaged, [19, 21]);
            assert_eq!(versions(&place.open(reader()).unwrap(), 4..10), expected);
            let report = verify::verify(&*place.storage, &place.path).unwrap();
            assert_eq!((report.damaged, report.problems), (Vec::new(), Vec::new()));
        }
    });
}

#[test]
fn a_row_that_was_never_durable_gives_way_to_the_one_that_it_replaced() {
    in_each(|container| {
        for repair in [false, true] {
            let place = filled(container, 1);
            let store = place.open(options(Durability::Close)).unwrap();
            store.put(&keys(0..4), rows(container, 0..4, 1).batch()).unwrap();
            // The power fails: the commit and two of the rows are on the disk.
            place.overwrite([11, 12], 0);
            drop(store);
            if repair {
                assert_eq!(repaired(&place).damaged, [11, 12]);
            } else {
                place.open(options(Durability::Commit)).unwrap().sync().unwrap();
            }
            let store = place.open(reader()).unwrap();
            assert_eq!(versions(&store, 0..5), [Some(1), Some(0), Some(0), Some(1), Some(0)]);
        }
    });
}

/// A cache of ten items. A writer died after writing ten rows of version 9, which replace them, before its commit.
fn left_by_a_dead_writer(container: Container) -> Place {
    let (place, other) = (filled(container, 1), filled(container, 1));
    let dead = other.open(options(Durability::Commit)).unwrap();
    dead.put(&keys(0..10), rows(container, 0..10, 9).batch()).unwrap();
    place.copy_rows(&other, 10..20);
    place
}

#[test]
fn the_rest_of_a_group_that_was_never_committed_does_not_come_back() {
    in_each(|container| {
        let place = left_by_a_dead_writer(container);
        // Another writer writes two rows over them. Then its commit is torn.
        let writer = place.open(options(Durability::Commit)).unwrap();
        writer.append(&keys(50..52), rows(container, 50..52, 0).batch(), None).unwrap();
        place.write("commit", &[0xFF; 64], 0);
        let next = place.open(options(Durability::Commit)).unwrap();
        next.sync().unwrap();
        assert_eq!(next.rows().unwrap(), 12);
        assert!(all_there(&place, 0..10) && all_there(&place, 50..52));
    });
}

#[test]
fn pages_lost_in_the_middle_of_a_group_do_not_bring_back_what_lay_there_before() {
    in_each(|container| {
        let place = left_by_a_dead_writer(container);
        let before: Vec<_> = place.files_of_rows().iter().map(|name| place.read(name)).collect();
        let writer = place.open(options(Durability::Close)).unwrap();
        writer.append(&keys(50..58), rows(container, 50..58, 0).batch(), None).unwrap();
        // The power fails: the commit is torn. In the middle of the group the disk has the old rows and the zeroed
        // records.
        place.write("commit", &[0xFF; 64], 0);
        for ((file, bytes), before) in contents::location(&place, 12..15).into_iter().zip(before) {
            // Without where the rows end, those around them would be lost too.
            if file != "indptr.npy" {
                place.write(file, &before[bytes.clone()], bytes.start as u64);
            }
        }
        place.write("keys.bin", &[0; 40 * 3], 64 + 12 * 40);
        let next = place.open(options(Durability::Commit)).unwrap();
        next.sync().unwrap();
        assert_eq!(next.rows().unwrap(), 18);
        assert!(all_there(&place, 0..10) && all_there(&place, 50..52) && all_there(&place, 55..58));
        assert_eq!(versions(&next, 52..55), [None; 3]);
    });
}

#[test]
fn a_live_handle_never_loses_rows() {
    in_each(|container| {
        let place = filled(container, 1);
        let store = place.open(options(Durability::Commit)).unwrap();
        store.append(&keys(10..20), rows(container, 10..20, 0).batch(), None).unwrap();
        place.write("commit", &[0xFF; 64], 0);
        assert_eq!(store.refresh().unwrap(), 20);
        store.append(&keys(20..30), rows(container, 20..30, 0).batch(), None).unwrap();
        assert_eq!(store.rows().unwrap(), 30);
        assert!(all_there(&place, 0..30));
    });
}

#[test]
fn two_invalid_slots_are_an_error_and_repair_rebuilds_the_commit() {
    in_each(|container| {
        let place = filled(container, 3);
        place.write("commit", &[0; FILE_BYTES], 0);
        assert!(matches!(place.open(reader()), Err(Error::Corrupt { .. })));
        repaired(&place);
        assert!(all_there(&place, 0..30));
    });
}

#[test]
fn files_that_lost_unsynced_rows_open_with_the_durable_ones() {
    in_each(|container| {
        let place = filled(container, 1);
        let store = place.open(options(Durability::Close)).unwrap();
        for group in 1..4_u64 {
            let items = group * 10..(group + 1) * 10;
            store.append(&keys(items.clone()), rows(container, items, 0).batch(), None).unwrap();
        }
        // The power fails: the commits are on disk, the rows are not.
        let (records, rows) = (contents::location(&place, 12..12).pop(), contents::location(&place, 15..15));
        for (file, cut) in rows.into_iter().take(place.files_of_rows().len()).chain(records) {
            place.replace(file, &place.read(file)[..cut.start]);
        }
        assert_eq!(place.open(reader()).unwrap().rows().unwrap(), 10);
        let writer = place.open(options(Durability::Commit)).unwrap();
        writer.sync().unwrap();
        assert_eq!(writer.rows().unwrap(), 12);
        assert!(all_there(&place, 0..12));
    });
}

#[test]
fn an_unfinished_creation_is_finished_and_a_foreign_directory_refused() {
    in_each(|container| {
        let place = in_memory().holding(container);
        place.storage.mkdir(&place.path).unwrap();
        for file in place.files_of_rows() {
            place.add(file, b"half");
        }
        place.add("meta.json.tmp-0123", b"{");
        place.create(Durability::Commit).put(&keys(0..3), rows(container, 0..3, 0).batch()).unwrap();
        assert!(all_there(&place, 0..3));
    });
    for name in ["notes.txt", "index.json"] {
        let place = in_memory();
        place.storage.mkdir(&place.path).unwrap();
        let access = dejavec_core::storage::Access::Create;
        place.storage.open(&place.path.join(name), access).unwrap();
        let opened = dejavec_core::store::Store::create(
            std::sync::Arc::clone(&place.storage),
            &place.path,
            &crate::common::spec(),
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
    in_each(|container| {
        let place = filled(container, 1);
        let store = place.open(options(Durability::Commit)).unwrap();
        let mut found = vec![0; 10];
        store.lookup(&keys(0..10), &mut found).unwrap();
        for name in place.files() {
            place.storage.remove(&place.path.join(name)).unwrap();
        }
        let other = place.create(Durability::Commit);
        other.append(&keys(100..120), rows(container, 100..120, 7).batch(), None).unwrap();
        store.append(&keys(0..1), rows(container, 0..1, 0).batch(), None).unwrap();
        assert_eq!(contents::read_rows(&store, &keys(0..10), &found).unwrap(), vec![None; 10]);
        assert_eq!(versions(&store, [0, 100, 5]), [Some(0), Some(7), None]);
    });
}

#[test]
fn a_put_through_a_handle_that_has_not_refreshed_still_wins() {
    in_each(|container| {
        let place = in_memory().holding(container);
        let (one, two) = (place.create(Durability::Commit), place.create(Durability::Commit));
        let put = |store: &Store, version| store.put(&keys(0..1), rows(container, 0..1, version).batch()).unwrap();
        put(&one, 1);
        put(&two, 2);
        assert_eq!(put(&one, 1), 1);
        assert_eq!(versions(&place.open(reader()).unwrap(), 0..1), [Some(1)]);
    });
}

#[test]
fn durable_rows_that_are_gone_are_damage_not_a_smaller_cache() {
    in_each(|container| {
        for file in in_memory().holding(container).files_of_rows() {
            let place = in_memory().holding(container);
            let store = place.create(Durability::Commit);
            for version in [1, 2] {
                store.put(&keys(0..1), rows(container, 0..1, version).batch()).unwrap();
            }
            let bytes = place.read(file);
            place.replace(file, &bytes[..bytes.len() - 1]);
            assert!(matches!(place.open(reader()), Err(Error::Corrupt { .. })));
            // The lost row's key is known: its older row does not come back.
            repaired(&place);
            assert_eq!(versions(&place.open(reader()).unwrap(), 0..1), [None]);
        }
    });
}

#[test]
fn rows_of_another_handle_that_a_put_relies_on_are_durable_after_close() {
    in_each(|container| {
        let place = in_memory().holding(container);
        let (one, two) = (place.create(Durability::Close), place.create(Durability::Close));
        one.append(&keys(0..3), rows(container, 0..3, 0).batch(), None).unwrap();
        assert_eq!(two.put(&keys(0..3), rows(container, 0..3, 0).batch()).unwrap(), 0);
        two.close().unwrap();
        let statistics = place.open(reader()).unwrap().statistics().unwrap();
        assert_eq!((statistics.rows, statistics.synced), (3, 3));
    });
}

#[test]
fn an_identity_that_could_not_be_read_back_makes_no_cache() {
    let place = in_memory();
    let mut identity = serde_json::json!({});
    for _ in 0..126 {
        identity = serde_json::json!({ "deeper": identity });
    }
    let spec = dejavec_core::directory::Spec { identity, ..crate::common::spec() };
    let storage = std::sync::Arc::clone(&place.storage);
    let made = dejavec_core::store::Store::create(storage, &place.path, &spec, options(Durability::Commit));
    assert!(matches!(made, Err(Error::Argument { .. })));
    assert!(place.storage.metadata(&place.path.join("meta.json")).is_err());
}

/// Rows of 64 KiB, parts included.
fn made_sure_in_pieces(container: Container) {
    let path = std::path::Path::new("/caches/one");
    let storage = Arc::new(Simulated::of(&Image::default(), std::path::Path::new("/caches")));
    let (element_bytes, row_bytes) = if container == Container::Sparse { (4, 32_768) } else { (65_536, 65_536) };
    let spec = dejavec_core::directory::Spec { dim: 65_536 / 4, ..contents::spec_of(container, element_bytes) };
    let create =
        |durability| Store::create(Arc::<Simulated>::clone(&storage), path, &spec, options(durability)).unwrap();
    let content = |item: u64| vec![item as u8; row_bytes];
    let rows = |items| Contents::of(container, element_bytes, Iterator::map(items, content));
    let killed = create(Durability::Close);
    for items in [0..300, 300..600_u64] {
        killed.append(&keys(items.clone()), rows(items).batch(), None).unwrap();
    }
    drop(killed);
    let next = create(Durability::Commit);
    let before = storage.locks_taken();
    next.put(&keys([600]), rows(600..601).batch()).unwrap();
    // 39 MB, 17 of them under one hold of the lock. The lock of the commit record is held too.
    assert_eq!(storage.locks_taken() - before, 3 * 2);
    let statistics = next.statistics().unwrap();
    assert_eq!((statistics.rows, statistics.synced), (601, 601));
    let items = [0, 299, 300, 599, 600];
    assert!(contents::read(&next, &keys(items)).unwrap() == items.map(|item| Some(content(item))));
}

#[test]
fn what_a_killed_writer_left_is_made_sure_in_pieces_between_which_others_write() {
    for container in [Container::Npy, Container::Ragged, Container::Sparse] {
        made_sure_in_pieces(container);
    }
}
