//! All tests of the engine, in one program: it is built once, and both cores are busy to its end.

mod cheap;
mod common;
mod compact;
mod compatibility;
mod concurrency;
mod corruption;
mod creation;
mod delete;
mod failed_syncs;
mod faults;
mod fresh;
mod index;
mod model;
mod power_loss;
mod recovery;
mod repair;
mod replaced;
mod snapshots;
mod texts;
mod waiting;
mod where_it_runs;
