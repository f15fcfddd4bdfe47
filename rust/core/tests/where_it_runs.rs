//! File systems where files cannot be mapped, and sparse files.

use std::io::{Error as IoError, ErrorKind};
use std::sync::Arc;

use crate::common::watched::Watched;
use crate::common::{Place, get, in_memory, key, keys, on_disk, options, reader, vector, vectors};
use dejavec_core::Error;
use dejavec_core::format::commit::{Extent, Slot};
use dejavec_core::repair;
use dejavec_core::storage::Access;
use dejavec_core::store::Durability;
use dejavec_core::verify::{self, Report};

/// The same place, on a file system where no file can be mapped (as FUSE with direct I/O), or only the rows cannot.
fn unmappable(place: &Place, kind: ErrorKind, only_rows: bool) -> Place {
    let refuse = move |name: &str| match name {
        name if only_rows && name != "vectors.npy" => Ok(()),
        _ => Err(IoError::from(kind)),
    };
    Place::of(Arc::new(Watched::new(Arc::clone(&place.storage)).unmappable(refuse)), place.path.clone())
}

#[test]
fn everything_but_a_view_of_all_rows_works_where_files_cannot_be_mapped() {
    for (kind, only_rows) in
        [(ErrorKind::Unsupported, false), (ErrorKind::Unsupported, true), (ErrorKind::OutOfMemory, true)]
    {
        let whole = on_disk();
        let place = unmappable(&whole, kind, only_rows);
        let store = place.create(Durability::Commit);
        store.put(&keys(0..100), &vectors(0..100, 0)).unwrap();
        assert_eq!(store.put(&keys(90..110), &vectors(90..110, 0)).unwrap(), 10, "what is stored already is known");
        store.put(&keys(0..3), &vectors(0..3, 1)).unwrap();
        let expected = [Some(vector(0, 1)), Some(vector(50, 0)), Some(vector(109, 0)), None];
        assert_eq!(get(&store, &[0, 50, 109, 110]), expected);
        let mut out = [0; 4];
        assert!(store.read_newest(&key(2), &mut out, true).unwrap());
        assert_eq!(out, vector(2, 1));
        assert!(store.map_rows(&keys(10..12), 10, true).unwrap().is_none(), "the caller copies instead");
        let refused = store.map_all().map(drop);
        match kind {
            ErrorKind::OutOfMemory => assert!(matches!(refused, Err(Error::OutOfMemory { .. })), "{refused:?}"),
            _ => assert!(matches!(refused, Err(Error::Unmappable { .. })), "{refused:?}"),
        }
        store.close().unwrap();

        let other = place.open(options(Durability::Close)).unwrap();
        let late = whole.open(options(Durability::Commit)).unwrap();
        late.put(&keys(200..210), &vectors(200..210, 0)).unwrap();
        other.refresh().unwrap();
        assert_eq!(get(&other, &[109, 205]), [Some(vector(109, 0)), Some(vector(205, 0))]);
        let report = verify::verify(&*place.storage, &place.path).unwrap();
        assert_eq!(report, Report { rows: 123, keys: 120, replaced: 3, ..Report::default() });
        let rows = whole.storage.open(&whole.path.join("vectors.npy"), Access::Write).unwrap();
        rows.write_at(&[0xEE], 128 + 4 * 50).unwrap();
        assert!(!other.read_newest(&key(50), &mut out, true).unwrap());
        repair::repair(&*place.storage, &place.path, options(Durability::Commit).patience).unwrap();
        assert_eq!(get(&place.open(reader()).unwrap(), &[50, 51]), [None, Some(vector(51, 0))]);
    }
}

#[test]
fn a_snapshot_that_cannot_be_mapped_is_read() {
    let whole = in_memory();
    let store = whole.create(Durability::Commit);
    store.put(&keys(0..70_000), &vectors(0..70_000, 0)).unwrap();
    store.close().unwrap();
    let store = unmappable(&whole, ErrorKind::Unsupported, false).open(reader()).unwrap();
    assert_eq!(store.statistics().unwrap().snapshot_rows, 70_000);
    assert_eq!(get(&store, &[69_999, 70_000]), [Some(vector(69_999, 0)), None]);
}

#[test]
fn out_of_memory_and_unmappable_have_words_of_their_own() {
    let message = |kind| {
        let whole = in_memory();
        let store = unmappable(&whole, kind, true).create(Durability::Commit);
        store.put(&keys(0..1), &vectors(0..1, 0)).unwrap();
        store.map_all().unwrap_err().to_string()
    };
    let (memory, unmappable) = (message(ErrorKind::OutOfMemory), message(ErrorKind::Unsupported));
    assert!(memory.contains("out of memory"), "{memory}");
    assert!(unmappable.contains("expected a file that can be mapped"), "{unmappable}");
    for message in [memory, unmappable] {
        assert!(message.contains("vectors.npy"), "{message}");
    }
}

#[test]
fn a_commit_that_claims_the_rows_of_sparse_files_is_a_typed_error() {
    let place = on_disk();
    let store = place.create(Durability::Commit);
    store.put(&keys(0..10), &vectors(0..10, 0)).unwrap();
    let uuid = store.meta().unwrap().uuid;
    for rows in [1 << 25, 1 << 36] {
        for (name, header, row_bytes) in [("keys.bin", 64, 40), ("vectors.npy", 128, 4)] {
            let file = std::fs::OpenOptions::new().write(true).open(place.path.join(name)).unwrap();
            file.set_len(header + rows * row_bytes).unwrap();
        }
        let slot = Slot { epoch: 9, committed: Extent::dense(rows), synced: Extent::dense(rows), erased: 0 };
        let commit = place.storage.open(&place.path.join("commit"), Access::Write).unwrap();
        commit.write_at(&slot.to_bytes(&uuid, 1), slot.offset()).unwrap();
        for refused in [
            store.refresh().map(drop),
            place.open(reader()).map(drop),
            place.open(options(Durability::Commit)).map(drop),
            verify::verify(&*place.storage, &place.path).map(drop),
            repair::repair(&*place.storage, &place.path, options(Durability::Commit).patience).map(drop),
        ] {
            assert!(matches!(&refused, Err(Error::Corrupt { found, .. }) if found == "only zeros"), "{refused:?}");
        }
    }
}
