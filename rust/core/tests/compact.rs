//! A compacted cache holds what counts and nothing else, for every handle, whatever interrupts the compaction.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common::contents::{self, CONTAINERS, content, in_each, rows, text, versions};
use crate::common::history::{Call, History, Tally, every_power_loss_around, no_cache};
use crate::common::simulated::random::seeds;
use crate::common::simulated::{Fault, Injection, Random, Turns};
use crate::common::{DIM, Place, in_memory, is_whole, key, keys, on_disk, reader};
use dejavec_core::Error;
use dejavec_core::batch::Batch;
use dejavec_core::format::container::Container;
use dejavec_core::format::name::{LOCK, in_generation};
use dejavec_core::lock::HeldLock;
use dejavec_core::store::Durability::{self, Close, Commit};
use dejavec_core::store::{Limits, Seen, Store};
use dejavec_core::verify;
use std::collections::BTreeMap;

fn places() -> impl Iterator<Item = Place> {
    CONTAINERS.into_iter().flat_map(|container| [in_memory().holding(container), on_disk().holding(container)])
}

fn put(place: &Place, store: &Store, items: std::ops::Range<u64>, version: u8) {
    let texts: Vec<_> = items.clone().map(text).collect();
    let content = rows(place.container, items.clone(), version);
    store.put(&keys(items), Batch { texts: Some(&contents::all_of(&texts)), ..content.batch() }).unwrap();
}

/// All files, with their bytes.
fn files(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let names = place.storage.list(&place.path).unwrap().into_iter().map(|(name, _)| name);
    names.map(|name| (name.clone(), place.read(&name))).collect()
}

/// The name of each file of a cache that was compacted once, but for texts and snapshots.
fn names_after(place: &Place) -> Vec<String> {
    let numbered = |file: &&str| in_generation(file, u64::from(!["meta.json", LOCK].contains(file)));
    place.files().iter().map(numbered).collect()
}

fn sound(place: &Place) -> verify::Report {
    let report = verify::verify(&*place.storage, &place.path).unwrap();
    assert_eq!((&report.damaged, &report.problems, &report.damaged_texts), (&vec![], &vec![], &vec![]));
    report
}

#[test]
fn what_counts_stays_and_everything_else_is_gone_from_every_file() {
    for place in places() {
        let store = place.create(Commit);
        // Replaced, deleted, and of a group that was never committed.
        put(&place, &store, 0..20, 1);
        put(&place, &store, 3..6, 2);
        store.delete(&keys([7, 4, 19])).unwrap();
        let before = store.statistics().unwrap();
        assert_eq!(before.reclaimable_rows, 6);
        place.write("keys.bin", &[7; 40], 64 + 23 * 40);
        place.add("meta.json.tmp-0123456789abcdef", b"secret");
        place.add("search-0123456789ab-20-0.faiss", b"secret");
        let freed = store.compact().unwrap();
        assert!(freed >= before.reclaimable_bytes, "{freed} of {}", before.reclaimable_bytes);
        let files = files(&place);
        let mut expected = names_after(&place);
        expected.extend(["INDEX.LOCK", "texts.1.npy", "texts-spans.1.npy"].map(String::from));
        expected.sort();
        assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected);
        let gone = [(3, 1), (5, 1), (4, 1), (4, 2), (7, 1), (19, 1)]
            .map(|(item, version)| content(place.container, item, version));
        let gone_keys = [4, 7, 19].map(|item| key(item).to_vec());
        let gone_texts = [4, 7, 19].map(|item| text(item).to_vec());
        for (name, bytes) in &files {
            let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
            for part in gone.iter().chain(&gone_keys) {
                assert!(!has(&part[..4]), "{part:?} is still in {name}");
            }
            assert!(!name.starts_with("texts.") || gone_texts.iter().all(|part| !has(part)), "a text is in {name}");
        }
        for store in [&store, &place.open(reader()).unwrap()] {
            let expected = |item| match item {
                4 | 7 | 19 => None,
                3 | 5 => Some(2),
                _ => Some(1),
            };
            assert_eq!(versions(store, 0..20), (0..20).map(expected).collect::<Vec<_>>());
            let rows: Vec<i64> = (0..17).collect();
            let mut found = vec![[0; 32]; 17];
            store.read_keys(&rows, &mut found).unwrap();
            let order = [0, 1, 2, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 3, 5];
            assert_eq!(found, keys(order), "in the order of the rows");
            let texts = store.texts(&rows).unwrap();
            assert!(texts.iter().eq(contents::all_of(&order.map(text))));
            let statistics = store.statistics().unwrap();
            assert_eq!((statistics.rows, statistics.keys, statistics.texts), (17, 17, 17));
            assert_eq!((statistics.reclaimable_rows, statistics.reclaimable_bytes, statistics.generation), (0, 0, 1));
        }
        assert_eq!(sound(&place).rows, 17);
        // Nothing to free: nothing is written.
        let bytes = self::files(&place);
        assert_eq!((store.compact().unwrap(), bytes == self::files(&place)), (0, true));
        // And again.
        put(&place, &store, 30..33, 1);
        store.delete(&keys(0..2)).unwrap();
        store.compact().unwrap();
        assert_eq!(store.statistics().unwrap().generation, 2);
        assert_eq!((sound(&place).rows, versions(&store, [0, 2, 31])), (18, vec![None, Some(1), Some(1)]));
    }
}

