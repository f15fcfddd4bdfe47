//! One snapshot file.

use std::cmp::Ordering;
use std::path::Path;

use super::table::{self, Probe, probe};
use crate::checksum;
use crate::format::Defect;
use crate::format::keys::RECORD_BYTES;
use crate::format::meta::Meta;
use crate::format::snapshot::{BLOCK_BYTES, Header, Layout, SLOT_BYTES, SLOTS_OFFSET, TIER_HEADER_BYTES};
use crate::key_records::KeyRecords;
use crate::mmap::Mapping;
use crate::storage::{Access, Storage, map_or_read};

/// A snapshot file, open.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) header: Header,
    layout: Layout,
    mapping: Mapping,
}

impl Snapshot {
    /// Opens a snapshot. None if it does not fit the cache and the committed rows, or cannot be read.
    pub(super) fn open(
        storage: &dyn Storage,
        path: &Path,
        meta: &Meta,
        records: &KeyRecords,
        erased: u64,
    ) -> Option<Snapshot> {
        let file = storage.open(path, Access::Read).ok()?;
        let mut bytes = [0; TIER_HEADER_BYTES];
        file.read_at(&mut bytes, 0).ok()?;
        let header = Header::parse(&bytes, &meta.uuid, records.seed()).ok()?;
        let layout = header.layout()?;
        let last = last_record(header.rows, records)?;
        let fits = last == header.last_record || (header.epoch <= erased && last == [0; RECORD_BYTES]);
        if file.length().ok()? != layout.file_bytes as u64 || !fits {
            return None;
        }
        let mapping = map_or_read(&*file, layout.file_bytes).ok()?;
        mapping.expect_scattered_reads();
        Some(Snapshot { header, layout, mapping })
    }

    /// Whether records were zeroed at a commit, or while it was made, that the snapshot may not know.
    pub(super) fn is_stale(&self, erased: u64) -> bool {
        erased > 0 && self.header.epoch <= erased
    }

    fn word(&self, offset: usize) -> u64 {
        let bytes = self.mapping.get(offset..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn slot(&self, at: u64) -> u64 {
        self.word(slot_offset(at))
    }

    /// The row of a key with this hash, among those that the snapshot covers.
    pub(super) fn get(&self, hash: u64, has_key: impl Fn(u64) -> bool) -> Option<u64> {
        match probe(self.header.capacity, |at| self.slot(at), hash, has_key) {
            Probe::Row { row, .. } if (self.header.first..self.header.rows).contains(&row) => Some(row),
            _ => None,
        }
    }

    /// See [`table::read_ahead`].
    pub(super) fn read_ahead(&self, hashes: &[u64], found: impl Fn(u64)) {
        let prefetch = |at| table::prefetch_near(self.mapping.get(slot_offset(at)..).unwrap_or_default());
        table::read_ahead(self.header.capacity, |at| self.slot(at), prefetch, hashes, found);
    }

    /// Entry `at` of the list of replaced rows.
    fn replaced_row(&self, at: usize) -> u64 {
        self.word(SLOTS_OFFSET + self.layout.slots_bytes + at * SLOT_BYTES)
    }

    pub(super) fn replaced(&self) -> impl Iterator<Item = u64> {
        (0..self.layout.replaced_entries()).map(|at| self.replaced_row(at))
    }

    pub(super) fn is_replaced(&self, row: u64) -> bool {
        let (mut low, mut high) = (0, self.layout.replaced_entries());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.replaced_row(middle).cmp(&row) {
                Ordering::Equal => return true,
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        false
    }

    /// Checks every block against its checksum.
    pub(super) fn verify(&self) -> Result<(), Defect> {
        let body = self.mapping.get(SLOTS_OFFSET..SLOTS_OFFSET + self.layout.body_bytes).unwrap_or_default();
        for (i, block) in body.chunks(BLOCK_BYTES).enumerate() {
            let (computed, stored) =
                (checksum::block(block), self.word(SLOTS_OFFSET + self.layout.body_bytes + i * SLOT_BYTES));
            if computed != stored {
                return Err(Defect::new(format!("block {i} with checksum {stored:016x}"), format!("{computed:016x}")));
            }
        }
        Ok(())
    }
}

fn slot_offset(at: u64) -> usize {
    SLOTS_OFFSET + at as usize * SLOT_BYTES
}

/// The record of the last of the first `rows` rows. Zeros if `rows` is 0, None if not all of them are committed.
fn last_record(rows: u64, records: &KeyRecords) -> Option<[u8; RECORD_BYTES]> {
    match rows.checked_sub(1) {
        None => Some([0; RECORD_BYTES]),
        Some(last) => records.bytes(last).copied(),
    }
}
