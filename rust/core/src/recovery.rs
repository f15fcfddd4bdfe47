//! Which commit counts after a crash, and which rows behind it are recovered.

use std::ops::Range;

use crate::error::Result;
use crate::format::commit::{Extent, Slot, Slots};
use crate::format::keys::{RECORD_BYTES, Record};
use crate::key::DEAD;
use crate::records::RecordsFile;
use crate::rows::{Copied, RowFiles};

/// The state of a cache when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The commit that counts. Its epoch is the epoch of the newest valid slot, also where an older commit counts.
    pub slot: Slot,
    /// The content of its slot in the file.
    pub in_file: Slot,
    /// Whether there may be committed rows behind it. Then a writer first rolls forward.
    pub roll_forward: bool,
    /// What the newest valid slot claims. It may be missing.
    pub claimed: Extent,
    /// Whether a newer slot, which claimed more rows, may be lost.
    pub newer_lost: bool,
    /// The epoch of the next commit. It goes to the slot beside the one that counts.
    pub next_epoch: u64,
}

impl Recovered {
    /// How many rows may have been committed.
    pub fn reach(&self) -> u64 {
        if self.newer_lost { u64::MAX } else { self.claimed.rows }
    }
}

/// Chooses the commit that counts: all of its rows are in the files. None if durable rows are missing.
///
/// Without syncs a power loss may keep the slots and lose rows. Then the older slot counts, if it has all rows that the
/// newest slot calls durable. Otherwise only those durable rows count. Missing durable rows are damage, not a smaller
/// cache.
pub fn choose(slots: &Slots, whole: Extent) -> Option<Recovered> {
    let Slots { newest, older, newer_lost } = *slots;
    let after = newest.epoch.checked_add(1)?;
    let claimed = newest.committed;
    let recovered =
        Recovered { slot: newest, in_file: newest, roll_forward: true, claimed, newer_lost, next_epoch: after };
    if whole.covers(newest.committed) {
        return Some(Recovered { roll_forward: newer_lost, ..recovered });
    }
    if let Some(older) = older.filter(|older| older.committed.covers(newest.synced) && whole.covers(older.committed)) {
        let slot = Slot { synced: older.synced.longer(newest.synced), erased: newest.erased, ..older };
        return Some(Recovered { slot, in_file: older, next_epoch: after.checked_add(1)?, ..recovered });
    }
    let durable = Slot { committed: newest.synced, ..newest };
    whole.covers(newest.synced).then_some(Recovered { slot: durable, ..recovered })
}

/// The extent after rolling forward from `from`: up to the last row with a matching checksum, below row `reach`. An
/// earlier row with a checksum mismatch may have been acknowledged and damaged since.
pub fn roll_forward(from: Extent, reach: u64, keys: &RecordsFile, rows: &RowFiles) -> Result<Extent> {
    let mut end = keys.whole_records()?.min(rows.whole()?.rows).min(reach);
    while end > from.rows {
        let count = rows.last_within(from.rows..end, keys.record_bytes(), PIECE_BYTES)?;
        let first = from.rows.max(end.saturating_sub(count));
        let piece = Piece::read(first..end, keys, rows)?;
        // A group begins behind the committed elements.
        let is_behind = |row: &u64| piece.rows.span(*row).is_some_and(|span| span.start >= from.elements);
        if let Some(last) = (first..end).rev().find(|row| is_behind(row) && piece.is_sound(*row)) {
            let elements = piece.rows.span(last).map_or(from.elements, |span| span.end);
            return Ok(Extent { rows: last + 1, elements });
        }
        end = first;
    }
    Ok(from)
}

/// Writes rows and records of other handles again, with the same bytes. They may not be on the disk. The next sync of
/// this handle makes them durable or fails. Returns the rows with a checksum mismatch.
///
/// After a failed sync the page cache may hold pages that count as clean and are not on the disk. Writing such a page
/// again does not always help: ext4 may keep its block marked as unwritten. So the rows are read, the system is asked
/// to drop the pages, and then the rows are written. `forget` means that rows with a checksum mismatch were never
/// durable: their records are zeroed. Otherwise these rows do not change.
pub fn write_again(range: Range<u64>, forget: bool, keys: &RecordsFile, rows: &RowFiles) -> Result<Vec<u64>> {
    let mut lost = Vec::new();
    let mut first = range.start;
    while first < range.end {
        let count = rows.first_within(first..range.end, keys.record_bytes(), PIECE_BYTES)?;
        let end = range.end.min(first.saturating_add(count));
        let mut piece = Piece::read(first..end, keys, rows)?;
        let mut harmed: Vec<u64> = (first..end).filter(|&row| !piece.is_dead(row) && !piece.is_sound(row)).collect();
        if forget {
            harmed.iter().for_each(|&row| piece.forget(row));
        }
        let behind = (keys.read_behind(end)?, rows.copy_behind(&piece.rows)?);
        keys.forget_pages(first..end)?;
        rows.forget_pages(&piece.rows)?;
        piece.write_again(keys, rows)?;
        keys.write(end, &behind.0)?;
        rows.write_behind(&piece.rows, &behind.1)?;
        lost.append(&mut harmed);
        first = end;
    }
    if forget && !lost.is_empty() {
        keys.forget_mapping();
    }
    Ok(lost)
}

/// Bytes of rows and records in a piece.
const PIECE_BYTES: u64 = 8 << 20;

/// Contiguous rows, read together with their records.
pub(crate) struct Piece {
    range: Range<u64>,
    records: Vec<[u8; RECORD_BYTES]>,
    pub(crate) rows: Copied,
}

