//! Calls avoid work: a reader opens no file for writing, an index is not rebuilt, a failed snapshot is tried again.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::watched::Watched;
use crate::common::{Place, get, in_memory, keys, on_disk, options, vector, vectors};
use dejavec_core::index::{Building, Covered, Index, write_snapshot};
use dejavec_core::key_records::KeyRecords;
use dejavec_core::records::RecordsFile;
use dejavec_core::storage::Access;
use dejavec_core::store::Durability;

/// Rows after which a snapshot is due.
const DUE: u64 = 66_000;

#[test]
fn a_run_that_only_reads_opens_nothing_for_writing_and_the_first_append_does() {
    for place in [on_disk(), in_memory()] {
        for durability in [Durability::Commit, Durability::Close] {
            let first = place.create(durability);
            first.put(&keys(0..10), &vectors(0..10, 0)).unwrap();
            first.close().unwrap();
            let watched = Arc::new(Watched::new(Arc::clone(&place.storage)));
            let place = Place::of(watched.clone(), place.path.clone());
            let store = place.open(options(durability)).unwrap();
            assert_eq!(get(&store, &[3, 99]), [Some(vector(3, 0)), None]);
            store.refresh().unwrap();
            store.sync().unwrap();
            store.statistics().unwrap();
            store.close().unwrap();
            let opened = watched.opened();
            assert!(opened.contains_key("keys.bin"));
            assert!(opened.values().flatten().all(|access| *access == Access::Read), "{opened:?}");

            let store = place.open(options(durability)).unwrap();
            let _ = watched.opened();
            store.put(&keys(5..12), &vectors(5..12, 1)).unwrap();
            let opened = watched.opened();
            for name in ["keys.bin", "vectors.npy", "commit"] {
                assert!(opened[name].iter().all(|access| *access == Access::Write), "{name}");
            }
            assert_eq!(get(&store, &[3, 7, 11]), [Some(vector(3, 0)), Some(vector(7, 1)), Some(vector(11, 1))]);
            store.put(&keys(12..14), &vectors(12..14, 1)).unwrap();
            assert!(!watched.opened().contains_key("keys.bin"), "they stay open");
            store.close().unwrap();
        }
    }
}

#[test]
fn a_snapshot_that_could_not_be_written_is_tried_again_when_another_is_due() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let (place, counted) = (in_memory(), Arc::clone(&attempts));
    let refuse_first = move |name: &str| {
        let is_first = name.starts_with("index-") && counted.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first { Err(io::Error::from(ErrorKind::StorageFull)) } else { Ok(()) }
    };
    let full = Arc::new(Watched::new(Arc::clone(&place.storage)).refusing(refuse_first));
    let place = Place::of(full, place.path.clone());
    let store = place.create(Durability::Commit);
    store.put(&keys(0..DUE), &vectors(0..DUE, 0)).unwrap();
    assert_eq!((attempts.load(Ordering::SeqCst), place.snapshots().len()), (1, 0));
    for item in DUE..DUE + 5 {
        store.put(&keys(item..item + 1), &vectors(item..item + 1, 0)).unwrap();
    }
    assert_eq!(attempts.load(Ordering::SeqCst), 1, "not at each append");
    store.put(&keys(2 * DUE..3 * DUE), &vectors(2 * DUE..3 * DUE, 0)).unwrap();
    assert_eq!(place.snapshots().len(), 1);
    assert_eq!(store.statistics().unwrap().delta_rows, 0);
}

#[test]
fn a_snapshot_that_could_not_be_written_is_tried_again_at_the_end() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let (place, counted) = (in_memory(), Arc::clone(&attempts));
    let refuse_first = move |name: &str| {
        let is_first = name.starts_with("index-") && counted.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first { Err(io::Error::from(ErrorKind::StorageFull)) } else { Ok(()) }
    };
    let full = Arc::new(Watched::new(Arc::clone(&place.storage)).refusing(refuse_first));
    let place = Place::of(full, place.path.clone());
    let store = place.create(Durability::Commit);
    store.put(&keys(0..DUE), &vectors(0..DUE, 0)).unwrap();
    assert!(place.snapshots().is_empty());
    store.close().unwrap();
    assert_eq!(place.snapshots().len(), 1);
}

#[test]
fn a_delta_is_built_anew_only_over_a_snapshot_of_more_rows() {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    store.put(&keys(0..100), &vectors(0..100, 0)).unwrap();
    let meta = store.meta().unwrap();
    let file = RecordsFile::open(&*place.storage, place.path.join("keys.bin"), false, 64, 40).unwrap();
    let committed = |rows| KeyRecords::new(file.map(rows).unwrap(), meta.seed);
    let write = |rows| {
        let covered = Covered { keys: &file, rows, epoch: 1 };
        write_snapshot(&*place.storage, &place.path, &meta, &covered, 0, Building::default()).unwrap();
    };
    let newer_than = |index: &Index| {
        index.over_newer(&*place.storage, &place.path, &meta, &committed(100), 0).map(|newer| newer.snapshot_rows())
    };
    let without = Index::open(&*place.storage, &place.path, &meta, &committed(100), 0);
    assert_eq!(newer_than(&without), None);
    write(60);
    assert_eq!(newer_than(&without), Some(60));
    let over_sixty = Index::open(&*place.storage, &place.path, &meta, &committed(100), 0);
    assert_eq!((over_sixty.snapshot_rows(), newer_than(&over_sixty)), (60, None));
    write(100);
    assert_eq!(newer_than(&over_sixty), Some(100));
}
