//! Learning the commits of other handles, and whether the directory still has the files that this handle opened.

use std::sync::{Arc, PoisonError};

use super::Store;
use super::opened::Open;
use crate::error::{Error, Result};

impl Store {
    /// Learns the commits of other handles. Returns the row count.
    ///
    /// If the directory has other files now, this handle opens them.
    pub fn refresh(&self) -> Result<u64> {
        let open = self.reopen_if_replaced()?;
        let slot = open.files.recover()?.slot;
        open.adopt(&*self.storage, &self.directory, slot)?;
        Ok(open.slot().committed.rows)
    }

    /// The open files, with the commits of other handles; the new files after a compaction. It does not notice whether
    /// the directory was replaced.
    #[inline]
    pub(super) fn caught_up(&self) -> Result<Arc<Open>> {
        let open = self.current()?;
        if open.catch_up(&*self.storage, &self.directory)? { Ok(open) } else { self.after_compaction() }
    }

    /// The same. First checks that the mapped commit record has its full length.
    pub(super) fn caught_up_safely(&self) -> Result<Arc<Open>> {
        self.current()?.files.check_commit_length()?;
        self.caught_up()
    }

    #[cold]
    fn after_compaction(&self) -> Result<Arc<Open>> {
        // Files that were just opened need no look at their commits.
        self.reopen_if_replaced()
    }

    /// The files that the directory has now.
    pub(super) fn reopen_if_replaced(&self) -> Result<Arc<Open>> {
        let open = self.current()?;
        if open.files.are_in(&*self.storage, &self.directory)? {
            return Ok(open);
        }
        let fresh = Arc::new(Open::new(&*self.storage, &self.directory)?);
        let (old, new) = (&open.files.meta, &fresh.files.meta);
        let path = self.directory.clone();
        if old.identity != new.identity {
            let (expected, found) = (old.identity.to_string(), new.identity.to_string());
            return Err(Error::IdentityMismatch { path, expected, found });
        }
        if old.form() != new.form() {
            return Err(Error::OtherForm { path, expected: old.form(), found: new.form() });
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref() {
            // Another thread closed the store meanwhile, or reopened it.
            None => Err(Error::Closed { path }),
            Some(now) if !Arc::ptr_eq(now, &open) => Ok(Arc::clone(now)),
            Some(_) => {
                *current = Some(Arc::clone(&fresh));
                Ok(fresh)
            }
        }
    }
}
