//! Append groups: lock, learn the commits of others, write, sync, commit.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use super::opened::Open;
use super::{Durability, Numbering, Seen, Store, same_length};
use crate::batch::{Batch, Block};
use crate::error::{Error, Result};
use crate::files::{CacheFiles, FileId};
use crate::format::Uuid;
use crate::format::commit::{Extent, Slot};
use crate::format::keys::{RECORD_BYTES, Record};
use crate::format::{MAX_ELEMENTS, MAX_ROWS};
use crate::index::DeltaLimit;
use crate::key::{DEAD, Key};
use crate::{parallel, partition, vectors};

/// Rows a piece of parallel checksums holds, and the fewest that are worth a second thread.
const RECORDS_PIECE: usize = 512;
const RECORDS_PER_THREAD: usize = 512;

/// State of the writing thread of this handle.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Whether a sync failed. The content of the disk is then unknown, and a retry may succeed without writing.
    pub(super) poisoned: bool,
    /// The files that the fields below describe, with the uuid and the generation of the cache.
    pub(super) files: Option<(Vec<FileId>, Uuid, u64)>,
    /// The commit that this handle wrote last, or wrote again.
    pub(super) own: Option<Slot>,
    /// Whether this handle made the names of the directory and of its files durable.
    pub(super) names_are_durable: bool,
    /// The dead rows whose records this handle zeroed durably.
    pub(super) erased: BTreeSet<u64>,
    /// Whether this handle wrote the bytes behind the committed rows.
    pub(super) tail_is_ours: bool,
    /// What the headers of the files of rows show, if this handle wrote them last.
    pub(super) shown: Option<Extent>,
    /// Whether this handle appended rows.
    pub(super) appended: bool,
    /// Whether there are committed rows that are not synced.
    pub(super) unsynced: bool,
    /// Whether the files were replaced before this handle synced its rows, and no caller knows yet.
    pub(super) lost: bool,
}

impl Writer {
    /// Whether this handle stored rows that are not durable.
    pub(super) fn owes_a_sync(&self) -> bool {
        self.unsynced || self.lost
    }

    /// Resets the state if the files were replaced.
    pub(super) fn is_about(&mut self, files: &CacheFiles) {
        let (uuid, generation) = (files.meta.uuid, files.meta.generation);
        if let Some((known, known_uuid, known_generation)) = &self.files
            && known != files.identities()
        {
            // A compaction made all rows durable, wherever they came from.
            let were_compacted = *known_uuid == uuid && *known_generation < generation;
            let lost = self.lost || self.unsynced && !were_compacted;
            *self = Writer { poisoned: self.poisoned, lost, ..Writer::default() };
        }
        self.files = Some((files.identities().to_vec(), uuid, generation));
    }
}

