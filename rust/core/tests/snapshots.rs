//! Snapshots are built in partitions, in little memory, and answer as before.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use dejavec_core::format::keys::{HEADER_BYTES, RECORD_BYTES, Record};
use dejavec_core::format::meta::Meta;
use dejavec_core::format::snapshot::{Header, SLOT_BYTES, SLOTS_OFFSET};
use dejavec_core::index::{Building, Covered, Index, write_snapshot};
use dejavec_core::key::Key;
use dejavec_core::key_records::KeyRecords;
use dejavec_core::records::RecordsFile;
use dejavec_core::row::Row;
use dejavec_core::storage::Access;
use dejavec_core::store::Durability;

use crate::common::history::{Call, History, Tally, no_cache};
use crate::common::simulated::Random;
use crate::common::simulated::random::seeds;
use crate::common::{Place, in_memory, is_whole, key, on_disk};
use dejavec_core::format::container::Container;

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
        for partition_bytes in [8, 64, 1000, 4096, 64 << 20] {
            let place = in_memory();
            let (meta, keys) = with_records(&place, &all, seed);
            let building = Building { partition_bytes, ..Building::default() };
            let covered = Covered { keys: &keys, rows: ROWS, epoch: 1 };
            write_snapshot(&*place.storage, &place.path, &meta, &covered, 0, building).unwrap();
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
    let building = Building { partition_bytes: 256 << 10, ..Building::default() };
    let mut grown = Vec::new();
    for rows in [10_000, 500_000, 2_000_000] {
        let before = peak();
        let covered = Covered { keys: &keys, rows, epoch: 1 };
        write_snapshot(&*place.storage, &place.path, &meta, &covered, 0, building).unwrap();
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

/// What the index must say of rows: the newest row of each item, and the rows that do not count.
#[derive(Default)]
struct Expected {
    newest: BTreeMap<u64, u64>,
    replaced: BTreeSet<u64>,
}

impl Expected {
    fn of(items: &[Option<u64>]) -> Expected {
        let mut expected = Expected::default();
        for (row, item) in (0..).zip(items) {
            match item {
                Some(item) => expected.replaced.extend(expected.newest.insert(*item, row)),
                None => drop(expected.replaced.insert(row)),
            }
        }
        expected
    }

    fn check(&self, place: &Place, meta: &Meta, keys: &RecordsFile, items: &[Option<u64>], erased: u64) -> u64 {
        let records = KeyRecords::new(keys.map(items.len() as u64).unwrap(), meta.seed);
        let mut index = Index::open(&*place.storage, &place.path, meta, &records, erased);
        index.count(&records);
        assert_eq!((index.rows(), index.keys()), (items.len() as u64, self.newest.len() as u64));
        let all: BTreeSet<u64> = items.iter().flatten().copied().chain([1_000_000]).collect();
        for item in all {
            assert_eq!(index.get(&key(item), &records), self.newest.get(&item).copied(), "item {item}");
        }
        let mut replaced: Vec<u64> = index.replaced().collect();
        replaced.sort_unstable();
        assert!(replaced.into_iter().eq(self.replaced.iter().copied()), "each once");
        let committed = || Ok((records.clone(), erased));
        let damaged = dejavec_core::index::verify_snapshots(&*place.storage, &place.path, meta, committed).unwrap();
        assert!(damaged.is_empty(), "{damaged:?}");
        index.snapshot_rows()
    }
}

#[test]
fn tiers_answer_like_the_keys_themselves_also_after_deletions() {
    let building = Building { partition_bytes: 2048, small: 100, growth: 3 };
    let mut most = 0;
    for seed in 0..10 {
        let place = in_memory();
        let (meta, keys) = with_records(&place, &[], seed);
        let mut random = Random(seed);
        let (mut items, mut covered, mut erased): (Vec<Option<u64>>, u64, u64) = (Vec::new(), 0, 0);
        for epoch in 1..40 {
            let limit = if random.below(3) == 0 { 1000 } else { 60 };
            let added = 1 + random.below(limit);
            items.extend((0..added).map(|_| Some(random.next() % 2000)));
            if random.below(4) == 0 {
                // All rows of some items die.
                let gone: BTreeSet<u64> = (0..20).map(|_| random.next() % 2000).collect();
                items.iter_mut().for_each(|item| *item = item.filter(|item| !gone.contains(item)));
                erased = epoch;
            }
            place.write("keys.bin", &records(items.iter().map(|item| item.map(key))), HEADER_BYTES as u64);
            let expected = Expected::of(&items);
            assert_eq!(expected.check(&place, &meta, &keys, &items, erased), covered);
            if random.below(3) > 0 {
                covered = items.len() as u64;
                let covered = Covered { keys: &keys, rows: covered, epoch };
                write_snapshot(&*place.storage, &place.path, &meta, &covered, erased, building).unwrap();
                most = most.max(place.snapshots().len());
                assert_eq!(expected.check(&place, &meta, &keys, &items, erased), items.len() as u64);
            }
        }
    }
    assert!((3..=4).contains(&most), "{most} tiers");
}

#[test]
fn damage_of_a_tier_brings_no_older_row_back() {
    let items: Vec<Option<u64>> = (0..600).chain(0..200).map(Some).collect();
    let place = in_memory();
    let (meta, keys) = with_records(&place, &records(items.iter().map(|item| item.map(key))), 3);
    let building = Building { partition_bytes: 1024, small: 1, growth: 1 };
    for rows in [600, 800] {
        let covered = Covered { keys: &keys, rows, epoch: rows };
        write_snapshot(&*place.storage, &place.path, &meta, &covered, 0, building).unwrap();
    }
    let (base, tier) = ("index-600-600.idx", "index-800-600-800.idx");
    assert_eq!(place.snapshots(), [base, tier]);
    let records = KeyRecords::new(keys.map(800).unwrap(), meta.seed);
    let newest = |item: u64| {
        let index = Index::open(&*place.storage, &place.path, &meta, &records, 0);
        index.get(&key(item), &records)
    };
    assert_eq!((newest(5), newest(205)), (Some(605), Some(205)));
    // Each slot of the tier is empty, and then names the older row.
    let slots = place.read(tier)[SLOTS_OFFSET..SLOTS_OFFSET + 1024 * SLOT_BYTES].to_vec();
    place.write(tier, &vec![0; slots.len()], SLOTS_OFFSET as u64);
    assert_eq!((newest(5), newest(205)), (None, Some(205)));
    let to_older = |slot: &[u8]| match u64::from_le_bytes(slot.try_into().unwrap()) {
        0 => 0_u64,
        slot => slot - (600 << 24),
    };
    let older: Vec<u8> = slots.chunks(SLOT_BYTES).flat_map(|slot| to_older(slot).to_le_bytes()).collect();
    place.write(tier, &older, SLOTS_OFFSET as u64);
    assert_eq!((newest(5), newest(205)), (None, Some(205)));
    // Without the base the tier is worth nothing, and does no harm.
    place.write(tier, &slots, SLOTS_OFFSET as u64);
    place.storage.remove(&place.path.join(base)).unwrap();
    assert_eq!((newest(5), newest(205)), (Some(605), Some(205)));
    let covered = Covered { keys: &keys, rows: 800, epoch: 801 };
    write_snapshot(&*place.storage, &place.path, &meta, &covered, 0, building).unwrap();
    assert_eq!(place.snapshots(), ["index-801-800.idx"]);
}

/// Partitions of 64 slots, four of whose entries fit into memory, and tiers from a few rows on.
const TINY: Building = Building { partition_bytes: 512, small: 4, growth: 1 };

/// A first snapshot, a tier, a second one, both built anew, and then deletions and a compaction.
const SNAPSHOTS: [Call; 12] = [
    Call::Snapshot,
    Call::Append(1),
    Call::Snapshot,
    Call::Replace(0),
    Call::Snapshot,
    Call::Append(0),
    Call::Snapshot,
    Call::Delete(1),
    Call::Append(0),
    Call::Snapshot,
    Call::Compact(0),
    Call::Snapshot,
];

#[test]
fn a_power_loss_while_a_snapshot_is_written_costs_no_row() {
    let durabilities = [[Durability::Commit; 2], [Durability::Close, Durability::Commit]];
    for durability in durabilities.into_iter().take(if is_whole() { 2 } else { 1 }) {
        let (mut tally, mut random) = (Tally::default(), Random(1));
        let mut history = History::begin(&no_cache(), Container::Npy, durability).building(TINY);
        history.open().unwrap();
        for call in [Call::Append(0), Call::Append(0), Call::Append(0), Call::Sync(0)] {
            history.call(call).unwrap();
        }
        for call in SNAPSHOTS {
            let mut next = history.settle();
            next.open().unwrap();
            next.call(call).unwrap();
            if call == Call::Snapshot || matches!(call, Call::Compact(_)) {
                next.check_every_moment(1, &mut random, 4, is_whole(), &mut tally);
            }
            history = next;
        }
        println!("{} crash images, {} of them in recovery: {durability:?}", tally.images, tally.in_recovery);
    }
}

#[test]
fn one_power_loss_after_another_while_snapshots_are_written_costs_no_row() {
    let mut tally = Tally::default();
    let seeds = seeds(20);
    for seed in 0..seeds {
        let mut random = Random(seed);
        let durability = if seed % 2 == 0 { [Durability::Commit; 2] } else { [Durability::Close, Durability::Commit] };
        let mut history = History::begin(&no_cache(), Container::Npy, durability).building(TINY);
        history.open().unwrap();
        for _ in 0..3 {
            for _ in 0..4 {
                history.call(SNAPSHOTS[random.below(SNAPSHOTS.len())]).unwrap();
            }
            history.call(Call::Snapshot).unwrap();
            history = history.crash(&mut random, &mut tally);
        }
    }
    println!("{} crash images: {seeds} seeds", tally.images);
}