impl Piece {
    pub(crate) fn read(range: Range<u64>, keys: &RecordsFile, rows: &RowFiles) -> Result<Piece> {
        let count = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut records = vec![[0; RECORD_BYTES]; count];
        keys.read(range.start, records.as_flattened_mut())?;
        Ok(Piece { rows: rows.copy(range.clone())?, range, records })
    }

    fn at(&self, row: u64) -> usize {
        usize::try_from(row - self.range.start).unwrap_or(usize::MAX)
    }

    pub(crate) fn record(&self, row: u64) -> Record {
        self.records.get(self.at(row)).map_or(Record { key: DEAD, checksum: 0 }, Record::from_bytes)
    }

    fn is_dead(&self, row: u64) -> bool {
        self.record(row).is_dead()
    }

    pub(crate) fn is_sound(&self, row: u64) -> bool {
        self.rows.row(row).is_some_and(|content| self.record(row).holds(row, &content))
    }

    fn forget(&mut self, row: u64) {
        let at = self.at(row);
        if let Some(record) = self.records.get_mut(at) {
            *record = [0; RECORD_BYTES];
        }
    }

    /// Writes the rows that are dead or sound, contiguous ones together.
    fn write_again(&self, keys: &RecordsFile, rows: &RowFiles) -> Result<()> {
        let is_wanted = |row: u64| self.is_dead(row) || self.is_sound(row);
        let mut row = self.range.start;
        while row < self.range.end {
            let end = (row..self.range.end).find(|&row| !is_wanted(row)).unwrap_or(self.range.end);
            if end > row {
                // Rows first: a record must not be there without its row.
                rows.write_again(&self.rows, row..end)?;
                keys.write(row, self.records.get(self.at(row)..self.at(end)).unwrap_or_default().as_flattened())?;
            }
            row = end + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(epoch: u64, rows: u64, synced: u64) -> Slot {
        Slot { epoch, committed: Extent::dense(rows), synced: Extent::dense(synced), erased: 0 }
    }

    fn slots(newest: Slot, older: Option<Slot>) -> Slots {
        Slots { newest, older, newer_lost: false }
    }

    #[test]
    fn the_newest_covered_commit_counts() {
        let both = slots(slot(5, 50, 30), Some(slot(4, 40, 30)));
        let recovered = choose(&both, Extent::dense(50)).unwrap();
        assert_eq!((recovered.slot.committed.rows, recovered.roll_forward, recovered.next_epoch), (50, false, 6));
        let recovered = choose(&both, Extent::dense(45)).unwrap();
        assert_eq!((recovered.slot.committed.rows, recovered.roll_forward), (40, true));
    }

    #[test]
    fn the_next_commit_never_overwrites_the_slot_that_counts() {
        let both = slots(slot(5, 50, 10), Some(slot(4, 40, 10)));
        for whole_rows in [50, 45, 10] {
            let recovered = choose(&both, Extent::dense(whole_rows)).unwrap();
            assert!(recovered.next_epoch > 5);
            assert_ne!(recovered.next_epoch % 2, recovered.slot.epoch % 2, "{recovered:?}");
        }
    }

    #[test]
    fn durable_rows_are_never_rolled_back() {
        // A writer that does not sync builds on one that does.
        let both = slots(slot(7, 70, 50), Some(slot(4, 40, 40)));
        assert_eq!(choose(&both, Extent::dense(50)).unwrap().slot.committed.rows, 50);
        assert_eq!(choose(&both, Extent::dense(49)), None);
        let synced = slots(slot(5, 50, 50), Some(slot(4, 40, 40)));
        assert_eq!(choose(&synced, Extent::dense(49)), None);
    }

    #[test]
    fn what_the_newest_commit_calls_durable_is_so_for_an_older_one_that_counts() {
        let both = slots(slot(5, 50, 30), Some(slot(4, 40, 10)));
        let recovered = choose(&both, Extent::dense(45)).unwrap();
        assert_eq!((recovered.slot, recovered.in_file, recovered.reach()), (slot(4, 40, 30), slot(4, 40, 10), 50));
    }

    #[test]
    fn an_epoch_that_cannot_be_followed_is_refused() {
        assert_eq!(choose(&slots(slot(u64::MAX, 1, 1), None), Extent::dense(1)), None);
    }

    #[test]
    fn durable_rows_are_found_even_if_both_commits_claim_more_than_is_there() {
        let both = slots(slot(5, 50, 10), Some(slot(4, 40, 10)));
        assert_eq!(choose(&both, Extent::dense(20)).unwrap().slot.committed.rows, 10);
        assert_eq!(choose(&both, Extent::dense(9)), None);
    }

    #[test]
    fn a_commit_whose_elements_are_missing_does_not_count() {
        let extent = |rows, elements| Extent { rows, elements };
        let newest = Slot { epoch: 5, committed: extent(50, 500), synced: extent(30, 300), erased: 0 };
        let older = Slot { epoch: 4, committed: extent(40, 400), synced: extent(30, 300), erased: 0 };
        let both = slots(newest, Some(older));
        for (whole, expected) in [
            (extent(50, 500), Some(newest.committed)),
            (extent(50, 499), Some(older.committed)),
            (extent(60, 399), Some(newest.synced)),
            (extent(29, 900), None),
            (extent(90, 299), None),
        ] {
            assert_eq!(choose(&both, whole).map(|recovered| recovered.slot.committed), expected, "{whole:?}");
        }
    }
}
