//! One hot loop of the core, for callgrind to count what `counted` does; see `instructions.py`.
//!
//!     instructions hash|lookup|gather|append
//!
//! Batches are small enough that one thread does the work. Prints how many items were worked on.

#[path = "../benches/loops/mod.rs"]
mod loops;

use std::hint::black_box;

use loops::{Filled, hash, texts};

type Failure = Box<dyn std::error::Error>;

const BATCHES: usize = 8;
/// Enough rows that a snapshot of the index is written.
const IN_SNAPSHOT: usize = 70_000;

#[inline(never)]
fn counted(work: &dyn Fn(usize) -> Result<(), Failure>) -> Result<(), Failure> {
    (0..BATCHES).try_for_each(work)
}

fn main() -> Result<(), Failure> {
    let name = std::env::args().nth(1).unwrap_or_default();
    let items = match name.as_str() {
        "hash" => {
            let texts = texts(0..256);
            counted(&|_| {
                black_box(hash(&texts));
                Ok(())
            })?;
            texts.len()
        }
        "lookup" => {
            let held = Filled::new(IN_SNAPSHOT)?;
            if held.snapshot_rows()? != IN_SNAPSHOT as u64 {
                return Err("expected all rows in a snapshot, as in any large cache, found fewer".into());
            }
            // The index is seeded anew each time: the mean of many different keys hardly depends on the seed.
            let keys = held.scattered(65_536);
            counted(&|batch| {
                for keys in keys.chunks(2_048).skip(batch).step_by(BATCHES) {
                    black_box(held.lookup(keys)?);
                }
                Ok(())
            })?;
            keys.len() / BATCHES
        }
        "gather" => {
            let held = Filled::new(20_000)?;
            let keys = held.scattered(512);
            let rows = held.lookup(&keys)?;
            counted(&|_| {
                black_box(held.gather(&keys, &rows)?);
                Ok(())
            })?;
            keys.len()
        }
        "append" => {
            let held = Filled::new(512)?;
            let new: Vec<_> = (1..=BATCHES).map(|batch| hash(&texts(batch * 512..(batch + 1) * 512))).collect();
            counted(&|batch| {
                black_box(held.append(&new[batch])?);
                Ok(())
            })?;
            512
        }
        _ => return Err(format!("expected hash, lookup, gather or append, found {name:?}").into()),
    };
    println!("{}", items * BATCHES);
    Ok(())
}
