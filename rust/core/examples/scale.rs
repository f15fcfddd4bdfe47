//! One large cache of 16-byte rows: written, opened, looked up.
//!
//!     scale fill DIRECTORY ROWS       appends rows up to ROWS, in groups that are synced, and closes
//!     scale snapshot DIRECTORY        builds the whole index again, if its snapshots lack a row
//!     scale read DIRECTORY ROWS       opens the cache of ROWS rows, looks keys up, checks what is found
//!
//! Prints times and memory. `private` is the most memory of the process that no file backs, sampled each 5 ms; `peak` has
//! the mapped pages of files too, which the system may drop at any time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dejavec_core::directory::Spec;
use dejavec_core::files::CacheFiles;
use dejavec_core::format::container::Container;
use dejavec_core::index::{self, Building, Covered};
use dejavec_core::key::Key;
use dejavec_core::lock::Patience;
use dejavec_core::storage::{Access, DiskStorage, Storage};
use dejavec_core::store::{Durability, Options, Store};

type Failure = Box<dyn std::error::Error>;

const DIM: u32 = 4;
const ROW_BYTES: usize = 16;
const GROUP: u64 = 1 << 18;
const BATCH: u64 = 1 << 20;
const BATCHES: u64 = 8;

/// A well mixed number (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The key of an item. Spread like a digest, and cheaper.
fn key(item: u64) -> Key {
    let mut key = [0; 32];
    for (at, word) in (0..).zip(key.as_chunks_mut().0) {
        *word = mixed(item.wrapping_mul(4).wrapping_add(at)).to_le_bytes();
    }
    key
}

fn keys(items: impl Iterator<Item = u64>) -> Vec<Key> {
    items.map(key).collect()
}

/// The vector of an item: four float32 from its key.
fn vectors(keys: &[Key]) -> Vec<u8> {
    keys.iter()
        .flat_map(|key| key.as_chunks::<4>().0.iter().take(4))
        .flat_map(|word| [word[0], word[1], word[2], 63])
        .collect()
}

/// A number of bytes in the status of this process.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Hundredths of a second that the processors worked for this process.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Does some work, and prints its time and memory.
fn measured<T>(what: &str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let (private, is_done) = (AtomicU64::new(0), AtomicBool::new(false));
    let before = status("RssAnon");
    let (done, time) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                private.fetch_max(status("RssAnon"), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let start = Instant::now();
        let done = work();
        let time = start.elapsed();
        is_done.store(true, Ordering::Relaxed);
        (done, time)
    });
    let mebibytes = |bytes: u64| bytes >> 20;
    let (private, peak) = (mebibytes(private.into_inner()), mebibytes(status("VmHWM")));
    println!(
        "{what}: {:.2} s, private {private} MiB ({} before), peak {peak} MiB",
        time.as_secs_f64(),
        mebibytes(before)
    );
    done
}

fn options(writable: bool) -> Options {
    let patience = Patience { timeout: Duration::from_secs(60), interrupted: || false };
    Options { writable, durability: Durability::Commit, patience, shared: false, allow_network: true }
}

fn fill(directory: &Path, rows: u64) -> Result<(), Failure> {
    let spec = Spec {
        dim: DIM,
        dtype: "<f4".into(),
        container: Container::Npy,
        identity: "scale".into(),
        output: "numpy".into(),
    };
    let store = Store::create(Arc::new(DiskStorage), directory, &spec, options(true))?;
    measured(&format!("{rows} rows"), || {
        while store.rows()? < rows {
            let first = store.rows()?;
            let keys = keys(first..rows.min(first + GROUP));
            if store.append(&keys, &vectors(&keys), None)? != keys.len() {
                return Err("a key was there already".into());
            }
        }
        Ok(())
    })?;
    measured("close", || Ok(store.close()?))
}

fn snapshot(directory: &Path) -> Result<(), Failure> {
    let files = CacheFiles::open(&DiskStorage, directory, false)?;
    let slot = files.recover()?.slot;
    let covered = Covered { keys: &files.keys, rows: slot.synced.rows, epoch: slot.epoch };
    let building = Building { small: u64::MAX, ..Building::default() };
    measured(&format!("a snapshot of {} rows", covered.rows), || {
        Ok(index::write_snapshot(&DiskStorage, directory, &files.meta, &covered, slot.erased, building)?)
    })
}

