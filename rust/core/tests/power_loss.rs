//! Acknowledged rows survive a power loss at any moment, whatever it leaves of unsynced changes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common::history::{Call, History, ROOT, Tally};
use crate::common::simulated::random::seeds;
use crate::common::simulated::{Image, Random, Simulated};
use dejavec_core::format::container::Container;
use dejavec_core::format::flat::Metric;
use dejavec_core::store::Durability::{self, Close, Commit};

const NPY: Container = Container::Npy;
const FAISS: Container = Container::Flat(Metric::L2);
const RAGGED: Container = Container::Ragged;
const SPARSE: Container = Container::Sparse;

/// The last one is for caches with texts.
const CALLS: [Call; 8] = [
    Call::Append(0),
    Call::Append(1),
    Call::Replace(0),
    Call::Sync(1),
    Call::Snapshot,
    Call::Repair,
    Call::Reopen(0),
    Call::PutTexts(1),
];

fn empty() -> Image {
    Simulated::of(&Image::default(), std::path::Path::new(ROOT)).settled()
}

/// A cache before its creation, or one with rows.
fn base(container: Container, durability: [Durability; 2], appends: usize) -> History {
    base_with(container, durability, appends, false)
}

/// A cache whose first handle keeps texts if `texts`. One with rows has other texts too.
fn base_with(container: Container, durability: [Durability; 2], appends: usize, texts: bool) -> History {
    let mut history = History::begin(&empty(), container, durability).keeping_texts(texts);
    if appends > 0 {
        history.open().unwrap();
        for _ in 0..appends {
            history.call(Call::Append(0)).unwrap();
        }
        history.call(Call::Sync(0)).unwrap();
        history = history.settle();
    }
    history
}

/// Every sequence of this many calls, on a new cache and on one with rows. The power fails at every moment of the last
/// call.
fn every_sequence(container: Container, durability: [Durability; 2], length: u32, texts: bool) {
    let calls_of = &CALLS[..CALLS.len() - usize::from(!texts)];
    let mut tally = Tally::default();
    let mut random = Random(1);
    for appends in [0, 8] {
        let base = base_with(container, durability, appends, texts);
        for number in 0..(0..=length).map(|length| calls_of.len().pow(length)).sum() {
            let mut history = base.again();
            history.open().unwrap();
            let (mut number, mut calls) = (number, Vec::new());
            while number > 0 {
                calls.push(calls_of[(number - 1) % calls_of.len()]);
                number = (number - 1) / calls_of.len();
            }
            calls.iter().for_each(|call| history.call(*call).unwrap());
            history.check_every_moment(calls.len(), &mut random, 4, true, &mut tally);
        }
    }
    println!(
        "{} crash images, {} of them in recovery: every {length} calls, {container:?}, {durability:?}, texts: {texts}",
        tally.images, tally.in_recovery
    );
}

/// Random calls. The power fails at a random moment, and the cache is recovered and used again, several times.
fn random_sequences(container: Container, durability: [Durability; 2], texts: bool) {
    let calls = &CALLS[..CALLS.len() - usize::from(!texts)];
    let mut tally = Tally::default();
    let seeds = seeds(20);
    for seed in 0..seeds {
        let mut random = Random(seed);
        let mut history = base_with(container, durability, random.below(2) * 8, texts);
        history.open().unwrap();
        for _ in 0..3 {
            for _ in 0..random.below(6) {
                history.call(calls[random.below(calls.len())]).unwrap();
            }
            history = history.crash(&mut random, &mut tally);
        }
        for _ in 0..2 {
            history.call(calls[random.below(calls.len())]).unwrap();
        }
        history.check_every_moment(0, &mut random, 8, false, &mut tally);
    }
    println!("{} crash images: {seeds} seeds, {container:?}, {durability:?}, texts: {texts}", tally.images);
}

/// Calls of the exhaustive part: `DEJAVEC_CRASH_CALLS`, or two. One fewer without syncs, which leave many more images.
fn length(durability: [Durability; 2]) -> u32 {
    let calls = std::env::var("DEJAVEC_CRASH_CALLS").map_or(2, |text| text.parse().unwrap());
    if durability == [Commit; 2] { calls } else { calls - 1 }
}

#[test]
fn a_writer_that_builds_on_the_commit_of_another_makes_it_durable_first() {
    let mut history = base(NPY, [Close, Commit], 2).again();
    history.readers_see_all = true;
    history.open().unwrap();
    for call in [Call::Append(1), Call::Append(0), Call::Append(1)] {
        history.call(call).unwrap();
    }
    history.check_every_moment(1, &mut Random(1), 0, false, &mut Tally::default());
}

macro_rules! suites {
    ($($every:ident, $random:ident: $container:expr, $durability:expr $(, $texts:literal)?;)*) => {$(
        #[test]
        fn $every() {
            every_sequence($container, $durability, length($durability), false $(|| $texts)?);
        }

        #[test]
        fn $random() {
            random_sequences($container, $durability, false $(|| $texts)?);
        }
    )*};
}

suites! {
    synced_groups_survive, synced_groups_survive_one_crash_after_another: NPY, [Commit, Commit];
    what_sync_acknowledged_survives, what_sync_acknowledged_survives_one_crash_after_another: NPY, [Close, Close];
    both_survive_side_by_side, both_survive_side_by_side_one_crash_after_another: NPY, [Close, Commit];
    synced_groups_survive_in_a_faiss_file, synced_groups_survive_in_a_faiss_file_one_crash_after_another:
        FAISS, [Commit, Commit];
    synced_ragged_groups_survive, synced_ragged_groups_survive_one_crash_after_another: RAGGED, [Commit, Commit];
    what_sync_acknowledged_of_ragged_rows_survives,
        what_sync_acknowledged_of_ragged_rows_survives_one_crash_after_another: RAGGED, [Close, Close];
    both_survive_side_by_side_in_ragged_files, both_survive_side_by_side_in_ragged_files_one_crash_after_another:
        RAGGED, [Close, Commit];
    synced_sparse_groups_survive, synced_sparse_groups_survive_one_crash_after_another: SPARSE, [Commit, Commit];
    both_survive_side_by_side_in_sparse_files, both_survive_side_by_side_in_sparse_files_one_crash_after_another:
        SPARSE, [Close, Commit];
    both_survive_side_by_side_in_a_faiss_file, both_survive_side_by_side_in_a_faiss_file_one_crash_after_another:
        FAISS, [Close, Commit];
    synced_texts_survive, synced_texts_survive_one_crash_after_another: NPY, [Commit, Commit], true;
    what_sync_acknowledged_of_texts_survives, what_sync_acknowledged_of_texts_survives_one_crash_after_another:
        NPY, [Close, Close], true;
    texts_of_one_writer_survive_beside_another, texts_of_one_writer_survive_beside_another_one_crash_after_another:
        NPY, [Close, Commit], true;
    synced_texts_of_ragged_rows_survive, synced_texts_of_ragged_rows_survive_one_crash_after_another:
        RAGGED, [Commit, Commit], true;
}
