//! The hot loops of the core, timed: `cargo bench --package dejavec-core-benches`.
#![allow(missing_docs, reason = "criterion's macros make functions without")]

mod loops;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use loops::{Filled, hash, texts};

const BATCH: usize = 8_192;
const HELD: usize = 100_000;

fn benches(criterion: &mut Criterion) {
    let held = Filled::new(HELD).expect("a store of 100,000 rows");
    assert_eq!(held.snapshot_rows().expect("statistics"), HELD as u64, "rows in the snapshot");
    let new = texts(HELD..HELD + BATCH);

    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("8192 texts", |bench| bench.iter(|| hash(black_box(&new))));
    group.finish();

    let all = held.scattered(HELD);
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(HELD as u64));
    group.bench_function("100000 keys", |bench| bench.iter(|| held.lookup(black_box(&all)).expect("a look-up")));
    group.finish();

    let keys = held.scattered(BATCH);
    let rows = held.lookup(&keys).expect("a look-up");
    let mut group = criterion.benchmark_group("gather");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("8192 rows", |bench| bench.iter(|| held.gather(black_box(&keys), &rows).expect("a gather")));
    group.finish();

    let new = hash(&new);
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(10);
    group.bench_function("8192 rows", |bench| {
        let store = || Filled::new(BATCH).expect("a store to append to");
        let append = |store: &mut Filled| assert_eq!(store.append(black_box(&new)).expect("an append"), BATCH);
        bench.iter_batched_ref(store, append, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(core, benches);
criterion_main!(core);
