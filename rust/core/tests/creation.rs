//! An interrupted creation, done again, gives a cache that survives a power loss. It is interrupted at every operation.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::common::contents::{self, CONTAINERS};
use crate::common::simulated::{Fault, Image, Injection, Moments, Random, Simulated};
use crate::common::{keys, options, reader};
use dejavec_core::atomic;
use dejavec_core::format::container::Container;
use dejavec_core::store::{Durability, Store};

const ROOT: &str = "/caches";

/// One way to be interrupted and go on.
#[derive(Debug, Clone, Copy)]
struct Case {
    container: Container,
    path: &'static str,
    durability: Durability,
    fault: Fault,
    /// A separate call makes the directories first.
    directories_before: bool,
}

fn create(storage: &Arc<Simulated>, case: &Case) -> dejavec_core::Result<Store> {
    let spec = contents::small_spec(case.container);
    Store::create(Arc::<Simulated>::clone(storage), Path::new(case.path), &spec, options(case.durability))
}

/// Interrupts a creation at every operation, does it again, puts and syncs. Returns how many images of a later power
/// loss were checked.
fn every_cut(case: &Case) -> usize {
    let path = Path::new(case.path);
    let mut images = 0;
    for after in 0.. {
        let storage = Arc::new(Simulated::of(&Image::default(), Path::new(ROOT)));
        // All later operations fail, as for a killed process.
        storage.inject(Some(Injection { fault: case.fault, after, for_ever: true, fired: 0 }));
        if case.directories_before {
            let _ = atomic::create_directories(&*storage, path, false);
        }
        drop(create(&storage, case));
        if storage.inject(None).unwrap().fired == 0 {
            return images;
        }
        let again = create(&storage, case).unwrap();
        let rows = |items| contents::rows(case.container, items, 0);
        again.put(&keys(0..5), rows(0..5).batch()).unwrap();
        if case.durability == Durability::Close {
            again.sync().unwrap();
        }
        let acknowledged = storage.journal_len();
        // A later put must not endanger acknowledged rows.
        again.put(&keys(5..8), rows(5..8).batch()).unwrap();
        let mut moments = Moments::of(&storage);
        let mut seen = HashSet::new();
        loop {
            if moments.at() >= acknowledged {
                for (image, _) in moments.images(&mut Random(after as u64), 2) {
                    // The same image is left at several moments.
                    if !seen.insert(image.fingerprint()) {
                        continue;
                    }
                    let left = Arc::new(Simulated::of(&image, Path::new(ROOT)));
                    let store = Store::open(left, path, reader())
                        .unwrap_or_else(|error| panic!("{case:?} from operation {after} on: {error}"));
                    let found = contents::versions(&store, 0..5);
                    assert_eq!(found, [Some(0); 5], "{case:?} from operation {after} on");
                }
            }
            if !moments.advance() {
                break;
            }
        }
        images += seen.len();
    }
    unreachable!()
}

#[test]
fn a_creation_that_was_cut_short_and_done_again_survives_a_power_loss() {
    let mut images = 0;
    for container in CONTAINERS {
        // How directories are made depends on no container.
        let paths = ["/caches/one", "/caches/a/b", "/caches/a/b/c/d"];
        for path in paths.into_iter().take(if container == Container::Npy { 3 } else { 1 }) {
            for fault in [Fault::Error(5), Fault::Sync] {
                for durability in [Durability::Commit, Durability::Close] {
                    for directories_before in [false, true] {
                        images += every_cut(&Case { container, path, durability, fault, directories_before });
                    }
                }
            }
        }
    }
    println!("{images} crash images after creations that were cut short");
}
