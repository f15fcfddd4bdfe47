//! Deleting: the records of all rows of some keys are zeroed, so that the rows are dead.

use std::collections::{BTreeSet, HashSet};

use super::Store;
use super::append::{Writer, clear_tail, poisoning};
use super::opened::Open;
use crate::error::Result;
use crate::format::commit::Slot;
use crate::format::keys::Record;
use crate::key::{DEAD, Key};
use crate::key_records::KeyRecords;

impl Store {
    /// Zeroes the records of all rows of the keys, durably. Returns how many of the keys had a row. The bytes of the
    /// rows stay in the files.
    ///
    /// Older rows go first, so that a crash leaves at most the newest row of a key. One commit says before that records
    /// are about to be zeroed, and one says after that they are: so every handle notices, also after a crash.
    pub fn delete(&self, keys: &[Key]) -> Result<usize> {
        drop(self.current()?.indexed()?);
        let (_lock, mut writer, open, recovered) = self.begin_group()?;
        let known = open.slot();
        clear_tail(&open, &mut writer, known.committed.rows)?;
        let rows = Rows::of(keys, &open.key_records(known.committed.rows)?, &writer.erased);
        if rows.newest.is_empty() && rows.others.is_empty() {
            return Ok(0);
        }
        let epoch = recovered.next_epoch;
        self.commit(&open, &mut writer, Slot { epoch, erased: epoch, ..known }, true)?;
        let erased = [&rows.others, &rows.newest].into_iter().try_for_each(|rows| erase(&open, &mut writer, rows));
        if erased.is_err() {
            // Some of them may be zeroed.
            open.forget_keys(&*self.storage, &self.directory)?;
        }
        erased?;
        self.commit(&open, &mut writer, Slot { epoch: epoch + 1, erased: epoch + 1, ..known }, true)?;
        Ok(rows.newest.len())
    }
}

/// Zeroes the records of some rows, and syncs them.
fn erase(open: &Open, writer: &mut Writer, rows: &[u64]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    open.files.keys.erase(rows)?;
    poisoning(&mut writer.poisoned, || open.files.keys.sync())?;
    writer.erased.extend(rows);
    Ok(())
}

/// The rows whose records a deletion zeroes, ascending.
#[derive(Debug, Default)]
struct Rows {
    /// The older rows of the keys. And the dead rows that this handle did not zero: another one may have failed to sync
    /// them, so that they are dead in the page cache only.
    others: Vec<u64>,
    /// The newest row of each key.
    newest: Vec<u64>,
}

impl Rows {
    /// Reads all records, and trusts no index: an index that misses a row would leave it there.
    fn of(keys: &[Key], records: &KeyRecords, erased: &BTreeSet<u64>) -> Rows {
        let wanted: HashSet<&Key> = keys.iter().filter(|key| **key != DEAD).collect();
        let start = |key: &Key| usize::from(u16::from_le_bytes([key[0], key[1]]));
        let mut may_be_wanted = vec![false; 1 << 16];
        wanted.iter().for_each(|key| may_be_wanted[start(key)] = true);
        let mut found: HashSet<Key> = HashSet::new();
        let mut rows = Rows::default();
        for (at, record) in records.all().iter().enumerate().rev() {
            let row = at as u64;
            let record = Record::from_bytes(record);
            let key = &record.key;
            if record.is_dead() {
                if !erased.contains(&row) {
                    rows.others.push(row);
                }
            } else if may_be_wanted[start(key)] && wanted.contains(key) {
                let is_newest = found.insert(*key);
                if is_newest { rows.newest.push(row) } else { rows.others.push(row) }
            }
        }
        rows.newest.reverse();
        rows.others.reverse();
        rows
    }
}
