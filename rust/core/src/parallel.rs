//! Splitting a batch over the cores.
//!
//! The threads are scoped and are started for each batch. A pool would be dead in a forked child. Starting two threads
//! takes microseconds, and a batch takes milliseconds.

use std::collections::VecDeque;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

/// How many threads to use for a batch of `items`, with at least `items_per_thread` for each.
fn threads_for(items: usize, items_per_thread: usize) -> usize {
    match items / items_per_thread.max(1) {
        0 | 1 => 1,
        // Counting the cores reads files of the system: a hundred microseconds, too long for a batch of one.
        most => thread::available_parallelism().map_or(1, NonZero::get).min(most),
    }
}

/// Calls `work` on every piece, on as many threads as the batch is worth.
///
/// `pieces` are the disjoint parts of the batch, and `items` is its size. A thread is worth its start if it has at least
/// `items_per_thread`.
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
            // Each slot is taken once, so a poisoned mutex only repeats a panic that has already happened.
            let piece = slot.lock().map_or(None, |mut piece| piece.take());
            if let Some(piece) = piece {
                work(piece);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // If no thread can be started, this one does the work.
            if thread::Builder::new().spawn_scoped(scope, drain).is_err() {
                break;
            }
        }
        drain();
    });
}

/// The most memory that waiting pieces may hold. Beyond it their maker takes part in the work.
pub const MOST_WAITING: usize = 4 << 20;

/// How many pieces wait for work that takes them in their order.
const MOST_AHEAD: usize = 2;

/// Calls `work` on pieces that only this thread can make. The other threads work while it makes more.
///
/// `weight` gives the memory that a piece holds. Beyond [`MOST_WAITING`] this thread works on pieces itself before it makes
/// another. `detached` receives a closure with this thread's work and must call it once. The last closure comes when
/// all pieces are made and drains the queue: no thread works after it. If a piece cannot be made, no more are made, and
/// the error is returned once the pieces before it are done.
pub fn for_each_made<T: Send, E>(
    pieces: impl Iterator<Item = Result<T, E>>,
    items: usize,
    items_per_thread: usize,
    weight: impl Fn(&T) -> usize + Sync,
    work: impl Fn(T) + Sync,
    mut detached: impl FnMut(&mut (dyn FnMut() + Send)),
) -> Result<(), E> {
    let in_memory = AtomicUsize::new(0);
    let work = |piece| {
        let weight = weight(&piece);
        work(piece);
        in_memory.fetch_sub(weight, Ordering::Relaxed);
    };
    let queue = Queue::default();
    let drain = || {
        while let Some(piece) = queue.take_when_there() {
            work(piece);
        }
    };
    thread::scope(|scope| {
        // The threads must see the end, even after a panic.
        let end = EndOnDrop(&queue);
        let start = |_| thread::Builder::new().spawn_scoped(scope, drain).ok();
        let mut others: Vec<_> = (1..threads_for(items, items_per_thread)).map_while(start).collect();
        let mut outcome = Ok(());
        for piece in pieces {
            match piece {
                Ok(piece) => {
                    in_memory.fetch_add(weight(&piece), Ordering::Relaxed);
                    queue.put(piece);
                    while in_memory.load(Ordering::Relaxed) > MOST_WAITING {
                        // If there is none, the other threads are working on the last ones.
                        let Some(piece) = queue.take_now() else { break };
                        let mut piece = Some(piece);
                        detached(&mut || piece.take().into_iter().for_each(&work));
                    }
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        drop(end);
        detached(&mut || {
            drain();
            for other in others.drain(..) {
                other.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
        });
        outcome
    })
}

/// Calls `work` on pieces in their order, while another thread makes the ones that follow.
///
/// At most `MOST_AHEAD` made pieces wait. A single piece is made and worked on by this thread. If a piece cannot be made, or
/// the work on one fails, no more are made, and the error is returned.
pub fn for_each_ahead<T: Send, E: Send>(
    mut pieces: impl Iterator<Item = Result<T, E>> + Send,
    mut work: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let first: Vec<_> = pieces.by_ref().take(2).collect();
    let is_all = first.len() < 2;
    for piece in first {
        work(piece?)?;
    }
    if is_all {
        return Ok(());
    }
    let (following, work_on) = (&mut pieces, &mut work);
    let outcome = thread::scope(move |scope| {
        let (made, waiting) = mpsc::sync_channel(MOST_AHEAD);
        // Sending fails once the work has failed.
        let make = move || following.try_for_each(|piece| made.send(piece)).unwrap_or_default();
        thread::Builder::new().spawn_scoped(scope, make).ok()?;
        Some(waiting.into_iter().try_for_each(|piece| work_on(piece?)))
    });
    // If no thread can be started, this one makes them.
    outcome.unwrap_or_else(|| pieces.try_for_each(|piece| work(piece?)))
}

/// Pieces that are made and wait to be worked on.
struct Queue<T> {
    pieces: Mutex<Pieces<T>>,
    changed: Condvar,
}

struct Pieces<T> {
    waiting: VecDeque<T>,
    are_all_made: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { pieces: Mutex::new(Pieces { waiting: VecDeque::new(), are_all_made: false }), changed: Condvar::new() }
    }
}

impl<T> Queue<T> {
    fn pieces(&self) -> MutexGuard<'_, Pieces<T>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, piece: T) {
        self.pieces().waiting.push_back(piece);
        self.changed.notify_one();
    }

    fn take_now(&self) -> Option<T> {
        self.pieces().waiting.pop_front()
    }

    /// Waits for a piece; None if all are made and none is left.
    fn take_when_there(&self) -> Option<T> {
        let mut pieces = self.pieces();
        loop {
            match pieces.waiting.pop_front() {
                None if !pieces.are_all_made => {
                    pieces = self.changed.wait(pieces).unwrap_or_else(PoisonError::into_inner);
                }
                piece => return piece,
            }
        }
    }
}

/// Wakes the threads that wait for pieces when no more will be made.
struct EndOnDrop<'a, T>(&'a Queue<T>);

impl<T> Drop for EndOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.pieces().are_all_made = true;
        self.0.changed.notify_all();
    }
}

