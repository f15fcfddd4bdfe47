//! Which commit counts after a crash, and what may be taken back behind it.

use std::ops::Range;

use crate::error::Result;
use crate::format::commit::{Slot, Slots};
use crate::format::keys::{RECORD_BYTES, Record};
use crate::key::DEAD;
use crate::records::RecordsFile;

/// The state that a cache is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The commit that counts. Its epoch is that of the newest valid slot if a newer one is lost or not covered.
    pub slot: Slot,
    /// Whether committed rows may lie behind it, so that a writer first rolls forward.
    pub roll_forward: bool,
    /// The epoch of the next commit. Its parity spares the slot that counts.
    pub next_epoch: u64,
}

/// Chooses the commit whose rows the files hold in full; None if not even the durable rows are all there.
///
/// Without syncs a power loss may keep the slots and lose the rows. Then the older slot counts, if it has all rows that
/// the newest knows to be durable, else just those. Rows that were durable and are gone are damage, never fewer rows.
pub fn choose(slots: &Slots, whole_rows: u64) -> Option<Recovered> {
    let newest = slots.newest;
    let after = newest.epoch.checked_add(1)?;
    if newest.rows <= whole_rows {
        return Some(Recovered { slot: newest, roll_forward: slots.newer_lost, next_epoch: after });
    }
    if let Some(older) = slots.older.filter(|older| (newest.synced..=whole_rows).contains(&older.rows)) {
        return Some(Recovered { slot: older, roll_forward: true, next_epoch: after.checked_add(1)? });
    }
    let durable = Slot { rows: newest.synced, ..newest };
    (newest.synced <= whole_rows).then_some(Recovered { slot: durable, roll_forward: true, next_epoch: after })
}

/// The rows of a range whose checksums do not hold, dead ones left out.
pub fn lost_rows(range: Range<u64>, keys: &RecordsFile, vectors: &RecordsFile) -> Result<Vec<u64>> {
    let mut lost = Vec::new();
    let mut reader = RowReader::new(keys, vectors);
    for row in range {
        let record = reader.read(row)?;
        if record.key != DEAD && !record.holds(row, &reader.vector) {
            lost.push(row);
        }
    }
    Ok(lost)
}

/// How many rows there are if those from `rows` on whose checksums hold are taken back, up to the first that does not.
pub fn roll_forward(rows: u64, keys: &RecordsFile, vectors: &RecordsFile) -> Result<u64> {
    let end = keys.whole_records()?.min(vectors.whole_records()?);
    let mut reader = RowReader::new(keys, vectors);
    let mut row = rows;
    while row < end && reader.read(row)?.holds(row, &reader.vector) {
        row += 1;
    }
    Ok(row)
}

/// Reads rows one by one, each with its record.
struct RowReader<'a> {
    keys: &'a RecordsFile,
    vectors: &'a RecordsFile,
    vector: Vec<u8>,
}

impl<'a> RowReader<'a> {
    fn new(keys: &'a RecordsFile, vectors: &'a RecordsFile) -> RowReader<'a> {
        let vector = vec![0; usize::try_from(vectors.record_bytes()).unwrap_or(0)];
        RowReader { keys, vectors, vector }
    }

    /// Reads a row into `vector`; gives its record.
    fn read(&mut self, row: u64) -> Result<Record> {
        let mut record = [0; RECORD_BYTES];
        self.keys.read(row, &mut record)?;
        self.vectors.read(row, &mut self.vector)?;
        Ok(Record::from_bytes(&record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(epoch: u64, rows: u64, synced: u64) -> Slot {
        Slot { epoch, rows, synced }
    }

    fn slots(newest: Slot, older: Option<Slot>) -> Slots {
        Slots { newest, older, newer_lost: false }
    }

    #[test]
    fn the_newest_covered_commit_counts() {
        let both = slots(slot(5, 50, 30), Some(slot(4, 40, 30)));
        let recovered = choose(&both, 50).unwrap();
        assert_eq!((recovered.slot.rows, recovered.roll_forward, recovered.next_epoch), (50, false, 6));
        let recovered = choose(&both, 45).unwrap();
        assert_eq!((recovered.slot.rows, recovered.roll_forward), (40, true));
    }

    #[test]
    fn the_next_commit_never_overwrites_the_slot_that_counts() {
        let both = slots(slot(5, 50, 10), Some(slot(4, 40, 10)));
        for whole_rows in [50, 45, 10] {
            let recovered = choose(&both, whole_rows).unwrap();
            assert!(recovered.next_epoch > 5);
            assert_ne!(recovered.next_epoch % 2, recovered.slot.epoch % 2, "{recovered:?}");
        }
    }

    #[test]
    fn durable_rows_are_never_rolled_back() {
        // A writer that does not sync builds on one that does.
        let both = slots(slot(7, 70, 50), Some(slot(4, 40, 40)));
        assert_eq!(choose(&both, 50).unwrap().slot.rows, 50);
        assert_eq!(choose(&both, 49), None);
        let synced = slots(slot(5, 50, 50), Some(slot(4, 40, 40)));
        assert_eq!(choose(&synced, 49), None);
    }

    #[test]
    fn an_epoch_that_cannot_be_followed_is_refused() {
        assert_eq!(choose(&slots(slot(u64::MAX, 1, 1), None), 1), None);
    }

    #[test]
    fn durable_rows_are_found_even_if_both_commits_claim_more_than_is_there() {
        let both = slots(slot(5, 50, 10), Some(slot(4, 40, 10)));
        assert_eq!(choose(&both, 20).unwrap().slot.rows, 10);
        assert_eq!(choose(&both, 9), None);
    }
}
