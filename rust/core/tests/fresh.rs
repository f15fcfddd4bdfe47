//! Reads see the commits of other handles without a refresh.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common::{DIM, Place, get, in_memory, key, keys, on_disk, options, reader, vector, vectors};
use dejavec_core::format::commit::{SLOT_STRIDE, slot_bytes};
use dejavec_core::store::{Durability, Store};

fn one(store: &Store, item: u64) -> Option<[u8; DIM]> {
    let mut out = [0; DIM];
    store.read_newest(&key(item), &mut out, true).unwrap().then_some(out)
}

/// The result of a read: a vector or None for each item.
type Found = Vec<Option<[u8; DIM]>>;

/// The kinds of reads of three items.
const READS: [fn(&Store) -> Found; 3] = [
    |store| (0..3).map(|item| one(store, item)).collect(),
    |store| (0..3).map(|item| get(store, &[item])[0]).collect(),
    |store| get(store, &[0, 1, 2]),
];

#[test]
fn every_read_sees_what_another_handle_committed() {
    for place in [in_memory(), on_disk()] {
        for durability in [Durability::Commit, Durability::Close] {
            let writer = place.create(durability);
            for read in [reader(), options(Durability::Commit)] {
                let store = place.open(read).unwrap();
                for round in 0..16_u8 {
                    let items = 0..1 + u64::from(round % 3);
                    writer.put(&keys(items.clone()), &vectors(items, round)).unwrap();
                    let expected: Vec<_> = (0..3).map(|item| one(&place.open(reader()).unwrap(), item)).collect();
                    assert!(expected[0] == Some(vector(0, round)));
                    // One read after each commit: a second read would only see what the first one learnt.
                    match READS.get(usize::from(round % 4)) {
                        Some(read) => assert_eq!(read(&store), expected, "round {round}"),
                        None => assert_eq!(store.keys().unwrap(), writer.keys().unwrap()),
                    }
                }
            }
            drop(writer);
            for (name, _) in place.storage.list(&place.path).unwrap() {
                place.storage.remove(&place.path.join(name)).unwrap();
            }
        }
    }
}

/// A reader that has read, and the bytes and offset of a later commit, which is undone in the file.
fn half_way(place: &Place) -> (Store, Vec<u8>, u64) {
    let writer = place.create(Durability::Commit);
    writer.put(&keys(0..1), &vectors(0..1, 0)).unwrap();
    let store = place.open(reader()).unwrap();
    assert!(one(&store, 0).is_some() && one(&store, 1).is_none());
    let before = place.read("commit");
    writer.put(&keys(1..2), &vectors(1..2, 0)).unwrap();
    let after = place.read("commit");
    let at = if before[..SLOT_STRIDE] == after[..SLOT_STRIDE] { SLOT_STRIDE } else { 0 };
    place.write("commit", &before[at..at + slot_bytes(1)], at as u64);
    (store, after[at..at + slot_bytes(1)].to_vec(), at as u64)
}

#[test]
fn a_reader_that_met_a_commit_half_way_sees_it_when_it_is_whole() {
    for place in [in_memory(), on_disk()] {
        for half in [8, 40, 48, 56] {
            let (store, commit, at) = half_way(&place);
            // The epoch may be written before or after the rest.
            place.write("commit", &commit[..half], at);
            assert_eq!((one(&store, 0), one(&store, 1)), (Some(vector(0, 0)), None), "{half} bytes");
            place.write("commit", &commit[half..], at + half as u64);
            assert_eq!((one(&store, 0), one(&store, 1)), (Some(vector(0, 0)), Some(vector(1, 0))), "{half} bytes");
            drop(store);
            for (name, _) in place.storage.list(&place.path).unwrap() {
                place.storage.remove(&place.path.join(name)).unwrap();
            }
        }
    }
}

#[test]
fn a_cut_commit_record_is_an_error_of_batches() {
    let place = on_disk();
    place.create(Durability::Commit).put(&keys(0..3), &vectors(0..3, 0)).unwrap();
    let store = place.open(reader()).unwrap();
    assert!(one(&store, 0).is_some());
    std::fs::File::options().write(true).open(place.path.join("commit")).unwrap().set_len(100).unwrap();
    assert!(store.lookup(&keys(0..3), &mut [0; 3]).is_err() && store.keys().is_err());
}
