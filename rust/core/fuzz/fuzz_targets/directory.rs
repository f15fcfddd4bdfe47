//! Any change to the files of a cache: reading gives the right vectors, misses or errors, and encoding again heals the
//! losses if the cache opens.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dejavec_core::format::commit::{SLOT_BYTES, SLOT_STRIDE};
use dejavec_core::format::{keys, snapshot};
use dejavec_core::key::{Key, of_text};
use dejavec_core::lock::Patience;
use dejavec_core::repair;
use dejavec_core::storage::{Access, MemoryStorage, Storage};
use dejavec_core::store::{Durability, Options, Store};
use dejavec_core::verify;
use dejavec_fuzz::seal;
use libfuzzer_sys::fuzz_target;

const ITEMS: usize = 100;
const ROW_BYTES: usize = 12;
const INDEX: &str = "index-2-70.idx";

macro_rules! golden {
    ($container:literal, $($file:literal),*) => {
        [$(($file, include_bytes!(concat!("../../tests/fixtures/v1/", $container, "/", $file)).as_slice())),*]
    };
}

static CACHES: [[(&str, &[u8]); 5]; 2] = [
    golden!("npy", "meta.json", "commit", "keys.bin", "index-2-70.idx", "vectors.npy"),
    golden!("faiss", "meta.json", "commit", "keys.bin", "index-2-70.idx", "vectors.faiss"),
];

static KEYS: LazyLock<Vec<Key>> =
    LazyLock::new(|| (0..ITEMS).map(|item| of_text(format!("text {item}").as_bytes())).collect());

fn vector(item: usize, version: usize) -> Vec<u8> {
    [item as f32, version as f32, 1.0 / (item + 1) as f32].iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Reads everything. A vector that is not one of the text's own is the only failure. Gives how many were read.
fn read(store: &Store, rows: &mut [i64]) -> usize {
    let mut out = vec![0; ITEMS * ROW_BYTES];
    if store.lookup(&KEYS, rows).is_err() {
        return 0;
    }
    let Ok(failed) = store.gather(&KEYS, rows, &mut out, true) else { return 0 };
    let mut right = 0;
    for (item, found) in out.chunks(ROW_BYTES).enumerate() {
        if rows[item] >= 0 && failed.binary_search(&item).is_err() {
            let own = found == vector(item, 0) || (item < 10 && found == vector(item, 1));
            assert!(own, "a wrong vector for text {item}");
            right += 1;
        }
    }
    right
}

/// Changes one file. Four bytes choose the file, the change and the offset.
fn change(files: &mut [(&'static str, Vec<u8>); 5], orders: &[u8; 4], more: &[u8]) {
    let [file, order, low, high] = *orders;
    let (name, bytes) = &mut files[usize::from(file) % 5];
    if bytes.is_empty() {
        return;
    }
    let at = usize::from(u16::from_le_bytes([low, high])) % bytes.len();
    match order % 6 {
        0 => bytes.truncate(at),
        1 => bytes.extend_from_slice(more),
        2 => bytes[at] ^= more.first().copied().unwrap_or(1),
        3 => {
            for (target, byte) in bytes[at..].iter_mut().zip(more) {
                *target = *byte;
            }
        }
        4 => {
            let end = bytes.len().min(at + more.len());
            bytes.copy_within(at..end, 0);
        }
        _ => bytes.drain(at..).for_each(drop),
    }
    // Every second change corrects the checksums of the changed bytes.
    if order >= 128 {
        match *name {
            "commit" => bytes.chunks_mut(SLOT_STRIDE).filter_map(|slot| slot.get_mut(..SLOT_BYTES)).for_each(seal),
            "keys.bin" => bytes.get_mut(..keys::HEADER_BYTES).into_iter().for_each(seal),
            INDEX => bytes.get_mut(..snapshot::HEADER_BYTES).into_iter().for_each(seal),
            _ => {}
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&which, input)) = input.split_first() else { return };
    let mut files = CACHES[usize::from(which) % 2].map(|(name, bytes)| (name, bytes.to_vec()));
    for order in input.chunks(12) {
        if let Some((orders, more)) = order.split_first_chunk() {
            change(&mut files, orders, more);
        }
    }
    let directory = Path::new("/caches");
    let memory = MemoryStorage::with_root(directory);
    for (name, bytes) in &files {
        let file = memory.open(&directory.join(name), Access::Create).expect("a new file");
        file.write_at(bytes, 0).expect("memory");
    }
    let storage: Arc<dyn Storage> = Arc::new(memory);
    let patience = Patience { timeout: Duration::ZERO, interrupted: || false };
    let options =
        Options { writable: true, durability: Durability::Commit, patience, shared: false, allow_network: false };
    let heal = || {
        let mut rows = vec![-1; ITEMS];
        let opened =
            [false, true].map(|writable| Store::open(Arc::clone(&storage), directory, Options { writable, ..options }));
        for store in opened.iter().flatten() {
            read(store, &mut rows);
        }
        let [_, Ok(store)] = opened else { return };
        let vectors: Vec<u8> = (0..ITEMS).flat_map(|item| vector(item, usize::from(item < 10))).collect();
        // Like a run: missing and failed items are encoded again.
        if store.append(&KEYS, &vectors, Some(&rows)).is_ok() && store.append(&KEYS, &vectors, None).is_ok() {
            assert_eq!(read(&store, &mut rows), ITEMS, "encoding again does not heal");
        }
    };
    let _ = verify::verify(&*storage, directory);
    heal();
    if repair::repair(&*storage, directory, patience).is_ok() {
        let report = verify::verify(&*storage, directory).expect("a repaired cache can be checked");
        assert!(report.damaged.is_empty() && report.problems.is_empty(), "a repair leaves {report:?}");
    }
    heal();
});
