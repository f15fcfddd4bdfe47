//! Files of every released format version open for ever. Newer ones are rejected.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{options, reader};
use dejavec_core::Error;
use dejavec_core::format::commit::{Extent, Slot, Slots};
use dejavec_core::format::container::Container;
use dejavec_core::format::npy::Header;
use dejavec_core::key::of_text;
use dejavec_core::repair;
use dejavec_core::storage::DiskStorage;
use dejavec_core::store::{Durability, Options, Store};
use dejavec_core::target::Target;
use dejavec_core::verify::{self, Report};

const GOLDEN: [&str; 3] = ["npy", "faiss", "texts"];
const GOLDEN_2: [&str; 2] = ["ragged", "sparse"];
const ROW_BYTES: usize = 12;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1").join(name)
}

/// A writable copy.
fn copy(name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    directory
}

fn open(directory: &Path, options: Options) -> dejavec_core::Result<Store> {
    Store::open(Arc::new(DiskStorage), directory, options)
}

fn vector(item: usize, version: usize) -> Vec<u8> {
    [item as f32, version as f32, 1.0 / (item + 1) as f32].iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Checks every vector of the golden caches. The row of the last text is dead.
fn check(store: &Store) {
    let keys: Vec<_> = (0..100).map(|item| of_text(format!("text {item}").as_bytes())).collect();
    let mut rows = vec![0; keys.len()];
    store.lookup(&keys, &mut rows).unwrap();
    let mut out = vec![0; keys.len() * ROW_BYTES];
    assert_eq!(store.gather(&keys, &rows, &mut out, true).unwrap(), Vec::<usize>::new());
    assert_eq!(rows[99], -1);
    for (item, found) in out.chunks(ROW_BYTES).enumerate().take(99) {
        let row = match item {
            0..10 => item as i64 + 60,
            10..60 => item as i64,
            _ => item as i64 + 10,
        };
        assert_eq!(rows[item], row, "the row of text {item}");
        assert_eq!(found, vector(item, usize::from(item < 10)), "the vector of text {item}");
    }
}

#[test]
fn every_vector_of_a_version_1_cache_is_read() {
    for name in GOLDEN {
        let store = open(&golden(name), reader()).unwrap();
        check(&store);
        let statistics = store.statistics().unwrap();
        assert_eq!((statistics.rows, statistics.keys, statistics.snapshot_rows), (110, 99, 70), "{name}");
        let report = verify::verify(&DiskStorage, &golden(name)).unwrap();
        let texts = if name == "texts" { 50 } else { 0 };
        let expected = Report { rows: 110, keys: 99, dead: 1, replaced: 10, texts, ..Report::default() };
        assert_eq!(report, expected, "{name}");
    }
}

#[test]
fn every_text_of_a_version_1_cache_is_read() {
    let store = open(&golden("texts"), reader()).unwrap();
    let keys: Vec<_> = (0..100).map(|item| of_text(format!("text {item}").as_bytes())).collect();
    let mut rows = vec![0; keys.len()];
    store.lookup(&keys, &mut rows).unwrap();
    for (item, text) in store.texts(&rows).unwrap().iter().enumerate() {
        assert_eq!(text.map(<[u8]>::to_vec), (item < 50).then(|| format!("text {item}").into_bytes()));
    }
}

fn golden_2(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v2").join(name)
}

/// The numbers of a text in a golden cache of version 2, and their indices.
fn elements(name: &str, item: usize) -> (Vec<u8>, Vec<u8>) {
    let version = usize::from(item < 10);
    let count = if version == 0 { item % 4 } else { 1 + item % 3 };
    let numbers = |element: usize| match name {
        "ragged" => vec![item as f32, version as f32, element as f32],
        _ => vec![item as f32 + element as f32 / 8.0],
    };
    let index = |element: usize| if name == "sparse" { vec![(10 * element + version) as i32] } else { Vec::new() };
    (
        (0..count).flat_map(numbers).flat_map(f32::to_le_bytes).collect(),
        (0..count).flat_map(index).flat_map(i32::to_le_bytes).collect(),
    )
}

#[test]
fn every_row_of_a_version_2_cache_is_read() {
    for name in GOLDEN_2 {
        let store = open(&golden_2(name), reader()).unwrap();
        let statistics = store.statistics().unwrap();
        assert_eq!((statistics.rows, statistics.keys, statistics.elements), (110, 99, 169), "{name}");
        let keys: Vec<_> = (0..100).map(|item| of_text(format!("text {item}").as_bytes())).collect();
        let (mut rows, mut lengths) = (vec![0; 100], vec![0; 100]);
        store.lookup(&keys, &mut rows).unwrap();
        store.lengths(&rows, &mut lengths).unwrap();
        let mut indptr = vec![0];
        lengths.iter().for_each(|length| indptr.push(indptr[indptr.len() - 1] + length));
        let sizes = store.meta().unwrap();
        let total = *indptr.last().unwrap() as usize;
        let mut data = vec![0; total * sizes.data().element_bytes() as usize];
        let mut indices = sizes.container.indices().map(|column| vec![0; total * column.element_bytes() as usize]);
        let target = Target { data: &mut data, indices: indices.as_deref_mut(), indptr: Some(&indptr) };
        assert_eq!(store.gather(&keys, &rows, target, true).unwrap(), Vec::<usize>::new());
        assert_eq!(rows[99], -1);
        let expected: Vec<_> = (0..99).map(|item| elements(name, item)).collect();
        assert_eq!(data, expected.iter().flat_map(|(data, _)| data.clone()).collect::<Vec<u8>>(), "{name}");
        if let Some(indices) = indices {
            assert_eq!(indices, expected.iter().flat_map(|(_, indices)| indices.clone()).collect::<Vec<u8>>());
        }
        let report = verify::verify(&DiskStorage, &golden_2(name)).unwrap();
        let expected = Report { rows: 110, keys: 99, dead: 1, replaced: 10, ..Report::default() };
        assert_eq!(report, expected, "{name}");
    }
}

#[test]
fn the_bytes_of_a_version_2_cache_are_those_that_are_written_today() {
    for name in GOLDEN_2 {
        let read = |file: &str| std::fs::read(golden_2(name).join(file)).unwrap();
        let meta = dejavec_core::format::meta::Meta::parse(&read("meta.json")).unwrap();
        assert_eq!(meta.to_bytes(), read("meta.json"), "{name}");
        assert_eq!(dejavec_core::format::keys::header(&meta.uuid, 2), read("keys.bin")[..64], "{name}");
        for column in meta.columns() {
            let count = if Some(column) == meta.container.indptr() { 110 } else { 169 };
            let header = column.header(count);
            assert_eq!(header, read(column.file_name)[..header.len()], "{name}: {}", column.file_name);
        }
        let slots = Slots::parse(&read("commit"), &meta.uuid, 2).unwrap();
        let all = Extent { rows: 110, elements: 169 };
        assert_eq!(slots.newest, Slot { epoch: 3, committed: all, synced: all, erased: 0 }, "{name}");
        assert_eq!(slots.newest.to_bytes(&meta.uuid, 2), read("commit")[4096..4176], "{name}");
    }
}

#[test]
fn a_version_1_cache_is_written_on() {
    for name in GOLDEN {
        let directory = copy(name);
        let store = open(directory.path(), options(Durability::Commit)).unwrap();
        let last = [of_text(b"text 99")];
        store.put(&last, &vector(99, 0)).unwrap();
        let mut row = [0];
        store.lookup(&last, &mut row).unwrap();
        assert_eq!(row, [110], "{name}");
        let mut out = [0; ROW_BYTES];
        assert_eq!(store.gather(&last, &row, &mut out, true).unwrap(), Vec::<usize>::new());
        assert_eq!(out, *vector(99, 0), "{name}");
    }
}

#[test]
fn appending_to_a_version_1_file_leaves_the_header_that_numpy_writes() {
    let directory = copy("npy");
    let read = || std::fs::read(directory.path().join("vectors.npy")).unwrap()[..128].to_vec();
    let older = String::from_utf8_lossy(&read()).into_owned();
    assert!(older.contains("'shape': (                 110, 3), }"), "{older}");
    let store = open(directory.path(), options(Durability::Commit)).unwrap();
    store.put(&[of_text(b"text 99")], &vector(99, 0)).unwrap();
    store.close().unwrap();
    let mut expected = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (111, 3), }".to_vec();
    expected.resize(127, b' ');
    expected.push(b'\n');
    assert_eq!(read(), expected);
    let report = verify::verify(&DiskStorage, directory.path()).unwrap();
    assert_eq!((report.rows, report.problems), (111, Vec::new()));
}