#[test]
fn a_cache_of_which_everything_is_deleted_is_compacted_to_none_and_filled_again() {
    for place in places() {
        let store = place.create(Commit);
        put(&place, &store, 0..5, 1);
        store.delete(&keys(0..5)).unwrap();
        store.compact().unwrap();
        assert_eq!((store.rows().unwrap(), sound(&place).rows), (0, 0));
        put(&place, &store, 2..4, 2);
        assert_eq!(versions(&place.open(reader()).unwrap(), 0..5), [None, None, Some(2), Some(2), None]);
        sound(&place);
    }
}

#[test]
fn open_handles_find_the_new_files_at_their_next_call() {
    for place in places() {
        let writer = place.create(Close);
        put(&place, &writer, 0..10, 1);
        let [batches, singles, mapping] = [0; 3].map(|_| place.open(reader()).unwrap());
        let other = place.create(Commit);
        for store in [&batches, &singles] {
            assert_eq!(versions(store, [5]), [Some(1)]);
        }
        let held = mapping.map_all().unwrap();
        let before = held.data.bytes().to_vec();
        other.delete(&keys([0])).unwrap();
        put(&place, &other, 4..6, 2);
        // It knows the last commit into the old files but the one of the compaction.
        assert_eq!(versions(&singles, [5]), [Some(2)]);
        other.compact().unwrap();
        // One handle only makes look-ups of single keys, another refreshes.
        for item in 1..10 {
            let expected = Some(if [4, 5].contains(&item) { 2 } else { 1 });
            assert_eq!(versions(&singles, [item]), [expected], "{item}");
        }
        assert_eq!(singles.statistics().unwrap().generation, 1);
        batches.refresh().unwrap();
        assert_eq!(versions(&batches, 0..3), [None, Some(1), Some(1)]);
        assert!(held.data.bytes() == before, "a reader's rows changed");
        // A writer writes to the new files. The compaction made its rows durable, so nothing is lost.
        put(&place, &writer, 20..22, 1);
        writer.sync().unwrap();
        for store in [&batches, &singles, &mapping, &other, &writer] {
            assert_eq!(versions(store, [21]), [Some(1)]);
            assert_eq!(store.keys().unwrap(), 11);
        }
        assert!(!files(&place).contains_key("keys.bin"));
        sound(&place);
    }
}

#[test]
fn rows_that_were_not_synced_are_durable_after_a_compaction_and_their_writer_knows() {
    let place = in_memory();
    let (first, second) = (place.create(Close), place.create(Commit));
    put(&place, &first, 0..5, 1);
    put(&place, &first, 0..1, 2);
    second.compact().unwrap();
    first.sync().unwrap();
    first.close().unwrap();
    assert_eq!(place.open(reader()).unwrap().statistics().unwrap().synced, 5);
    // Of the compacting handle too.
    let first = place.create(Close);
    put(&place, &first, 0..5, 3);
    first.compact().unwrap();
    assert_eq!(first.statistics().unwrap().synced, 5);
    first.close().unwrap();
}

#[test]
fn a_cache_of_many_pieces_is_compacted_whole_or_not_at_all() {
    const ITEMS: u64 = 80_000;
    for place in CONTAINERS.map(|container| in_memory().holding(container)) {
        let store = place.create(Close);
        put(&place, &store, 0..ITEMS, 1);
        store.delete(&keys((0..ITEMS).step_by(3))).unwrap();
        let records = place.read("keys.bin");
        let last = records.len() - 1;
        place.write("keys.bin", &[!records[last]], last as u64);
        assert!(matches!(store.compact(), Err(Error::Corrupt { .. })));
        assert!(files(&place).keys().all(|name| !name.contains(".1")), "nothing is left of it");
        place.write("keys.bin", &records[last..], last as u64);
        store.compact().unwrap();
        assert_eq!(sound(&place).rows, ITEMS - ITEMS.div_ceil(3));
        let expected: Vec<_> = (0..ITEMS).map(|item| (item % 3 != 0).then_some(1)).collect();
        assert!(versions(&store, 0..ITEMS) == expected);
    }
}

