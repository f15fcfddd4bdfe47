//! Rows that are acknowledged after a failed sync survive a power loss. The next writer does not trust the page cache,
//! where lost pages look like durable ones.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::common::contents;
use crate::common::simulated::{Fault, Image, Injection, Moments, Random, Simulated, Turns};
use crate::common::{DIM, is_whole, keys, options, reader, vectors};
use dejavec_core::Error;
use dejavec_core::batch::Batch;
use dejavec_core::format::container::Container;
use dejavec_core::storage::{Access, Storage};
use dejavec_core::store::Durability::{self, Close, Commit};
use dejavec_core::store::Store;
use dejavec_core::verify;

const ROOT: &str = "/caches";
const CACHE: &str = "/caches/one";

/// The number of items in each test.
const ITEMS: u64 = 14;

/// A reader with mappings of the files: the system keeps their pages.
#[derive(Debug, Clone, Copy)]
enum Reader {
    None,
    /// Opened before the call with the failed sync.
    Before,
    /// Opened after it.
    After,
}

/// The writer after the failed sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A handle that is opened afterwards, as the message advises.
    Reopened,
    /// The same, after the first writer's process was killed.
    AfterKill,
    /// A handle that was open all the time.
    Other,
}

/// When the system drops all unmapped pages, since memory is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evicted {
    Never,
    BeforeTheNextIsOpened,
    /// And has read the committed rows.
    AfterTheNextIsOpened,
}

/// The calls of the next writer: puts of items in a version. No calls mean a sync.
const CALLS: [&[(Range<u64>, u8)]; 5] = [&[(3..9, 1)], &[(3..9, 1), (9..11, 1)], &[(9..11, 1)], &[(4..7, 2)], &[]];

/// One case.
#[derive(Debug, Clone, Copy)]
struct Case {
    container: Container,
    durability: [Durability; 2],
    /// Syncs that succeed before the one that fails.
    after: usize,
    /// The writes that the failed sync still wrote.
    kept: Turns,
    reader: Reader,
    next: Next,
    evicted: Evicted,
    calls: &'static [(Range<u64>, u8)],
}

type Versions = BTreeMap<u64, u8>;

/// All that the check of an image depends on: its fingerprint, the acknowledged versions, the newest ones, and whether a
/// write was torn.
type Seen = (u64, Vec<(u64, u8)>, Vec<u8>, bool);

#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    images: u64,
    pages_forgotten: usize,
    seen: HashSet<Seen>,
}

fn open(storage: &Arc<Simulated>, durability: Durability) -> Store {
    open_in(storage, Container::Npy, durability)
}

fn open_in(storage: &Arc<Simulated>, container: Container, durability: Durability) -> Store {
    let storage: Arc<dyn Storage> = Arc::<Simulated>::clone(storage);
    Store::create(storage, Path::new(CACHE), &contents::spec_of(container, DIM), options(durability)).unwrap()
}

/// One cache for all cases: with a uuid for each, no images of two cases would be equal, and be checked once.
fn empty_cache(container: Container, durability: Durability) -> Image {
    let storage = Arc::new(Simulated::of(&Image::default(), Path::new(ROOT)));
    drop(open_in(&storage, container, durability));
    storage.settled()
}

fn put(store: &Store, container: Container, items: Range<u64>, version: u8) -> dejavec_core::Result<()> {
    store.put(&keys(items.clone()), contents::rows(container, items, version).batch()).map(drop)
}

/// The version of each item in a store. Missing for a miss and for a row with a checksum mismatch.
fn found(store: &Store) -> Versions {
    let found = (0..ITEMS).zip(contents::versions(store, 0..ITEMS));
    found.filter_map(|(item, version)| Some((item, version?))).collect()
}

/// Makes the calls through a handle. Reports the acknowledged versions after each call. None if a call failed.
fn go_on(store: &Store, case: &Case, acknowledged: &Versions, mut end: impl FnMut(&Versions)) -> Option<Versions> {
    let mut acknowledged = acknowledged.clone();
    let mut waiting = Versions::new();
    for (items, version) in case.calls {
        put(store, case.container, items.clone(), *version).ok()?;
        waiting.extend(items.clone().map(|item| (item, *version)));
        if case.durability[1] == Commit {
            acknowledged.append(&mut waiting);
        }
        end(&acknowledged);
    }
    if case.calls.is_empty() {
        // Rows of any writer, unless a commit already calls all rows durable.
        store.refresh().ok()?;
        let statistics = store.statistics().ok()?;
        store.sync().ok()?;
        if statistics.synced < statistics.rows {
            acknowledged.extend(found(store));
        }
        end(&acknowledged);
    } else if case.durability[1] == Close {
        store.close().ok()?;
        acknowledged.append(&mut waiting);
        end(&acknowledged);
    }
    Some(acknowledged)
}

