//! The order in which waiters are served: first come, first served, threads and processes alike.
//!
//! A waiter holds the lock of the byte of the lock file whose number is the time at which it came, in nanoseconds since
//! the machine started. Its turn has come when nobody holds a byte before. The system gives a byte back when its holder
//! dies, so no crash leaves a place in the queue behind. The order is a courtesy: what keeps writers apart is the lock
//! of the file alone.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::storage::StorageFile;

/// How long the lock may be free without the first of the queue taking it. Then it was stopped, and others need not wait.
const LONGEST_ABSENCE: Duration = Duration::from_secs(1);

/// A place in the queue.
#[derive(Debug)]
pub struct Turn {
    /// The byte that is held; None where bytes cannot be locked, and everybody's turn has come.
    byte: Option<u64>,
    /// Since when the lock was free at each look, and others were first.
    free_since: Option<Instant>,
}

impl Turn {
    /// The last place in the queue for the lock of this file.
    pub fn last(file: &dyn StorageFile) -> Turn {
        let mut byte = None;
        while let Some(now) = now() {
            match file.try_lock_byte(now) {
                // Another came in the same nanosecond.
                Ok(false) => continue,
                Ok(true) => byte = Some(now),
                Err(_) => {}
            }
            break;
        }
        Turn { byte, free_since: None }
    }

    /// Whether nobody came before.
    pub fn has_come(&self, file: &dyn StorageFile) -> bool {
        self.byte.is_none_or(|byte| !file.is_byte_locked_before(byte).unwrap_or(false))
    }

    /// Says whether a waiter that is not first, and found the lock free, may keep it.
    pub fn may_pass(&mut self, now: Instant) -> bool {
        now.duration_since(*self.free_since.get_or_insert(now)) >= LONGEST_ABSENCE
    }

    /// Takes note that the lock was held at the last look.
    pub fn note_held(&mut self) {
        self.free_since = None;
    }

    /// Lets the next one be first.
    pub fn leave(&self, file: &dyn StorageFile) {
        if let Some(byte) = self.byte {
            // If that fails, the byte is given back with the file.
            let _ = file.unlock_byte(byte);
        }
    }
}

/// The time that all processes of this machine share, in nanoseconds.
fn now() -> Option<u64> {
    let since_start = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
    u64::try_from(since_start.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::{Access, DiskStorage, MemoryStorage, Storage};

    fn check(storage: &dyn Storage, path: &Path) {
        let open = || storage.open(path, Access::Lock).unwrap();
        let files: Vec<_> = (0..5).map(|_| open()).collect();
        let turns: Vec<_> = files.iter().map(|file| Turn::last(&**file)).collect();
        let first = || (0..5).filter(|&at| turns[at].has_come(&*files[at])).collect::<Vec<_>>();
        assert_eq!(first(), [0]);
        turns[0].leave(&*files[0]);
        assert_eq!(first(), [0, 1], "who left is in nobody's way, and nobody is in his");
        // One from the middle gives up; the order of the others stays.
        turns[2].leave(&*files[2]);
        assert_eq!(first(), [0, 1]);
        turns[1].leave(&*files[1]);
        assert_eq!(first(), [0, 1, 2, 3]);
    }

    #[test]
    fn the_one_who_came_first_is_first_and_nobody_waits_for_one_who_left() {
        let directory = tempfile::tempdir().unwrap();
        check(&DiskStorage, &directory.path().join("LOCK"));
        check(&MemoryStorage::with_root(Path::new("/c")), Path::new("/c/LOCK"));
    }

    #[test]
    fn a_place_goes_with_the_file_that_it_was_taken_with() {
        let directory = tempfile::tempdir().unwrap();
        let open = || DiskStorage.open(&directory.path().join("LOCK"), Access::Lock).unwrap();
        let (first, second) = (open(), open());
        let (_left, waiting) = (Turn::last(&*first), Turn::last(&*second));
        assert!(!waiting.has_come(&*second));
        drop(first);
        assert!(waiting.has_come(&*second));
    }

    #[test]
    fn one_that_does_not_take_its_turn_is_passed_after_a_second_in_which_the_lock_was_always_free() {
        let mut turn = Turn { byte: None, free_since: None };
        let start = Instant::now();
        assert!(!turn.may_pass(start));
        assert!(!turn.may_pass(start + LONGEST_ABSENCE / 2));
        turn.note_held();
        assert!(!turn.may_pass(start + LONGEST_ABSENCE));
        assert!(turn.may_pass(start + 2 * LONGEST_ABSENCE));
    }
}
