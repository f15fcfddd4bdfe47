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
    /// Arrays that are only read.
    pub fn input(
        data: Object<'_, '_>,
        indices: Option<Object<'_, '_>>,
        indptr: Option<Object<'_, '_>>,
    ) -> PyResult<Self> {
        Ok(Columns {
            data: Array::input(data)?,
            indices: indices.map(Array::input).transpose()?,
            indptr: indptr.map(Array::input).transpose()?,
        })
    }

    /// Arrays that are filled, but for the offsets.
    pub fn output(
        data: Object<'_, '_>,
        indices: Option<Object<'_, '_>>,
        indptr: Option<Object<'_, '_>>,
    ) -> PyResult<Self> {
        Ok(Columns {
            data: Array::output(data)?,
            indices: indices.map(Array::output).transpose()?,
            indptr: indptr.map(Array::input).transpose()?,
        })
    }

    /// The rows, to store.
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            data: self.data.items(),
            indices: self.indices.as_ref().map(Array::items),
            indptr: self.indptr.as_ref().map(Array::items),
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
