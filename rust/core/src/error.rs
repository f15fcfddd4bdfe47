//! What can go wrong, with what was expected, what was found, where, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the engine. `Display` is one sentence for the user.
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
    /// A file does not hold what the format demands. `verify --repair` is the way out.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the format demands there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// `meta.json` does not hold what the format demands. No other file tells what it does, so nothing repairs it.
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
        /// Whether a repair makes it anew from the others.
        repairable: bool,
    },
    /// More rows are damaged than sound, as if a file were another cache's: a repair would lose them all.
    MostlyDamaged {
        /// The cache's directory.
        path: PathBuf,
        /// Damaged rows.
        damaged: u64,
        /// Sound rows.
        sound: u64,
        /// Sound rows that a repair would zero too: older ones of the keys that the damaged ones seem to have.
        older: u64,
    },
    /// The directory has no `meta.json`.
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// The directory without `meta.json` holds files of somebody else.
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The name of the first foreign file.
        found: String,
        /// Whether the files are those of mteb's own cache, which can be imported.
        mteb: bool,
    },
    /// The cache was written by a newer format version; a newer dejavec opens it.
    Version {
        /// The file.
        path: PathBuf,
        /// The newest version that this build reads.
        expected: u64,
        /// The version in the file.
        found: u64,
    },
    /// Another cache lies in the directory by now, and it holds other vectors.
    OtherCache {
        /// The cache's directory.
        path: PathBuf,
        /// What this handle opened there.
        expected: String,
        /// What lies there now.
        found: String,
    },
    /// Dimension or dtype differ from what the cache holds.
    Mismatch {
        /// The cache's directory.
        path: PathBuf,
        /// "dimension" or "dtype".
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
        /// The process that holds it, as far as the file tells.
        holder: Option<u32>,
        /// How long was waited, in seconds.
        seconds: f64,
    },
    /// The cache lies on another machine, whose locks may not keep two writers apart.
    Remote {
        /// The cache's directory.
        path: PathBuf,
    },
    /// The cache was opened for reading.
    ReadOnly {
        /// The cache's directory.
        path: PathBuf,
    },
    /// An earlier sync failed, so what is on disk is unknown to this handle. Open the cache again.
    Poisoned {
        /// The cache's directory.
        path: PathBuf,
    },
    /// The directory was moved, replaced or removed while it was open: rows that were not synced went with its files.
    Replaced {
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

    /// Whether a file could not be mapped, so that it has to be read.
    pub fn is_of_mapping(&self) -> bool {
        matches!(self, Error::Unmappable { .. } | Error::OutOfMemory { action: "map", .. })
    }

    /// Wraps a failure to open a file that every whole cache has; for `map_err`.
    pub(crate) fn opening(path: &Path, repairable: bool) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing { path, repairable },
            _ => Error::Io { action: "open", path, source },
        }
    }

    /// A file that breaks its format.
    pub fn corrupt(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Corrupt { path: path.to_path_buf(), expected: expected.into(), found: found.into() }
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
            | Error::OtherCache { path, .. }
            | Error::Mismatch { path, .. }
            | Error::LockTimeout { path, .. }
            | Error::Remote { path }
            | Error::ReadOnly { path }
            | Error::Poisoned { path }
            | Error::Replaced { path }
            | Error::Closed { path } => Some(path),
            Error::Argument { .. } | Error::Interrupted => None,
        }
    }

    /// What the thing at fault should have been, where that can be said in a word.
    pub fn expected(&self) -> Option<String> {
        match self {
            Error::Corrupt { expected, .. }
            | Error::CorruptMeta { expected, .. }
            | Error::OtherCache { expected, .. }
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

    /// What the file holds, or the caller gave, instead.
    pub fn found(&self) -> Option<String> {
        match self {
            Error::Corrupt { found, .. }
            | Error::CorruptMeta { found, .. }
            | Error::OtherCache { found, .. }
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

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Error::Io { .. } => "free space or mend the permissions, then run again: what was committed is kept",
            Error::OutOfMemory { .. } => {
                "free memory, or raise the limits on it (ulimit -v, vm.max_map_count); what was committed is kept"
            }
            Error::Unmappable { .. } => {
                "ask for vectors by their texts, or keep the cache on a file system whose files can be mapped"
            }
            Error::Corrupt { .. } => {
                "run `dejavec verify --repair` on the cache; rows that cannot be saved become misses"
            }
            Error::CorruptMeta { .. } => {
                "restore it from a copy, or move the directory away and encode again: nothing else tells what it does"
            }
            Error::Missing { repairable: true, .. } => {
                "run `dejavec verify --repair` on the cache, which makes it anew from the checksums of the rows"
            }
            Error::Missing { repairable: false, .. } => {
                "restore it from a copy, or move the directory away and encode again: no other file holds what it held"
            }
            Error::MostlyDamaged { .. } => {
                "put the right files back if they are another cache's, or run `dejavec verify --repair --force`"
            }
            Error::NotFound { .. } => "check the path, or open it for appending and put vectors in",
            Error::Foreign { mteb: true, .. } => "import it with `dejavec import OLD NEW`, or choose another directory",
            Error::Foreign { mteb: false, .. } => "choose an empty or a new directory",
            Error::Version { .. } => "install a newer dejavec",
            Error::Mismatch { .. } => "choose another directory for these vectors",
            Error::OtherCache { .. } => "open the cache again, or another directory",
            Error::Argument { .. } => "correct the argument",
            Error::LockTimeout { .. } => "wait for that process or raise lock_timeout",
            Error::Remote { .. } => {
                "keep the cache on a local disk, or pass allow_network=True (--allow-network) if no other machine writes it"
            }
            Error::ReadOnly { .. } => "open the cache with mode=\"a\"",
            Error::Poisoned { .. } | Error::Closed { .. } => "open the cache again",
            Error::Replaced { .. } => "put these vectors again; sync or close a cache before its directory is moved",
            Error::Interrupted => "run again",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { action, path, source } => write!(f, "could not {action} at {}: {source}", path.display())?,
            Error::OutOfMemory { action, path } => {
                write!(f, "could not {action} at {}: out of memory", path.display())?
            }
            Error::Unmappable { path, source } => write!(
                f,
                "expected a file that can be mapped into memory, found {} where that fails: {source}",
                path.display()
            )?,
            Error::Corrupt { path, expected, found } | Error::CorruptMeta { path, expected, found } => {
                write!(f, "{} is damaged: expected {expected}, found {found}", path.display())?;
            }
            Error::Missing { path, .. } => {
                write!(f, "the cache is incomplete: expected a file at {}, found none", path.display())?;
            }
            Error::MostlyDamaged { path, damaged, sound, older } => write!(
                f,
                "{}: expected most rows to be sound, found {damaged} damaged and {sound} sound, as if a file were another \
                 cache's; nothing was changed: a repair would make the damaged rows misses for ever, zero {older} older \
                 rows of their keys, and write the headers, the commit record and the index anew",
                path.display()
            )?,
            Error::NotFound { path } => write!(f, "no cache at {}: expected a meta.json, found none", path.display())?,
            Error::Foreign { path, found, mteb: true } => {
                write!(f, "{}: expected an empty directory, found {found} of a cache that mteb wrote", path.display())?;
            }
            Error::Foreign { path, found, mteb: false } => {
                write!(f, "no cache can be made in {}: expected an empty directory, found {found}", path.display())?
            }
            Error::Version { path, expected, found } => write!(
                f,
                "{}: expected a format version up to {expected}, which this dejavec reads, found {found}",
                path.display()
            )?,
            Error::Mismatch { path, what, expected, found } => {
                write!(f, "{}: expected {what} {expected}, as the cache holds, found {found}", path.display())?;
            }
            Error::OtherCache { path, expected, found } => write!(
                f,
                "{} holds another cache than when it was opened: expected {expected}, found {found}",
                path.display()
            )?,
            Error::Argument { expected, found } => write!(f, "expected {expected}, found {found}")?,
            Error::LockTimeout { path, holder, seconds } => {
                write!(f, "the writers' lock {} was not free within {seconds} s", path.display())?;
                if let Some(pid) = holder {
                    write!(f, " (held by process {pid})")?;
                }
            }
            Error::Remote { path } => write!(
                f,
                "expected a local file system to write to, found a network file system at {}",
                path.display()
            )?,
            Error::ReadOnly { path } => write!(f, "the cache at {} was opened for reading only", path.display())?,
            Error::Poisoned { path } => {
                write!(f, "an earlier sync of the cache at {} failed, so this handle writes no more", path.display())?;
            }
            Error::Replaced { path } => write!(
                f,
                "the directory {} was moved, replaced or removed while it was open, and vectors that were put and not \
                 synced went with its files",
                path.display()
            )?,
            Error::Closed { path } => write!(f, "the cache at {} was closed", path.display())?,
            Error::Interrupted => write!(f, "interrupted while waiting for the writers' lock")?,
        }
        write!(f, "; {}", self.remedy())
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
            Error::OtherCache { path: path(), expected: expected(), found: found() },
            Error::Argument { expected: expected(), found: found() },
            Error::Version { path: path(), expected: 1, found: 2 },
            Error::NotFound { path: path() },
            Error::Foreign { path: path(), found: found(), mteb: true },
            Error::Foreign { path: path(), found: found(), mteb: false },
            Error::Remote { path: path() },
            Error::Unmappable { path: path(), source: source() },
        ] {
            let sentence = error.to_string();
            let place = |word: &str| sentence.find(word).unwrap_or_else(|| panic!("no {word:?} in {sentence:?}"));
            let (expected, found) = (error.expected().unwrap(), error.found().unwrap());
            assert!(place("expected") < place(&expected) && place(&expected) < place("found"), "{sentence}");
            assert!(sentence[place("found")..].contains(&found), "{sentence}");
            assert!(sentence.ends_with(error.remedy()), "{sentence}");
        }
    }
}