impl Store {
    /// Appends one group and commits it. Returns how many rows were appended.
    ///
    /// A key is dropped only if its newest row is another one than the `seen` one. Keys must differ from each other.
    /// [`Error::Renumbered`] if any row was seen, and rows have other numbers now.
    pub fn append<'a>(&self, keys: &[Key], rows: impl Into<Batch<'a>>, seen: Option<Seen<'_>>) -> Result<usize> {
        let block = self.check_rows(keys, rows.into())?;
        if let Some(seen) = seen {
            same_length("rows seen", keys.len(), seen.rows.len())?;
        }
        let appended = self.write_group(|open| {
            let is_of_others = |seen: Seen<'_>| seen.numbering != Some(Numbering::of(&open.files.meta));
            if seen.is_some_and(|seen| is_of_others(seen) && seen.rows.iter().any(|row| *row >= 0)) {
                return Err(Error::Renumbered { path: self.directory.clone() });
            }
            let state = open.indexed()?;
            let mut newest = vec![partition::NO_ROW; keys.len()];
            state.lookup(&open.key_records(state.rows())?, keys, &mut newest);
            let is_wanted = |position: &usize| {
                // An older row than the seen one is not newer data: the seen row did not survive.
                newest[*position] == partition::NO_ROW
                    || seen.is_some_and(|seen| seen.rows[*position] >= newest[*position])
            };
            let positions: Vec<usize> = (0..keys.len()).filter(is_wanted).collect();
            Ok(Group::of(keys, block, &positions))
        })?;
        self.write_snapshot_if_due(DeltaLimit::APPENDING);
        Ok(appended)
    }

    /// Appends the rows that are not stored byte for byte already. The last of equal keys wins.
    pub fn put<'a>(&self, keys: &[Key], rows: impl Into<Batch<'a>>) -> Result<usize> {
        let block = self.check_rows(keys, rows.into())?;
        // Chosen under the lock, after the rows of others were made durable: a row that is found here is acknowledged.
        let appended = self.write_group(|open| {
            let state = open.indexed()?;
            let records = open.key_records(state.rows())?;
            let mut rows = vec![partition::NO_ROW; keys.len()];
            state.lookup(&records, keys, &mut rows);
            let source = vectors::Source::of(&open.files.rows, &records, state.slot.committed)?;
            let (mut positions, mut scratch) = (Vec::new(), vectors::Scratch::default());
            for position in partition::last_of_each_key(keys) {
                let content = block.row(position, 0);
                let is_stored = match u64::try_from(rows[position]) {
                    Ok(row) => source.has(&keys[position], row, &content, &mut scratch)?,
                    Err(_) => false,
                };
                if !is_stored {
                    positions.push(position);
                }
            }
            Ok(Group::of(keys, block, &positions))
        })?;
        self.write_snapshot_if_due(DeltaLimit::APPENDING);
        Ok(appended)
    }

    fn check_rows<'a>(&self, keys: &[Key], rows: Batch<'a>) -> Result<Block<'a>> {
        let block = Block::of(rows, keys.len(), &self.current()?.files.meta)?;
        match keys.contains(&DEAD) {
            true => Err(Error::Argument { expected: "SHA-256 keys".into(), found: "a key of zeros".into() }),
            false => Ok(block),
        }
    }

    /// Makes every committed row durable, including those of other handles. [`Error::Replaced`] means that this was
    /// done, and that rows of this handle are in files that the directory no longer has.
    ///
    /// A handle that stored nothing trusts a commit that calls all rows durable. It then opens no file for writing.
    pub fn sync(&self) -> Result<()> {
        if self.options.writable && self.has_nothing_to_sync()? {
            return Ok(());
        }
        let (_lock, mut writer, open, recovered) = self.begin_group()?;
        self.sync_all(&open, &mut writer)?;
        let known @ Slot { committed, synced, .. } = open.slot();
        self.show_texts(&open, &mut writer, committed.rows);
        if synced.rows < committed.rows {
            let slot = Slot { epoch: recovered.next_epoch, synced: committed, ..known };
            self.commit(&open, &mut writer, slot, true)?;
        }
        writer.unsynced = false;
        let lost = std::mem::take(&mut writer.lost);
        drop((writer, _lock));
        self.write_snapshot_if_due(DeltaLimit::APPENDING);
        if lost { Err(Error::Replaced { path: self.directory.clone() }) } else { Ok(()) }
    }

    /// Whether this handle stored nothing, the last commit calls all rows durable, and no header is torn.
    fn has_nothing_to_sync(&self) -> Result<bool> {
        if self.current()?.is_writable || self.writer().owes_a_sync() {
            return Ok(false);
        }
        let open = self.reopen_if_replaced()?;
        let recovered = open.files.recover()?;
        open.adopt(&*self.storage, &self.directory, recovered.slot)?;
        // Rows that this handle has seen committed count, even if their slot is gone.
        let is_durable = !recovered.roll_forward && recovered.slot.synced.rows >= open.slot().committed.rows;
        Ok(is_durable && open.files.has_whole_headers() && self.has_whole_text_headers(&open))
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic leaves at most an uncommitted group behind, which the next group overwrites.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One append group: lock, learn the commits of others, choose the rows, write, sync, commit, unlock.
    fn write_group<'a>(&self, choose: impl FnOnce(&Open) -> Result<Group<'a>>) -> Result<usize> {
        // Before the lock: entering many rows into the index takes long.
        drop(self.current()?.indexed()?);
        let (_lock, mut writer, open, recovered) = self.begin_group()?;
        let group = choose(&open)?;
        let durable = self.options.durability == Durability::Commit;
        if group.keys.is_empty() {
            // All committed rows were made durable when the group began.
            return Ok(0);
        }
        let known @ Slot { committed: before, synced, .. } = open.slot();
        let after = group.block.after(before);
        if after.rows > MAX_ROWS || after.elements > MAX_ELEMENTS {
            return Err(Error::Argument {
                expected: format!("at most {MAX_ROWS} rows and {MAX_ELEMENTS} elements in a cache"),
                found: format!("{} rows and {} elements", after.rows, after.elements),
            });
        }
        clear_tail(&open, &mut writer, before.rows)?;
        open.files.rows.append(before, &group.block)?;
        self.write_texts(&open, &mut writer, before.rows, &group.keys, group.block.texts())?;
        open.files.keys.write(before.rows, &group.records(before))?;
        if durable {
            poisoning(&mut writer.poisoned, || open.files.sync_rows())?;
        } else {
            open.files.rows.begin_writing(before, after)?;
        }
        let synced = if durable { after } else { synced };
        let slot = Slot { epoch: recovered.next_epoch, committed: after, synced, ..known };
        self.commit(&open, &mut writer, slot, durable)?;
        Ok(group.keys.len())
    }

    pub(super) fn sync_all(&self, open: &Open, writer: &mut Writer) -> Result<()> {
        poisoning(&mut writer.poisoned, || open.files.sync_rows())?;
        poisoning(&mut writer.poisoned, || open.files.sync_commit())
    }

    /// Writes the commit record of rows that are written, and synced up to `slot.synced`. Adopts the commit.
    pub(super) fn commit(&self, open: &Open, writer: &mut Writer, slot: Slot, durable: bool) -> Result<()> {
        poisoning(&mut writer.poisoned, || open.files.write_slot(slot))?;
        if durable {
            poisoning(&mut writer.poisoned, || open.files.sync_commit())?;
        }
        writer.own = Some(slot);
        writer.appended = true;
        open.note_examined(slot.committed);
        writer.unsynced |= slot.synced.rows < slot.committed.rows;
        if slot.synced.rows > 0 && writer.shown != Some(slot.synced) {
            // For other programs only. The next group writes them again. A failed sync is none of this commit, which is
            // acknowledged, but leaves the content of the disk unknown.
            let shown = poisoning(&mut writer.poisoned, || open.files.write_row_headers(slot.synced));
            writer.shown = shown.is_ok().then_some(slot.synced);
        }
        if durable && slot.synced.rows == slot.committed.rows {
            self.show_texts(open, writer, slot.committed.rows);
        }
        open.adopt(&*self.storage, &self.directory, slot)
    }
}

