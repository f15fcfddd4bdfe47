//! The lock files: one writer at a time, across processes. A forked child closes the ones it inherits.

mod queue;

use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::queue::Turn;
use crate::error::{Error, Result};
use crate::storage::{Access, Storage, StorageFile};

/// How long to wait for a lock, and how to interrupt the wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest wait.
    pub timeout: Duration,
    /// Asked while waiting; true ends the wait with [`Error::Interrupted`].
    pub interrupted: fn() -> bool,
}

/// Bytes of a lock file: the process that took the lock last.
pub const HOLDER_BYTES: u64 = 11;

const FIRST_PAUSE: Duration = Duration::from_micros(100);
/// The pause between two tries: of the first waiter, and of the others.
const LONGEST_PAUSE_OF_FIRST: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// The pause between two calls of `interrupted`, which takes Python's global lock.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(10);

/// How often a waiter tries the lock and checks for an interruption.
struct Wait {
    next_pause: Duration,
    asked: Option<Instant>,
}

impl Wait {
    fn new() -> Wait {
        Wait { next_pause: FIRST_PAUSE, asked: None }
    }

    fn is_interrupted(&mut self, patience: Patience) -> bool {
        if self.asked.is_some_and(|asked| asked.elapsed() < INTERRUPT_INTERVAL) {
            return false;
        }
        self.asked = Some(Instant::now());
        (patience.interrupted)()
    }

    fn is_long(&self) -> bool {
        self.next_pause == LONGEST_PAUSE
    }

    fn pause(&mut self, is_first: bool) -> Duration {
        let pause = self.next_pause.min(if is_first { LONGEST_PAUSE_OF_FIRST } else { LONGEST_PAUSE });
        self.next_pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Descriptors of the lock files that this process holds. A forked child closes them. -1 is a free place.
static DESCRIPTORS: [AtomicI32; 256] = [const { AtomicI32::new(-1) }; 256];

/// How often this process began or ended a fork.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Forks in progress.
static FORKING: AtomicU64 = AtomicU64::new(0);

/// How many pauses to wait for a fork in progress. It may be this thread's own, which is about to begin.
const FORK_PAUSES: u32 = 10_000;
const FORK_PAUSE: Duration = Duration::from_micros(200);

/// A held lock; given back when dropped.
#[derive(Debug)]
pub struct HeldLock {
    file: Box<dyn StorageFile>,
    place: Option<&'static AtomicI32>,
}

impl HeldLock {
    /// Opens the lock file, and creates it if it is missing.
    ///
    /// The table gets the descriptor before the lock is taken, and loses it after the unlock. So a child that is forked
    /// in between finds every descriptor that could carry the lock. A child that is forked before the entry has a
    /// descriptor that is not in its table. Such a descriptor is never locked: another one is opened. A fork in
    /// progress may be such a fork, so it is waited for.
    fn open(storage: &dyn Storage, path: &Path, access: Access) -> Result<HeldLock> {
        loop {
            for _ in 0..FORK_PAUSES {
                if FORKING.load(Ordering::SeqCst) == 0 {
                    break;
                }
                thread::sleep(FORK_PAUSE);
            }
            let forks = FORKS.load(Ordering::SeqCst);
            let file = storage.open(path, access).map_err(Error::io("open the lock file", path))?;
            let place = file.descriptor().and_then(|descriptor| {
                let enter = |place: &&AtomicI32| {
                    place.compare_exchange(-1, descriptor, Ordering::SeqCst, Ordering::SeqCst).is_ok()
                };
                DESCRIPTORS.iter().find(enter)
            });
            let lock = HeldLock { file, place };
            if FORKS.load(Ordering::SeqCst) == forks {
                return Ok(lock);
            }
        }
    }

    fn try_take(&self, path: &Path) -> Result<bool> {
        self.file.try_lock().map_err(Error::io("lock", path))
    }

    /// Takes the lock if it is free now.
    pub fn try_acquire(storage: &dyn Storage, path: &Path) -> Result<Option<HeldLock>> {
        let lock = HeldLock::open(storage, path, Access::Lock)?;
        Ok(lock.try_take(path)?.then_some(lock))
    }

    /// Waits for the lock of a file that holds data. The holder of the lock file finds it free, unless the lock file
    /// was deleted under a writer. So there is no queue for it, and nothing is written into the file.
    pub fn of_data(storage: &dyn Storage, path: &Path, patience: Patience) -> Result<HeldLock> {
        let start = Instant::now();
        let lock = HeldLock::open(storage, path, Access::Write)?;
        while !lock.try_take(path)? {
            if (patience.interrupted)() {
                return Err(Error::Interrupted);
            }
            if start.elapsed() >= patience.timeout {
                let seconds = patience.timeout.as_secs_f64();
                return Err(Error::LockTimeout { path: path.to_path_buf(), holder: None, seconds });
            }
            thread::sleep(LONGEST_PAUSE);
        }
        Ok(lock)
    }

    /// Waits for the lock of the file at this path. Waiters get it in the order in which they came.
    pub fn acquire(storage: &dyn Storage, path: &Path, patience: Patience) -> Result<HeldLock> {
        let start = Instant::now();
        let mut wait = Wait::new();
        let mut lock = HeldLock::open(storage, path, Access::Lock)?;
        let mut turn = Turn::last(&*lock.file);
        loop {
            let is_first = turn.has_come(&*lock.file);
            // The others rarely try the lock, to see whether it is free and the first one does not take it.
            let looks = is_first || wait.is_long();
            if looks && !lock.try_take(path)? {
                turn.note_held();
            } else if looks && (is_first || turn.may_pass()) {
                // If the directory was replaced meanwhile, this lock protects nothing.
                let held = lock.file.metadata().map_err(Error::io("examine the lock file", path))?.id;
                if storage.metadata(path).is_ok_and(|metadata| metadata.id == held) {
                    turn.leave(&*lock.file);
                    lock.write_holder();
                    return Ok(lock);
                }
                drop(lock);
                lock = HeldLock::open(storage, path, Access::Lock)?;
                turn = Turn::last(&*lock.file);
                continue;
            } else if looks {
                lock.file.unlock().map_err(Error::io("unlock", path))?;
            }
            if wait.is_interrupted(patience) {
                return Err(Error::Interrupted);
            }
            let left = patience.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                let seconds = patience.timeout.as_secs_f64();
                return Err(Error::LockTimeout { path: path.to_path_buf(), holder: lock.read_holder(), seconds });
            }
            thread::sleep(wait.pause(is_first).min(left));
        }
    }

    /// Writes the process number into the lock file. Best effort: only error messages read it.
    fn write_holder(&self) {
        let _ = self.file.write_at(format!("{:<10}\n", std::process::id()).as_bytes(), 0);
    }

    fn read_holder(&self) -> Option<u32> {
        let mut digits = [0; 10];
        self.file.read_at(&mut digits, 0).ok()?;
        std::str::from_utf8(&digits).ok()?.trim().parse().ok()
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
        if let Some(place) = self.place {
            place.store(-1, Ordering::SeqCst);
        }
    }
}

/// In the parent, before each fork.
pub fn note_fork() {
    FORKING.fetch_add(1, Ordering::SeqCst);
    FORKS.fetch_add(1, Ordering::SeqCst);
}

/// In the parent, after each fork, also after one that failed.
pub fn note_forked() {
    FORKS.fetch_add(1, Ordering::SeqCst);
    let _ = FORKING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |forking| forking.checked_sub(1));
}

