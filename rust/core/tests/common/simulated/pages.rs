//! The page cache: dropping pages, and the pages of failed writes.

use dejavec_core::storage::{Access, Metadata, Storage, StorageFile};

use super::image::Name;
use super::journal::{Change, Turns};
use super::moments::Moments;
use super::{Inner, Simulated};

const PAGE: usize = 4096;

impl Simulated {
    /// The system drops the pages of all files, as it may when memory is short.
    pub fn evict(&self) {
        for (path, name) in self.settled().names {
            if let Name::File(_) = name {
                self.forget_pages(&*self.live.open(&path, Access::Write).unwrap(), 0, None);
            }
        }
    }

    /// Drops the unmapped pages of a range. Later reads come from the disk, with the pending writes applied. The disk
    /// does not have the writes that a failed sync lost.
    pub(super) fn forget_pages(&self, live: &dyn StorageFile, start: u64, end: Option<u64>) {
        let mut inner = self.inner.lock().unwrap();
        let Ok(Metadata { len, id: (_, number), .. }) = live.metadata() else { return };
        let mapped = inner.mapped.iter().filter(|((file, _), _)| *file == number).map(|(_, len)| *len).max();
        let from = mapped.unwrap_or(0).next_multiple_of(PAGE).max(start as usize / PAGE * PAGE);
        let len = len as usize;
        let to = end.map_or(len, |end| (end as usize).next_multiple_of(PAGE).min(len));
        let mut bytes = Moments::at_the_end(self, &inner.journal).on_disk_once_written(number);
        bytes.resize(len, 0);
        if from < to && live.write_at(&bytes[from..to], from as u64).is_ok() {
            inner.stuck.entry(number).or_default().retain(|at| !(from..to).contains(at));
            inner.pages_forgotten += (to - from).div_ceil(PAGE);
        }
    }

    /// Notes the bytes that a failed sync lost, beyond the durable length of the file.
    pub(super) fn note_stuck(&self, inner: &mut Inner, number: u64, kept: Turns) {
        let moments = Moments::at_the_end(self, &inner.journal);
        let durable = moments.durable.files.get(&number).map_or(0, |bytes| bytes.len());
        let stuck = inner.stuck.entry(number).or_default();
        let writes = moments.pending.iter().filter_map(|change| match change {
            Change::Write { file, offset, bytes } if *file == number => Some(*offset..offset + bytes.len()),
            _ => None,
        });
        let (written, failed): (Vec<_>, Vec<_>) = writes.enumerate().partition(|(at, _)| kept.keeps(*at));
        stuck.extend(failed.into_iter().flat_map(|(_, range)| range).filter(|at| *at >= durable));
        for at in written.into_iter().flat_map(|(_, range)| range) {
            stuck.remove(&at);
        }
    }
}
