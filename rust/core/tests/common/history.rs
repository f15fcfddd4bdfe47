//! Calls on a cache, the rows that they acknowledged, and the check of a cache that was found later.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use dejavec_core::batch::Batch;
use dejavec_core::files::{self, CacheFiles};
use dejavec_core::format::column::Column;
use dejavec_core::format::container::Container;
use dejavec_core::format::dtype::Dtype;
use dejavec_core::format::keys::{RECORD_BYTES, Record};
use dejavec_core::format::name::in_generation;
use dejavec_core::format::npy::Header;
use dejavec_core::index::{self, Building, Covered};
use dejavec_core::key::{DEAD, of_text};
use dejavec_core::repair;
use dejavec_core::storage::{Access, Storage};
use dejavec_core::store::{Durability, Store};
use dejavec_core::verify;
use dejavec_core::{Error, Result};

use super::contents::{self, Contents, Files};
use super::simulated::{Image, Moments, Random, Simulated};
use super::{is_whole, key, keys, options, reader};

pub const ROOT: &str = "/caches";
const CACHE: &str = "/caches/one";

/// Of a dense row, or of a token.
const ELEMENT_BYTES: usize = 80;

/// Rows of an append and of a replacement. A write crosses a sector, and the second is shorter than the first.
const APPENDED: u64 = 12;
const REPLACED: u64 = 5;

/// How far behind the newest item the deleted ones are: the last row, and others among the replaced and before.
const DELETED: [u64; 3] = [1, 4, 8];

/// A row that differs from zeros and from every other item and version, but for those without elements.
fn content(container: Container, item: u64, version: u8) -> Vec<u8> {
    let bytes = contents::elements(container, item, version) * contents::element_bytes(container, ELEMENT_BYTES);
    // The version first: a short row must differ from that of another version.
    [version; 8].into_iter().chain(key(item)).cycle().take(bytes).collect()
}

/// One call. The number selects the handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Append(usize),
    Replace(usize),
    Sync(usize),
    Reopen(usize),
    Snapshot,
    Repair,
    /// Keeps the texts of all items.
    PutTexts(usize),
    /// Deletes a few of the newest items.
    Delete(usize),
    Compact(usize),
}

impl Call {
    /// The same call by another handle.
    pub fn of_handle(self, handle: usize) -> Call {
        match self {
            Call::Append(_) => Call::Append(handle),
            Call::Replace(_) => Call::Replace(handle),
            Call::Sync(_) => Call::Sync(handle),
            Call::Reopen(_) => Call::Reopen(handle),
            Call::PutTexts(_) => Call::PutTexts(handle),
            Call::Delete(_) => Call::Delete(handle),
            Call::Compact(_) => Call::Compact(handle),
            Call::Snapshot | Call::Repair => self,
        }
    }
}

/// The knowledge when the power fails.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Rows that must survive.
    acknowledged: usize,
    /// Rows that may survive.
    submitted: usize,
    /// Whether there must be a cache.
    created: bool,
    /// How many of the kept texts must survive, if their rows do.
    texts: usize,
    /// How many of the deletions must have happened.
    deleted: usize,
    /// How many of the deletions may have happened.
    deleting: usize,
}

/// What was stored in one generation of the files.
#[derive(Debug, Clone, Default)]
struct Model {
    /// The number of the generation.
    generation: u64,
    /// The rows whose texts were kept, in the order of the calls.
    texts: Vec<usize>,
    /// Item and version of each row. None for a row that a crash without syncs left damaged.
    rows: Vec<Option<(u64, u8)>>,
    /// The deleted items, each with the number of rows then: its rows before are dead.
    deletions: Vec<(u64, usize)>,
}

impl Model {
    /// How many rows there were at the last of the first deletions of an item.
    fn dead_before(&self, item: u64, deletions: usize) -> usize {
        let rows = self.deletions.iter().take(deletions).filter(|(deleted, _)| *deleted == item);
        rows.map(|(_, rows)| *rows).max().unwrap_or(0)
    }

    /// The newest row of each item that is not deleted.
    fn newest(&self) -> BTreeMap<u64, usize> {
        let rows = self.rows.iter().enumerate().filter_map(|(row, held)| Some(((*held)?.0, row)));
        rows.filter(|(item, row)| *row >= self.dead_before(*item, self.deletions.len())).collect()
    }

