//! Writers wait for each other: in the order in which they came, each up to its own timeout.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{in_memory, on_disk, options};
use dejavec_core::Error;
use dejavec_core::key::of_text;
use dejavec_core::lock::{HeldLock, Patience};
use dejavec_core::storage::{DiskStorage, MemoryStorage, Storage};
use dejavec_core::store::{Durability, Options};

const WAITERS: usize = 8;

thread_local! {
    /// Whether this thread has called `interrupted`. Then it has its place in the queue, and waits.
    static ASKED: Cell<bool> = const { Cell::new(false) };
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
}

/// Counts the waiting threads of a test. `interrupted` is a plain function, so each test has its own.
macro_rules! counted_patience {
    ($waiting:ident) => {{
        fn interrupted() -> bool {
            if !ASKED.replace(true) {
                $waiting.fetch_add(1, Ordering::SeqCst);
            }
            INTERRUPTED.get()
        }
        Patience { timeout: Duration::from_secs(60), interrupted }
    }};
}

fn until(count: &AtomicUsize, wanted: usize) {
    while count.load(Ordering::SeqCst) < wanted {
        thread::yield_now();
    }
}

fn check_order(storage: &dyn Storage, path: &Path, waiting: &'static AtomicUsize, patience: Patience) {
    waiting.store(0, Ordering::SeqCst);
    let order = Mutex::new(Vec::new());
    let held = HeldLock::acquire(storage, path, patience).unwrap();
    thread::scope(|scope| {
        for waiter in 0..WAITERS {
            let order = &order;
            scope.spawn(move || {
                let _held = HeldLock::acquire(storage, path, patience).unwrap();
                order.lock().unwrap().push(waiter);
            });
            until(waiting, waiter + 1);
        }
        // A holder that unlocks and locks again at once is last.
        drop(held);
        let _held = HeldLock::acquire(storage, path, patience).unwrap();
        order.lock().unwrap().push(WAITERS);
    });
    assert_eq!(order.into_inner().unwrap(), (0..=WAITERS).collect::<Vec<_>>());
}

#[test]
fn waiters_are_served_in_the_order_in_which_they_came_and_a_holder_that_comes_back_is_last() {
    static WAITING: AtomicUsize = AtomicUsize::new(0);
    let patience = counted_patience!(WAITING);
    let directory = tempfile::tempdir().unwrap();
    check_order(&DiskStorage, &directory.path().join("LOCK"), &WAITING, patience);
    check_order(&MemoryStorage::with_root(Path::new("/c")), Path::new("/c/LOCK"), &WAITING, patience);
}

#[test]
fn a_thread_that_waits_keeps_no_other_thread_of_its_store_from_giving_up() {
    static WAITING: AtomicUsize = AtomicUsize::new(0);
    for place in [on_disk(), in_memory()] {
        WAITING.store(0, Ordering::SeqCst);
        let patience = counted_patience!(WAITING);
        let store = place.create(Durability::Commit);
        store.close().unwrap();
        let store = place.open(Options { patience, ..options(Durability::Commit) }).unwrap();
        let held = HeldLock::acquire(&*place.storage, &place.path.join("LOCK"), patience).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                store.put(&[of_text(b"patient")], &[1; 4]).unwrap();
                done.store(true, Ordering::SeqCst);
            });
            until(&WAITING, 1);
            let impatient = scope.spawn(|| {
                INTERRUPTED.set(true);
                let refused = store.put(&[of_text(b"impatient")], &[2; 4]);
                assert!(matches!(refused, Err(Error::Interrupted)), "{refused:?}");
            });
            let outcome = impatient.join();
            assert!(!done.load(Ordering::SeqCst), "the other one waits still");
            drop(held);
            outcome.unwrap();
        });
        assert_eq!(store.rows().unwrap(), 1);
    }
}
