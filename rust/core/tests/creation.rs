//! An interrupted creation, done again, gives a cache that survives a power loss. It is interrupted at every operation.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::simulated::{Fault, Image, Injection, Moments, Random, Simulated};
use common::{get, keys, options, reader, spec, vector, vectors};
use dejavec_core::atomic;
use dejavec_core::store::{Durability, Store};

const ROOT: &str = "/caches";

fn create(storage: &Arc<Simulated>, path: &Path, durability: Durability) -> dejavec_core::Result<Store> {
    Store::create(Arc::<Simulated>::clone(storage), path, &spec(), options(durability))
}

/// Interrupts a creation at every operation, does it again, puts and syncs. Returns how many images of a later power
/// loss were checked. `directories_before` makes the directories in a separate call.
fn every_cut(path: &Path, durability: Durability, fault: Fault, directories_before: bool) -> u64 {
    let mut images = 0;
    for after in 0.. {
        let storage = Arc::new(Simulated::of(&Image::default(), Path::new(ROOT)));
        // All later operations fail, as for a killed process.
        storage.inject(Some(Injection { fault, after, for_ever: true, fired: 0 }));
        if directories_before {
            let _ = atomic::create_directories(&*storage, path, false);
        }
        drop(create(&storage, path, durability));
        if storage.inject(None).unwrap().fired == 0 {
            return images;
        }
        let again = create(&storage, path, durability).unwrap();
        again.put(&keys(0..5), &vectors(0..5, 0)).unwrap();
        if durability == Durability::Close {
            again.sync().unwrap();
        }
        let acknowledged = storage.journal_len();
        // A later put must not endanger acknowledged rows.
        again.put(&keys(5..8), &vectors(5..8, 0)).unwrap();
        let mut moments = Moments::of(&storage);
        loop {
            if moments.at() >= acknowledged {
                for (image, _) in moments.images(&mut Random(after as u64), 2) {
                    let left = Arc::new(Simulated::of(&image, Path::new(ROOT)));
                    let store = Store::open(left, path, reader())
                        .unwrap_or_else(|error| panic!("{path:?}, {fault:?} from operation {after} on: {error}"));
                    let expected: Vec<_> = (0..5).map(|item| Some(vector(item, 0))).collect();
                    assert_eq!(get(&store, &[0, 1, 2, 3, 4]), expected, "{fault:?} from operation {after} on");
                    images += 1;
                }
            }
            if !moments.advance() {
                break;
            }
        }
    }
    unreachable!()
}

#[test]
fn a_creation_that_was_cut_short_and_done_again_survives_a_power_loss() {
    let mut images = 0;
    for path in ["/caches/one", "/caches/a/b", "/caches/a/b/c/d"] {
        for fault in [Fault::Error(5), Fault::Sync] {
            for durability in [Durability::Commit, Durability::Close] {
                for directories_before in [false, true] {
                    images += every_cut(Path::new(path), durability, fault, directories_before);
                }
            }
        }
    }
    println!("{images} crash images after creations that were cut short");
}
