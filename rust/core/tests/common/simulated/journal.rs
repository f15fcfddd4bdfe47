//! What was asked of the file system, as far as it matters after a power loss.

use std::path::PathBuf;
use std::sync::Arc;

/// A change that is not durable before the file, or the directory of the name, is synced.
#[derive(Debug, Clone)]
pub enum Change {
    Directory { path: PathBuf },
    Name { path: PathBuf, file: u64 },
    Rename { from: PathBuf, to: PathBuf, file: u64 },
    Removal { path: PathBuf },
    Write { file: u64, offset: usize, bytes: Arc<[u8]> },
}

/// What was asked, as far as it matters after a power loss.
#[derive(Debug, Clone)]
pub enum Operation {
    Change(Change),
    Sync {
        file: u64,
    },
    /// A sync that failed: of the unsynced writes it wrote those that `kept` says, by turns; the system calls the pages
    /// of the others clean, so that no later sync writes them.
    FailedSync {
        file: u64,
        kept: Turns,
    },
    SyncDirectory {
        path: PathBuf,
    },
}

/// Which of several unsynced writes a failed sync wrote: those whose bit is set, the bits taken by turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns(pub u8);

impl Turns {
    const COUNT: usize = 3;
    pub const ALL: [Turns; 1 << Turns::COUNT] =
        [Turns(0), Turns(1), Turns(2), Turns(3), Turns(4), Turns(5), Turns(6), Turns(7)];

    /// Whether the write at this position among them was written.
    pub(super) fn keeps(self, at: usize) -> bool {
        self.0 >> (at % Turns::COUNT) & 1 == 1
    }
}
