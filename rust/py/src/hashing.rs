//! The keys of items.

use dejavec_core::key::{self, Field};
use dejavec_core::prefetch;
use dejavec_core::text::Texts;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::buffers::{Array, as_keys, as_keys_mut};
use crate::errors::item_error;
use crate::strings;

/// How many texts ahead to prefetch: the objects are scattered in memory.
const AHEAD: usize = 16;

/// After how many texts other Python threads get a turn: about every half millisecond.
const TURN: usize = 8192;

/// Registers the content of this file in the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(hash_texts, module)?)?;
    module.add_function(wrap_pyfunction!(hash_arrow, module)?)?;
    module.add_function(wrap_pyfunction!(hash_fields, module)?)
}

#[pyfunction]
fn hash_texts(py: Python<'_>, texts: &Bound<'_, PyTuple>, out: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut out = Array::<u8>::output(out)?;
    let keys = as_keys_mut(out.items_mut())?;
    check_length("keys", texts.len(), keys.len())?;
    // A tuple, not a list: another thread cannot change it while the GIL is released.
    let items: Vec<_> = texts.iter_borrowed().collect();
    key::of_fetched(
        |position, texts| {
            if position % TURN == TURN - 1 {
                py.detach(|| ());
            }
            push_text(&items, position, texts)
        },
        keys,
        |work| py.detach(work),
    )
}

/// Adds an item to texts. An error if it is no text.
fn push_text<'a>(items: &'a [Borrowed<'_, '_, PyAny>], position: usize, texts: &mut Texts<'a>) -> PyResult<()> {
    if let Some(ahead) = items.get(position + AHEAD) {
        prefetch::fetch_line(ahead.as_ptr().cast());
    }
    let item: &Bound<'_, PyAny> = &items[position];
    match item.cast::<PyString>() {
        Ok(text) => strings::push(text, texts),
        Err(_) => {
            let found = item.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
            Err(item_error(item.py(), format!("expected texts (str), found {found} at position {position}")))
        }
    }
}

/// The value buffer and the offsets of one Arrow array of texts.
struct Chunk {
    data: Array<u8>,
    offsets: Offsets,
}

/// The offsets of the texts in an array.
enum Offsets {
    Narrow(Array<i32>),
    Wide(Array<i64>),
}

impl Chunk {
    fn get(data: &Bound<'_, PyAny>, offsets: &Bound<'_, PyAny>) -> PyResult<Self> {
        let offsets = match offsets.getattr("itemsize")?.extract::<usize>()? {
            4 => Offsets::Narrow(Array::input(offsets)?),
            8 => Offsets::Wide(Array::input(offsets)?),
            other => {
                return Err(PyValueError::new_err(format!("expected int32 or int64 offsets, found {other} bytes")));
            }
        };
        Ok(Chunk { data: Array::input(data)?, offsets })
    }

    fn len(&self) -> usize {
        let offsets = match &self.offsets {
            Offsets::Narrow(offsets) => offsets.items().len(),
            Offsets::Wide(offsets) => offsets.items().len(),
        };
        offsets.saturating_sub(1)
    }

    /// Text `i`. None if its offsets are outside the buffer.
    fn text(&self, i: usize) -> Option<&[u8]> {
        let (start, end) = match &self.offsets {
            Offsets::Narrow(offsets) => offsets.items().get(i..=i + 1).map(|ends| (ends[0].into(), ends[1].into())),
            Offsets::Wide(offsets) => offsets.items().get(i..=i + 1).map(|ends| (ends[0], ends[1])),
        }?;
        self.data.items().get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

/// The texts at `indices`, or all texts, of consecutive chunks. None if one is outside its buffer.
fn chosen_texts<'a>(chunks: &'a [Chunk], indices: Option<&[i64]>) -> Option<Vec<&'a [u8]>> {
    let Some(indices) = indices else {
        return chunks.iter().flat_map(|chunk| (0..chunk.len()).map(|i| chunk.text(i))).collect();
    };
    let mut end = 0;
    let ends: Vec<usize> = chunks.iter().map(|chunk| (end += chunk.len(), end).1).collect();
    let text = |index: &i64| {
        let index = usize::try_from(*index).ok()?;
        let place = ends.partition_point(|end| *end <= index);
        let chunk = chunks.get(place)?;
        chunk.text(index - (ends[place] - chunk.len()))
    };
    indices.iter().map(text).collect()
}

#[pyfunction]
fn hash_arrow(
    py: Python<'_>,
    chunks: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
    indices: Option<&Bound<'_, PyAny>>,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let chunks = chunks.iter().map(|(data, offsets)| Chunk::get(data, offsets)).collect::<PyResult<Vec<_>>>()?;
    let indices = indices.map(Array::<i64>::input).transpose()?;
    let indices = indices.as_ref().map(Array::items);
    let mut out = Array::<u8>::output(out)?;
    let keys = as_keys_mut(out.items_mut())?;
    check_length("keys", indices.map_or_else(|| chunks.iter().map(Chunk::len).sum(), <[i64]>::len), keys.len())?;
    py.detach(|| {
        let texts = chosen_texts(&chunks, indices)?;
        key::of_texts(|i| texts[i], keys);
        Some(())
    })
    .ok_or_else(|| PyValueError::new_err("expected offsets and indices inside their buffers"))
}

/// A field, as Python passes it.
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
