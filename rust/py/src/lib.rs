//! The extension module `dejavec._core`: conversion between Python and `dejavec-core`, nothing else.
//!
//! `python/dejavec/_core.pyi` documents what is here, as Python sees it.

mod buffers;
mod columns;
mod errors;
mod fingerprint;
mod hashing;
mod lists;
mod rows;
mod store;
mod strings;

use pyo3::prelude::*;

/// The module; its documentation is the stub `_core.pyi`.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("debug_build", cfg!(debug_assertions))?;
    fingerprint::register(module)?;
    hashing::register(module)?;
    lists::register(module)?;
    rows::register(module)?;
    store::register(module)
}
