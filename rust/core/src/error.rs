//! What can go wrong: what was expected, what was found, and where. The caller says what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the engine. `Display` is one clause that says what is wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    Io {
        /// What was tried, as a verb phrase: "write the vectors".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's own answer.
        source: io::Error,
    },
    /// The system had no memory, or no room in the address space, for an operation.
    OutOfMemory {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
    },
    /// A file lies where files cannot be mapped into memory.
    Unmappable {
        /// The file.
        path: PathBuf,
        /// The system's own answer.
        source: io::Error,
    },
    /// A file does not hold what the format demands. A repair may mend it.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the format demands there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// `meta.json` does not hold what the format demands. It cannot be rebuilt from the other files.
    CorruptMeta {
        /// The file.
        path: PathBuf,
        /// What the format demands there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file of the cache is not there.
    Missing {
        /// The file.
        path: PathBuf,
        /// Whether a repair can rebuild it from the other files.
        can_be_rebuilt: bool,
    },
    /// More rows are damaged than sound, so a file may belong to another cache. A repair without consent stops here.
    MostlyDamaged {
        /// The cache's directory.
        path: PathBuf,
        /// Damaged rows.
        damaged: u64,
        /// Sound rows.
        sound: u64,
        /// Sound rows that a repair would zero too: older rows of the damaged rows' keys.
        older: u64,
    },
    /// The directory has no `meta.json`.
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// The directory has no `meta.json`, and holds files that are not a cache's.
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The first such file.
        found: String,
    },
    /// The cache has a newer format version.
    Version {
        /// The file.
        path: PathBuf,
        /// The newest version that this build reads.
        expected: u64,
        /// The version in the file.
        found: u64,
    },
    /// The directory was replaced by a cache of another identity while it was open.
    IdentityMismatch {
        /// The cache's directory.
        path: PathBuf,
        /// The identity of the cache that was opened, as JSON.
        expected: String,
        /// The identity of the cache that is there now.
        found: String,
    },
    /// The directory was replaced by a cache of the same identity with another form of rows.
    OtherForm {
        /// The cache's directory.
        path: PathBuf,
        /// The form of the cache that was opened.
        expected: String,
        /// The form of the cache that is there now.
        found: String,
    },
    /// Dimension, dtype or container differ from the cache's.
    Mismatch {
        /// The cache's directory.
        path: PathBuf,
        /// "dimension", "dtype" or "container".
        what: &'static str,
        /// What the cache holds.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An argument is outside its documented range.
    Argument {
        /// What was expected.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The writers' lock was not free in time.
    LockTimeout {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, according to the file.
        holder: Option<u32>,
        /// How long was waited, in seconds.
        seconds: f64,
    },
    /// The cache is on a network file system, where locks may not keep two writers apart.
    Remote {
        /// The cache's directory.
        path: PathBuf,
    },
    /// The cache was opened for reading.
    ReadOnly {
        /// The cache's directory.
        path: PathBuf,
    },
    /// An earlier sync failed, so this handle does not know what is on disk.
    Poisoned {
        /// The cache's directory.
        path: PathBuf,
    },
    /// The directory was moved, replaced or removed while it was open. Unsynced rows of this handle are not in it.
    Replaced {
        /// The cache's directory.
        path: PathBuf,
    },
    /// The row numbers of a look-up belong to files that were compacted or replaced since then.
    Renumbered {
        /// The cache's directory.
        path: PathBuf,
    },
    /// The handle was closed.
    Closed {
        /// The cache's directory.
        path: PathBuf,
    },
    /// Waiting for the lock was interrupted by the caller's `Interrupt`.
    Interrupted,
}

impl Error {
    /// Wraps a failed operation on `path`; for `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::OutOfMemory => Error::OutOfMemory { action, path },
            _ => Error::Io { action, path, source },
        }
    }

    /// Wraps a failed mapping of the file at `path`; for `map_err`.
    pub fn mapping(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::OutOfMemory => Error::OutOfMemory { action: "map", path },
            _ => Error::Unmappable { path, source },
        }
    }

    /// Whether a file could not be mapped. It can still be read.
    pub fn is_of_mapping(&self) -> bool {
        matches!(self, Error::Unmappable { .. } | Error::OutOfMemory { action: "map", .. })
    }

    /// Wraps a failure to open a file that every whole cache has; for `map_err`.
    pub(crate) fn opening(path: &Path, can_be_rebuilt: bool) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing { path, can_be_rebuilt },
            _ => Error::Io { action: "open", path, source },
        }
    }

    /// A file that breaks its format.
    pub fn corrupt(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Corrupt { path: path.to_path_buf(), expected: expected.into(), found: found.into() }
    }

    /// A word for each kind of error. Callers choose by it what to raise and what to advise.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Io { .. } => "io",
            Error::OutOfMemory { .. } => "out_of_memory",
            Error::Unmappable { .. } => "unmappable",
            Error::Corrupt { .. } => "corrupt",
            Error::CorruptMeta { .. } => "corrupt_meta",
            Error::Missing { can_be_rebuilt: false, .. } => "missing",
            Error::Missing { can_be_rebuilt: true, .. } => "missing_but_rebuildable",
            Error::MostlyDamaged { .. } => "mostly_damaged",
            Error::NotFound { .. } => "not_found",
            Error::Foreign { .. } => "foreign",
            Error::Version { .. } => "newer_version",
            Error::IdentityMismatch { .. } => "identity_mismatch",
            Error::OtherForm { .. } => "other_form",
            Error::Mismatch { .. } => "mismatch",
            Error::Argument { .. } => "argument",
            Error::LockTimeout { .. } => "lock_timeout",
            Error::Remote { .. } => "remote",
            Error::ReadOnly { .. } => "read_only",
            Error::Poisoned { .. } => "poisoned",
            Error::Replaced { .. } => "replaced",
            Error::Renumbered { .. } => "renumbered",
            Error::Closed { .. } => "closed",
            Error::Interrupted => "interrupted",
        }
    }

    /// The file or directory concerned.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::Io { path, .. }
            | Error::OutOfMemory { path, .. }
            | Error::Unmappable { path, .. }
            | Error::Corrupt { path, .. }
            | Error::CorruptMeta { path, .. }
            | Error::Missing { path, .. }
            | Error::MostlyDamaged { path, .. }
            | Error::NotFound { path }
            | Error::Foreign { path, .. }
            | Error::Version { path, .. }
            | Error::IdentityMismatch { path, .. }
            | Error::OtherForm { path, .. }
            | Error::Mismatch { path, .. }
            | Error::LockTimeout { path, .. }
            | Error::Remote { path }
            | Error::ReadOnly { path }
            | Error::Poisoned { path }
            | Error::Replaced { path }
            | Error::Renumbered { path }
            | Error::Closed { path } => Some(path),
            Error::Argument { .. } | Error::Interrupted => None,
        }
    }

    /// What the thing at fault should have been.
    pub fn expected(&self) -> Option<String> {
        match self {
            Error::Corrupt { expected, .. }
            | Error::CorruptMeta { expected, .. }
            | Error::IdentityMismatch { expected, .. }
            | Error::OtherForm { expected, .. }
            | Error::Mismatch { expected, .. }
            | Error::Argument { expected, .. } => Some(expected.clone()),
            Error::Version { expected, .. } => Some(expected.to_string()),
            Error::NotFound { .. } => Some("a meta.json".into()),
            Error::Foreign { .. } => Some("an empty directory".into()),
            Error::Remote { .. } => Some("a local file system to write to".into()),
            Error::Unmappable { .. } => Some("a file that can be mapped into memory".into()),
            _ => None,
        }
    }

    /// What the file holds, or what the caller gave.
    pub fn found(&self) -> Option<String> {
        match self {
            Error::Corrupt { found, .. }
            | Error::CorruptMeta { found, .. }
            | Error::IdentityMismatch { found, .. }
            | Error::OtherForm { found, .. }
            | Error::Mismatch { found, .. }
            | Error::Argument { found, .. }
            | Error::Foreign { found, .. } => Some(found.clone()),
            Error::Version { found, .. } => Some(found.to_string()),
            Error::NotFound { .. } => Some("none".into()),
            Error::Remote { .. } => Some("a network file system".into()),
            Error::Io { source, .. } | Error::Unmappable { source, .. } => Some(source.to_string()),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { action, path, source } => write!(f, "could not {action} at {}: {source}", path.display()),
            Error::OutOfMemory { action, path } => {
                write!(f, "could not {action} at {}: out of memory", path.display())
            }
            Error::Unmappable { path, source } => write!(
                f,
                "expected a file that can be mapped into memory, found {} where that fails: {source}",
                path.display()
            ),
            Error::Corrupt { path, expected, found } | Error::CorruptMeta { path, expected, found } => {
                write!(f, "{} is damaged: expected {expected}, found {found}", path.display())
            }
            Error::Missing { path, .. } => {
                write!(f, "the cache is incomplete: expected a file at {}, found none", path.display())
            }
            Error::MostlyDamaged { path, damaged, sound, older } => write!(
                f,
                "{}: expected most rows to be sound, found {damaged} damaged and {sound} sound, so a file may belong to \
                 another cache; nothing was changed: a repair would make the damaged rows misses for ever, zero {older} \
                 older rows of their keys, and rewrite the headers, the commit record and the index",
                path.display()
            ),
            Error::NotFound { path } => write!(f, "no cache at {}: expected a meta.json, found none", path.display()),
            Error::Foreign { path, found } => {
                write!(f, "no cache can be made in {}: expected an empty directory, found {found}", path.display())
            }
            Error::Version { path, expected, found } => {
                write!(f, "{}: expected a format version of at most {expected}, found {found}", path.display())
            }
            Error::Mismatch { path, what, expected, found } => {
                write!(f, "{}: expected {what} {expected} as in the cache, found {found}", path.display())
            }
            Error::IdentityMismatch { path, expected, found } | Error::OtherForm { path, expected, found } => write!(
                f,
                "{} was replaced by another cache while it was open: expected {expected}, found {found}",
                path.display()
            ),
            Error::Argument { expected, found } => write!(f, "expected {expected}, found {found}"),
            Error::LockTimeout { path, holder, seconds } => {
                write!(f, "the writers' lock {} was not free within {seconds} s", path.display())?;
                holder.map_or(Ok(()), |pid| write!(f, " (held by process {pid})"))
            }
            Error::Remote { path } => {
                write!(f, "expected a local file system to write to, found a network file system at {}", path.display())
            }
            Error::ReadOnly { path } => write!(f, "the cache at {} was opened for reading only", path.display()),
            Error::Poisoned { path } => {
                write!(
                    f,
                    "an earlier sync of the cache at {} failed, so this handle writes nothing more",
                    path.display()
                )
            }
            Error::Replaced { path } => write!(
                f,
                "the directory {} was moved, replaced or removed while it was open; vectors that were put before and not \
                 synced are not in it",
                path.display()
            ),
            Error::Renumbered { path } => {
                write!(f, "the cache at {} was compacted or replaced, so its rows have other numbers", path.display())
            }
            Error::Closed { path } => write!(f, "the cache at {} was closed", path.display()),
            Error::Interrupted => write!(f, "interrupted while waiting for the writers' lock"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } | Error::Unmappable { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_comes_before_found_in_the_sentence_and_both_are_the_attributes() {
        let path = || PathBuf::from("/caches/one");
        let (expected, found) = (|| "three".to_owned(), || "four".to_owned());
        let source = || io::Error::from(io::ErrorKind::Unsupported);
        for error in [
            Error::Corrupt { path: path(), expected: expected(), found: found() },
            Error::CorruptMeta { path: path(), expected: expected(), found: found() },
            Error::Mismatch { path: path(), what: "dimension", expected: expected(), found: found() },
            Error::IdentityMismatch { path: path(), expected: expected(), found: found() },
            Error::OtherForm { path: path(), expected: expected(), found: found() },
            Error::Argument { expected: expected(), found: found() },
            Error::Version { path: path(), expected: 1, found: 2 },
            Error::NotFound { path: path() },
            Error::Foreign { path: path(), found: found() },
            Error::Remote { path: path() },
            Error::Unmappable { path: path(), source: source() },
        ] {
            let sentence = error.to_string();
            let place = |word: &str| sentence.find(word).unwrap_or_else(|| panic!("no {word:?} in {sentence:?}"));
            let (expected, found) = (error.expected().unwrap(), error.found().unwrap());
            assert!(place("expected") < place(&expected) && place(&expected) < place("found"), "{sentence}");
            assert!(sentence[place("found")..].contains(&found), "{sentence}");
        }
    }
}