/// Zeroes the records behind the committed rows: the rest of a group that was never committed.
///
/// Synced before anything else is written: a power loss may keep the commit and lose the rows. Then there must be no
/// older rows with matching checksums in their place.
pub(super) fn clear_tail(open: &Open, writer: &mut Writer, rows: u64) -> Result<()> {
    if open.files.keys.clear_behind(rows, !writer.tail_is_ours)? {
        poisoning(&mut writer.poisoned, || open.files.keys.sync())?;
    }
    writer.tail_is_ours = true;
    Ok(())
}

/// The rows of one append group.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) keys: Cow<'a, [Key]>,
    pub(super) block: Block<'a>,
}

impl<'a> Group<'a> {
    /// The chosen positions of a batch, ascending. Copies only if they are not the whole batch.
    fn of(keys: &'a [Key], block: Block<'a>, positions: &[usize]) -> Group<'a> {
        let chosen = match positions.len() == keys.len() {
            true => keys.into(),
            false => positions.iter().map(|&position| keys[position]).collect(),
        };
        Group { keys: chosen, block: block.select(positions) }
    }

    /// The key records of the group behind `before`.
    pub(super) fn records(&self, before: Extent) -> Vec<u8> {
        let mut records = vec![0; self.keys.len() * RECORD_BYTES];
        let targets = records.chunks_mut(RECORDS_PIECE * RECORD_BYTES);
        let pieces: Vec<_> = self.keys.chunks(RECORDS_PIECE).zip(targets).enumerate().collect();
        parallel::for_each(pieces, self.keys.len(), RECORDS_PER_THREAD, |(piece, (keys, targets))| {
            let first = piece * RECORDS_PIECE;
            for (position, (key, target)) in (first..).zip(keys.iter().zip(targets.chunks_exact_mut(RECORD_BYTES))) {
                let content = self.block.row(position, before.elements);
                let row = before.rows + position as u64;
                target.copy_from_slice(&Record::of_row(key, row, &content).to_bytes());
            }
        });
        records
    }
}

/// Runs a step. If it fails, the content of the disk is unknown.
pub(super) fn poisoning<T>(poisoned: &mut bool, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = step();
    *poisoned |= done.is_err();
    done
}
