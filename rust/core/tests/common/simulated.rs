//! A file system in memory that keeps a journal of what was asked of it, fails where it is told to, and knows what a
//! power loss may leave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dejavec_core::checksum;
use dejavec_core::mmap::{Mapping, PrivateMapping};
use dejavec_core::storage::{Access, MemoryStorage, Metadata, Storage, StorageFile};

/// A change that is not durable before the file, or the directory of the name, is synced.
#[derive(Debug, Clone)]
pub enum Change {
    Directory { path: PathBuf },
    Name { path: PathBuf, file: u64 },
    Rename { from: PathBuf, to: PathBuf, file: u64 },
    Removal { path: PathBuf },
    Write { file: u64, offset: usize, bytes: Arc<[u8]> },
}

/// What was asked, as far as it matters after a power loss.
#[derive(Debug, Clone)]
pub enum Operation {
    Change(Change),
    Sync {
        file: u64,
    },
    /// A sync that failed: of the unsynced writes it wrote those that `kept` says, by turns; the system calls the pages
    /// of the others clean, so that no later sync writes them.
    FailedSync {
        file: u64,
        kept: Turns,
    },
    SyncDirectory {
        path: PathBuf,
    },
}

/// Which of several unsynced writes a failed sync wrote: those whose bit is set, the bits taken by turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns(pub u8);

impl Turns {
    const COUNT: usize = 3;
    pub const ALL: [Turns; 1 << Turns::COUNT] =
        [Turns(0), Turns(1), Turns(2), Turns(3), Turns(4), Turns(5), Turns(6), Turns(7)];

    fn keeps(self, at: usize) -> bool {
        self.0 >> (at % Turns::COUNT) & 1 == 1
    }
}

/// Which operation fails, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Any operation, with this error of the system.
    Error(i32),
    /// A write, after half of its bytes.
    ShortWrite,
    /// A sync of a file or directory; of what a file's sync should have written, nothing is written.
    Sync,
    /// A sync of a file or directory, after some of the writes.
    SyncAfter(Turns),
}

#[derive(Debug)]
pub struct Injection {
    pub fault: Fault,
    /// How many operations of the kind pass before.
    pub after: usize,
    /// Whether all that come later fail as well.
    pub for_ever: bool,
    pub fired: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Write,
    Sync,
}

#[derive(Debug, Default)]
struct Inner {
    journal: Vec<Operation>,
    injection: Option<Injection>,
    /// How many syncs of each file failed. A handle is told once, unless it was opened after somebody was told.
    failures: BTreeMap<u64, usize>,
    /// How many bytes of a file each handle maps: the system keeps these pages, whatever it is asked.
    mapped: BTreeMap<(u64, usize), usize>,
    /// Bytes of each file whose first write failed, as ext4 has it: the disk shows zeros there, whatever is written again
    /// while their page stays in memory.
    stuck: BTreeMap<u64, BTreeSet<usize>>,
    handles: usize,
    /// Pages that the system forgot because it was asked to.
    pages_forgotten: usize,
    locks_taken: usize,
    is_remote: bool,
}

impl Inner {
    /// Whether the operation fails now.
    fn fails(&mut self, kind: Kind) -> Option<Fault> {
        let injection = self.injection.as_mut()?;
        let concerned = match injection.fault {
            Fault::Error(_) => true,
            Fault::ShortWrite => kind == Kind::Write,
            Fault::Sync | Fault::SyncAfter(_) => kind == Kind::Sync,
        };
        if !concerned {
            return None;
        }
        if injection.after > 0 {
            injection.after -= 1;
            return None;
        }
        if injection.fired > 0 && !injection.for_ever {
            return None;
        }
        injection.fired += 1;
        Some(injection.fault)
    }
}

/// The file system.
#[derive(Debug, Clone)]
pub struct Simulated {
    live: MemoryStorage,
    inner: Arc<Mutex<Inner>>,
    /// What was durable when the journal began.
    durable: Image,
}

#[derive(Debug)]
struct SimulatedFile {
    live: Box<dyn StorageFile>,
    number: u64,
    /// What lies in a lock file is for people, so that writes to it are no change.
    is_lock: bool,
    system: Simulated,
    handle: usize,
    /// Failed syncs of the file that this handle was told of, or that somebody was told of before it was opened.
    told: AtomicUsize,
}

