//! Items to keys.

use std::borrow::Cow;

use dejavec_core::key::{self, Field};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::buffers::{Array, as_keys, as_keys_mut};
use crate::errors::item_error;

/// Adds what is here to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(hash_texts, module)?)?;
    module.add_function(wrap_pyfunction!(hash_arrow, module)?)?;
    module.add_function(wrap_pyfunction!(hash_fields, module)?)
}

/// The UTF-8 bytes of a text: its own, or a copy where it has lone surrogates.
fn utf8<'a>(text: &'a Bound<'_, PyString>) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(text) = text.to_str() {
        return Ok(Cow::Borrowed(text.as_bytes()));
    }
    let encoded = text.call_method1("encode", ("utf-8", "surrogatepass"))?;
    Ok(Cow::Owned(encoded.cast::<PyBytes>()?.as_bytes().to_vec()))
}

#[pyfunction]
fn hash_texts(py: Python<'_>, texts: &Bound<'_, PyTuple>, out: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut out = Array::<u8>::output(out)?;
    let keys = as_keys_mut(out.items_mut())?;
    check_length("keys", texts.len(), keys.len())?;
    // A tuple, not a list: another thread cannot take its items away while the GIL is released.
    let strings: Vec<_> = texts.iter().collect();
    let bytes = strings
        .iter()
        .enumerate()
        .map(|(position, item)| {
            let text = item.cast::<PyString>().map_err(|_| {
                let found = item.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
                item_error(py, format!("expected texts (str), found {found} at position {position}"))
            })?;
            utf8(text)
        })
        .collect::<PyResult<Vec<_>>>()?;
    py.detach(|| key::of_texts(|i| &bytes[i], keys));
    Ok(())
}

/// Texts in an Arrow value buffer, by their checked spans.
fn hash_spans<T: Copy + Into<i64> + Sync>(
    data: &[u8],
    offsets: &[T],
    indices: Option<&[i64]>,
    keys: &mut [key::Key],
) -> bool {
    let span = |i: usize| {
        let start = usize::try_from((*offsets.get(i)?).into()).ok()?;
        let end = usize::try_from((*offsets.get(i + 1)?).into()).ok()?;
        data.get(start..end)
    };
    let text = |position: usize| match indices {
        None => span(position),
        Some(indices) => span(usize::try_from(indices[position]).ok()?),
    };
    let valid = (0..keys.len()).all(|position| text(position).is_some());
    if valid {
        key::of_texts(|position| text(position).unwrap_or_default(), keys);
    }
    valid
}

#[pyfunction]
fn hash_arrow(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    indices: Option<&Bound<'_, PyAny>>,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let data = Array::<u8>::input(data)?;
    let indices = indices.map(Array::<i64>::input).transpose()?;
    let indices = indices.as_ref().map(Array::items);
    let item_bytes: usize = offsets.getattr("itemsize")?.extract()?;
    let count: usize = offsets.len()?;
    let mut out = Array::<u8>::output(out)?;
    let keys = as_keys_mut(out.items_mut())?;
    check_length("keys", indices.map_or(count.saturating_sub(1), <[i64]>::len), keys.len())?;
    let data = data.items();
    let valid = match item_bytes {
        4 => {
            let offsets = Array::<i32>::input(offsets)?;
            let offsets = offsets.items();
            py.detach(|| hash_spans(data, offsets, indices, keys))
        }
        8 => {
            let offsets = Array::<i64>::input(offsets)?;
            let offsets = offsets.items();
            py.detach(|| hash_spans(data, offsets, indices, keys))
        }
        other => {
            return Err(PyValueError::new_err(format!("expected int32 or int64 offsets, found {other}-byte items")));
        }
    };
    if valid { Ok(()) } else { Err(PyValueError::new_err("expected offsets and indices inside their buffers")) }
}

/// A field as Python gives it.
type PyField<'py> = (String, Bound<'py, PyAny>, Bound<'py, PyAny>);

#[pyfunction]
fn hash_fields(py: Python<'_>, fields: Vec<PyField<'_>>, out: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut out = Array::<u8>::output(out)?;
    let keys = as_keys_mut(out.items_mut())?;
    let arrays = fields
        .iter()
        .map(|(name, lengths, digests)| Ok((name, Array::<i64>::input(lengths)?, Array::<u8>::input(digests)?)))
        .collect::<PyResult<Vec<_>>>()?;
    let mut columns = Vec::new();
    for (name, lengths, digests) in &arrays {
        let field = Field { name, lengths: lengths.items(), digests: as_keys(digests.items())? };
        check_length("lengths", keys.len(), field.lengths.len())?;
        check_length("digests", keys.len(), field.digests.len())?;
        if name.len() > usize::from(u8::MAX) {
            return Err(PyValueError::new_err(format!("expected a field name of at most 255 bytes, found {name:?}")));
        }
        columns.push(field);
    }
    py.detach(|| key::of_fields(&columns, keys));
    Ok(())
}

fn check_length(what: &str, expected: usize, found: usize) -> PyResult<()> {
    if expected == found {
        Ok(())
    } else {
        Err(PyValueError::new_err(format!("expected {expected} {what}, found {found}")))
    }
}
