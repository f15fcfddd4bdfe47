//! Building a snapshot, with memory that does not grow with the cache.
//!
//! The slots are in the order of the hashes, so a range of hashes fills a range of slots, a *partition*. The keys are
//! read once, and sorted into the partitions. Then one partition after the other is filled in memory and written behind
//! the one before.

use std::path::Path;

use super::READ_AHEAD;
use super::chain::Chain;
use super::scatter::Scatter;
use super::table::{Insert, capacity_for, home, insert};
use crate::atomic;
use crate::bits::Bits;
use crate::checksum;
use crate::error::{Error, Result};
use crate::format::keys::{RECORD_BYTES, Record};
use crate::format::meta::Meta;
use crate::format::snapshot::{BLOCK_BYTES, Header, SLOT_BYTES, SLOTS_OFFSET};
use crate::key_records::KeyRecords;
use crate::records::RecordsFile;
use crate::storage::{Storage, StorageFile};

/// Records that are read at a time.
const RECORDS_AT_ONCE: u64 = 8192;

/// An entry for a slot: the hash of a key, and its row.
const ENTRY_BYTES: usize = 2 * size_of::<u64>();

fn entry(hash: u64, row: u64) -> [u8; ENTRY_BYTES] {
    (u128::from(hash) | u128::from(row) << 64).to_le_bytes()
}

fn parse(entry: &[u8; ENTRY_BYTES]) -> (u64, u64) {
    let both = u128::from_le_bytes(*entry);
    (both as u64, (both >> 64) as u64)
}

/// The rows that a snapshot is built of: the first of `keys.bin`, which are durable.
#[derive(Debug, Clone, Copy)]
pub struct Covered<'a> {
    /// The file of their records.
    pub keys: &'a RecordsFile,
    /// How many there are.
    pub rows: u64,
    /// The commit that counts them.
    pub epoch: u64,
}

/// What a snapshot is built of.
pub(super) struct Plan<'a> {
    pub(super) covered: &'a Covered<'a>,
    /// The first row of the snapshot.
    pub(super) first: u64,
    /// The records of all covered rows, to compare the keys of two rows.
    pub(super) records: &'a KeyRecords,
    /// The snapshots of the rows before. The list of the new one has the rows of these that it replaces.
    pub(super) older: &'a Chain,
}

/// Writes a snapshot to `path`. The file appears complete or not at all.
pub(super) fn write(
    storage: &dyn Storage,
    path: &Path,
    meta: &Meta,
    plan: &Plan<'_>,
    partition_bytes: usize,
) -> Result<()> {
    let (rows, records) = (plan.covered.rows, plan.records);
    let capacity = capacity_for(rows - plan.first);
    let size = (partition_bytes / SLOT_BYTES).max(1) as u64;
    let partitions = capacity.div_ceil(size);
    let mut entries = Scatter::new(storage, path, partitions, 2 * partition_bytes);
    let mut replaced = RowSet::new(storage, path, rows, partition_bytes / 2);
    let mut last_record = [0; RECORD_BYTES];
    each_record(plan, |row, bytes| {
        last_record = *bytes;
        let record = Record::from_bytes(bytes);
        if record.is_dead() {
            return replaced.add(row);
        }
        let hash = records.hash(&record.key);
        entries.put(home(hash, capacity) / size, &entry(hash, row))
    })?;
    atomic::write_by(storage, path, |file| {
        let mut body = Body::of(file, path);
        let (mut slots, mut overflow) = (Vec::new(), Vec::new());
        let mut keys = 0;
        let mut new = NewKeys { plan, found: Vec::new() };
        for partition in 0..partitions {
            let start = partition * size;
            let len = usize::try_from(size.min(capacity - start)).unwrap_or(usize::MAX);
            slots.clear();
            // Keys of earlier partitions come first: no empty slot may lie between them and their home.
            slots.append(&mut overflow);
            slots.resize(slots.len().max(len), 0);
            entries.take(partition, |entry| {
                let (hash, row) = parse(entry);
                let has_same_key = |older| records.have_same_key(older, row);
                match insert(&mut slots, home(hash, capacity) - start, row, hash, has_same_key) {
                    Insert::New => {
                        keys += 1;
                        new.note(hash, row, &mut replaced)
                    }
                    Insert::Replaced(older) => replaced.add(older),
                }
            })?;
            overflow.extend(slots.drain(len..));
            slots.iter().try_for_each(|slot| body.push(*slot))?;
        }
        new.look_up(&mut replaced)?;
        let replaced = replaced.each(|row| body.push(row))?;
        body.flush()?;
        // After the last slot comes the first.
        body.fill_empty(&overflow, capacity)?;
        body.finish(Header {
            uuid: meta.uuid,
            seed: meta.seed,
            epoch: plan.covered.epoch,
            first: plan.first,
            rows,
            capacity,
            keys,
            replaced,
            last_record,
        })
    })
}

/// Calls `each` for all records. They are read, not mapped: a mapping would count as memory of the process.
fn each_record(plan: &Plan<'_>, mut each: impl FnMut(u64, &[u8; RECORD_BYTES]) -> Result<()>) -> Result<()> {
    let rows = plan.covered.rows;
    let mut row = plan.first;
    let mut buffer = vec![0; usize::try_from(RECORDS_AT_ONCE.min(rows - row)).unwrap_or(0) * RECORD_BYTES];
    while row < rows {
        let count = usize::try_from(RECORDS_AT_ONCE.min(rows - row)).unwrap_or(0);
        let piece = buffer.get_mut(..count * RECORD_BYTES).unwrap_or_default();
        plan.covered.keys.read(row, piece)?;
        for record in piece.as_chunks().0 {
            each(row, record)?;
            row += 1;
        }
    }
    Ok(())
}