fn error(fault: Fault) -> io::Error {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    io::Error::from_raw_os_error(match fault {
        Fault::Error(number) => number,
        Fault::ShortWrite => ENOSPC,
        Fault::Sync | Fault::SyncAfter(_) => EIO,
    })
}

fn step(inner: &Mutex<Inner>, kind: Kind) -> io::Result<()> {
    inner.lock().unwrap().fails(kind).map_or(Ok(()), |fault| Err(error(fault)))
}

impl Simulated {
    /// A file system in which all of the image is durable.
    pub fn of(image: &Image, root: &Path) -> Simulated {
        let live = MemoryStorage::with_root(root);
        let mut durable = Image::default();
        for (path, name) in &image.names {
            let parent = path.parent().unwrap();
            if parent != root && durable.names.get(parent) != Some(&Name::Directory) {
                continue; // Its directory is lost.
            }
            match name {
                Name::Directory => {
                    live.mkdir(path).unwrap();
                    durable.names.insert(path.clone(), Name::Directory);
                }
                Name::File(number) => {
                    let file = live.open(path, Access::Create).unwrap();
                    let bytes = image.files.get(number).cloned().unwrap_or_default();
                    file.write_at(&bytes, 0).unwrap();
                    let number = file.metadata().unwrap().id.1;
                    durable.names.insert(path.clone(), Name::File(number));
                    durable.files.insert(number, bytes);
                }
            }
        }
        Simulated { live, inner: Arc::default(), durable }
    }

    /// All that is there now, as a durable image.
    pub fn settled(&self) -> Image {
        let mut moments = Moments::of(self);
        while moments.advance() {}
        let all = vec![Kept::Whole; moments.pending.len()];
        moments.image(&all)
    }

    fn moments(&self, journal: &[Operation]) -> Moments<'_> {
        Moments {
            journal: journal.to_vec().into(),
            at: 0,
            durable: self.durable.clone(),
            pending: Vec::new(),
            storage: std::marker::PhantomData,
        }
    }

    /// The system drops the pages of all files, as it may when memory is short.
    pub fn evict(&self) {
        for (path, name) in self.settled().names {
            if let Name::File(_) = name {
                self.forget_pages(&*self.live.open(&path, Access::Write).unwrap(), 0, None);
            }
        }
    }

    /// Drops the pages of a range that nobody maps: they are read from the disk again, with what is not yet written on top.
    /// The disk has nothing of what a failed sync did not write.
    fn forget_pages(&self, live: &dyn StorageFile, start: u64, end: Option<u64>) {
        let mut inner = self.inner.lock().unwrap();
        let Ok(Metadata { len, id: (_, number), .. }) = live.metadata() else { return };
        let mapped = inner.mapped.iter().filter(|((file, _), _)| *file == number).map(|(_, len)| *len).max();
        let from = mapped.unwrap_or(0).next_multiple_of(PAGE).max(start as usize / PAGE * PAGE);
        let (mut moments, len) = (self.moments(&inner.journal), len as usize);
        let to = end.map_or(len, |end| (end as usize).next_multiple_of(PAGE).min(len));
        while moments.advance() {}
        let mut bytes = moments.on_disk_once_written(number);
        bytes.resize(len, 0);
        if from < to && live.write_at(&bytes[from..to], from as u64).is_ok() {
            inner.stuck.entry(number).or_default().retain(|at| !(from..to).contains(at));
            inner.pages_forgotten += (to - from).div_ceil(PAGE);
        }
    }

    /// Takes note of what a failed sync did not write of a file, behind what the disk has.
    fn note_stuck(&self, inner: &mut Inner, number: u64, kept: Turns) {
        let mut moments = self.moments(&inner.journal);
        while moments.advance() {}
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

    /// How many pages the system was made to forget.
    pub fn pages_forgotten(&self) -> usize {
        self.inner.lock().unwrap().pages_forgotten
    }

    /// From now on it lies on another machine.
    pub fn move_away(&self) {
        self.inner.lock().unwrap().is_remote = true;
    }

    pub fn locks_taken(&self) -> usize {
        self.inner.lock().unwrap().locks_taken
    }

    pub fn journal_len(&self) -> usize {
        self.inner.lock().unwrap().journal.len()
    }

    pub fn inject(&self, injection: Option<Injection>) -> Option<Injection> {
        std::mem::replace(&mut self.inner.lock().unwrap().injection, injection)
    }

    fn note(&self, change: Change) {
        self.inner.lock().unwrap().journal.push(Operation::Change(change));
    }
}

