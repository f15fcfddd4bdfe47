//! Snapshots are built in partitions, in little memory, and answer as before.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use dejavec_core::format::keys::{HEADER_BYTES, RECORD_BYTES, Record};
use dejavec_core::format::meta::Meta;
use dejavec_core::format::snapshot::{Header, SLOT_BYTES, SLOTS_OFFSET};
use dejavec_core::index::{Covered, Index, PARTITION_BYTES, write_snapshot};
use dejavec_core::key::Key;
use dejavec_core::key_records::KeyRecords;
use dejavec_core::records::RecordsFile;
use dejavec_core::row::Row;
use dejavec_core::storage::Access;

use crate::common::{Place, in_memory, key, on_disk};
use dejavec_core::store::Durability;

/// The records of rows: the item of each. None for a dead row.
fn records(items: impl Iterator<Item = Option<Key>>) -> Vec<u8> {
    let record = |(row, key): (u64, Option<Key>)| match key {
        Some(key) => Record::of_row(&key, row, &Row::dense(b"")).to_bytes(),
        None => [0; RECORD_BYTES],
    };
    (0..).zip(items).flat_map(record).collect()
}

/// A cache whose `keys.bin` has these records, for its index alone.
fn with_records(place: &Place, records: &[u8], seed: u64) -> (Meta, RecordsFile) {
    drop(place.create(Durability::Commit));
    let meta = Meta { seed, ..Meta::parse(&place.read("meta.json")).unwrap() };
    place.write("keys.bin", records, HEADER_BYTES as u64);
    let path = place.path.join("keys.bin");
    let keys = RecordsFile::open(&*place.storage, path, false, HEADER_BYTES, RECORD_BYTES as u64).unwrap();
    (meta, keys)
}

#[test]
fn snapshots_of_any_partitions_answer_like_the_keys_themselves() {
    const ROWS: u64 = 2000;
    // Each seventh row is dead, and the items of the last 100 have an older row.
    let item_of = |row: u64| (row % 7 != 3).then_some(row % 1900);
    let all = records((0..ROWS).map(|row| item_of(row).map(key)));
    let mut newest = BTreeMap::new();
    let mut replaced = BTreeSet::new();
    for row in 0..ROWS {
        match item_of(row) {
            Some(item) => replaced.extend(newest.insert(item, row)),
            None => drop(replaced.insert(row)),
        }
    }
    // In every other table a key is carried from the last slot to the first.
    for seed in 0..12 {
        let mut occupied = BTreeSet::new();
        for partition_bytes in [8, 64, 1000, 4096, PARTITION_BYTES] {
            let place = in_memory();
            let (meta, keys) = with_records(&place, &all, seed);
            let covered = Covered { keys: &keys, rows: ROWS, epoch: 1 };
            write_snapshot(&*place.storage, &place.path, &meta, &covered, partition_bytes).unwrap();
            assert_eq!(place.snapshots().len(), 1, "no scratch file is left");
            let records = KeyRecords::new(keys.map(ROWS).unwrap(), seed);
            let index = Index::open(&*place.storage, &place.path, &meta, &records, 0);
            assert_eq!((index.snapshot_rows(), index.keys()), (ROWS, newest.len() as u64));
            for item in 0..1900 {
                assert_eq!(index.get(&key(item), &records), newest.get(&item).copied(), "item {item}");
            }
            assert_eq!(index.get(&key(5000), &records), None);
            assert!(index.replaced().eq(replaced.iter().copied()), "ascending, each once");
            let committed = || Ok((records.clone(), 0));
            let damaged = dejavec_core::index::verify_snapshots(&*place.storage, &place.path, &meta, committed);
            assert!(damaged.unwrap().is_empty());
            occupied.insert(occupied_slots(&place, &meta));
        }
        assert_eq!(occupied.len(), 1, "the same slots, whatever the partitions");
    }
}

/// Which slots of the only snapshot are not empty.
fn occupied_slots(place: &Place, meta: &Meta) -> Vec<bool> {
    let bytes = place.read(&place.snapshots()[0]);
    let header = Header::parse(&bytes[..128], &meta.uuid, meta.seed).unwrap();
    let slots = bytes[SLOTS_OFFSET..].chunks_exact(SLOT_BYTES).take(header.capacity as usize);
    slots.map(|slot| *slot != [0; SLOT_BYTES]).collect()
}

/// The most memory that this process had at a time, in bytes.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Set in the process that measures its memory, which has to be one of its own.
const MEASURES: &str = "DEJAVEC_MEASURES_MEMORY";

#[test]
#[cfg(target_os = "linux")]
fn memory_to_build_a_snapshot_does_not_grow_with_the_cache() {
    const PARTITION: usize = 256 << 10;
    let Ok(path) = std::env::var(MEASURES) else {
        let this = "snapshots::memory_to_build_a_snapshot_does_not_grow_with_the_cache";
        let place = on_disk();
        // Keys that differ, and need not be digests.
        let different = |row: u64| std::array::from_fn(|at| (row.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> at) as u8 | 1);
        let (_, keys) = with_records(&place, &records((0..2_000_000).map(|row| Some(different(row)))), 5);
        assert_eq!(keys.whole_records().unwrap(), 2_000_000);
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let status = again.args(["--exact", this, "--nocapture"]).env(MEASURES, &place.path).status().unwrap();
        assert!(status.success());
        return;
    };
    let place = Place::of(std::sync::Arc::new(dejavec_core::storage::DiskStorage), path.into());
    let meta = Meta::parse(&place.read("meta.json")).unwrap();
    let path = place.path.join("keys.bin");
    let keys = RecordsFile::open(&*place.storage, path, false, HEADER_BYTES, RECORD_BYTES as u64).unwrap();
    let mut grown = Vec::new();
    for rows in [10_000, 500_000, 2_000_000] {
        let before = peak();
        let covered = Covered { keys: &keys, rows, epoch: 1 };
        write_snapshot(&*place.storage, &place.path, &meta, &covered, PARTITION).unwrap();
        grown.push(peak() - before);
    }
    let file = place.storage.open(&place.path.join(&place.snapshots()[0]), Access::Read).unwrap();
    let written = file.length().unwrap();
    assert!(written > 24_000_000, "{written}");
    // Some four partitions and a MiB for a block, and a few pages of `keys.bin`, which are two MiB each: rows whose keys
    // may be equal are compared there.
    assert!(grown.iter().sum::<u64>() < 10 << 20, "{grown:?} bytes of memory for a snapshot of {written} bytes");
    println!("{grown:?} bytes of memory for snapshots of 10,000, 500,000 and 2,000,000 rows");
}