/// In the child of a fork: closes the lock files that the parent held open.
///
/// An inherited descriptor shares the parent's lock, and would keep the lock after the parent is killed. The child
/// closes it and never unlocks it, since that would unlock the parent's. The thread that held it does not exist in the
/// child.
pub fn close_inherited() {
    // Forks of other threads are in progress in the parent only.
    FORKING.store(0, Ordering::SeqCst);
    for place in &DESCRIPTORS {
        let descriptor = place.swap(-1, Ordering::SeqCst);
        if descriptor >= 0 {
            let _ = nix::unistd::close(descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{DiskStorage, MemoryStorage};

    fn no_patience() -> Patience {
        Patience { timeout: Duration::ZERO, interrupted: || false }
    }

    fn check(storage: &dyn Storage, path: &Path) {
        let held = HeldLock::acquire(storage, path, no_patience()).unwrap();
        assert!(HeldLock::try_acquire(storage, path).unwrap().is_none());
        match HeldLock::acquire(storage, path, no_patience()) {
            Err(Error::LockTimeout { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
            other => panic!("expected a timeout, got {other:?}"),
        }
        drop(held);
        assert!(HeldLock::try_acquire(storage, path).unwrap().is_some());
    }

    #[test]
    fn one_holder_at_a_time_and_the_waiter_learns_its_pid() {
        let directory = tempfile::tempdir().unwrap();
        check(&DiskStorage, &directory.path().join("LOCK"));
        check(&MemoryStorage::with_root(Path::new("/c")), Path::new("/c/LOCK"));
    }

    /// A file system in which a fork comes between opening a lock file and entering its descriptor.
    #[derive(Debug)]
    struct Forking(std::sync::atomic::AtomicUsize);

    impl Storage for Forking {
        fn open(&self, path: &Path, access: Access) -> std::io::Result<Box<dyn StorageFile>> {
            assert_eq!(FORKING.load(Ordering::SeqCst), 0, "a lock file was opened while a fork was under way");
            let opened = DiskStorage.open(path, access);
            if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
                note_fork();
                note_forked();
            }
            opened
        }
        fn list(&self, directory: &Path) -> std::io::Result<Vec<(String, bool)>> {
            DiskStorage.list(directory)
        }
        fn metadata(&self, path: &Path) -> std::io::Result<crate::storage::Metadata> {
            DiskStorage.metadata(path)
        }
        fn mkdir(&self, path: &Path) -> std::io::Result<()> {
            DiskStorage.mkdir(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
            DiskStorage.rename(from, to)
        }
        fn remove(&self, path: &Path) -> std::io::Result<()> {
            DiskStorage.remove(path)
        }
        fn sync_dir(&self, directory: &Path) -> std::io::Result<()> {
            DiskStorage.sync_dir(directory)
        }
    }

    #[test]
    fn a_descriptor_that_a_child_may_have_without_knowing_is_never_locked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let storage = Forking(0.into());
        drop(HeldLock::acquire(&storage, &path, no_patience()).unwrap());
        assert_eq!(storage.0.load(Ordering::SeqCst), 2, "opened again");
        // One that is under way is waited for: `open` says so.
        note_fork();
        let start = std::sync::Barrier::new(2);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                start.wait();
                HeldLock::acquire(&storage, &path, no_patience()).map(drop)
            });
            start.wait();
            (0..100).for_each(|_| thread::yield_now());
            note_forked();
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn the_wait_can_be_broken_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let _held = HeldLock::acquire(&DiskStorage, &path, no_patience()).unwrap();
        let patience = Patience { timeout: Duration::from_secs(60), interrupted: || true };
        assert!(matches!(HeldLock::acquire(&DiskStorage, &path, patience), Err(Error::Interrupted)));
    }
}
