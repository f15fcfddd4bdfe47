//! The hot loops of the core with prepared input. Criterion times them, callgrind counts their instructions.

use std::sync::Arc;
use std::time::Duration;

use dejavec_core::directory::Spec;
use dejavec_core::format::container::Container;
use dejavec_core::key::{self, Key};
use dejavec_core::lock::Patience;
use dejavec_core::storage::DiskStorage;
use dejavec_core::store::{Durability, Options, Store};
use tempfile::TempDir;

const DIM: usize = 384;
const ROW_BYTES: usize = DIM * 4;
/// Lengths of texts, in turns.
const LENGTHS: [usize; 3] = [188, 377, 566];
/// Coprime to all row counts here, so its multiples visit all rows, far from each other.
const STRIDE: usize = 7919;

type Failure = Box<dyn std::error::Error>;

/// Different texts.
pub fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|i| format!("{i:0>length$}", length = LENGTHS[i % LENGTHS.len()])).collect()
}

/// The keys of texts.
pub fn hash(texts: &[String]) -> Vec<Key> {
    let mut keys = vec![[0; 32]; texts.len()];
    key::of_texts(|i| texts[i].as_bytes(), &mut keys);
    keys
}

/// A store with the rows of numbered texts, in its own directory.
pub struct Filled {
    store: Store,
    keys: Vec<Key>,
    vectors: Vec<u8>,
    _directory: TempDir,
}

impl Filled {
    /// A store of `rows` rows.
    pub fn new(rows: usize) -> Result<Filled, Failure> {
        let directory = tempfile::tempdir()?;
        let spec = Spec {
            dim: u32::try_from(DIM)?,
            dtype: "<f4".into(),
            container: Container::Npy,
            identity: "loops".into(),
            output: "numpy".into(),
        };
        let patience = Patience { timeout: Duration::ZERO, interrupted: || false };
        let options =
            Options { writable: true, durability: Durability::Close, patience, shared: false, allow_network: true };
        let store = Store::create(Arc::new(DiskStorage), &directory.path().join("cache"), &spec, options)?;
        let keys = hash(&texts(0..rows));
        let vectors = (0..rows * ROW_BYTES).map(|i| (i % 251) as u8).collect::<Vec<u8>>();
        store.append(&keys, &vectors, None)?;
        // Only durable rows come into a snapshot.
        store.sync()?;
        Ok(Filled { store, keys, vectors, _directory: directory })
    }

    /// Rows that the index snapshot covers. The others are in the delta.
    pub fn snapshot_rows(&self) -> Result<u64, Failure> {
        Ok(self.store.statistics()?.snapshot_rows)
    }

    /// The keys of `count` rows, scattered over the store.
    pub fn scattered(&self, count: usize) -> Vec<Key> {
        (0..count).map(|i| self.keys[i * STRIDE % self.keys.len()]).collect()
    }

    /// The row of each key.
    pub fn lookup(&self, keys: &[Key]) -> Result<Vec<i64>, Failure> {
        let mut rows = vec![0; keys.len()];
        self.store.lookup(keys, &mut rows)?;
        Ok(rows)
    }

    /// The vectors of rows, with their checksums checked. An error if one fails.
    pub fn gather(&self, keys: &[Key], rows: &[i64]) -> Result<Vec<u8>, Failure> {
        let mut vectors = vec![0; rows.len() * ROW_BYTES];
        let failed = self.store.gather(keys, rows, &mut vectors, true)?;
        if failed.is_empty() { Ok(vectors) } else { Err(format!("{} rows failed", failed.len()).into()) }
    }

    /// Appends new keys, with the vectors of the first rows.
    pub fn append(&self, keys: &[Key]) -> Result<usize, Failure> {
        Ok(self.store.append(keys, &self.vectors[..keys.len() * ROW_BYTES], None)?)
    }
}
