//! The arrays of some rows: numbers, and where rows have elements, indices and offsets.

use dejavec_core::batch::Batch;
use dejavec_core::parts::Parts;
use dejavec_core::target::Target;
use pyo3::prelude::*;

use crate::buffers::Array;

type Object<'a, 'py> = &'a Bound<'py, PyAny>;

/// Arrays of rows that are stored.
pub struct Given {
    data: Vec<Array<u8>>,
    indices: Option<Array<u8>>,
    indptr: Option<Array<i64>>,
}

impl Given {
    /// `data` is an iterable of arrays, of whole rows each.
    pub fn of(data: Object<'_, '_>, indices: Option<Object<'_, '_>>, indptr: Option<Object<'_, '_>>) -> PyResult<Self> {
        Ok(Given {
            data: data.try_iter()?.map(|part| Array::input(&part?)).collect::<PyResult<_>>()?,
            indices: indices.map(Array::input).transpose()?,
            indptr: indptr.map(Array::input).transpose()?,
        })
    }

    /// The numbers of each array.
    pub fn parts(&self) -> Vec<&[u8]> {
        self.data.iter().map(Array::items).collect()
    }

    /// The rows, to store with their texts. `parts` are [`Given::parts`].
    pub fn batch<'a>(&'a self, parts: &'a [&'a [u8]], texts: Option<&'a [Option<&'a [u8]>]>) -> Batch<'a> {
        Batch {
            data: Parts::Many(parts),
            indices: self.indices.as_ref().map(Array::items),
            indptr: self.indptr.as_ref().map(Array::items),
            texts,
        }
    }
}

/// Arrays for rows that are read.
pub struct Places {
    data: Array<u8>,
    indices: Option<Array<u8>>,
    indptr: Option<Array<i64>>,
}

impl Places {
    /// Arrays that are filled, but for the offsets.
    pub fn of(data: Object<'_, '_>, indices: Option<Object<'_, '_>>, indptr: Option<Object<'_, '_>>) -> PyResult<Self> {
        Ok(Places {
            data: Array::output(data)?,
            indices: indices.map(Array::output).transpose()?,
            indptr: indptr.map(Array::input).transpose()?,
        })
    }

    /// The places of the rows, to fill.
    pub fn target(&mut self) -> Target<'_> {
        Target {
            data: self.data.items_mut(),
            indices: self.indices.as_mut().map(Array::items_mut),
            indptr: self.indptr.as_ref().map(Array::items),
        }
    }
}
