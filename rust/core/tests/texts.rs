//! Texts beside the rows: what is read is the text of the row's key, or none, and the vectors are never harmed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common::contents::{self, Contents};
use crate::common::{DIM, Place, in_memory, key, keys, on_disk, options, reader, vectors};
use dejavec_core::Error;
use dejavec_core::batch::Batch;
use dejavec_core::format::container::Container;
use dejavec_core::key::{Key, of_text};
use dejavec_core::repair;
use dejavec_core::store::{Durability, Store};
use dejavec_core::verify;

const TEXTS: &str = "texts.npy";
const SPANS: &str = "texts-spans.npy";

/// A store that keeps these texts, in two groups.
fn with_texts(place: &Place, texts: &[&[u8]]) -> (Store, Vec<Key>) {
    let store = place.create(Durability::Commit);
    let keys: Vec<Key> = texts.iter().map(|text| of_text(text)).collect();
    let half = texts.len() / 2;
    for range in [0..half, half..texts.len()] {
        let kept: Vec<_> = texts[range.clone()].iter().map(|text| Some(*text)).collect();
        let rows = vectors(range.start as u64..range.end as u64, 0);
        store.append(&keys[range], Batch { texts: Some(&kept), ..Batch::from(&rows) }, None).unwrap();
    }
    (store, keys)
}

fn texts_of(store: &Store, rows: &[i64]) -> Vec<Option<Vec<u8>>> {
    store.texts(rows).unwrap().iter().map(|text| text.map(<[u8]>::to_vec)).collect()
}

fn some(text: &[u8]) -> Option<Vec<u8>> {
    Some(text.to_vec())
}

#[test]
fn texts_come_back_in_any_order_by_any_handle() {
    for place in [in_memory(), on_disk()] {
        let long = vec![b'x'; 5 << 20];
        let (store, _) = with_texts(&place, &[b"one", &long, b"", b"three", b"four"]);
        for store in [store, place.open(reader()).unwrap()] {
            let expected = [some(b"four"), some(&long), None, some(b"one"), some(b""), some(b"four"), None];
            assert_eq!(texts_of(&store, &[4, 1, 9, 0, 2, 4, -1]), expected);
            assert_eq!(store.statistics().unwrap().texts, 4, "rows with bytes in the file");
        }
        let report = verify::verify(&*place.storage, &place.path).unwrap();
        assert_eq!((report.texts, report.damaged_texts, report.problems), (4, vec![], vec![]));
    }
}

#[test]
fn a_cache_without_texts_has_no_files_of_texts() {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    store.append(&keys(0..3), &vectors(0..3, 0), None).unwrap();
    assert_eq!(texts_of(&store, &[0, 1]), [None, None]);
    assert_eq!(store.put_texts(&keys(5..6), &[Some(b"other")]).unwrap(), 0);
    let names: Vec<_> = place.storage.list(&place.path).unwrap().into_iter().map(|(name, _)| name).collect();
    assert!(!names.iter().any(|name| name.starts_with("texts")), "{names:?}");
}

#[test]
fn only_the_text_of_the_key_is_kept() {
    let place = in_memory();
    let store = place.create(Durability::Commit);
    let texts: [Option<&[u8]>; 2] = [Some(b"a title and more"), Some(&contents::text(1))];
    store.append(&keys(0..2), Batch { texts: Some(&texts), ..Batch::from(&vectors(0..2, 0)) }, None).unwrap();
    assert_eq!(texts_of(&store, &[0, 1]), [None, some(&contents::text(1))]);
    assert_eq!(store.put_texts(&keys(0..1), &texts[..1]).unwrap(), 0);
    assert_eq!(verify::verify(&*place.storage, &place.path).unwrap().damaged_texts, Vec::<u64>::new());
}

