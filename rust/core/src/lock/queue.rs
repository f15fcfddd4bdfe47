//! The queue of waiters: first come, first served, across threads and processes.
//!
//! A waiter locks one byte of the lock file. The byte's offset is the time of arrival, in nanoseconds since the machine
//! started. A waiter is first when no byte before its own is locked. The system unlocks a byte when its holder dies, so
//! a crash leaves no place in the queue behind. The queue only gives an order. The lock of the file keeps writers
//! apart.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::storage::StorageFile;

/// How long the first waiter may leave a free lock alone. After that it counts as stopped, and others pass it.
const LONGEST_ABSENCE: Duration = Duration::from_secs(1);

/// A place in the queue.
#[derive(Debug)]
pub struct Turn {
    /// The locked byte. None where bytes cannot be locked: then every waiter is first.
    byte: Option<u64>,
    /// When the lock was first found free. None if it was held at the last try.
    free_since: Option<Instant>,
}

impl Turn {
    /// Takes the last place in the queue for the lock of this file.
    pub fn last(file: &dyn StorageFile) -> Turn {
        let mut byte = None;
        while let Some(now) = now() {
            match file.try_lock_byte(now) {
                // Another waiter came in the same nanosecond.
                Ok(false) => continue,
                Ok(true) => byte = Some(now),
                Err(_) => {}
            }
            break;
        }
        Turn { byte, free_since: None }
    }

    /// Whether this waiter is first.
    pub fn has_come(&self, file: &dyn StorageFile) -> bool {
        self.byte.is_none_or(|byte| !file.is_byte_locked_before(byte).unwrap_or(false))
    }

    /// Whether a waiter that is not first, and found the lock free, may keep it.
    pub fn may_pass(&mut self, now: Instant) -> bool {
        now.duration_since(*self.free_since.get_or_insert(now)) >= LONGEST_ABSENCE
    }

    /// Notes that the lock was held at the last try.
    pub fn note_held(&mut self) {
        self.free_since = None;
    }

    /// Leaves the queue.
    pub fn leave(&self, file: &dyn StorageFile) {
        if let Some(byte) = self.byte {
            // If that fails, closing the file unlocks the byte.
            let _ = file.unlock_byte(byte);
        }
    }
}

/// Nanoseconds on the clock that all processes of this machine share.
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
