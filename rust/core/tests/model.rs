//! Any sequence of calls on any number of handles gives what a map in memory gives.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};

use crate::common::contents::{self, CONTAINERS};
use crate::common::{Place, in_memory, keys, on_disk, options, reader};
use dejavec_core::batch::Batch;
use dejavec_core::store::{Durability, Store};
use dejavec_core::verify;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Call {
    /// Puts items in a version through one of the handles.
    Put(usize, Vec<u64>, u8),
    /// Appends the items that the handle does not see.
    Fill(usize, Vec<u64>, u8),
    Delete(usize, Vec<u64>),
    Compact(usize),
    /// Keeps the texts of items.
    PutTexts(usize, Vec<u64>),
    Reopen(usize),
    Refresh(usize),
    Sync(usize),
    /// Looks up and reads through a handle that has just refreshed.
    Get(usize, Vec<u64>),
    Verify,
}

const HANDLES: usize = 3;

fn call() -> impl Strategy<Value = Call> {
    let items = || prop::collection::vec(0..40_u64, 0..20);
    prop_oneof![
        (0..HANDLES, items(), 0..4_u8).prop_map(|(handle, items, version)| Call::Put(handle, items, version)),
        (0..HANDLES, items(), 0..4_u8).prop_map(|(handle, items, version)| Call::Fill(handle, items, version)),
        (0..HANDLES, items()).prop_map(|(handle, items)| Call::Delete(handle, items)),
        (0..HANDLES).prop_map(Call::Compact),
        (0..HANDLES, items()).prop_map(|(handle, items)| Call::PutTexts(handle, items)),
        (0..HANDLES).prop_map(Call::Reopen),
        (0..HANDLES).prop_map(Call::Refresh),
        (0..HANDLES).prop_map(Call::Sync),
        (0..HANDLES, items()).prop_map(|(handle, items)| Call::Get(handle, items)),
        Just(Call::Verify),
    ]
}

fn durability(handle: usize) -> Durability {
    if handle == 0 { Durability::Close } else { Durability::Commit }
}

/// Whether a handle keeps the texts of the rows that it appends.
fn keeps_texts(handle: usize) -> bool {
    handle == 1
}

/// Which items have a text beside their newest row. The text of each is its own.
fn with_texts(store: &Store, items: &[u64]) -> Vec<bool> {
    let mut rows = vec![0; items.len()];
    store.lookup(&keys(items.to_vec()), &mut rows).unwrap();
    let kept = store.texts(&rows).unwrap();
    let found: Vec<bool> = kept.lengths.iter().map(|length| *length >= 0).collect();
    let own = items.iter().zip(&found).filter(|(_, found)| **found).flat_map(|(item, _)| contents::text(*item));
    assert_eq!(kept.bytes, own.collect::<Vec<u8>>());
    found
}

