//! Any change to the files of a cache: reading gives the right vectors, misses or errors, and encoding again heals the
//! losses if the cache opens.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dejavec_core::batch::Batch;
use dejavec_core::format::commit::{SLOT_STRIDE, slot_bytes};
use dejavec_core::format::{keys, snapshot};
use dejavec_core::key::{Key, of_text};
use dejavec_core::lock::Patience;
use dejavec_core::repair;
use dejavec_core::storage::{Access, MemoryStorage, Storage};
use dejavec_core::store::{Durability, Options, Store};
use dejavec_core::target::Target;
use dejavec_core::verify;
use dejavec_fuzz::seal;
use libfuzzer_sys::fuzz_target;

const ITEMS: usize = 100;
const INDEX: &str = "index-2-70.idx";

macro_rules! golden {
    ($directory:literal, $($file:literal),*) => {
        &[$(($file, include_bytes!(concat!("../../tests/fixtures/", $directory, "/", $file)).as_slice())),*]
    };
}

static CACHES: [&[(&str, &[u8])]; 5] = [
    golden!("v1/npy", "meta.json", "commit", "keys.bin", "index-2-70.idx", "vectors.npy"),
    golden!("v1/faiss", "meta.json", "commit", "keys.bin", "index-2-70.idx", "vectors.faiss"),
    golden!(
        "v1/texts",
        "meta.json",
        "commit",
        "keys.bin",
        "index-2-70.idx",
        "vectors.npy",
        "texts.npy",
        "texts-spans.npy"
    ),
    golden!("v2/ragged", "meta.json", "commit", "keys.bin", "vectors.npy", "indptr.npy"),
    golden!("v2/sparse", "meta.json", "commit", "keys.bin", "values.npy", "indices.npy", "indptr.npy"),
];

/// The first cache with ragged rows, and the one with sparse rows.
const RAGGED: usize = 3;
const SPARSE: usize = 4;

static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| (0..ITEMS).map(|item| format!("text {item}")).collect());

static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| TEXTS.iter().map(|text| of_text(text.as_bytes())).collect());

/// The numbers of a text in one of the caches, and their indices.
fn content(cache: usize, item: usize, version: usize) -> (Vec<u8>, Vec<u8>) {
    let count = if version == 0 { item % 4 } else { 1 + item % 3 };
    let floats = |numbers: Vec<f32>| numbers.into_iter().flat_map(f32::to_le_bytes).collect();
    match cache {
        ..RAGGED => (floats(vec![item as f32, version as f32, 1.0 / (item + 1) as f32]), Vec::new()),
        RAGGED => (floats((0..count).flat_map(|at| [item as f32, version as f32, at as f32]).collect()), Vec::new()),
        _ => (
            floats((0..count).map(|at| item as f32 + at as f32 / 8.0).collect()),
            (0..count).flat_map(|at| ((10 * at + version) as i32).to_le_bytes()).collect(),
        ),
    }
}

/// Rows in memory.
struct Rows {
    data: Vec<u8>,
    indices: Vec<u8>,
    indptr: Vec<i64>,
    is_dense: bool,
    is_sparse: bool,
}

impl Rows {
    fn of_all_texts(cache: usize) -> Rows {
        let mut rows = Rows {
            data: vec![],
            indices: vec![],
            indptr: vec![0],
            is_dense: cache < RAGGED,
            is_sparse: cache == SPARSE,
        };
        for item in 0..ITEMS {
            let (data, indices) = content(cache, item, usize::from(item < 10));
            rows.data.extend(data);
            rows.indices.extend(indices);
            let element_bytes = if rows.is_sparse { 4 } else { 12 };
            rows.indptr.push((rows.data.len() / element_bytes) as i64);
        }
        rows
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            data: (&self.data).into(),
            indices: self.is_sparse.then_some(&self.indices),
            indptr: (!self.is_dense).then_some(&self.indptr),
            texts: None,
        }
    }
}

