//! Which commit counts after a crash, and which rows behind it are recovered.

use std::ops::Range;

use crate::error::Result;
use crate::format::commit::{Slot, Slots};
use crate::format::keys::{RECORD_BYTES, Record};
use crate::key::DEAD;
use crate::records::RecordsFile;

/// The state of a cache when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The commit that counts. Its epoch is the epoch of the newest valid slot, also where an older commit counts.
    pub slot: Slot,
    /// The content of its slot in the file.
    pub in_file: Slot,
    /// Whether there may be committed rows behind it. Then a writer first rolls forward.
    pub roll_forward: bool,
    /// How many rows the newest valid slot claims. They may be missing.
    pub claimed: u64,
    /// Whether a newer slot, which claimed more rows, may be lost.
    pub newer_lost: bool,
    /// The epoch of the next commit. It goes to the slot beside the one that counts.
    pub next_epoch: u64,
}

impl Recovered {
    /// How many rows may have been committed.
    pub fn reach(&self) -> u64 {
        if self.newer_lost { u64::MAX } else { self.claimed }
    }
}

/// Chooses the commit that counts: all of its rows are in the files. None if durable rows are missing.
///
/// Without syncs a power loss may keep the slots and lose rows. Then the older slot counts, if it has all rows that the
/// newest slot calls durable. Otherwise only those durable rows count. Missing durable rows are damage, not a smaller
/// cache.
pub fn choose(slots: &Slots, whole_rows: u64) -> Option<Recovered> {
    let Slots { newest, older, newer_lost } = *slots;
    let after = newest.epoch.checked_add(1)?;
    let claimed = newest.rows;
    let recovered =
        Recovered { slot: newest, in_file: newest, roll_forward: true, claimed, newer_lost, next_epoch: after };
    if newest.rows <= whole_rows {
        return Some(Recovered { roll_forward: newer_lost, ..recovered });
    }
    if let Some(older) = older.filter(|older| (newest.synced..=whole_rows).contains(&older.rows)) {
        let slot = Slot { synced: older.synced.max(newest.synced), ..older };
        return Some(Recovered { slot, in_file: older, next_epoch: after.checked_add(1)?, ..recovered });
    }
    let durable = Slot { rows: newest.synced, ..newest };
    (newest.synced <= whole_rows).then_some(Recovered { slot: durable, ..recovered })
}

/// How many rows there are after rolling forward from `rows`: up to the last row with a matching checksum, below
/// `reach`. An earlier row with a checksum mismatch may have been acknowledged and damaged since.
pub fn roll_forward(rows: u64, reach: u64, keys: &RecordsFile, vectors: &RecordsFile) -> Result<u64> {
    let mut end = keys.whole_records()?.min(vectors.whole_records()?).min(reach);
    let mut piece = Piece::new(keys, vectors);
    while end > rows {
        let first = rows.max(end.saturating_sub(piece.most_rows));
        piece.read(first..end)?;
        if let Some(last) = (first..end).rev().find(|&row| piece.is_sound(row)) {
            return Ok(last + 1);
        }
        end = first;
    }
    Ok(rows)
}