impl Storage for Simulated {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        step(&self.inner, Kind::Other)?;
        let is_new = self.live.metadata(path).is_err();
        let live = self.live.open(path, access)?;
        let number = live.metadata()?.id.1;
        if is_new {
            self.note(Change::Name { path: path.to_path_buf(), file: number });
        }
        let is_lock = access == Access::Lock;
        let mut inner = self.inner.lock().unwrap();
        inner.handles += 1;
        let (handle, told) = (inner.handles, inner.failures.get(&number).copied().unwrap_or(0));
        drop(inner);
        Ok(Box::new(SimulatedFile { live, number, is_lock, system: self.clone(), handle, told: told.into() }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, bool)>> {
        step(&self.inner, Kind::Other)?;
        self.live.list(directory)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        step(&self.inner, Kind::Other)?;
        self.live.metadata(path)
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        step(&self.inner, Kind::Other)?;
        self.live.mkdir(path)?;
        self.note(Change::Directory { path: path.to_path_buf() });
        Ok(())
    }

    fn is_remote(&self, _directory: &Path) -> io::Result<bool> {
        step(&self.inner, Kind::Other)?;
        Ok(self.inner.lock().unwrap().is_remote)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        step(&self.inner, Kind::Other)?;
        let file = self.live.metadata(from)?.id.1;
        self.live.rename(from, to)?;
        self.note(Change::Rename { from: from.to_path_buf(), to: to.to_path_buf(), file });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        step(&self.inner, Kind::Other)?;
        self.live.remove(path)?;
        self.note(Change::Removal { path: path.to_path_buf() });
        Ok(())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        step(&self.inner, Kind::Sync)?;
        self.live.sync_dir(directory)?;
        self.inner.lock().unwrap().journal.push(Operation::SyncDirectory { path: directory.to_path_buf() });
        Ok(())
    }
}

impl SimulatedFile {
    fn note_mapped(&self, len: usize) {
        let mut inner = self.system.inner.lock().unwrap();
        let mapped = inner.mapped.entry((self.number, self.handle)).or_default();
        *mapped = (*mapped).max(len);
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        self.system.inner.lock().unwrap().mapped.remove(&(self.number, self.handle));
    }
}

impl StorageFile for SimulatedFile {
    fn metadata(&self) -> io::Result<Metadata> {
        step(&self.system.inner, Kind::Other)?;
        self.live.metadata()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        step(&self.system.inner, Kind::Other)?;
        self.live.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.system.inner.lock().unwrap();
        let failed = inner.fails(Kind::Write);
        let bytes = match failed {
            None => bytes,
            Some(Fault::ShortWrite) => &bytes[..bytes.len() / 2],
            Some(fault) => return Err(error(fault)),
        };
        self.live.write_at(bytes, offset)?;
        if !self.is_lock && !bytes.is_empty() {
            let (mut on_disk, first) = (bytes.to_vec(), offset as usize);
            for at in inner.stuck.entry(self.number).or_default().range(first..first + bytes.len()) {
                on_disk[at - first] = 0;
            }
            let change = Change::Write { file: self.number, offset: first, bytes: on_disk.into() };
            inner.journal.push(Operation::Change(change));
        }
        failed.map_or(Ok(()), |fault| Err(error(fault)))
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        step(&self.system.inner, Kind::Other)?;
        self.note_mapped(len);
        self.live.map(len)
    }