/// Reads everything. A row that is not one of the text's own is the only failure. Gives how many were read.
fn read(store: &Store, cache: usize, rows: &mut [i64]) -> usize {
    let mut lengths = vec![0; ITEMS];
    if store.lookup(&KEYS, rows).is_err() || store.lengths(rows, &mut lengths).is_err() {
        return 0;
    }
    if cache < RAGGED {
        lengths.fill(1);
    }
    let mut indptr = vec![0];
    lengths.iter().for_each(|length| indptr.push(indptr[indptr.len() - 1] + length));
    let (size, total) = (if cache == SPARSE { 4 } else { 12 }, indptr[ITEMS] as usize);
    let (mut data, mut indices) = (vec![0; total * size], vec![0; total * 4]);
    let target = Target {
        data: &mut data,
        indices: (cache == SPARSE).then_some(&mut indices),
        indptr: (cache >= RAGGED).then_some(&indptr),
    };
    let Ok(failed) = store.gather(&KEYS, rows, target, true) else { return 0 };
    let mut right = 0;
    for item in 0..ITEMS {
        if rows[item] >= 0 && failed.binary_search(&item).is_err() {
            let range = |size: usize| indptr[item] as usize * size..indptr[item + 1] as usize * size;
            let found_indices = if cache == SPARSE { indices[range(4)].to_vec() } else { Vec::new() };
            let found = (data[range(size)].to_vec(), found_indices);
            let own = found == content(cache, item, 0) || (item < 10 && found == content(cache, item, 1));
            assert!(own, "wrong content of text {item}");
            right += 1;
        }
    }
    right
}

/// Reads the texts of the rows of all items. Gives how many there are. A text of another key is the only failure.
fn read_texts(store: &Store, rows: &[i64]) -> usize {
    let mut keys = vec![[0; 32]; rows.len()];
    let (Ok(kept), Ok(())) = (store.texts(rows), store.read_keys(rows, &mut keys)) else { return 0 };
    let found = kept.iter().zip(keys).filter_map(|(text, key)| Some((text?, key)));
    found.inspect(|(text, key)| assert!(of_text(text) == *key, "the text of another key")).count()
}

/// Changes one file. Four bytes choose the file, the change and the offset.
fn change(files: &mut [(&'static str, Vec<u8>)], orders: &[u8; 4], more: &[u8], version: u32) {
    let [file, order, low, high] = *orders;
    let count = files.len();
    let (name, bytes) = &mut files[usize::from(file) % count];
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
            "commit" => {
                let length = slot_bytes(version);
                bytes.chunks_mut(SLOT_STRIDE).filter_map(|slot| slot.get_mut(..length)).for_each(seal);
            }
            "keys.bin" => bytes.get_mut(..keys::HEADER_BYTES).into_iter().for_each(seal),
            INDEX => bytes.get_mut(..snapshot::HEADER_BYTES).into_iter().for_each(seal),
            _ => {}
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&which, input)) = input.split_first() else { return };
    let cache = usize::from(which) % CACHES.len();
    let mut files: Vec<_> = CACHES[cache].iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect();
    for order in input.chunks(12) {
        if let Some((orders, more)) = order.split_first_chunk() {
            change(&mut files, orders, more, if cache < RAGGED { 1 } else { 2 });
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
            read(store, cache, &mut rows);
            read_texts(store, &rows);
        }
        let [_, Ok(store)] = opened else { return };
        let all = Rows::of_all_texts(cache);
        // Like a run: missing and failed items are encoded again.
        if store.append(&KEYS, all.batch(), Some(&rows)).is_ok() && store.append(&KEYS, all.batch(), None).is_ok() {
            assert_eq!(read(&store, cache, &mut rows), ITEMS, "encoding again does not heal");
            let texts: Vec<_> = TEXTS.iter().map(|text| Some(text.as_bytes())).collect();
            store.put_texts(&KEYS, &texts).expect("the vectors were written");
            assert_eq!(read_texts(&store, &rows), ITEMS, "texts are not kept");
        }
    };
    let _ = verify::verify(&*storage, directory);
    heal();
    if repair::repair(&*storage, directory, patience).is_ok() {
        let report = verify::verify(&*storage, directory).expect("a repaired cache can be checked");
        let is_whole = report.damaged.is_empty() && report.damaged_texts.is_empty() && report.problems.is_empty();
        assert!(is_whole, "a repair leaves {report:?}");
    }
    heal();
});