/// Keys that are new to the table, with their hash and row. Some together are looked up in the older snapshots.
struct NewKeys<'a> {
    plan: &'a Plan<'a>,
    found: Vec<(u64, u64)>,
}

impl NewKeys<'_> {
    fn note(&mut self, hash: u64, row: u64, replaced: &mut RowSet<'_>) -> Result<()> {
        if self.plan.first == 0 {
            return Ok(());
        }
        self.found.push((hash, row));
        if self.found.len() < READ_AHEAD { Ok(()) } else { self.look_up(replaced) }
    }

    /// Adds the older rows of these keys to those that are replaced.
    fn look_up(&mut self, replaced: &mut RowSet<'_>) -> Result<()> {
        let Plan { records, older, .. } = self.plan;
        let hashes: Vec<u64> = self.found.iter().map(|(hash, _)| *hash).collect();
        older.read_ahead(&hashes, |_| {});
        for (hash, row) in self.found.drain(..) {
            if let Some(older) = older.get(hash, |older| records.have_same_key(older, row)) {
                replaced.add(older)?;
            }
        }
        Ok(())
    }
}

/// Rows that come in any order, each once, and leave in ascending order.
struct RowSet<'a> {
    rows: u64,
    /// Rows of a part.
    range: u64,
    parts: Scatter<'a, { size_of::<u64>() }>,
}

impl<'a> RowSet<'a> {
    /// None of the first `rows` rows. It takes `memory` bytes, and as many again when the rows leave.
    fn new(storage: &'a dyn Storage, beside: &'a Path, rows: u64, memory: usize) -> RowSet<'a> {
        let range = (memory as u64).saturating_mul(8).max(64);
        RowSet { rows, range, parts: Scatter::new(storage, beside, rows.div_ceil(range), memory) }
    }

    fn add(&mut self, row: u64) -> Result<()> {
        self.parts.put(row / self.range, &row.to_le_bytes())
    }

    /// Calls `each` for all rows. Returns how many there are.
    fn each(mut self, mut each: impl FnMut(u64) -> Result<()>) -> Result<u64> {
        let mut count = 0;
        for part in 0..self.rows.div_ceil(self.range) {
            let first = part * self.range;
            let mut found = Bits::none(self.range.min(self.rows - first));
            self.parts.take(part, |row| {
                found.add(u64::from_le_bytes(*row) - first);
                Ok(())
            })?;
            let mut next = found.next(0);
            while let Some(row) = next {
                each(first + row)?;
                count += 1;
                next = found.next(row + 1);
            }
        }
        Ok(count)
    }
}

/// The slots and the list of a snapshot file, written in sequence, a block at a time.
struct Body<'a> {
    file: &'a dyn StorageFile,
    path: &'a Path,
    block: Vec<u8>,
    /// Where the next block goes.
    end: u64,
    /// The checksums of the blocks.
    sums: Vec<u64>,
}

impl<'a> Body<'a> {
    fn of(file: &'a dyn StorageFile, path: &'a Path) -> Body<'a> {
        Body { file, path, block: Vec::new(), end: SLOTS_OFFSET as u64, sums: Vec::new() }
    }

    fn push(&mut self, word: u64) -> Result<()> {
        self.block.extend_from_slice(&word.to_le_bytes());
        if self.block.len() < BLOCK_BYTES { Ok(()) } else { self.flush() }
    }

    fn offset(block: usize) -> u64 {
        SLOTS_OFFSET as u64 + block as u64 * BLOCK_BYTES as u64
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_at(bytes, offset).map_err(Error::io("write", self.path))
    }

    /// Writes the last block, which may be shorter than the others.
    fn flush(&mut self) -> Result<()> {
        if !self.block.is_empty() {
            self.write(&self.block, self.end)?;
            self.end += self.block.len() as u64;
            self.sums.push(checksum::block(&self.block));
            self.block.clear();
        }
        Ok(())
    }

    /// Enters slots into the first empty ones of the table, in the file.
    fn fill_empty(&mut self, slots: &[u64], capacity: u64) -> Result<()> {
        let mut slots = slots.iter().peekable();
        let mut left = capacity;
        for block in 0..self.sums.len() {
            if slots.peek().is_none() || left == 0 {
                break;
            }
            let offset = Body::offset(block);
            let len = self.end.saturating_sub(offset).min(BLOCK_BYTES as u64);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(BLOCK_BYTES)];
            self.file.read_at(&mut bytes, offset).map_err(Error::io("read", self.path))?;
            // A list of replaced rows may begin in this block.
            let of_table = usize::try_from(left).unwrap_or(usize::MAX);
            let of_table = bytes.as_chunks_mut().0.iter_mut().take(of_table);
            left = left.saturating_sub((BLOCK_BYTES / SLOT_BYTES) as u64);
            for empty in of_table.filter(|slot| **slot == [0; SLOT_BYTES]) {
                let Some(slot) = slots.next() else { break };
                *empty = slot.to_le_bytes();
            }
            self.write(&bytes, offset)?;
            if let Some(sum) = self.sums.get_mut(block) {
                *sum = checksum::block(&bytes);
            }
        }
        Ok(())
    }

    /// Writes the block checksums, and then the header.
    fn finish(self, header: Header) -> Result<()> {
        let sums: Vec<u8> = self.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        self.write(&sums, self.end)?;
        let mut first_page = vec![0; SLOTS_OFFSET];
        first_page.splice(..header.to_bytes().len(), header.to_bytes());
        self.write(&first_page, 0)
    }
}