/// Writes rows and records of other handles again, with the same bytes. They may not be on the disk. The next sync of
/// this handle makes them durable or fails. Returns the rows with a checksum mismatch.
///
/// After a failed sync the page cache may hold pages that count as clean and are not on the disk. Writing such a page
/// again does not always help: ext4 may keep its block marked as unwritten. So the rows are read, the system is asked
/// to drop the pages, and then the rows are written. `forget` means that rows with a checksum mismatch were never
/// durable: their records are zeroed. Otherwise these rows do not change.
pub fn write_again(range: Range<u64>, forget: bool, keys: &RecordsFile, vectors: &RecordsFile) -> Result<Vec<u64>> {
    let mut lost = Vec::new();
    let mut piece = Piece::new(keys, vectors);
    let mut first = range.start;
    while first < range.end {
        let end = range.end.min(first.saturating_add(piece.most_rows));
        piece.read(first..end)?;
        let mut harmed: Vec<u64> = (first..end).filter(|&row| !piece.is_dead(row) && !piece.is_sound(row)).collect();
        if forget {
            harmed.iter().for_each(|&row| piece.forget(row));
        }
        let behind = [keys.read_behind(end)?, vectors.read_behind(end)?];
        keys.forget_pages(first..end)?;
        vectors.forget_pages(first..end)?;
        piece.write_runs(first..end, |piece, row| piece.is_dead(row) || piece.is_sound(row))?;
        for (file, bytes) in [keys, vectors].into_iter().zip(behind) {
            file.write(end, &bytes)?;
        }
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
struct Piece<'a> {
    keys: &'a RecordsFile,
    vectors: &'a RecordsFile,
    most_rows: u64,
    first: u64,
    records: Vec<[u8; RECORD_BYTES]>,
    bytes: Vec<u8>,
}

impl<'a> Piece<'a> {
    fn new(keys: &'a RecordsFile, vectors: &'a RecordsFile) -> Piece<'a> {
        let most_rows = (PIECE_BYTES / keys.record_bytes().saturating_add(vectors.record_bytes()).max(1)).max(1);
        Piece { keys, vectors, most_rows, first: 0, records: Vec::new(), bytes: Vec::new() }
    }

    fn row_bytes(&self) -> usize {
        usize::try_from(self.vectors.record_bytes()).unwrap_or(usize::MAX)
    }

    fn read(&mut self, range: Range<u64>) -> Result<()> {
        let rows = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.first = range.start;
        self.records.resize(rows, [0; RECORD_BYTES]);
        self.bytes.resize(rows.saturating_mul(self.row_bytes()), 0);
        self.keys.read(self.first, self.records.as_flattened_mut())?;
        self.vectors.read(self.first, &mut self.bytes)
    }

    fn at(&self, row: u64) -> usize {
        usize::try_from(row - self.first).unwrap_or(usize::MAX)
    }

    fn record(&self, row: u64) -> Record {
        self.records.get(self.at(row)).map_or(Record { key: DEAD, checksum: 0 }, Record::from_bytes)
    }

    fn is_dead(&self, row: u64) -> bool {
        self.record(row).key == DEAD
    }

    fn is_sound(&self, row: u64) -> bool {
        let (at, size) = (self.at(row), self.row_bytes());
        let vector = at.checked_mul(size).and_then(|start| self.bytes.get(start..)?.get(..size));
        vector.is_some_and(|vector| self.record(row).holds(row, vector))
    }

    fn forget(&mut self, row: u64) {
        let at = self.at(row);
        if let Some(record) = self.records.get_mut(at) {
            *record = [0; RECORD_BYTES];
        }
    }

    /// Writes the wanted rows and records of a range, contiguous ones together.
    fn write_runs(&self, range: Range<u64>, is_wanted: impl Fn(&Piece<'_>, u64) -> bool) -> Result<()> {
        let mut row = range.start;
        while row < range.end {
            let end = (row..range.end).find(|&row| !is_wanted(self, row)).unwrap_or(range.end);
            if end > row {
                let (from, to, size) = (self.at(row), self.at(end), self.row_bytes());
                // Rows first: a record must not be there without its row.
                self.vectors.write(row, self.bytes.get(from * size..to * size).unwrap_or_default())?;
                self.keys.write(row, self.records.get(from..to).unwrap_or_default().as_flattened())?;
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
    fn what_the_newest_commit_calls_durable_is_so_for_an_older_one_that_counts() {
        let both = slots(slot(5, 50, 30), Some(slot(4, 40, 10)));
        let recovered = choose(&both, 45).unwrap();
        assert_eq!((recovered.slot, recovered.in_file, recovered.reach()), (slot(4, 40, 30), slot(4, 40, 10), 50));
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
