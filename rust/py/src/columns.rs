//! The arrays of some rows: numbers, and where rows have elements, indices and offsets.

use dejavec_core::batch::Batch;
use dejavec_core::target::Target;
use pyo3::prelude::*;

use crate::buffers::Array;

/// Arrays of the caller.
pub struct Columns {
    data: Array<u8>,
    indices: Option<Array<u8>>,
    indptr: Option<Array<i64>>,
}

type Object<'a, 'py> = &'a Bound<'py, PyAny>;

impl Columns {
    fn of(
        data: Object<'_, '_>,
        indices: Option<Object<'_, '_>>,
        indptr: Option<Object<'_, '_>>,
        array: fn(Object<'_, '_>) -> PyResult<Array<u8>>,
    ) -> PyResult<Self> {
        Ok(Columns {
            data: array(data)?,
            indices: indices.map(array).transpose()?,
            indptr: indptr.map(Array::input).transpose()?,
        })
    }

    /// Arrays that are only read.
    pub fn input(
        data: Object<'_, '_>,
        indices: Option<Object<'_, '_>>,
        indptr: Option<Object<'_, '_>>,
    ) -> PyResult<Self> {
        Columns::of(data, indices, indptr, Array::input)
    }

    /// Arrays that are filled, but for the offsets.
    pub fn output(
        data: Object<'_, '_>,
        indices: Option<Object<'_, '_>>,
        indptr: Option<Object<'_, '_>>,
    ) -> PyResult<Self> {
        Columns::of(data, indices, indptr, Array::output)
    }

    /// The rows, to store with their texts.
    pub fn batch<'a>(&'a self, texts: Option<&'a [Option<&'a [u8]>]>) -> Batch<'a> {
        Batch {
            data: self.data.items(),
            indices: self.indices.as_ref().map(Array::items),
            indptr: self.indptr.as_ref().map(Array::items),
            texts,
        }
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
