//! A walk through a journal, with the images that a power loss may leave at each moment.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Simulated;
use super::image::{Image, Kept};
use super::journal::{Change, Operation};
use super::random::Random;

const SECTOR: usize = 512;

/// Up to this many unsynced changes, every combination of them is tried.
const EXHAUSTIVE: usize = 10;

/// A walk through a journal, with the durable files and the pending changes at each moment.
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

    /// The same, for a journal that the caller holds.
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

    /// The image with all pending changes applied.
    pub(super) fn settled(&self) -> Image {
        self.image(&vec![Kept::Whole; self.pending.len()])
    }

    /// How many operations were passed.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Passes the next operation. False at the end.
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

    /// The content of a file on the disk after all pending writes.
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

    /// The partial states of a change, besides all and nothing.
    fn pieces(change: &Change) -> Vec<Kept> {
        let Change::Write { offset, bytes, .. } = change else { return Vec::new() };
        // Pages of 4,096 bytes end where sectors end.
        let first = offset.next_multiple_of(SECTOR);
        let mut cuts: Vec<usize> = (first..offset + bytes.len()).step_by(SECTOR).map(|cut| cut - offset).collect();
        cuts.retain(|cut| *cut > 0);
        if cuts.is_empty() && bytes.len() > 1 {
            // Within a sector, although disks promise that this does not happen.
            // Not in the middle: the first half of a commit record hardly changes, so it would not be torn.
            cuts.push(bytes.len() * 3 / 4);
        }
        let torn = cuts.into_iter().flat_map(|cut| [Kept::Start(cut), Kept::End(cut)]);
        torn.chain([Kept::Length]).collect()
    }

    /// The images that a power loss may leave now: every combination of pending changes if they are few, each change
    /// torn or extended with zeros while the others are there or not, and `draws` random mixtures. The flag marks
    /// images with a torn write.
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
        // At most one write is torn within a sector, since disks promise that none is.
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
