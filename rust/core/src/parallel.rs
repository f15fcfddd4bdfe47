//! Splitting a batch over the cores.
//!
//! Scoped threads, started per batch: a pool would be dead in a forked child, and starting two threads costs
//! microseconds where a batch costs milliseconds.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How many threads a batch of `items` is worth, at `items_per_thread` at least for each.
fn threads_for(items: usize, items_per_thread: usize) -> usize {
    match items / items_per_thread.max(1) {
        0 | 1 => 1,
        // To count the cores, files of the system are read: a hundred microseconds, too much for a batch of one.
        most => thread::available_parallelism().map_or(1, NonZero::get).min(most),
    }
}

/// Calls `work` on every piece, on as many threads as the batch is worth.
///
/// `pieces` are the disjoint parts of the batch; `items` is its size and `items_per_thread` what keeps a thread busy
/// long enough to be worth its start.
pub fn for_each<T: Send>(pieces: Vec<T>, items: usize, items_per_thread: usize, work: impl Fn(T) + Sync) {
    let threads = threads_for(items, items_per_thread).min(pieces.len());
    if threads <= 1 {
        pieces.into_iter().for_each(work);
        return;
    }
    let slots: Vec<_> = pieces.into_iter().map(|piece| Mutex::new(Some(piece))).collect();
    let next = AtomicUsize::new(0);
    let drain = || {
        while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Each slot is taken once, so a poisoned mutex only repeats a panic that is already under way.
            let piece = slot.lock().map_or(None, |mut piece| piece.take());
            if let Some(piece) = piece {
                work(piece);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Where no thread can be had, this one does the work.
            if thread::Builder::new().spawn_scoped(scope, drain).is_err() {
                break;
            }
        }
        drain();
    });
}

/// What the threads of a batch find, in any order.
#[derive(Debug, Default)]
pub struct Found<T>(Mutex<Vec<T>>);

impl<T: Ord> Found<T> {
    /// Adds one.
    pub fn note(&self, item: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(item);
    }

    /// All of them, the smallest first.
    pub fn ascending(self) -> Vec<T> {
        let mut items = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        items.sort_unstable();
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_piece_is_worked_on_once() {
        let sum = AtomicU64::new(0);
        for_each((0..1000_u64).collect(), 1000, 1, |piece| {
            sum.fetch_add(piece + 1, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 500_500);
    }

    #[test]
    fn an_empty_batch_is_no_work() {
        for_each(Vec::<u8>::new(), 0, 1, |_| unreachable!());
    }
}