/// Positions that the threads of a batch find, in any order.
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
        for_each_made(std::iter::empty::<Result<u8, ()>>(), 0, 1, |_| 0, |_| unreachable!(), |rest| rest()).unwrap();
    }

    #[test]
    fn every_piece_made_is_worked_on_once_by_one_thread_or_several() {
        for items in [1, 1000] {
            let sum = AtomicU64::new(0);
            let work = |piece| {
                sum.fetch_add(piece, Ordering::Relaxed);
            };
            for_each_made((1..=1000).map(Ok::<u64, ()>), items, 1, |_| 0, work, |rest| rest()).unwrap();
            assert_eq!(sum.into_inner(), 500_500);
        }
    }

    #[test]
    fn no_thread_works_any_more_when_the_rest_is_done() {
        let here = thread::current().id();
        let (started, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = |piece: u64| {
            started.fetch_add(1, Ordering::Relaxed);
            // The other threads are slower, so they are still working when this thread has nothing left.
            let turns = if thread::current().id() == here { 0 } else { 3_000_000 };
            std::hint::black_box((0..turns).fold(piece, |sum, turn| std::hint::black_box(sum ^ turn)));
            done.fetch_add(1, Ordering::Relaxed);
        };
        let rest = |rest: &mut (dyn FnMut() + Send)| {
            rest();
            assert_eq!((started.load(Ordering::Relaxed), done.load(Ordering::Relaxed)), (100, 100));
        };
        for_each_made((0..100).map(Ok::<u64, ()>), 100, 1, |_| 0, work, rest).unwrap();
    }

    #[test]
    fn pieces_made_before_one_fails_are_worked_on_and_none_after() {
        let sum = AtomicU64::new(0);
        let pieces = (1..=1000).map(|piece| if piece == 101 { Err(piece) } else { Ok(piece) });
        let work = |piece| {
            sum.fetch_add(piece, Ordering::Relaxed);
        };
        assert_eq!(for_each_made(pieces, 1000, 1, |_| 0, work, |rest| rest()), Err(101));
        assert_eq!(sum.into_inner(), 5050);
    }

    #[test]
    fn pieces_made_ahead_are_worked_on_in_their_order_until_one_fails() {
        for (failing_to_make, failing_to_work, expected) in
            [(None, None, 100), (Some(7), None, 7), (Some(0), None, 0), (None, Some(50), 50), (Some(1), Some(0), 0)]
        {
            let made = AtomicU64::new(0);
            let pieces = (0..100_u64).map(|piece| {
                made.fetch_add(1, Ordering::Relaxed);
                if failing_to_make == Some(piece) { Err(("make", piece)) } else { Ok(piece) }
            });
            let mut worked = Vec::new();
            let outcome = for_each_ahead(pieces, |piece| match failing_to_work == Some(piece) {
                true => Err(("work", piece)),
                false => {
                    worked.push(piece);
                    Ok(())
                }
            });
            assert_eq!(worked, (0..expected).collect::<Vec<_>>());
            let error = match failing_to_work {
                Some(piece) => Some(("work", piece)),
                None => failing_to_make.map(|piece| ("make", piece)),
            };
            assert_eq!(outcome.err(), error);
            let most = failing_to_make.map_or(expected, |piece| piece.max(1)) + 2 + MOST_AHEAD as u64;
            assert!(made.into_inner() <= most);
        }
    }

    #[test]
    fn pieces_wait_only_up_to_a_limit_of_what_they_weigh() {
        let (waiting, most, sum) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        let heavy = MOST_WAITING / 4;
        for items in [1, 1000] {
            let pieces = (1..=1000).map(|piece| {
                most.fetch_max(waiting.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                Ok::<u64, ()>(piece)
            });
            let work = |piece| {
                sum.fetch_add(piece, Ordering::Relaxed);
                waiting.fetch_sub(1, Ordering::Relaxed);
            };
            let threads = threads_for(items, 1);
            for_each_made(pieces, items, 1, |_| heavy, work, |detached| detached()).unwrap();
            assert_eq!(sum.swap(0, Ordering::Relaxed), 500_500);
            // Four wait, one more is made, and each thread works on one.
            let found = most.swap(0, Ordering::Relaxed);
            assert!(found <= 5 + 2 * threads, "{found} pieces at once, {threads} threads");
        }
    }
}