fn read(directory: &Path, rows: u64) -> Result<(), Failure> {
    for _ in 0..5 {
        let start = Instant::now();
        let store = Store::open(Arc::new(DiskStorage), directory, options(false))?;
        println!("open: {:.2} ms", start.elapsed().as_secs_f64() * 1000.0);
        if store.rows()? != rows {
            return Err(format!("expected {rows} rows, found {}", store.rows()?).into());
        }
    }
    let store = Store::open(Arc::new(DiskStorage), directory, options(false))?;
    measured("the first look-up of a batch, which enters the delta", || check(&store, &[0, rows - 1, rows], rows))?;
    // The first time, the pages of the files are mapped.
    for (what, offset) in [("stored", 0), ("stored, again", 0), ("missing", rows), ("missing, again", rows)] {
        let mut times = Vec::new();
        let mut processor = 0;
        for batch in 0..BATCHES {
            let items: Vec<u64> = (batch * BATCH..(batch + 1) * BATCH).map(|i| offset + mixed(i) % rows).collect();
            let keys = keys(items.iter().copied());
            let mut found = vec![0; keys.len()];
            let (start, ticks) = (Instant::now(), ticks());
            store.lookup(&keys, &mut found)?;
            times.push(start.elapsed().as_nanos() / u128::from(BATCH));
            processor += self::ticks() - ticks;
            let is_right = |(item, row): (&u64, &i64)| *row == if *item < rows { *item as i64 } else { -1 };
            if !items.iter().zip(&found).all(is_right) {
                return Err("a look-up found another row".into());
            }
        }
        let processor = processor * 10_000_000 / (BATCH * BATCHES);
        println!("{BATCHES} batches of {BATCH} keys, {what}: {times:?} ns a key, {processor} ns of processor time");
    }
    floor(directory, rows)?;
    let some: Vec<u64> = (0..100_000).map(|i| mixed(i) % rows).collect();
    measured("100000 rows", || check(&store, &some, rows))?;
    measured("statistics", || {
        let statistics = store.statistics()?;
        println!("{statistics:?}");
        if statistics.keys == rows { Ok(()) } else { Err(format!("{} keys", statistics.keys).into()) }
    })
}

/// Reads a random slot of the largest snapshot and a random key record for each key, as every look-up has to.
fn floor(directory: &Path, rows: u64) -> Result<(), Failure> {
    let files = CacheFiles::open(&DiskStorage, directory, false)?;
    let records = files.key_records(rows)?;
    let sizes = DiskStorage.list(directory)?.into_iter().filter(|(name, _)| name.ends_with(".idx"));
    let sizes = sizes.filter_map(|(name, _)| Some((DiskStorage.metadata(&directory.join(&name)).ok()?.len, name)));
    let Some((bytes, name)) = sizes.max() else { return Ok(()) };
    let slots = DiskStorage.open(&directory.join(name), Access::Read)?.map(usize::try_from(bytes)?)?;
    slots.expect_scattered_reads();
    let words = slots.as_chunks::<8>().0;
    let mut sum = 0;
    for _ in 0..2 {
        let (start, ticks) = (Instant::now(), ticks());
        for batch in 0..BATCHES * BATCH / 32 {
            for i in 0..32 {
                sum ^= u64::from_le_bytes(words[(mixed(batch * 32 + i) % words.len() as u64) as usize]);
            }
            for i in 0..32 {
                sum ^= records.record(mixed((batch * 32 + i) ^ 1 << 60) % rows).map_or(0, |record| record.checksum);
            }
        }
        let nanoseconds = start.elapsed().as_nanos() / u128::from(BATCH * BATCHES);
        let processor = (self::ticks() - ticks) * 10_000_000 / (BATCH * BATCHES);
        println!(
            "the two reads of a look-up alone, one thread: {nanoseconds} ns a key, {processor} ns of processor time"
        );
    }
    std::hint::black_box(sum);
    Ok(())
}

/// Looks items up and compares their vectors.
fn check(store: &Store, items: &[u64], rows: u64) -> Result<(), Failure> {
    let keys = keys(items.iter().copied());
    let mut found = vec![0; keys.len()];
    store.lookup(&keys, &mut found)?;
    let (mut expected, mut out) = (vectors(&keys), vec![0; keys.len() * ROW_BYTES]);
    let failed = store.gather(&keys, &found, &mut out, true)?;
    for ((item, row), expected) in items.iter().zip(&found).zip(expected.chunks_mut(ROW_BYTES)) {
        if *item >= rows {
            expected.fill(0);
        }
        if *row != if *item < rows { *item as i64 } else { -1 } {
            return Err(format!("item {item} is in row {row}").into());
        }
    }
    if failed.is_empty() && out == expected { Ok(()) } else { Err("a row has another content".into()) }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", directory, rows] => fill(Path::new(directory), rows.parse()?),
        ["snapshot", directory] => snapshot(Path::new(directory)),
        ["read", directory, rows] => read(Path::new(directory), rows.parse()?),
        _ => Err("expected fill DIRECTORY ROWS, snapshot DIRECTORY or read DIRECTORY ROWS".into()),
    }
}