#[test]
fn texts_are_filled_in_later_in_any_order_and_once() {
    for container in Container::ALL {
        let place = in_memory().holding(container);
        let store = place.create(Durability::Close);
        let rows = Contents::of(container, DIM, (0..6).map(|item| vectors(item..item + 1, 0)));
        store.append(&keys(0..6), rows.batch(), None).unwrap();
        let texts: Vec<_> = (0..9).map(contents::text).collect();
        let all = contents::all_of(&texts);
        assert_eq!(store.put_texts(&[key(4), key(4), key(8), key(1)], &[all[4], all[4], all[8], all[1]]).unwrap(), 2);
        assert_eq!(texts_of(&store, &[0, 1, 4, 5]), [None, some(&texts[1]), some(&texts[4]), None]);
        assert_eq!(store.put_texts(&keys(0..9), &all).unwrap(), 4);
        let other = place.open(options(Durability::Commit)).unwrap();
        assert_eq!(other.put_texts(&keys(0..9), &all).unwrap(), 0);
        let length = place.read(TEXTS).len();
        assert_eq!(length, 128 + 6 * 8, "each text lies in the file once");
        let found = texts_of(&other, &[5, 4, 3, 2, 1, 0]);
        assert_eq!(found, texts[..6].iter().rev().map(|text| some(text)).collect::<Vec<_>>());
        assert!(matches!(place.open(reader()).unwrap().put_texts(&keys(0..1), &all[..1]), Err(Error::ReadOnly { .. })));
    }
}

#[test]
fn a_writer_without_texts_and_one_with_them_take_turns() {
    let place = in_memory();
    let plain = place.create(Durability::Commit);
    let keeping = place.open(options(Durability::Commit)).unwrap();
    for group in 0..6_u64 {
        let items = group * 2..group * 2 + 2;
        let texts: Vec<_> = items.clone().map(contents::text).collect();
        let texts = contents::all_of(&texts);
        let rows = vectors(items.clone(), 0);
        if group % 2 == 0 {
            plain.append(&keys(items), &rows, None).unwrap();
        } else {
            keeping.append(&keys(items), Batch { texts: Some(&texts), ..Batch::from(&rows) }, None).unwrap();
        }
    }
    for (row, text) in texts_of(&plain, &(0..12).collect::<Vec<_>>()).into_iter().enumerate() {
        assert_eq!(text, (row / 2 % 2 == 1).then(|| contents::text(row as u64).to_vec()), "row {row}");
    }
    assert_eq!(verify::verify(&*place.storage, &place.path).unwrap().damaged_texts, Vec::<u64>::new());
}

#[test]
fn every_flipped_bit_and_every_cut_of_the_texts_costs_texts_only() {
    let texts: Vec<Vec<u8>> = (0..6_u8).map(|item| vec![item + 65; usize::from(item) * 5]).collect();
    let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    let mut variants = 0;
    for file in [TEXTS, SPANS] {
        let place = in_memory();
        let (_, keys) = with_texts(&place, &texts);
        let (good, untouched) = (place.read(file), place.read("vectors.npy"));
        let names = [TEXTS, SPANS].map(|name| (name, place.read(name)));
        let flipped = (0..good.len() * 8).map(|bit| {
            let mut damaged = good.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            damaged
        });
        let cut = (0..good.len()).map(|length| good[..length].to_vec());
        for damaged in flipped.chain(cut) {
            variants += 1;
            place.replace(file, &damaged);
            let check = |store: &Store| {
                let mut rows = vec![0; 6];
                store.lookup(&keys, &mut rows).unwrap();
                let mut out = vec![0; 6 * DIM];
                assert_eq!(store.gather(&keys, &rows, &mut out, true).unwrap(), Vec::<usize>::new());
                assert_eq!(out, vectors(0..6, 0));
                let found = texts_of(store, &[0, 1, 2, 3, 4, 5]);
                let are_right =
                    found.iter().zip(&texts).all(|(found, text)| found.as_deref().is_none_or(|t| t == *text));
                assert!(are_right && found[0] == some(b""));
                found.iter().flatten().count()
            };
            check(&place.open(reader()).unwrap());
            let writer = place.open(options(Durability::Commit)).unwrap();
            let all: Vec<_> = texts.iter().map(|text| Some(*text)).collect();
            writer.put_texts(&keys, &all).unwrap();
            assert_eq!(check(&writer), 6, "the texts are kept again");
            place.replace(file, &damaged);
            repair::repair(&*place.storage, &place.path, options(Durability::Commit).patience).unwrap();
            check(&place.open(reader()).unwrap());
            let report = verify::verify(&*place.storage, &place.path).unwrap();
            let expected = (vec![], vec![], vec![]);
            assert_eq!((report.damaged, report.damaged_texts, report.problems), expected);
            names.iter().for_each(|(name, bytes)| place.replace(name, bytes));
        }
        assert!(place.read("vectors.npy") == untouched);
    }
    assert!(variants > 3_500, "{variants}");
}