    /// What a compaction makes of it.
    fn compacted(&self) -> Model {
        let newest = self.newest();
        let kept: BTreeSet<usize> = newest.values().copied().collect();
        let place = |row: &usize| kept.iter().position(|kept| kept == row);
        let gone = self.deletions.iter().filter(|(item, _)| !newest.contains_key(item));
        Model {
            generation: self.generation + 1,
            texts: self.texts.iter().filter_map(place).collect(),
            rows: kept.iter().map(|row| self.rows[*row]).collect(),
            deletions: gone.map(|(item, _)| (*item, kept.len())).collect(),
        }
    }

    /// What is known if everything is durable.
    fn all_known(&self) -> Known {
        let (rows, deleted) = (self.rows.len(), self.deletions.len());
        let texts = self.texts.len();
        Known { acknowledged: rows, submitted: rows, created: true, texts, deleted, deleting: deleted }
    }
}

/// A cache in use.
pub struct History {
    pub storage: Arc<Simulated>,
    container: Container,
    durability: [Durability; 2],
    handles: Vec<Store>,
    /// Whether a reader sees all acknowledged rows before a writer recovers, even if a write was torn.
    pub readers_see_all: bool,
    /// Whether the first handle keeps texts. The second one never does.
    keeps_texts: bool,
    /// How [`Call::Snapshot`] builds snapshots.
    building: Building,
    model: Model,
    /// The model before each compaction.
    compacted: Vec<Model>,
    known: Known,
    next_item: u64,
    version: u8,
    /// The newest version of each item that a call returned from.
    acknowledged: BTreeMap<u64, u8>,
    /// Items that a call deleted and no later one stored.
    gone: BTreeSet<u64>,
    /// From where to where in the journal a generation may be there beside the newest one: from a compaction that failed
    /// after its rename, to the end of the next call.
    unsettled: Vec<(usize, Option<usize>, (u64, Known))>,
    /// Moments of the journal where a call ended, with the generation and the knowledge then.
    ends: Vec<(usize, u64, Known)>,
}

/// Counts what was checked.
#[derive(Debug, Default)]
pub struct Tally {
    pub images: u64,
    pub in_recovery: u64,
    seen: HashSet<(u64, usize, usize)>,
}