#[test]
fn a_cache_of_a_newer_version_is_refused_and_left_alone() {
    for name in GOLDEN {
        let directory = copy(name);
        let path = directory.path().join("meta.json");
        let newer = std::fs::read_to_string(&path).unwrap().replace("\"format_version\": 1", "\"format_version\": 5");
        std::fs::write(&path, &newer).unwrap();
        let patience = options(Durability::Commit).patience;
        for refused in [
            open(directory.path(), reader()).map(drop),
            open(directory.path(), options(Durability::Commit)).map(drop),
            verify::verify(&DiskStorage, directory.path()).map(drop),
            repair::repair(&DiskStorage, directory.path(), patience).map(drop),
        ] {
            assert!(matches!(refused, Err(Error::Version { expected: 4, found: 5, .. })), "{refused:?}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
        assert!(!directory.path().join("LOCK").exists(), "nothing was written");
    }
}

#[test]
fn the_bytes_of_a_version_1_cache_are_those_that_are_written_today() {
    for name in GOLDEN {
        let meta = dejavec_core::format::meta::Meta::parse(&std::fs::read(golden(name).join("meta.json")).unwrap());
        let meta = meta.unwrap();
        let read = |file: &str| std::fs::read(golden(name).join(file)).unwrap();
        assert_eq!(meta.to_bytes(), read("meta.json"), "{name}");
        assert_eq!(dejavec_core::format::keys::header(&meta.uuid, 1), read("keys.bin")[..64], "{name}");
        let column = meta.data();
        let rows_file = read(column.file_name);
        let header = column.header(110);
        match meta.container {
            // NumPy's form is written today. The older form, with the count in its own columns, is read for ever.
            Container::Npy => {
                assert_eq!(column.check(&rows_file[..header.len()]), Ok(()));
                assert_eq!(Header::parse(&rows_file[..header.len()]).unwrap().rows, 110);
            }
            _ => assert_eq!(header, rows_file[..header.len()], "{name}"),
        }
        let slots = Slots::parse(&read("commit"), &meta.uuid, 1).unwrap();
        assert_eq!(
            slots.newest,
            Slot { epoch: 3, committed: Extent::dense(110), synced: Extent::dense(110), erased: 0 },
            "{name}"
        );
        assert_eq!(slots.newest.to_bytes(&meta.uuid, 1), read("commit")[4096..4160], "{name}");
    }
}

/// The compacted caches, and the caches that they were made of.
const COMPACTED: [(&str, &str); 4] =
    [("v3/texts", "v1/texts"), ("v3/faiss", "v1/faiss"), ("v4/ragged", "v2/ragged"), ("v4/sparse", "v2/sparse")];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn every_row_and_text_of_a_compacted_cache_is_read() {
    for (name, origin) in COMPACTED {
        let [compacted, origin] = [name, origin].map(|name| open(&fixture(name), reader()).unwrap());
        let keys: Vec<_> = (0..98).map(|item| of_text(format!("text {item}").as_bytes())).collect();
        let read = |store: &Store| crate::common::contents::read_any(store, &keys).unwrap();
        assert!(read(&compacted).iter().all(Option::is_some) && read(&compacted) == read(&origin), "{name}");
        let mut rows = vec![0; 100];
        let all: Vec<_> = (0..100).map(|item| of_text(format!("text {item}").as_bytes())).collect();
        compacted.lookup(&all, &mut rows).unwrap();
        let expected = (0..100).map(|item| match item {
            0..10 => item + 50,
            10..60 => item - 10,
            60..98 => item,
            _ => -1,
        });
        assert_eq!(rows, expected.collect::<Vec<i64>>(), "{name}");
        let texts: Vec<_> = compacted.texts(&rows).unwrap().iter().map(|text| text.map(<[u8]>::to_vec)).collect();
        let kept = if name.ends_with("texts") { 50 } else { 0 };
        let expected = (0..100).map(|item| (item < kept).then(|| format!("text {item}").into_bytes()));
        assert_eq!(texts, expected.collect::<Vec<_>>(), "{name}");
        let report = verify::verify(&DiskStorage, &fixture(name)).unwrap();
        let expected = Report { rows: 98, keys: 98, texts: kept as u64, ..Report::default() };
        assert_eq!(report, expected, "{name}");
    }
}

#[test]
fn the_bytes_of_a_compacted_cache_are_those_that_are_written_today() {
    for (name, _) in COMPACTED {
        let read = |file: &str| std::fs::read(fixture(name).join(file)).unwrap();
        let meta = dejavec_core::format::meta::Meta::parse(&read("meta.json")).unwrap();
        assert_eq!((meta.generation, meta.to_bytes() == read("meta.json")), (1, true), "{name}");
        let version = meta.version();
        assert_eq!(dejavec_core::format::keys::header(&meta.uuid, version), read("keys.1.bin")[..64], "{name}");
        let slots = Slots::parse(&read("commit.1"), &meta.uuid, version).unwrap();
        assert_eq!((slots.newest.committed.rows, slots.newest.synced.rows, slots.newer_lost), (98, 98, false));
        let commit = read("commit.1");
        for slot in [Some(slots.newest), slots.older].into_iter().flatten() {
            let bytes = slot.to_bytes(&meta.uuid, version);
            assert_eq!(bytes, commit[slot.offset() as usize..][..bytes.len()], "{name}");
        }
        for column in meta.columns() {
            let is_of_rows = meta.container.is_dense() || Some(column) == meta.container.indptr();
            let header = column.header(if is_of_rows { 98 } else { slots.newest.committed.elements });
            assert_eq!(header, read(&meta.file(column.file_name))[..header.len()], "{name}: {}", column.file_name);
        }
    }
}

#[test]
fn a_compacted_cache_is_written_on() {
    for (name, _) in COMPACTED {
        let directory = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
        }
        let store = open(directory.path(), options(Durability::Commit)).unwrap();
        assert_eq!(store.delete(&[of_text(b"text 7")]).unwrap(), 1);
        store.compact().unwrap();
        let statistics = store.statistics().unwrap();
        assert_eq!((statistics.generation, statistics.rows, statistics.reclaimable_bytes), (2, 97, 0), "{name}");
        let report = verify::verify(&DiskStorage, directory.path()).unwrap();
        assert_eq!((report.rows, report.damaged, report.problems), (97, vec![], vec![]), "{name}");
    }
}