fn run(place: &Place, calls: &[Call]) {
    let mut model: HashMap<u64, u8> = HashMap::new();
    let mut kept: HashSet<u64> = HashSet::new();
    let mut handles: Vec<Store> = (0..HANDLES).map(|handle| place.create(durability(handle))).collect();
    let rows = |items: &[u64], version| contents::rows(place.container, items.iter().copied(), version);
    for call in calls {
        match call {
            Call::Put(handle, items, version) => {
                let rows = rows(items, *version);
                let texts: Vec<_> = items.iter().copied().map(contents::text).collect();
                let texts = keeps_texts(*handle).then(|| contents::all_of(&texts));
                let batch = Batch { texts: texts.as_deref(), ..rows.batch() };
                handles[*handle].put(&keys(items.clone()), batch).unwrap();
                // A row that is stored already is not appended again, and its text stays as it was.
                let new: HashSet<_> = items.iter().copied().filter(|item| model.get(item) != Some(version)).collect();
                kept.retain(|item| !new.contains(item));
                kept.extend(new.into_iter().filter(|_| texts.is_some()));
                model.extend(items.iter().map(|&item| (item, *version)));
            }
            Call::Fill(handle, items, version) => {
                let mut items = items.clone();
                items.sort_unstable();
                items.dedup();
                let rows = rows(&items, *version);
                let texts: Vec<_> = items.iter().copied().map(contents::text).collect();
                let texts = keeps_texts(*handle).then(|| contents::all_of(&texts));
                let batch = Batch { texts: texts.as_deref(), ..rows.batch() };
                let appended = handles[*handle].append(&keys(items.clone()), batch, None).unwrap();
                let new: Vec<_> = items.iter().filter(|item| !model.contains_key(item)).copied().collect();
                assert_eq!(appended, new.len());
                kept.retain(|item| !new.contains(item));
                kept.extend(new.iter().copied().filter(|_| texts.is_some()));
                model.extend(new.into_iter().map(|item| (item, *version)));
            }
            Call::Delete(handle, items) => {
                let known: HashSet<u64> = items.iter().copied().filter(|item| model.remove(item).is_some()).collect();
                assert_eq!(handles[*handle].delete(&keys(items.clone())).unwrap(), known.len());
                kept.retain(|item| !known.contains(item));
            }
            Call::Compact(handle) => {
                handles[*handle].compact().unwrap();
                let statistics = handles[*handle].statistics().unwrap();
                let counted = (statistics.rows, statistics.reclaimable_rows, statistics.reclaimable_bytes);
                assert_eq!(counted, (model.len() as u64, 0, 0));
            }
            Call::PutTexts(handle, items) => {
                let texts: Vec<_> = items.iter().copied().map(contents::text).collect();
                handles[*handle].put_texts(&keys(items.clone()), &contents::all_of(&texts)).unwrap();
                kept.extend(items.iter().filter(|item| model.contains_key(item)));
            }
            Call::Reopen(handle) => {
                handles[*handle].close().unwrap();
                handles[*handle] = place.open(options(durability(*handle))).unwrap();
            }
            Call::Refresh(handle) => {
                let before = handles[*handle].statistics().unwrap();
                let rows = handles[*handle].refresh().unwrap();
                let is_same = handles[*handle].statistics().unwrap().generation == before.generation;
                assert!(!is_same || rows >= before.rows);
            }
            Call::Sync(handle) => {
                handles[*handle].sync().unwrap();
                let statistics = handles[*handle].statistics().unwrap();
                assert_eq!(statistics.synced, statistics.rows);
            }
            Call::Get(handle, items) => {
                handles[*handle].refresh().unwrap();
                let expected: Vec<_> = items.iter().map(|item| model.get(item).copied()).collect();
                assert_eq!(contents::versions(&handles[*handle], items.clone()), expected);
                assert_eq!(handles[*handle].keys().unwrap(), model.len() as u64);
                let texts: Vec<_> = items.iter().map(|item| model.contains_key(item) && kept.contains(item)).collect();
                assert_eq!(with_texts(&handles[*handle], items), texts);
            }
            Call::Verify => {
                let report = verify::verify(&*place.storage, &place.path).unwrap();
                assert_eq!((report.keys, report.damaged.len()), (model.len() as u64, 0));
                assert_eq!(report.problems, Vec::<String>::new());
                assert_eq!(report.damaged_texts, Vec::<u64>::new());
            }
        }
    }
    let expected: Vec<_> = (0..40).map(|item| model.get(&item).copied()).collect();
    assert_eq!(contents::versions(&place.open(reader()).unwrap(), 0..40), expected);
}

proptest! {
    // About as many for each container.
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_calls_give_what_a_map_gives(
        container in prop::sample::select(&CONTAINERS),
        calls in prop::collection::vec(call(), 0..40),
    ) {
        run(&in_memory().holding(container), &calls);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_calls_give_what_a_map_gives_on_a_real_disk(
        container in prop::sample::select(&CONTAINERS),
        calls in prop::collection::vec(call(), 0..25),
    ) {
        run(&on_disk().holding(container), &calls);
    }
}
