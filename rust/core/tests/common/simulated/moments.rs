//! A walk through a journal, and what a power loss may leave at each of its moments.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Simulated;
use super::image::{Image, Kept};
use super::journal::{Change, Operation};
use super::random::Random;

const SECTOR: usize = 512;

/// More unsynced changes than this are no longer left out in every combination.
const EXHAUSTIVE: usize = 10;

/// A walk through a journal: what is durable at each of its moments, and what is pending.
pub struct Moments<'a> {
    journal: VecDeque<Operation>,
    at: usize,
    pub(super) durable: Image,
    /// Changes that are not durable.
    pub(super) pending: Vec<Change>,
    storage: std::marker::PhantomData<&'a Simulated>,
}

impl<'a> Moments<'a> {
    /// From the beginning of a file system's journal on.
    pub fn of(storage: &'a Simulated) -> Moments<'a> {
        Moments::along(storage, &storage.inner.lock().unwrap().journal)
    }

    /// The same, where the journal is at hand.
    pub(super) fn along(storage: &'a Simulated, journal: &[Operation]) -> Moments<'a> {
        Moments {
            journal: journal.to_vec().into(),
            at: 0,
            durable: storage.durable.clone(),
            pending: Vec::new(),
            storage: std::marker::PhantomData,
        }
    }

    /// At its end.
    pub(super) fn at_the_end(storage: &'a Simulated, journal: &[Operation]) -> Moments<'a> {
        let mut moments = Moments::along(storage, journal);
        while moments.advance() {}
        moments
    }

    /// All that was asked for, as if it were durable.
    pub(super) fn settled(&self) -> Image {
        self.image(&vec![Kept::Whole; self.pending.len()])
    }

    /// How many operations lie behind.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Goes past the next operation; false at the end.
    pub fn advance(&mut self) -> bool {
        let Some(operation) = self.journal.pop_front() else { return false };
        self.at += 1;
        match operation {
            Operation::Change(change) => self.pending.push(change),
            Operation::Sync { file: synced } => {
                self.settle(|change| matches!(change, Change::Write { file, .. } if *file == synced));
            }
            Operation::FailedSync { file: failed, kept } => {
                let is_of_it = |change: &Change| matches!(change, Change::Write { file, .. } if *file == failed);
                let mut writes = 0;
                self.settle(|change| {
                    writes += usize::from(is_of_it(change));
                    is_of_it(change) && kept.keeps(writes - 1)
                });
                self.pending.retain(|change| !is_of_it(change));
            }
            Operation::SyncDirectory { path: directory } => self.settle(|change| match change {
                Change::Directory { path } | Change::Name { path, .. } | Change::Removal { path } => {
                    path.parent() == Some(&directory)
                }
                Change::Rename { to, .. } => to.parent() == Some(&directory),
                Change::Write { .. } => false,
            }),
        }
        true
    }

    fn settle(&mut self, mut is_synced: impl FnMut(&Change) -> bool) {
        let (durable, pending) = (&mut self.durable, &mut self.pending);
        pending.retain(|change| {
            let settles = is_synced(change);
            if settles {
                durable.apply(change, Kept::Whole);
            }
            !settles
        });
    }

    /// What the disk has of a file once all is written that the system knows to be unwritten.
    pub(super) fn on_disk_once_written(&self, number: u64) -> Vec<u8> {
        let mut image = Image::default();
        image.files.extend(self.durable.files.get(&number).map(|bytes| (number, Arc::clone(bytes))));
        for change in &self.pending {
            if matches!(change, Change::Write { file, .. } if *file == number) {
                image.apply(change, Kept::Whole);
            }
        }
        image.files.remove(&number).map_or_else(Vec::new, Arc::unwrap_or_clone)
    }

    fn image(&self, kept: &[Kept]) -> Image {
        let mut image = self.durable.clone();
        for (change, kept) in self.pending.iter().zip(kept) {
            image.apply(change, *kept);
        }
        image
    }

    /// What may be left of a change besides all and nothing.
    fn pieces(change: &Change) -> Vec<Kept> {
        let Change::Write { offset, bytes, .. } = change else { return Vec::new() };
        // The ends of pages of 4,096 bytes are among those of sectors.
        let first = offset.next_multiple_of(SECTOR);
        let mut cuts: Vec<usize> = (first..offset + bytes.len()).step_by(SECTOR).map(|cut| cut - offset).collect();
        cuts.retain(|cut| *cut > 0);
        if cuts.is_empty() && bytes.len() > 1 {
            // Within a sector: disks promise that it does not happen.
            // Not in the middle: there a commit's record has nothing before it that changes, so that it is not torn.
            cuts.push(bytes.len() * 3 / 4);
        }
        let torn = cuts.into_iter().flat_map(|cut| [Kept::Start(cut), Kept::End(cut)]);
        torn.chain([Kept::Length]).collect()
    }

    /// What a power loss may leave now: every combination of pending changes if they are few; each one torn or
    /// extended with zeros, the others there or not; and `draws` mixtures of all of it. The flag says that a write was
    /// torn.
    pub fn images(&self, random: &mut Random, draws: usize) -> Vec<(Image, bool)> {
        let count = self.pending.len();
        let mut images = Vec::new();
        let subsets: Vec<u64> = match count {
            0..=EXHAUSTIVE => (0..1 << count).collect(),
            _ => {
                let all = (1_u64 << count.min(63)) - 1;
                let one = (0..count.min(63)).flat_map(|i| [1 << i, all & !(1 << i), (1 << i) - 1]);
                one.chain([all]).collect()
            }
        };
        for subset in subsets {
            let kept: Vec<Kept> =
                (0..count).map(|i| if subset >> i & 1 == 1 { Kept::Whole } else { Kept::Nothing }).collect();
            images.push((self.image(&kept), false));
        }
        let mut pieces: Vec<Vec<Kept>> = self.pending.iter().map(Moments::pieces).collect();
        for (i, piece) in pieces.iter().enumerate().flat_map(|(i, pieces)| pieces.iter().map(move |piece| (i, *piece)))
        {
            for others in [Kept::Nothing, Kept::Whole] {
                let mut kept = vec![others; count];
                kept[i] = piece;
                images.push((self.image(&kept), true));
            }
        }
        // Within a sector one write is torn at a time: disks promise that none is.
        for (pieces, change) in pieces.iter_mut().zip(&self.pending) {
            if let Change::Write { offset, .. } = change {
                pieces.retain(|piece| match piece {
                    Kept::Start(cut) | Kept::End(cut) => (offset + cut).is_multiple_of(SECTOR),
                    _ => true,
                });
            }
        }
        for _ in 0..if count < 2 { 0 } else { draws } {
            let kept: Vec<Kept> = pieces
                .iter()
                .map(|pieces| match random.below(4) {
                    0 => Kept::Nothing,
                    1 if !pieces.is_empty() => pieces[random.below(pieces.len())],
                    _ => Kept::Whole,
                })
                .collect();
            images.push((self.image(&kept), true));
        }
        images
    }

    /// One of the images of now.
    pub fn any_image(&self, random: &mut Random) -> (Image, bool) {
        let mut images = self.images(random, 8);
        images.swap_remove(random.below(images.len()))
    }
}