/// The newest version of an item that any handle received.
fn newest(case: &Case, item: u64) -> u8 {
    let put = case.calls.iter().filter(|(items, _)| items.contains(&item)).map(|(_, version)| *version).max();
    put.unwrap_or(0).max(u8::from((3..9).contains(&item) || item >= 12))
}

/// Runs one case in an empty cache. False if no sync was left to fail.
fn run(empty: &Image, case: &Case, tally: &mut Tally) -> bool {
    let storage = Arc::new(Simulated::of(empty, Path::new(ROOT)));
    let first = open_in(&storage, case.container, case.durability[0]);
    put(&first, case.container, 0..5, 0).unwrap();
    first.sync().unwrap();
    let mut acknowledged: Versions = (0..5).map(|item| (item, 0)).collect();
    let read = || {
        let store = Store::open(Arc::<Simulated>::clone(&storage), Path::new(CACHE), reader()).unwrap();
        found(&store);
        store
    };
    let before = matches!(case.reader, Reader::Before).then(read);
    let other = (case.next == Next::Other).then(|| {
        let other = open_in(&storage, case.container, case.durability[1]);
        found(&other);
        other
    });
    let injection = Injection { fault: Fault::SyncAfter(case.kept), after: case.after, for_ever: false, fired: 0 };
    storage.inject(Some(injection));
    let items = 3..9;
    let mut done = put(&first, case.container, items.clone(), 1);
    if case.durability[0] == Close {
        // Then both slots and the rows of two groups are not durable.
        done = done.and_then(|()| put(&first, case.container, 12..14, 1)).and_then(|()| first.sync());
    }
    if storage.inject(None).unwrap().fired == 0 {
        return false;
    }
    tally.runs += 1;
    if done.is_ok() {
        acknowledged.extend(items.map(|item| (item, 1)));
    }
    let after = matches!(case.reader, Reader::After).then(read);
    let first = (case.next != Next::AfterKill).then_some(first);
    let mut ends = vec![(storage.journal_len(), acknowledged.clone())];
    let mut end = |acknowledged: &Versions| ends.push((storage.journal_len(), acknowledged.clone()));
    // The other handle sees the commits before they are gone.
    other.as_ref().map(found);
    if case.evicted == Evicted::BeforeTheNextIsOpened {
        storage.evict();
    }
    let went_on = other.as_ref().is_some_and(|other| go_on(other, case, &acknowledged, &mut end).is_some());
    if !went_on {
        // The other handle learns of the failure at its own sync, and is opened again too.
        let next = open_in(&storage, case.container, case.durability[1]);
        if case.evicted == Evicted::AfterTheNextIsOpened {
            found(&next);
            storage.evict();
        }
        go_on(&next, case, &acknowledged, &mut end).expect("nothing fails any more");
    }
    tally.pages_forgotten += storage.pages_forgotten();
    let mut moments = Moments::of(&storage);
    loop {
        let at = moments.at();
        if at >= ends[0].0 {
            let known = ends.iter().rev().find(|(end, _)| *end <= at).map(|(_, acknowledged)| acknowledged).unwrap();
            for (image, torn) in moments.images(&mut Random(at as u64), 1) {
                check(case, &image, known, torn, tally);
            }
        }
        if !moments.advance() {
            break;
        }
    }
    drop((before, after, first, other));
    true
}