impl History {
    /// A cache before its creation, on the durable files.
    pub fn begin(image: &Image, container: Container, durability: [Durability; 2]) -> History {
        History {
            storage: Arc::new(Simulated::of(image, Path::new(ROOT))),
            container,
            durability,
            handles: Vec::new(),
            readers_see_all: durability == [Durability::Commit; 2],
            keeps_texts: false,
            building: Building::default(),
            model: Model::default(),
            compacted: Vec::new(),
            known: Known::default(),
            next_item: 0,
            version: 0,
            acknowledged: BTreeMap::new(),
            gone: BTreeSet::new(),
            unsettled: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// The same cache with an empty journal, and everything durable.
    pub fn settle(&self) -> History {
        let mut settled = History::begin(&self.storage.settled(), self.container, self.durability);
        (settled.next_item, settled.version) = (self.next_item, self.version);
        settled.keeps_texts = self.keeps_texts;
        settled.building = self.building;
        settled.model = self.model.clone();
        settled.known = self.model.all_known();
        settled
    }

    /// Notes that every row that is not deleted was acknowledged.
    pub fn note_acknowledged(&mut self) {
        let newest = self.model.newest();
        let versions = newest.iter().filter_map(|(item, row)| Some((*item, self.model.rows[*row]?.1)));
        self.acknowledged = versions.collect();
    }

    /// A second history from the same beginning.
    pub fn again(&self) -> History {
        if self.known.created {
            self.settle()
        } else {
            History::begin(&self.storage.settled(), self.container, self.durability)
                .keeping_texts(self.keeps_texts)
                .building(self.building)
        }
    }

    /// The same, with a first handle that keeps texts.
    pub fn keeping_texts(mut self, keeps_texts: bool) -> History {
        self.keeps_texts = keeps_texts;
        self
    }

    /// The same, with snapshots that are built like this.
    pub fn building(mut self, building: Building) -> History {
        self.building = building;
        self
    }

    /// Stores the newest rows of the model, with their texts if the handle keeps them.
    fn store(&mut self, handle: usize, items: std::ops::Range<u64>, replaces: bool) -> Result<()> {
        let version = self.version;
        let first = self.model.rows.len();
        self.model.rows.extend(items.clone().map(|item| Some((item, version))));
        self.known.submitted = self.model.rows.len();
        let rows = self.rows_of(items.clone(), version);
        let texts: Vec<_> = items.clone().map(contents::text).collect();
        let texts = (self.keeps_texts && handle == 0).then(|| contents::all_of(&texts));
        let batch = Batch { texts: texts.as_deref(), ..rows.batch() };
        let keys = keys(items.clone());
        match replaces {
            true => self.handles[handle].put(&keys, batch)?,
            false => self.handles[handle].append(&keys, batch, None)?,
        };
        if texts.is_some() {
            self.model.texts.extend(first..self.model.rows.len());
        }
        self.gone.retain(|item| !items.contains(item));
        self.acknowledged.extend(items.map(|item| (item, version)));
        Ok(())
    }

    fn content(&self, item: u64, version: u8) -> Vec<u8> {
        content(self.container, item, version)
    }

    fn rows_of(&self, items: impl Iterator<Item = u64>, version: u8) -> Contents {
        let size = contents::element_bytes(self.container, ELEMENT_BYTES);
        Contents::of(self.container, size, items.map(|item| self.content(item, version)))
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::<Simulated>::clone(&self.storage)
    }

    /// Opens the handles, making the cache if there is none.
    pub fn open(&mut self) -> Result<()> {
        self.handles.clear();
        for durability in self.durability {
            self.handles.push(Store::create(
                self.storage(),
                Path::new(CACHE),
                &contents::spec_of(self.container, ELEMENT_BYTES),
                options(durability),
            )?);
        }
        self.known.created = true;
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        let now = self.storage.journal_len();
        self.unsettled.iter_mut().for_each(|(_, end, _)| *end = Some(end.unwrap_or(now)));
        self.ends.push((self.storage.journal_len(), self.model.generation, self.known));
    }

    /// Makes a call, and notes what it acknowledges.
    pub fn call(&mut self, call: Call) -> Result<()> {
        let path = Path::new(CACHE);
        let mut durable = match call {
            Call::Append(handle) | Call::Replace(handle) => self.durability[handle] == Durability::Commit,
            Call::Sync(_) | Call::Reopen(_) | Call::Repair => true,
            Call::Snapshot | Call::PutTexts(_) | Call::Delete(_) | Call::Compact(_) => false,
        };
        match call {
            Call::Append(handle) => {
                let items = self.next_item..self.next_item + APPENDED;
                self.next_item = items.end;
                self.store(handle, items, false)?;
            }
            Call::Replace(handle) => {
                self.version += 1;
                self.next_item = self.next_item.max(REPLACED);
                self.store(handle, self.next_item - REPLACED..self.next_item, true)?;
            }
            Call::PutTexts(handle) => {
                let newest = self.model.newest();
                let texts: Vec<_> = newest.keys().copied().map(contents::text).collect();
                let all = keys(newest.keys().copied());
                self.handles[handle].put_texts(&all, &contents::all_of(&texts))?;
                self.model.texts.extend(newest.values());
                self.known.texts = self.model.texts.len();
            }
            Call::Compact(handle) => {
                let done = self.handles[handle].compact();
                let generation =
                    files::read_meta(&*self.storage, path).map_or(self.model.generation, |meta| meta.generation);
                if generation != self.model.generation {
                    let before = (self.model.generation, self.known);
                    let compacted = self.model.compacted();
                    assert_eq!(generation, compacted.generation);
                    self.compacted.push(std::mem::replace(&mut self.model, compacted));
                    self.known = self.model.all_known();
                    if done.is_err() {
                        self.end();
                        self.unsettled.push((self.storage.journal_len(), None, before));
                    }
                }
                done?;
            }
            Call::Delete(handle) => {
                let items: Vec<u64> = DELETED.iter().filter_map(|back| self.next_item.checked_sub(*back)).collect();
                self.model.deletions.extend(items.iter().map(|item| (*item, self.model.rows.len())));
                self.known.deleting = self.model.deletions.len();
                self.acknowledged.retain(|item, _| !items.contains(item));
                self.handles[handle].delete(&keys(items.iter().copied()))?;
                self.gone.extend(items);
                self.known.deleted = self.model.deletions.len();
            }
            Call::Sync(handle) => self.handles[handle].sync()?,
            Call::Reopen(handle) => {
                self.handles[handle].close()?;
                self.handles[handle] = Store::open(self.storage(), path, options(self.durability[handle]))?;
                durable = self.handles[handle].statistics()?.synced == self.model.rows.len() as u64;
            }
            Call::Snapshot => {
                let files = CacheFiles::open(&*self.storage, path, false)?;
                let slot = files.recover()?.slot;
                let covered = Covered { keys: &files.keys, rows: slot.synced.rows, epoch: slot.epoch };
                index::write_snapshot(&*self.storage, path, &files.meta, &covered, slot.erased, self.building)?;
            }
            Call::Repair => {
                repair::repair(&*self.storage, path, options(Durability::Commit).patience)?;
            }
        }
        if durable {
            self.known.acknowledged = self.model.rows.len();
            self.known.texts = self.model.texts.len();
        }
        self.end();
        Ok(())
    }

    /// Makes a call that may fail. Returns whether it succeeded.
    ///
    /// A failed call may have committed its rows: they may survive, and need not.
    pub fn try_call(&mut self, call: Call) -> bool {
        self.handles.len() == 2 && self.call(call).is_ok()
    }

    /// Checks the cache once nothing fails any more: every acknowledged vector is right, nothing is damaged, and more
    /// rows can be written.
    pub fn check_now(&mut self) {
        self.open().unwrap();
        let items: Vec<u64> = self.acknowledged.keys().copied().collect();
        for (item, found) in items.iter().zip(read_all(&self.handles[0], &items)) {
            let newest = self.acknowledged[item];
            let is_one = (newest..=self.version).any(|version| found == Some(self.content(*item, version)));
            assert!(is_one, "item {item} is lost");
        }
        let gone: Vec<u64> = self.gone.iter().copied().collect();
        for (item, found) in gone.iter().zip(read_all(&self.handles[0], &gone)) {
            assert!(found.is_none(), "the deleted item {item} is back");
        }
        self.call(Call::Append(0)).unwrap();
        let items: Vec<u64> = (self.next_item - APPENDED..self.next_item).collect();
        let expected: Vec<_> = items.iter().map(|item| Some(self.content(*item, self.version))).collect();
        assert_eq!(read_all(&self.handles[0], &items), expected);
        if self.keeps_texts {
            let all: Vec<u64> = self.acknowledged.keys().copied().collect();
            let texts: Vec<_> = all.iter().copied().map(contents::text).collect();
            self.handles[0].put_texts(&keys(all.iter().copied()), &contents::all_of(&texts)).unwrap();
            let mut rows = vec![-1; all.len()];
            self.handles[0].lookup(&keys(all), &mut rows).unwrap();
            let kept = self.handles[0].texts(&rows).unwrap();
            assert!(kept.iter().eq(contents::all_of(&texts)), "texts are lost");
        }
        let report = verify::verify(&*self.storage, Path::new(CACHE)).unwrap();
        assert_eq!((report.damaged, report.problems), (Vec::new(), Vec::new()));
    }

    /// Whether all committed rows are durable.
    fn is_strict(&self) -> bool {
        self.durability == [Durability::Commit; 2]
    }

    /// Checks everything that a power loss may leave at the moments after the first `skip` calls.
    pub fn check_every_moment(
        &self,
        skip: usize,
        random: &mut Random,
        draws: usize,
        in_recovery: bool,
        tally: &mut Tally,
    ) {
        let from = if skip == 0 { 0 } else { self.ends[skip - 1].0 };
        let mut moments = Moments::of(&self.storage);
        loop {
            if moments.at() >= from {
                let known = self.known_at(moments.at());
                for (image, torn) in moments.images(random, draws) {
                    let recovery = in_recovery.then_some((&mut *random, draws));
                    self.check(&image, &known, torn, recovery, tally);
                }
            }
            if !moments.advance() {
                break;
            }
        }
    }

    /// What is known for each generation that may be there: the rows acknowledged by the end of the last whole call, and
    /// submitted by the start of the next one.
    fn known_at(&self, moment: usize) -> Vec<(u64, Known)> {
        let before = self.ends.iter().rev().find(|(end, ..)| *end <= moment).copied();
        let now = (moment, self.model.generation, self.known);
        let (_, after_generation, after) = self.ends.iter().find(|(end, ..)| *end >= moment).copied().unwrap_or(now);
        let first = Known { acknowledged: self.first_acknowledged(), deleted: self.first_deleted(), ..after };
        let (_, generation, before) = before.unwrap_or((0, after_generation, first));
        let created = self.ends.first().is_none_or(|(end, ..)| *end <= moment) || self.first_acknowledged() > 0;
        let mut known =
            vec![(generation, Known { submitted: after.submitted, created, deleting: after.deleting, ..before })];
        if after_generation != generation {
            // A compaction in progress: the old files or the new ones, whole.
            known = vec![(generation, Known { created, ..before }), (after_generation, after)];
        }
        let is_now =
            |(start, end, _): &&(usize, Option<usize>, _)| *start <= moment && end.is_none_or(|end| moment < end);
        known.extend(self.unsettled.iter().filter(is_now).map(|(.., known)| *known));
        known
    }

    fn first_deleted(&self) -> usize {
        self.ends.first().map_or(0, |(.., known)| known.deleted)
    }

    fn first_acknowledged(&self) -> usize {
        self.ends.first().map_or(0, |(.., known)| known.acknowledged)
    }

    /// The power fails at a random moment. Checks, recovers, and continues from there.
    pub fn crash(&self, random: &mut Random, tally: &mut Tally) -> History {
        let mut moments = Moments::of(&self.storage);
        for _ in 0..random.below(self.storage.journal_len() + 1) {
            moments.advance();
        }
        let known = self.known_at(moments.at());
        let (image, torn) = moments.any_image(random);
        self.check(&image, &known, torn, None, tally);
        let mut next = History::begin(&image, self.container, self.durability)
            .keeping_texts(self.keeps_texts)
            .building(self.building);
        if next.open().is_err() {
            repair::repair(&*next.storage, Path::new(CACHE), options(Durability::Commit).patience).unwrap();
            next.open().unwrap();
        }
        next.handles[0].sync().unwrap();
        let rows = next.handles[0].rows().unwrap() as usize;
        let mut found = vec![[0; 32]; rows];
        next.handles[0].read_keys(&(0..rows as i64).collect::<Vec<_>>(), &mut found).unwrap();
        let generation = next.handles[0].meta().unwrap().generation;
        let old = self.model_of(generation);
        let held = old.rows.iter().zip(found);
        let rows: Vec<_> = held.map(|(held, found)| held.filter(|(item, _)| key(*item) == found)).collect();
        let alive: HashSet<u64> = rows.iter().flatten().map(|(item, _)| *item).collect();
        let gone = old.deletions.iter().filter(|(item, _)| !alive.contains(item));
        let kept = next.handles[0].texts(&(0..rows.len() as i64).collect::<Vec<_>>()).unwrap();
        next.model = Model {
            generation,
            texts: (0..rows.len()).filter(|row| kept.lengths[*row] >= 0).collect(),
            deletions: gone.map(|(item, _)| (*item, rows.len())).collect(),
            rows,
        };
        (next.next_item, next.version) = (self.next_item, self.version);
        let mut next = next.settle();
        next.open().unwrap();
        next
    }

    /// The model of a generation.
    fn model_of(&self, generation: u64) -> &Model {
        let all = self.compacted.iter().chain([&self.model]);
        let found = all.into_iter().find(|model| model.generation == generation);
        found.unwrap_or_else(|| panic!("generation {generation} was never made"))
    }

    /// Checks one image: as a reader finds it, as a writer recovers it, again, and after more was written.
    fn check(
        &self,
        image: &Image,
        known: &[(u64, Known)],
        torn: bool,
        recovery: Option<(&mut Random, usize)>,
        tally: &mut Tally,
    ) {
        let simulated = Arc::new(Simulated::of(image, Path::new(ROOT)));
        let storage: Arc<dyn Storage> = Arc::<Simulated>::clone(&simulated);
        let path = Path::new(CACHE);
        let found = files::read_meta(&*storage, path).ok().map(|meta| meta.generation);
        let (generation, known) = match found {
            None => known[0],
            Some(found) => *known.iter().find(|(generation, _)| *generation == found).unwrap_or_else(|| {
                panic!("generation {found} is there, {known:?}");
            }),
        };
        let model = self.model_of(generation);
        if !tally.seen.insert((image.fingerprint(), known.acknowledged, known.submitted)) {
            return;
        }
        tally.images += 1;
        // A reader sees the acknowledged rows before any writer recovers.
        let (read, elements) = match Store::open(Arc::clone(&storage), path, reader()) {
            Ok(store) => {
                // Without syncs both slots may be lost. If one is torn, the next writer rolls forward.
                let least = if torn && !self.readers_see_all { 0 } else { known.acknowledged };
                self.check_vectors(
                    model,
                    &store,
                    Known { acknowledged: least, ..known },
                    known.submitted,
                    None,
                    !self.is_strict(),
                );
                self.check_texts(model, &store, least, known);
                let statistics = store.statistics().unwrap();
                (statistics.rows, statistics.elements)
            }
            Err(Error::NotFound { .. }) if !known.created => (0, 0),
            // A new cache has one slot. If it is torn within a sector, and the first commit was never synced, no valid
            // slot is left. A repair mends that.
            Err(Error::Corrupt { .. }) if torn && !self.is_strict() && known.acknowledged == 0 => {
                // Nothing was acknowledged, so that all rows may be given up.
                let patience = options(Durability::Commit).patience;
                let consent = repair::Consent { patience, force: true, allow_network: false };
                repair::repair(&*storage, path, consent).unwrap();
                (0, 0)
            }
            Err(error) => panic!("a reader is refused: {error}"),
        };
        if !torn {
            self.check_shown_rows(&*storage);
        }
        let before = committed(&*storage, self.container, read, elements);
        // After a commit without syncs, torn within a sector, it is unknown which rows were durable. A damaged row
        // before sound ones hides older rows of its key.
        let may_hide = torn && !self.is_strict();
        // A writer recovers.
        let create = || {
            let options = options(self.durability[0]);
            let store =
                Store::create(Arc::clone(&storage), path, &contents::spec_of(self.container, ELEMENT_BYTES), options)
                    .unwrap();
            store.sync().unwrap();
            store
        };
        let store = create();
        let recovered = store.rows().unwrap() as usize;
        let journal_of_recovery = simulated.journal_len();
        assert!(
            (known.acknowledged..=known.submitted).contains(&recovered),
            "{recovered} rows of {known:?} were recovered"
        );
        assert!(recovered as u64 >= read, "a writer has fewer rows than a reader had");
        let report = verify::verify(&*storage, path).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        for row in &report.damaged {
            let is_acknowledged = (*row as usize) < known.acknowledged && model.rows[*row as usize].is_some();
            assert!(!is_acknowledged && !self.is_strict(), "row {row} of {known:?} is damaged");
        }
        self.check_vectors(model, &store, known, recovered, Some(recovered), may_hide);
        self.check_texts(model, &store, known.acknowledged, known);
        // Recovering again changes nothing.
        drop(store);
        let once = all_bytes(&*storage);
        let store = create();
        assert!(once == all_bytes(&*storage), "a second recovery changed the files");
        // More can be written, and no row that a reader may hold has changed.
        let items = 1_000_000..1_000_003;
        let rows = self.rows_of(items.clone(), 0);
        store.append(&keys(items.clone()), rows.batch(), None).unwrap();
        let expected: Vec<_> = items.clone().map(|item| Some(self.content(item, 0))).collect();
        assert_eq!(read_all(&store, &items.collect::<Vec<_>>()), expected);
        self.check_vectors(model, &store, known, recovered, Some(recovered), may_hide);
        self.check_texts(model, &store, known.acknowledged, known);
        let after = committed(&*storage, self.container, read, elements);
        assert!(before.1.data == after.1.data, "the vectors of a reader were changed");
        assert!(before.1.indices == after.1.indices, "the indices of a reader were changed");
        let records = before.0.as_chunks().0.iter().zip(after.0.as_chunks().0);
        for (row, (before_record, after_record)) in records.enumerate() {
            let held =
                before.1.row(row).filter(|row_before| Record::from_bytes(before_record).holds(row as u64, row_before));
            match held {
                Some(content) => {
                    assert_eq!(before_record, after_record, "the record of row {row} of a reader was changed");
                    assert_eq!(after.1.row(row), Some(content), "row {row} of a reader lies elsewhere");
                }
                None => {
                    let is_zeroed = *after_record == [0; RECORD_BYTES];
                    assert!(is_zeroed || before_record == after_record, "the record of damaged row {row} was changed");
                }
            }
        }
        // The power may fail again while the cache is recovered.
        let Some((random, draws)) = recovery else { return };
        let mut moments = Moments::of(&simulated);
        while moments.at() < journal_of_recovery && moments.advance() {
            for (image, torn_again) in moments.images(random, draws.min(4)) {
                let seen = tally.images;
                self.check(&image, &[(generation, known)], torn || torn_again, None, tally);
                tally.in_recovery += tally.images - seen;
            }
        }
    }

    /// Checks that the headers show other programs only rows that are there, and no row without its elements.
    fn check_shown_rows(&self, storage: &dyn Storage) {
        let header = |name: &str| bytes_of(storage, name).get(..128).and_then(|bytes| Header::parse(bytes).ok());
        let spec = contents::spec_of(self.container, ELEMENT_BYTES);
        let data = self.container.data(Dtype::parse("<f4").unwrap(), spec.dim);
        let Some(shown) = header(data.file_name) else { return };
        let rows = match self.container.indptr() {
            None => shown.rows,
            Some(indptr) => header(indptr.file_name).map_or(0, |header| header.rows.saturating_sub(1)),
        };
        let (records, files) = committed(storage, self.container, rows, shown.rows);
        for (row, record) in records.as_chunks().0.iter().enumerate() {
            let is_there = files.row(row).is_some_and(|content| Record::from_bytes(record).holds(row as u64, &content));
            assert!(is_there || *record == [0; RECORD_BYTES], "row {row} of {rows} is shown, and is not there");
        }
    }

    /// Checks that every text is that of its key, and that the acknowledged texts of acknowledged rows are there.
    fn check_texts(&self, model: &Model, store: &Store, acknowledged: usize, known: Known) {
        let rows: Vec<i64> = (0..store.rows().unwrap() as i64).collect();
        let mut found = vec![DEAD; rows.len()];
        store.read_keys(&rows, &mut found).unwrap();
        let kept = store.texts(&rows).unwrap();
        let texts: Vec<_> = kept.iter().collect();
        for (row, text) in texts.iter().enumerate() {
            assert!(text.is_none_or(|text| of_text(text) == found[row]), "row {row} has the text of another key");
        }
        for row in &model.texts[..known.texts.min(model.texts.len())] {
            let held = model.rows[*row].filter(|(item, _)| *row < acknowledged && found[*row] == key(*item));
            assert!(held.is_none() || texts[*row].is_some(), "the text of row {row} of {known:?} is lost");
        }
    }

    /// Checks that every vector that is found was stored under its key, and is not older than an acknowledged one. With
    /// `newest`, and if everything is synced, it must be the newest of that many rows.
    fn check_vectors(
        &self,
        model: &Model,
        store: &Store,
        known: Known,
        submitted: usize,
        newest: Option<usize>,
        may_hide: bool,
    ) {
        let acknowledged = known.acknowledged;
        let mut versions: BTreeMap<u64, Vec<(usize, u8)>> = BTreeMap::new();
        for (item, _) in model.deletions.iter().take(known.deleted) {
            versions.insert(*item, Vec::new());
        }
        for (row, held) in model.rows.iter().enumerate().take(submitted) {
            if let Some((item, version)) = held {
                versions.entry(*item).or_default().push((row, *version));
            }
        }
        for (item, versions) in &mut versions {
            let dead = model.dead_before(*item, known.deleted);
            versions.retain(|(row, _)| *row >= dead);
        }
        let items: Vec<u64> = versions.keys().copied().collect();
        for ((item, versions), found) in versions.iter().zip(read_all(store, &items)) {
            let floor = versions.iter().rposition(|(row, _)| *row < acknowledged);
            let allowed = &versions[floor.unwrap_or(0)..];
            let Some(found) = found else {
                // An unsynced row may hide an older row of its key from a reader.
                let may_be_dead = floor.is_some_and(|at| versions[at].0 < model.dead_before(*item, known.deleting));
                let excused = floor.is_none() || may_be_dead || (may_hide && allowed.len() > 1);
                assert!(excused, "item {item} is lost: {versions:?}, {known:?}");
                continue;
            };
            let is_right = allowed.iter().any(|(_, version)| found == self.content(*item, *version));
            assert!(is_right, "a wrong, deleted or old vector of item {item}: {versions:?}, {known:?}");
            if let (Some(rows), true) = (newest, self.is_strict()) {
                let last = versions.iter().rfind(|(row, _)| *row < rows).unwrap();
                assert_eq!(found, self.content(*item, last.1), "not the newest vector of item {item}");
            }
        }
    }
}

/// The content of the items in a store. None for a miss.
fn read_all(store: &Store, items: &[u64]) -> Vec<Option<Vec<u8>>> {
    contents::read(store, &keys(items.iter().copied())).unwrap()
}

/// The bytes of a file in the generation that counts.
fn bytes_of(storage: &dyn Storage, name: &str) -> Vec<u8> {
    let generation = files::read_meta(storage, Path::new(CACHE)).map_or(0, |meta| meta.generation);
    bytes_at(storage, &in_generation(name, generation))
}

fn bytes_at(storage: &dyn Storage, name: &str) -> Vec<u8> {
    let Ok(file) = storage.open(&Path::new(CACHE).join(name), Access::Read) else { return Vec::new() };
    let mut bytes = vec![0; file.metadata().unwrap().len as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The records and rows of an extent.
fn committed(storage: &dyn Storage, container: Container, rows: u64, elements: u64) -> (Vec<u8>, Files) {
    let part = |name: &str, header: usize, bytes: u64| {
        let all = bytes_of(storage, name);
        all[header.min(all.len())..(header + bytes as usize).min(all.len())].to_vec()
    };
    let of = |column: Column| part(column.file_name, column.header_bytes(), elements * column.element_bytes());
    let dtype = Dtype::parse("<f4").unwrap();
    let spec = contents::spec_of(container, ELEMENT_BYTES);
    let data = container.data(dtype, spec.dim);
    let files = Files {
        data: of(data),
        indices: container.indices().map(of),
        offsets: container.indptr().map(|column| {
            let entries = rows * column.element_bytes();
            part(column.file_name, column.header_bytes() - 8, entries + 8)
        }),
        element_bytes: data.element_bytes() as usize,
    };
    (part("keys.bin", 64, rows * RECORD_BYTES as u64), files)
}

/// All files of a cache, but for locks.
fn all_bytes(storage: &dyn Storage) -> Vec<(String, Vec<u8>)> {
    let names = storage.list(Path::new(CACHE)).unwrap().into_iter().map(|(name, _)| name);
    let mut files: Vec<_> =
        names.filter(|name| !name.ends_with("LOCK")).map(|name| (name.clone(), bytes_at(storage, &name))).collect();
    files.sort();
    files
}

/// A file system without a cache.
pub fn no_cache() -> Image {
    Simulated::of(&Image::default(), Path::new(ROOT)).settled()
}

/// A call on a cache with rows and replaced rows, after each of `before` and with each of `after` behind it. The power
/// fails at every moment of the last two.
pub fn every_power_loss_around(
    call: Call,
    before: &[Call],
    after: &[Call],
    container: Container,
    durability: [Durability; 2],
    texts: bool,
) {
    let mut base = History::begin(&no_cache(), container, durability).keeping_texts(texts);
    base.open().unwrap();
    for call in [Call::Append(0), Call::Replace(0), Call::Sync(0), Call::Append(1), Call::Sync(0)] {
        base.call(call).unwrap();
    }
    let base = base.settle();
    let (mut tally, mut random) = (Tally::default(), Random(1));
    for first in before {
        for last in after {
            let mut history = base.again();
            history.open().unwrap();
            for call in [*first, call, *last] {
                history.call(call).unwrap();
            }
            history.check_every_moment(2, &mut random, 4, is_whole(), &mut tally);
        }
    }
    println!("{} crash images: {container:?}, {durability:?}, texts: {texts}", tally.images);
}
