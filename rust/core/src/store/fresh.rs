//! What a handle learns of others: what they committed, and whether the directory still has the files that it opened.

use std::sync::{Arc, PoisonError};

use super::Store;
use super::opened::Open;
use crate::error::{Error, Result};

impl Store {
    /// Learns what others have committed; gives the row count.
    ///
    /// If the directory has other files by now, of this cache or of another, this handle moves to them.
    pub fn refresh(&self) -> Result<u64> {
        let open = self.reopen_if_replaced()?;
        let slot = open.files.recover()?.slot;
        open.adopt(&*self.storage, &self.directory, slot)?;
        Ok(open.committed().rows)
    }

    /// Learns what others have committed, but not whether the directory was replaced; checks first that what is mapped of
    /// the commit record is there.
    pub(super) fn catch_up(&self, open: &Open) -> Result<()> {
        open.files.check_commit_length()?;
        open.catch_up(&*self.storage, &self.directory)
    }

    /// The files that the directory has now.
    pub(super) fn reopen_if_replaced(&self) -> Result<Arc<Open>> {
        let open = self.current()?;
        if open.files.are_in(&*self.storage, &self.directory)? {
            return Ok(open);
        }
        let fresh = Arc::new(Open::new(&*self.storage, &self.directory)?);
        let (old, new) = (&open.files.meta, &fresh.files.meta);
        if !old.holds_the_same_as(new) {
            let (path, expected, found) = (self.directory.clone(), old.describe(), new.describe());
            return Err(Error::OtherCache { path, expected, found });
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref() {
            // Another thread closed the store meanwhile, or reopened it.
            None => Err(Error::Closed { path: self.directory.clone() }),
            Some(now) if !Arc::ptr_eq(now, &open) => Ok(Arc::clone(now)),
            Some(_) => {
                *current = Some(Arc::clone(&fresh));
                Ok(fresh)
            }
        }
    }
}