/// Checks the image of a power loss: acknowledged rows are there, nothing else is wrong, and the cache takes more rows.
fn check(case: &Case, image: &Image, acknowledged: &Versions, torn: bool, tally: &mut Tally) {
    let versions = acknowledged.iter().map(|(item, version)| (*item, *version)).collect();
    let newest_of_all = (0..ITEMS).map(|item| newest(case, item)).collect();
    if !tally.seen.insert((image.fingerprint(), versions, newest_of_all, torn)) {
        return;
    }
    tally.images += 1;
    let strict = case.durability == [Commit; 2];
    let storage = Arc::new(Simulated::of(image, Path::new(ROOT)));
    // Without syncs, a commit torn within a sector (disks promise that this does not happen) leaves rows that may or
    // may not have been durable. Those with a checksum mismatch hide older rows of their keys.
    let lost = |found: &Versions, may_hide: bool| -> Vec<u64> {
        let is_lost = |item, version| match found.get(&item) {
            Some(found) => *found < version,
            None => !may_hide || version == newest(case, item),
        };
        let lost = acknowledged.iter().filter(|(item, version)| is_lost(**item, **version));
        lost.map(|(item, _)| *item).collect()
    };
    let store = Store::open(Arc::<Simulated>::clone(&storage), Path::new(CACHE), reader()).unwrap();
    // Without syncs, lost rows may hide older rows of their keys, and both slots may be lost, until the next writer
    // recovers.
    let found_by_a_reader = found(&store);
    assert!(
        !strict || lost(&found_by_a_reader, false).is_empty(),
        "{case:?}: a reader misses {:?}",
        lost(&found_by_a_reader, false)
    );
    drop(store);
    let store = open_in(&storage, case.container, case.durability[1]);
    store.sync().unwrap();
    let recovered = found(&store);
    let lost = lost(&recovered, torn && !strict);
    assert!(lost.is_empty(), "{case:?}, torn {torn}: lost {lost:?} of {acknowledged:?}");
    put(&store, case.container, 11..12, 0).unwrap();
    drop(store);
    let report = verify::verify(&*storage, Path::new(CACHE)).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert!(report.damaged.is_empty() || !strict, "{case:?}: {report:?}");
    let mut again = found(&open_in(&storage, case.container, case.durability[1]));
    assert!(again.remove(&11).is_some());
    assert_eq!(again, recovered);
}

/// The bytes of a file of the cache from `offset` on.
fn bytes_from(storage: &dyn Storage, file: &str, offset: u64) -> Vec<u8> {
    let file = storage.open(&Path::new(CACHE).join(file), Access::Read).unwrap();
    let mut bytes = vec![0; (file.length().unwrap() - offset) as usize];
    file.read_at(&mut bytes, offset).unwrap();
    bytes
}

fn write(storage: &dyn Storage, file: &str, bytes: &[u8], offset: u64) {
    let file = storage.open(&Path::new(CACHE).join(file), Access::Write).unwrap();
    file.write_at(bytes, offset).unwrap();
    file.sync().unwrap();
}

#[test]
fn zeros_behind_the_rows_that_only_the_system_has_in_memory_are_written_again() {
    const RECORDS: u64 = 64 + 5 * 40;
    const ROWS: u64 = 128 + 5 * DIM as u64;
    let [storage, died] = [0; 2].map(|_| {
        let storage = Arc::new(Simulated::of(&Image::default(), Path::new(ROOT)));
        open(&storage, Commit).put(&keys(0..5), &vectors(0..5, 0)).unwrap();
        storage
    });
    // A reader maps the page, so the system keeps it.
    let reading = Store::open(Arc::<Simulated>::clone(&storage), Path::new(CACHE), reader()).unwrap();
    found(&reading);
    // A writer dies when its rows are on the disk and its commit is not.
    open(&died, Commit).put(&keys(0..5), &vectors(0..5, 1)).unwrap();
    write(&*storage, "vectors.npy", &bytes_from(&*died, "vectors.npy", ROWS), ROWS);
    write(&*storage, "keys.bin", &bytes_from(&*died, "keys.bin", RECORDS), RECORDS);
    // The next writer zeroes their records, and the sync of the zeros fails.
    let zeroes = (0..20).any(|after| {
        let fault = Fault::SyncAfter(Turns(0));
        storage.inject(Some(Injection { fault, after, for_ever: false, fired: 0 }));
        let failed = open(&storage, Commit).put(&keys(11..12), &vectors(11..12, 0)).is_err();
        storage.inject(None);
        failed && bytes_from(&*storage, "keys.bin", RECORDS).iter().all(|byte| *byte == 0)
    });
    assert!(zeroes);
    // A third writer acknowledges rows. Then the power fails, and the commit record is damaged.
    open(&storage, Commit).put(&keys(2..4), &vectors(2..4, 2)).unwrap();
    drop(reading);
    let mut moments = Moments::of(&storage);
    while moments.advance() {}
    let left = Arc::new(Simulated::of(&moments.images(&mut Random(1), 0)[0].0, Path::new(ROOT)));
    write(&*left, "commit", &[0xFF; 64], 0);
    let writer = open(&left, Commit);
    writer.sync().unwrap();
    assert_eq!(writer.rows().unwrap(), 7);
    assert_eq!([1, 2, 3, 4].map(|item| found(&writer)[&item]), [0, 2, 2, 0]);
}

