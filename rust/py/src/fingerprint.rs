//! Fingerprints of tensors and of rows.

use dejavec_core::fingerprint;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffers::Array;

/// Registers the content of this file in the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("BLOCK_BYTES", fingerprint::BLOCK_BYTES)?;
    module.add_function(wrap_pyfunction!(fingerprint_rows, module)?)?;
    module.add_function(wrap_pyfunction!(fingerprint_blocks, module)?)
}

#[pyfunction]
fn fingerprint_blocks<'py>(py: Python<'py>, arrays: Vec<Bound<'py, PyAny>>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let arrays = arrays.iter().map(Array::<u8>::input).collect::<PyResult<Vec<_>>>()?;
    let bytes: Vec<&[u8]> = arrays.iter().map(Array::items).collect();
    let found = py.detach(|| fingerprint::of_arrays(&bytes));
    let mut rest = found.as_slice();
    let of_one = |array: &&[u8]| {
        let (own, others) = rest.split_at(fingerprint::blocks(array.len()));
        rest = others;
        PyBytes::new(py, own.as_flattened())
    };
    Ok(bytes.iter().map(of_one).collect())
}

#[pyfunction]
fn fingerprint_rows(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    ends: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (data, ends, mut out) = (Array::<u8>::input(data)?, Array::<i64>::input(ends)?, Array::<u8>::output(out)?);
    let (data, ends) = (data.items(), ends.items());
    let (out, rest) = out.items_mut().as_chunks_mut();
    if rest.is_empty() && py.detach(|| fingerprint::of_rows(data, ends, out)) {
        return Ok(());
    }
    Err(PyValueError::new_err("expected rows one behind the other, and 16 bytes in `out` for each"))
}