#[test]
fn damaged_texts_are_named_and_dropped_by_a_repair() {
    let place = in_memory();
    with_texts(&place, &[b"one", b"two", b"three", b"four"]);
    place.write(TEXTS, b"X", 128 + 4);
    place.write(SPANS, &[0xFF; 8], 128 + 3 * 16);
    let report = verify::verify(&*place.storage, &place.path).unwrap();
    assert_eq!((report.texts, report.damaged_texts, report.damaged.len()), (2, vec![1, 3], 0));
    repair::repair(&*place.storage, &place.path, options(Durability::Commit).patience).unwrap();
    let report = verify::verify(&*place.storage, &place.path).unwrap();
    assert_eq!((report.texts, report.damaged_texts, report.keys), (2, vec![], 4));
    let store = place.open(options(Durability::Commit)).unwrap();
    assert_eq!(store.put_texts(&[of_text(b"four")], &[Some(b"four")]).unwrap(), 1);
    assert_eq!(texts_of(&store, &[0, 1, 2, 3]), [some(b"one"), None, some(b"three"), some(b"four")]);
}

#[test]
fn forged_places_cost_no_memory_and_no_time() {
    let place = on_disk();
    let (store, _) = with_texts(&place, &[b"one", b"two", b"three", b"four"]);
    let file = std::fs::OpenOptions::new().write(true).open(place.path.join(TEXTS)).unwrap();
    file.set_len(1 << 40).unwrap();
    let forged = [0_u64.to_le_bytes(), (1_u64 << 28).to_le_bytes()].concat();
    place.write(SPANS, &forged.repeat(1000), 128 + 4 * 16);
    place.write(SPANS, &[1_u64.to_le_bytes(), (1_u64 << 39).to_le_bytes()].concat(), 128);
    assert_eq!(texts_of(&store, &[0, 1, 2, 3]), [None, some(b"two"), some(b"three"), some(b"four")]);
}

#[test]
fn files_of_texts_that_are_removed_replaced_or_no_files_cost_texts_only() {
    let place = on_disk();
    let (store, keys) = with_texts(&place, &[b"one", b"two", b"three", b"four"]);
    let saved = place.read(TEXTS);
    let check = |store: &Store| {
        let mut out = vec![0; 4 * DIM];
        assert_eq!(store.gather(&keys, &[0, 1, 2, 3], &mut out, true).unwrap(), Vec::<usize>::new());
        assert_eq!(out, vectors(0..4, 0));
        texts_of(store, &[0, 1, 2, 3]).into_iter().flatten().count()
    };
    place.storage.remove(&place.path.join(TEXTS)).unwrap();
    assert_eq!(check(&store), 0);
    place.storage.mkdir(&place.path.join(TEXTS)).unwrap();
    assert_eq!((check(&store), check(&place.open(reader()).unwrap())), (0, 0));
    store.append(&[key(9)], &vectors(9..10, 0), None).unwrap();
    verify::verify(&*place.storage, &place.path).unwrap();
    std::fs::remove_dir(place.path.join(TEXTS)).unwrap();
    place.add(TEXTS, &saved);
    assert_eq!(check(&store), 4);
    place.storage.remove(&place.path.join(TEXTS)).unwrap();
    place.storage.remove(&place.path.join(SPANS)).unwrap();
    assert_eq!(store.put_texts(&keys[..1], &[Some(b"one")]).unwrap(), 1);
    assert_eq!((check(&store), check(&place.open(reader()).unwrap())), (1, 1));
}

#[test]
fn a_directory_of_texts_without_a_cache_is_foreign() {
    let place = in_memory();
    let (_, _) = with_texts(&place, &[b"one", b"two"]);
    place.storage.remove(&place.path.join("meta.json")).unwrap();
    for name in ["vectors.npy", "keys.bin", "commit", SPANS] {
        place.storage.remove(&place.path.join(name)).unwrap();
    }
    let found = Store::create(place.storage.clone(), &place.path, &crate::common::spec(), options(Durability::Commit));
    assert!(matches!(found, Err(Error::Foreign { .. })));
    assert!(place.read(TEXTS).ends_with(b"onetwo"));
}