#[test]
fn damaged_rows_are_not_compacted_away() {
    in_each(|container| {
        let place = in_memory().holding(container);
        let store = place.create(Commit);
        put(&place, &store, 0..5, 1);
        put(&place, &store, 3..4, 2);
        let before = files(&place);
        place.overwrite([2], 0xEE);
        store.close().unwrap();
        let store = place.create(Commit);
        assert!(matches!(store.compact(), Err(Error::Corrupt { .. })));
        let after = files(&place);
        let names = |files: &BTreeMap<String, Vec<u8>>| {
            files.keys().filter(|name| *name != "INDEX.LOCK").cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&before), names(&after));
        assert_eq!(versions(&store, [0, 2, 3]), [Some(1), None, Some(2)]);
        // A damaged row that a newer one replaces does not matter.
        put(&place, &store, 2..3, 2);
        store.compact().unwrap();
        assert_eq!(versions(&store, 0..5), [Some(1), Some(1), Some(2), Some(2), Some(1)]);
        sound(&place);
    });
}

#[test]
fn a_snapshot_of_the_old_rows_is_replaced() {
    const ITEMS: u64 = 70_000;
    let place = in_memory();
    let (store, old) = (place.create(Commit), place.create(Commit));
    let lock = HeldLock::try_acquire(&*place.storage, &place.path.join("INDEX.LOCK")).unwrap();
    old.append(&keys(0..ITEMS), rows(Container::Npy, 0..ITEMS, 0).batch(), None).unwrap();
    // Another process was writing a snapshot, so this one is due when the handle closes.
    assert_eq!(place.snapshots().len(), 0);
    drop(lock);
    store.delete(&keys(0..100)).unwrap();
    store.compact().unwrap();
    let snapshots = place.snapshots();
    assert!(snapshots.len() == 1 && snapshots[0].ends_with("-69900.1.idx"), "{snapshots:?}");
    // A handle that knows the old rows writes no snapshot of them.
    old.close().unwrap();
    assert_eq!(place.snapshots(), snapshots);
    store.put(&keys(0..1), rows(Container::Npy, 0..1, 1).batch()).unwrap();
    store.refresh().unwrap();
    assert_eq!(store.statistics().unwrap().keys, ITEMS - 99);
    assert_eq!(store.statistics().unwrap().snapshot_rows, ITEMS - 100);
    sound(&place);
}

#[test]
fn the_oldest_rows_are_pruned_and_kept_keys_never() {
    for place in places() {
        let store = place.create(Commit);
        put(&place, &store, 0..40, 1);
        put(&place, &store, 0..2, 2);
        let keep = keys([5, 1, 99]);
        let dropped = store.prune(Limits { max_rows: Some(10), keep: &keep, max_bytes: None }).unwrap();
        // The newest ten are 32 to 39, 0 and 1.
        assert_eq!(dropped, 29);
        let expected = |item| match item {
            0 | 1 => Some(2),
            5 | 32.. => Some(1),
            _ => None,
        };
        assert_eq!(versions(&store, 0..40), (0..40).map(expected).collect::<Vec<_>>());
        assert_eq!((sound(&place).rows, store.statistics().unwrap().reclaimable_bytes), (11, 0));
        assert_eq!(store.prune(Limits { max_rows: Some(11), ..Limits::default() }).unwrap(), 0);
    }
}

#[test]
fn a_pruned_cache_is_no_larger_than_was_asked_for_and_not_much_smaller() {
    in_each(|container| {
        let place = in_memory().holding(container);
        let store = place.create(Commit);
        put(&place, &store, 0..2000, 1);
        put(&place, &store, 0..1000, 2);
        let size = |store: &Store| store.statistics().unwrap().bytes_on_disk;
        for most in [120_000, 60_000] {
            let keep = keys([7]);
            assert!(store.prune(Limits { max_bytes: Some(most), keep: &keep, max_rows: None }).unwrap() > 0);
            let bytes = size(&store);
            assert!(bytes <= most && bytes + most / 3 > most, "{bytes} of {most}");
            assert_eq!(versions(&store, [7, 999]), [Some(2); 2]);
            assert_eq!(store.prune(Limits { max_bytes: Some(most), ..Limits::default() }).unwrap(), 0);
        }
        // Kept keys stay, even beyond the limit.
        let keep = keys([7, 998]);
        store.prune(Limits { max_bytes: Some(1), keep: &keep, max_rows: None }).unwrap();
        assert_eq!((store.keys().unwrap(), versions(&store, [7, 998, 999])), (2, vec![Some(2), Some(2), None]));
        sound(&place);
    });
}

