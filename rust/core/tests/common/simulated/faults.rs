//! Which operation fails, and how.

use std::io;

use super::journal::Turns;

/// Which operation fails, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Any operation, with this error of the system.
    Error(i32),
    /// A write, after half of its bytes.
    ShortWrite,
    /// A sync of a file or directory. A file's sync writes nothing.
    Sync,
    /// A sync of a file or directory, after some of the writes.
    SyncAfter(Turns),
}

#[derive(Debug)]
pub struct Injection {
    pub fault: Fault,
    /// How many operations of the kind pass before.
    pub after: usize,
    /// Whether all later ones fail too.
    pub for_ever: bool,
    pub fired: usize,
}

impl Injection {
    /// Whether an operation of this kind fails now.
    pub(super) fn fires(&mut self, kind: Kind) -> Option<Fault> {
        let concerned = match self.fault {
            Fault::Error(_) => true,
            Fault::ShortWrite => kind == Kind::Write,
            Fault::Sync | Fault::SyncAfter(_) => kind == Kind::Sync,
        };
        if !concerned {
            return None;
        }
        if self.after > 0 {
            self.after -= 1;
            return None;
        }
        if self.fired > 0 && !self.for_ever {
            return None;
        }
        self.fired += 1;
        Some(self.fault)
    }
}

/// The kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Other,
    Write,
    Sync,
}

/// The error code of a fault.
pub(super) fn error(fault: Fault) -> io::Error {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    io::Error::from_raw_os_error(match fault {
        Fault::Error(number) => number,
        Fault::ShortWrite => ENOSPC,
        Fault::Sync | Fault::SyncAfter(_) => EIO,
    })
}
