//! The operations that matter after a power loss.

use std::path::PathBuf;
use std::sync::Arc;

/// A change. It is durable once its file, or the directory of its name, is synced.
#[derive(Debug, Clone)]
pub enum Change {
    Directory { path: PathBuf },
    Name { path: PathBuf, file: u64 },
    Rename { from: PathBuf, to: PathBuf, file: u64 },
    Removal { path: PathBuf },
    Write { file: u64, offset: usize, bytes: Arc<[u8]> },
}

/// An operation that matters after a power loss.
#[derive(Debug, Clone)]
pub enum Operation {
    Change(Change),
    Sync {
        file: u64,
    },
    /// A failed sync. It wrote the unsynced writes that `kept` selects. The pages of the others count as clean, so no
    /// later sync writes them.
    FailedSync {
        file: u64,
        kept: Turns,
    },
    SyncDirectory {
        path: PathBuf,
    },
}

/// The unsynced writes that a failed sync wrote. Bit `n` selects every third write from the `n`th on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns(pub u8);

impl Turns {
    const COUNT: usize = 3;
    pub const ALL: [Turns; 1 << Turns::COUNT] =
        [Turns(0), Turns(1), Turns(2), Turns(3), Turns(4), Turns(5), Turns(6), Turns(7)];

    /// Whether the write at this position was written.
    pub(super) fn keeps(self, at: usize) -> bool {
        self.0 >> (at % Turns::COUNT) & 1 == 1
    }
}