/// Every sequence of calls around a compaction. The power fails at every moment of the last two.
fn every_power_loss(container: Container, durability: [Durability; 2], texts: bool) {
    let before = [Call::Delete(0), Call::Replace(1), Call::Snapshot, Call::Append(0)];
    let after = [Call::Append(0), Call::Delete(1), Call::Compact(1), Call::Replace(1), Call::Reopen(0), Call::Repair];
    let (before, after) = if is_whole() { (&before[..], &after[..]) } else { (&before[..1], &after[..3]) };
    every_power_loss_around(Call::Compact(0), before, after, container, durability, texts);
}

#[test]
fn a_power_loss_leaves_the_old_files_or_the_new_ones_whole() {
    in_each(|container| every_power_loss(container, [Commit, Commit], false));
    every_power_loss(Container::Npy, [Commit, Commit], true);
}

#[test]
fn a_power_loss_leaves_the_old_files_or_the_new_ones_whole_without_syncs() {
    every_power_loss(Container::Npy, [Close, Commit], false);
    every_power_loss(Container::Sparse, [Close, Close], false);
}

#[test]
fn one_power_loss_after_another_loses_nothing_of_a_compacted_cache() {
    let calls = [
        Call::Append(0),
        Call::Replace(1),
        Call::Delete(0),
        Call::Compact(0),
        Call::Compact(1),
        Call::Sync(1),
        Call::Repair,
        Call::Reopen(0),
    ];
    let mut tally = Tally::default();
    for (container, durability) in
        [(Container::Npy, [Commit, Commit]), (Container::Ragged, [Close, Commit]), (Container::Sparse, [Close, Close])]
    {
        for seed in 0..seeds(20) {
            let mut random = Random(seed);
            let mut history = History::begin(&no_cache(), container, durability).keeping_texts(seed % 3 == 0);
            history.open().unwrap();
            for _ in 0..4 {
                for _ in 0..random.below(6) {
                    history.call(calls[random.below(calls.len())]).unwrap();
                }
                history = history.crash(&mut random, &mut tally);
            }
        }
    }
    println!("{} crash images", tally.images);
}

/// Each sync of a deletion or a compaction fails, after it has written all, some or no pages. Then another handle does
/// something, and the power fails at every moment.
fn every_failed_sync(container: Container, call: Call) {
    let mut base = History::begin(&no_cache(), container, [Commit, Commit]).keeping_texts(true);
    base.open().unwrap();
    for call in [Call::Append(0), Call::Replace(1), Call::Delete(0), Call::Append(0)] {
        base.call(call).unwrap();
    }
    let base = base.settle();
    let (mut tally, mut failed) = (Tally::default(), 0);
    let next = [call, Call::Append(1), Call::Compact(1), Call::Delete(1)];
    for next in if is_whole() { &next[..] } else { &next[..1] } {
        for kept in if is_whole() { &Turns::ALL[..] } else { &[Turns(0)][..] } {
            for after in 0.. {
                let mut history = base.again();
                history.open().unwrap();
                history.storage.inject(Some(Injection {
                    fault: Fault::SyncAfter(*kept),
                    after,
                    for_ever: false,
                    fired: 0,
                }));
                let has_failed = !history.try_call(call);
                let fired = history.storage.inject(None).unwrap().fired;
                if fired == 0 {
                    break;
                }
                failed += usize::from(has_failed);
                history.call(next.of_handle(1)).unwrap();
                history.call(Call::Append(1)).unwrap();
                history.check_every_moment(0, &mut Random(1), if is_whole() { 4 } else { 0 }, false, &mut tally);
            }
        }
    }
    println!("{} crash images after {failed} failed calls: {call:?}, {container:?}", tally.images);
}

#[test]
fn a_deletion_or_a_compaction_whose_sync_failed_is_done_again_by_another_handle() {
    every_failed_sync(Container::Npy, Call::Delete(0));
    every_failed_sync(Container::Npy, Call::Compact(0));
    if is_whole() {
        every_failed_sync(Container::Sparse, Call::Compact(0));
    }
}