    fn map_private(&self, offset: u64, len: usize) -> io::Result<PrivateMapping> {
        step(&self.system.inner, Kind::Other)?;
        self.note_mapped(offset as usize + len);
        self.live.map_private(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.system.inner.lock().unwrap();
        let file = self.number;
        let failed = inner.fails(Kind::Sync);
        if let Some(fault) = failed {
            let kept = if let Fault::SyncAfter(kept) = fault { kept } else { Turns(0) };
            self.system.note_stuck(&mut inner, file, kept);
            inner.journal.push(Operation::FailedSync { file, kept });
            *inner.failures.entry(file).or_default() += 1;
        } else {
            inner.journal.push(Operation::Sync { file });
        }
        let failures = inner.failures.get(&file).copied().unwrap_or(0);
        if failures > self.told.swap(failures, Ordering::Relaxed) {
            return Err(error(Fault::Sync));
        }
        Ok(())
    }

    fn forget_pages(&self, start: u64, end: Option<u64>) {
        self.system.forget_pages(&*self.live, start, end);
    }

    fn renew_unwritten(&self, _directory: &Path, start: u64) -> io::Result<()> {
        let is_stuck =
            |inner: &Inner| inner.stuck.get(&self.number).is_some_and(|at| at.range(start as usize..).count() > 0);
        if is_stuck(&self.system.inner.lock().unwrap()) {
            self.sync()?;
            self.system.inner.lock().unwrap().stuck.entry(self.number).or_default().split_off(&(start as usize));
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        step(&self.system.inner, Kind::Other)?;
        let taken = self.live.try_lock()?;
        self.system.inner.lock().unwrap().locks_taken += usize::from(taken);
        Ok(taken)
    }

    fn unlock(&self) -> io::Result<()> {
        self.live.unlock()
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Directory,
    File(u64),
}

/// What lies on the platter.
#[derive(Debug, Clone, Default)]
pub struct Image {
    names: BTreeMap<PathBuf, Name>,
    files: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Image {
    /// Tells two images apart.
    pub fn fingerprint(&self) -> u64 {
        let mut sum = checksum::Running::default();
        for (path, name) in &self.names {
            sum.update(path.as_os_str().as_encoded_bytes());
            if let Name::File(number) = name {
                let bytes = self.files.get(number).map_or(&[][..], |bytes| bytes);
                sum.update(&(bytes.len() as u64).to_le_bytes());
                sum.update(bytes);
            }
        }
        sum.digest()
    }

    fn apply(&mut self, change: &Change, kept: Kept) {
        match change {
            _ if kept == Kept::Nothing => {}
            Change::Directory { path } => drop(self.names.insert(path.clone(), Name::Directory)),
            Change::Name { path, file } => drop(self.names.insert(path.clone(), Name::File(*file))),
            Change::Rename { from, to, file } => {
                self.names.remove(from);
                self.names.insert(to.clone(), Name::File(*file));
            }
            Change::Removal { path } => drop(self.names.remove(path)),
            Change::Write { file, offset, bytes } => {
                let target = Arc::make_mut(self.files.entry(*file).or_default());
                let (from, to) = match kept {
                    Kept::Start(at) => (0, at),
                    Kept::End(at) => (at, bytes.len()),
                    Kept::Length => (bytes.len(), bytes.len()),
                    _ => (0, bytes.len()),
                };
                if target.len() < offset + to {
                    target.resize(offset + to, 0);
                }
                target[offset + from..offset + to].copy_from_slice(&bytes[from..to]);
            }
        }
    }
}

/// What a power loss leaves of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Nothing,
    Whole,
    /// The first bytes of a write, up to the end of a sector.
    Start(usize),
    /// The last bytes of a write, from the start of a sector on.
    End(usize),
    /// Only that the file became longer: zeros.
    Length,
}

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// More unsynced changes than this are no longer left out in every combination.
const EXHAUSTIVE: usize = 10;

/// A walk through a journal: what is durable at each of its moments, and what is pending.
pub struct Moments<'a> {
    journal: VecDeque<Operation>,
    at: usize,
    durable: Image,
    /// Changes that are not durable.
    pending: Vec<Change>,
    storage: std::marker::PhantomData<&'a Simulated>,
}

impl<'a> Moments<'a> {
    pub fn of(storage: &'a Simulated) -> Moments<'a> {
        storage.moments(&storage.inner.lock().unwrap().journal)
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
    fn on_disk_once_written(&self, number: u64) -> Vec<u8> {
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

/// Numbers that a seed fixes (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// How much of the random part a suite runs: `DEJAVEC_CRASH_SEEDS`, or the given number.
pub fn seeds(default: u64) -> u64 {
    std::env::var("DEJAVEC_CRASH_SEEDS").map_or(default, |text| text.parse().unwrap())
}