#[test]
fn a_handle_writes_no_more_after_a_failed_sync_and_another_one_does() {
    for durability in [Commit, Close] {
        let storage = Arc::new(Simulated::of(&Image::default(), Path::new(ROOT)));
        let store = open(&storage, durability);
        store.put(&keys(5..6), &vectors(5..6, 0)).unwrap();
        let fault = Fault::SyncAfter(Turns(0));
        storage.inject(Some(Injection { fault, after: 0, for_ever: false, fired: 0 }));
        assert!(store.put(&keys(0..5), &vectors(0..5, 0)).and_then(|_| store.sync()).is_err());
        storage.inject(None);
        let journal = storage.journal_len();
        for refused in [store.put(&keys(0..5), &vectors(0..5, 0)).map(drop), store.sync()] {
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
        }
        assert_eq!(storage.journal_len(), journal);
        open(&storage, durability).put(&keys(0..5), &vectors(0..5, 0)).unwrap();
    }
}

/// Puts items with their texts.
fn put_with_texts(store: &Store, items: Range<u64>) -> dejavec_core::Result<usize> {
    let (rows, texts): (Vec<u8>, Vec<_>) = (vectors(items.clone(), 0), items.clone().map(contents::text).collect());
    let texts = contents::all_of(&texts);
    store.put(&keys(items), Batch { texts: Some(&texts), ..Batch::from(&rows) })
}

/// Keeps the texts of items that are stored.
fn put_texts(store: &Store, items: Range<u64>) -> dejavec_core::Result<usize> {
    let texts: Vec<_> = items.clone().map(contents::text).collect();
    store.put_texts(&keys(items), &contents::all_of(&texts))
}

/// The items that have their text. Panics if one has another text.
fn with_text(store: &Store) -> Vec<u64> {
    let mut rows = vec![-1; ITEMS as usize];
    store.lookup(&keys(0..ITEMS), &mut rows).unwrap();
    let kept = store.texts(&rows).unwrap();
    let found = (0..ITEMS).zip(kept.iter()).filter_map(|(item, text)| Some((item, text?)));
    found.inspect(|(item, text)| assert!(*text == contents::text(*item))).map(|(item, _)| item).collect()
}

