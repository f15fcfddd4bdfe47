//! The storage engine of dejavec.
//!
//! Data takes one way: items become [`key`]s; a [`store::Store`] looks them up in its [`index`], the batch falls into
//! hits and misses in [`partition`], new rows are appended in groups and committed, and [`vectors`] gathers rows back.
//! Every structure on disk is built and parsed in [`mod@format`]; every file is reached through [`storage`]; only
//! [`mmap`], `storage::unwritten`, `storage::writeback`, [`sha256`], [`text`], [`half`] and [`prefetch`] have `unsafe`. `docs/format.md`
//! draws the files,
//! `docs/design.md` gives the reasons.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a cache is mapped whole, so a 64-bit machine is needed");

pub mod atomic;
pub mod batch;
pub mod bits;
pub mod checksum;
pub mod directory;
pub mod error;
pub mod files;
pub mod fingerprint;
pub mod format;
pub mod generations;
pub mod half;
pub mod hollow;
pub mod index;
pub mod key;
pub mod key_records;
pub mod lock;
pub mod mmap;
pub mod parallel;
pub mod partition;
pub mod parts;
pub mod prefetch;
pub mod records;
pub mod recovery;
pub mod repair;
pub mod row;
pub mod rows;
pub mod sha256;
pub mod storage;
pub mod store;
pub mod target;
pub mod text;
pub mod texts;
pub mod vectors;
pub mod verify;

pub use error::{Error, Result};
