//! Any operation of the file system may fail: the call gives a typed error or keeps its promise, and the cache is good
//! afterwards.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crate::common::history::{Call, History, ROOT};
use crate::common::is_whole;
use crate::common::simulated::{Fault, Image, Injection, Simulated};
use dejavec_core::format::container::Container;
use dejavec_core::format::flat::Metric;
use dejavec_core::index::Building;
use dejavec_core::store::Durability::{self, Close, Commit};

const EIO: i32 = 5;
const EINTR: i32 = 4;
const ENOSPC: i32 = 28;

const FAULTS: [Fault; 5] =
    [Fault::Error(EIO), Fault::Error(EINTR), Fault::Error(ENOSPC), Fault::ShortWrite, Fault::Sync];

const CALLS: [Call; 9] = [
    Call::Append(0),
    Call::Append(1),
    Call::Replace(0),
    Call::Snapshot,
    Call::Reopen(1),
    Call::Sync(1),
    Call::Append(1),
    Call::Repair,
    Call::PutTexts(1),
];

/// The faults in a container: all if `DEJAVEC_CRASH_CALLS` is set. The errors of one call differ in code that all
/// containers share.
fn faults(container: Container) -> impl Iterator<Item = Fault> {
    let is_whole = container == Container::Npy || is_whole();
    FAULTS.into_iter().filter(move |fault| is_whole || !matches!(fault, Fault::Error(EINTR | ENOSPC)))
}

/// Fails the first operation, then the second, until none is left to fail.
fn every_operation(container: Container, durability: [Durability; 2], texts: bool) {
    let calls = &CALLS[..CALLS.len() - usize::from(!texts)];
    every_operation_of(calls, container, durability, texts, Building::default());
}

fn every_operation_of(
    calls: &[Call],
    container: Container,
    durability: [Durability; 2],
    texts: bool,
    building: Building,
) {
    let empty = Simulated::of(&Image::default(), Path::new(ROOT)).settled();
    let mut injected = 0;
    for fault in faults(container) {
        for for_ever in [false, true] {
            for after in 0.. {
                let mut history = History::begin(&empty, container, durability).keeping_texts(texts).building(building);
                history.storage.inject(Some(Injection { fault, after, for_ever, fired: 0 }));
                // The run continues like a user: a failed handle is opened again.
                let mut opened = history.open().is_ok();
                for call in calls {
                    opened = opened && history.try_call(*call) || history.open().is_ok();
                }
                let injection = history.storage.inject(None).unwrap();
                history.check_now();
                if injection.fired == 0 {
                    break;
                }
                injected += 1;
            }
        }
    }
    println!("{injected} injected faults: {container:?}, {durability:?}, texts: {texts}");
}

#[test]
fn a_failing_file_system_costs_the_calls_that_fail() {
    every_operation(Container::Npy, [Commit, Commit], false);
    every_operation(Container::Flat(Metric::L2), [Commit, Commit], false);
    every_operation(Container::Ragged, [Commit, Commit], false);
    every_operation(Container::Sparse, [Commit, Commit], false);
}

#[test]
fn a_failing_file_system_costs_the_calls_that_fail_without_syncs() {
    every_operation(Container::Npy, [Close, Commit], false);
    every_operation(Container::Flat(Metric::L2), [Close, Close], false);
    every_operation(Container::Ragged, [Close, Commit], false);
    every_operation(Container::Sparse, [Close, Close], false);
}

#[test]
fn a_failing_file_system_costs_the_calls_that_fail_with_texts() {
    every_operation(Container::Npy, [Commit, Commit], true);
    every_operation(Container::Ragged, [Close, Commit], true);
}

/// Snapshots of several partitions, with a scratch file, and in tiers.
#[test]
fn a_failing_file_system_costs_the_snapshot_that_fails() {
    let building = Building { partition_bytes: 512, small: 4, growth: 1 };
    let calls = [
        Call::Append(0),
        Call::Append(0),
        Call::Append(1),
        Call::Snapshot,
        Call::Append(0),
        Call::Snapshot,
        Call::Replace(1),
        Call::Snapshot,
        Call::Append(1),
        Call::Snapshot,
    ];
    every_operation_of(&calls, Container::Npy, [Commit, Commit], false, building);
}