#[test]
fn texts_that_are_acknowledged_after_a_failed_sync_survive() {
    let (mut runs, mut seen) = (0, HashSet::new());
    let empty = empty_cache(Container::Npy, Commit);
    // New rows with their texts, or the texts of rows that are stored.
    for fails_in_put in [true, false] {
        for (kept, next) in Turns::ALL
            .into_iter()
            .flat_map(|kept| [Next::Reopened, Next::AfterKill, Next::Other].map(|next| (kept, next)))
        {
            for evicted in [Evicted::Never, Evicted::BeforeTheNextIsOpened, Evicted::AfterTheNextIsOpened] {
                for after in 0.. {
                    let storage = Arc::new(Simulated::of(&empty, Path::new(ROOT)));
                    let first = open(&storage, Commit);
                    put_with_texts(&first, 0..3).unwrap();
                    first.put(&keys(3..9), &vectors(3..9, 0)).unwrap();
                    put_texts(&first, 7..9).unwrap();
                    let other = (next == Next::Other).then(|| open(&storage, Commit));
                    other.as_ref().map(|other| put_texts(other, 6..7).unwrap());
                    let fault = Fault::SyncAfter(kept);
                    storage.inject(Some(Injection { fault, after, for_ever: false, fired: 0 }));
                    let _ = if fails_in_put { put_with_texts(&first, 9..12) } else { put_texts(&first, 3..9) };
                    if storage.inject(None).unwrap().fired == 0 {
                        break;
                    }
                    runs += 1;
                    let first = (next != Next::AfterKill).then_some(first);
                    if evicted == Evicted::BeforeTheNextIsOpened {
                        storage.evict();
                    }
                    let was = next;
                    let next = other.unwrap_or_else(|| open(&storage, Commit));
                    if evicted == Evicted::AfterTheNextIsOpened {
                        with_text(&next);
                        storage.evict();
                    }
                    let go_on = |next: &Store| put_with_texts(next, 9..12).and_then(|_| put_texts(next, 0..12));
                    let next = match go_on(&next) {
                        Ok(_) => next,
                        // The other handle learns of the failure at its own sync, and is opened again too.
                        Err(_) => {
                            let next = open(&storage, Commit);
                            go_on(&next).unwrap();
                            next
                        }
                    };
                    assert_eq!(with_text(&next), (0..12).collect::<Vec<_>>());
                    let end = storage.journal_len();
                    let _ = put_with_texts(&next, 12..14);
                    drop(first);
                    let mut moments = Moments::of(&storage);
                    loop {
                        if moments.at() >= end {
                            for (image, _) in moments.images(&mut Random(1), 1) {
                                if !seen.insert(image.fingerprint()) {
                                    continue;
                                }
                                let left = Arc::new(Simulated::of(&image, Path::new(ROOT)));
                                let left = open(&left, Commit);
                                let found_rows: Vec<_> = found(&left).keys().copied().collect();
                                let found = with_text(&left);
                                let case =
                                    format!("{kept:?}, {was:?}, {evicted:?}, sync {after}, rows {:?}", found_rows);
                                assert!(found.starts_with(&(0..12).collect::<Vec<_>>()), "{case}: only {found:?}");
                            }
                        }
                        if !moments.advance() {
                            break;
                        }
                    }
                }
            }
        }
    }
    println!("{} crash images after {runs} failed syncs with texts", seen.len());
    assert!(runs > 200, "{runs}");
}

fn every_case(container: Container, durability: [Durability; 2]) {
    let mut tally = Tally::default();
    let empty = empty_cache(container, durability[0]);
    // The whole part takes minutes: see docs/reliability.md.
    let whole = is_whole();
    let is_first = container == Container::Npy;
    let turns = match whole {
        true => &Turns::ALL[..],
        false => &[Turns(2), Turns(0)][..if is_first { 2 } else { 1 }],
    };
    for &kept in turns {
        let readers = [Reader::None, Reader::After, Reader::Before];
        let count = if whole { 3 } else { 1 + usize::from(is_first) };
        for reader in readers.into_iter().take(count) {
            for next in [Next::Reopened, Next::AfterKill, Next::Other] {
                for calls in CALLS.into_iter().take(if whole { CALLS.len() } else { 1 + 2 * usize::from(is_first) }) {
                    for evicted in [Evicted::Never, Evicted::BeforeTheNextIsOpened, Evicted::AfterTheNextIsOpened] {
                        let mut case = Case { container, durability, after: 0, kept, reader, next, evicted, calls };
                        while run(&empty, &case, &mut tally) {
                            case.after += 1;
                        }
                    }
                }
            }
        }
    }
    let Tally { runs, images, pages_forgotten, .. } = tally;
    println!(
        "{images} crash images after {runs} failed syncs, {pages_forgotten} pages forgotten: {container:?}, {durability:?}"
    );
    assert!(pages_forgotten > 0);
}

macro_rules! suites {
    ($($name:ident: $container:ident, $first:expr, $second:expr;)*) => {$(
        #[test]
        fn $name() {
            every_case(Container::$container, [$first, $second]);
        }
    )*};
}

suites! {
    what_is_acknowledged_after_a_failed_sync_survives: Npy, Commit, Commit;
    what_sync_acknowledges_after_a_failed_sync_survives: Npy, Close, Close;
    what_is_acknowledged_after_a_failed_sync_of_a_writer_that_does_not_sync_groups_survives: Npy, Close, Commit;
    what_sync_acknowledges_after_a_failed_sync_of_a_writer_that_syncs_groups_survives: Npy, Commit, Close;
    ragged_rows_that_are_acknowledged_after_a_failed_sync_survive: Ragged, Commit, Commit;
    ragged_rows_that_sync_acknowledges_after_a_failed_sync_survive: Ragged, Close, Close;
    sparse_rows_that_are_acknowledged_after_a_failed_sync_of_a_writer_that_does_not_sync_groups_survive:
        Sparse, Close, Commit;
}
