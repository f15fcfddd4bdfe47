//! The queue of waiters: first come, first served, across threads and processes.
//!
//! A waiter locks one byte of the lock file. The byte's offset is the time of arrival, in nanoseconds since the machine
//! started. A waiter is first when no byte before its own is locked. The system unlocks a byte when its holder dies, so
//! a crash leaves no place in the queue behind. The queue only gives an order. The lock of the file keeps writers
//! apart.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::storage::StorageFile;

/// How often the others may find the lock free and left alone by one first waiter. After that it counts as stopped, and
/// they pass it. Between two of their tries is [`super::LONGEST_PAUSE`], so this takes a second or more. Tries are
/// counted, not time: a machine that stands still for a second, or is slow, lets nobody pass.
const TRIES_BEFORE_PASSING: u32 = 200;

/// A place in the queue.
#[derive(Debug)]
pub struct Turn {
    /// The locked byte. None where bytes cannot be locked: then every waiter is first.
    byte: Option<u64>,
    /// The byte of the first waiter, as last seen. None if that is this one.
    first: Option<u64>,
    /// How often in a row the lock was found free while `first` was first.
    found_free: u32,
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
        Turn { byte, first: None, found_free: 0 }
    }

    /// Whether this waiter is first.
    pub fn has_come(&mut self, file: &dyn StorageFile) -> bool {
        let first = self.byte.and_then(|byte| file.first_byte_locked_before(byte).ok().flatten());
        if first != self.first {
            self.first = first;
            self.found_free = 0;
        }
        first.is_none()
    }

    /// Whether a waiter that is not first, and found the lock free, may keep it.
    pub fn may_pass(&mut self) -> bool {
        self.found_free += 1;
        self.found_free >= TRIES_BEFORE_PASSING
    }

    /// Notes that the lock was held at the last try.
    pub fn note_held(&mut self) {
        self.found_free = 0;
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
        let mut turns: Vec<_> = files.iter().map(|file| Turn::last(&**file)).collect();
        let first = |turns: &mut [Turn]| (0..5).filter(|&at| turns[at].has_come(&*files[at])).collect::<Vec<_>>();
        assert_eq!(first(&mut turns), [0]);
        assert!(turns[1..].iter().all(|turn| turn.first == turns[0].byte), "all wait for the same one");
        turns[0].leave(&*files[0]);
        assert_eq!(first(&mut turns), [0, 1], "who left is in nobody's way, and nobody is in his");
        assert!(turns[2..].iter().all(|turn| turn.first == turns[1].byte));
        // One from the middle gives up; the order of the others stays.
        turns[2].leave(&*files[2]);
        assert_eq!(first(&mut turns), [0, 1]);
        turns[1].leave(&*files[1]);
        assert_eq!(first(&mut turns), [0, 1, 2, 3]);
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
        let (_left, mut waiting) = (Turn::last(&*first), Turn::last(&*second));
        assert!(!waiting.has_come(&*second));
        drop(first);
        assert!(waiting.has_come(&*second));
    }

    #[test]
    fn one_that_does_not_take_its_turn_is_passed_after_a_second_of_tries_that_all_found_the_lock_free() {
        let storage = MemoryStorage::with_root(Path::new("/c"));
        let open = || storage.open(Path::new("/c/LOCK"), Access::Lock).unwrap();
        let (files, own) = ([open(), open()], open());
        let ahead = files.each_ref().map(|file| Turn::last(&**file));
        let mut turn = Turn::last(&*own);
        let free_tries = |turn: &mut Turn, count: u32| {
            (0..count).map(|_| turn.has_come(&*own) || turn.may_pass()).filter(|&passes| passes).count()
        };
        assert!(super::super::LONGEST_PAUSE * TRIES_BEFORE_PASSING >= Duration::from_secs(1));
        assert_eq!(free_tries(&mut turn, TRIES_BEFORE_PASSING - 1), 0);
        turn.note_held();
        assert_eq!(free_tries(&mut turn, TRIES_BEFORE_PASSING - 1), 0, "it was held, so the first waiter moves on");
        ahead[0].leave(&*files[0]);
        assert_eq!(free_tries(&mut turn, TRIES_BEFORE_PASSING - 1), 0, "another is first, and has its own second");
        assert_eq!(free_tries(&mut turn, 1), 1);
    }
}