/// Fails the first operation, then the second, until none is left to fail.
fn every_fault(container: Container, durability: [Durability; 2], texts: bool) {
    let mut injected = 0;
    let mut base = History::begin(&no_cache(), container, durability).keeping_texts(texts);
    base.open().unwrap();
    for call in [Call::Append(0), Call::Replace(1), Call::Sync(0)] {
        base.call(call).unwrap();
    }
    let base = base.settle();
    for fault in [Fault::Error(5), Fault::ShortWrite, Fault::Sync] {
        for for_ever in [false, true] {
            for after in 0.. {
                let mut history = base.again();
                history.note_acknowledged();
                history.open().unwrap();
                history.storage.inject(Some(Injection { fault, after, for_ever, fired: 0 }));
                let mut opened = true;
                for call in [Call::Delete(0), Call::Compact(0), Call::Append(1), Call::Compact(1)] {
                    opened = opened && history.try_call(call) || history.open().is_ok();
                }
                let fired = history.storage.inject(None).unwrap().fired;
                history.check_now();
                if fired == 0 {
                    break;
                }
                injected += 1;
            }
        }
    }
    println!("{injected} injected faults: {container:?}, {durability:?}, texts: {texts}");
}

#[test]
fn a_failing_file_system_costs_the_deletions_and_compactions_that_fail() {
    every_fault(Container::Npy, [Commit, Commit], true);
    every_fault(Container::Ragged, [Close, Commit], false);
}

#[test]
fn threads_read_every_key_while_another_handle_compacts() {
    let place = on_disk();
    let writer = place.create(Commit);
    put(&place, &writer, 0..50, 1);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let store = place.open(reader()).unwrap();
                let mut out = [0; DIM];
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for item in 0..50 {
                        assert!(store.read_newest(&key(item), &mut out, true).unwrap(), "item {item} is missing");
                    }
                }
            });
        }
        for round in 0..30 {
            put(&place, &writer, 0..50, 2 + round);
            writer.compact().unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(sound(&place).rows, 50);
}

#[test]
fn row_numbers_from_before_a_compaction_are_not_believed() {
    for place in places() {
        let (slow, other) = (place.create(Commit), place.create(Commit));
        put(&place, &slow, 0..10, 1);
        let numbering = slow.numbering().ok();
        let mut seen = vec![0; 10];
        slow.lookup(&keys(0..10), &mut seen).unwrap();
        other.delete(&keys(0..5)).unwrap();
        put(&place, &other, 9..10, 2);
        other.compact().unwrap();
        // Item 9 was replaced, and its newest row has a lower number than the one that was seen.
        let content = rows(place.container, 0..10, 3);
        let append = |seen: &[i64]| slow.append(&keys(0..10), content.batch(), Some(Seen { rows: seen, numbering }));
        assert!(matches!(append(&seen), Err(Error::Renumbered { .. })));
        let expected = |version| -> Vec<_> {
            (0..10).map(|item| if item < 5 { version } else { Some(1 + u8::from(item == 9)) }).collect()
        };
        assert_eq!(versions(&slow, 0..10), expected(None));
        // "It had no row" needs no number.
        assert_eq!(append(&[-1; 10]).unwrap(), 5);
        assert_eq!(versions(&slow, 0..10), expected(Some(3)));
        assert_ne!(slow.numbering().ok(), numbering);
    }
}

#[test]
fn a_pruning_says_before_what_it_drops_and_frees() {
    for place in places() {
        let store = place.create(Commit);
        put(&place, &store, 0..40, 1);
        put(&place, &store, 3..6, 2);
        let size = store.bytes_on_disk().unwrap();
        let bytes = files(&place);
        for limits in [
            Limits { max_rows: Some(30), keep: &keys([7]), ..Limits::default() },
            Limits { max_bytes: Some(size - 1200), ..Limits::default() },
        ] {
            let said = store.pruning(limits).unwrap();
            assert!(files(&place) == bytes);
            assert!(said.dropped > 0, "{limits:?}");
            let again = in_memory().holding(place.container);
            let store = again.create(Commit);
            put(&again, &store, 0..40, 1);
            put(&again, &store, 3..6, 2);
            let before = store.statistics().unwrap().bytes_on_disk;
            assert_eq!(store.prune(limits).unwrap(), said.dropped);
            // `meta.json` names the generation now, and the places of texts are not counted.
            let freed = before - store.bytes_on_disk().unwrap();
            assert!(said.bytes.abs_diff(freed) < 900, "{} of {freed}", said.bytes);
        }
    }
}
