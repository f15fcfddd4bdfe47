//! NumPy arrays as slices, through the buffer protocol.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use dejavec_core::key::Key;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Number types for which every bit pattern is a valid value.
///
/// # Safety
/// Implement it only for integers.
unsafe trait Plain: Copy {}
// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for i32 {}
// SAFETY: integers.
unsafe impl Plain for i64 {}

/// A C-contiguous array of the caller. Holding it keeps its memory in place.
pub struct Array<T> {
    buffer: PyUntypedBuffer,
    items: PhantomData<T>,
}

impl<T> Array<T> {
    fn get(object: &Bound<'_, PyAny>, writable: bool) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyValueError::new_err("expected a C-contiguous array"));
        }
        if writable && buffer.readonly() {
            return Err(PyValueError::new_err("expected a writable array, found a read-only one"));
        }
        if !(buffer.buf_ptr() as usize).is_multiple_of(align_of::<T>())
            || !buffer.len_bytes().is_multiple_of(size_of::<T>())
        {
            return Err(PyValueError::new_err(format!("expected an aligned array of {}-byte items", size_of::<T>())));
        }
        Ok(Array { buffer, items: PhantomData })
    }

    fn len(&self) -> usize {
        self.buffer.len_bytes() / size_of::<T>()
    }
}

#[expect(private_bounds, reason = "no other type is wanted")]
impl<T: Plain> Array<T> {
    /// An array that is only read.
    pub fn input(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::get(object, false)
    }

    /// An array that is filled.
    pub fn output(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::get(object, true)
    }

    /// The items, to read.
    pub fn items(&self) -> &[T] {
        if self.len() == 0 {
            return &[];
        }
        // SAFETY: the buffer is contiguous, aligned for T and long enough (checked in `get`), any bytes are a T, and
        // the memory lives as long as `self.buffer`. The caller of Python code that changes the array meanwhile gets
        // keys or checksums of bytes it did not settle on, which match no later look-up or read.
        unsafe { std::slice::from_raw_parts(self.buffer.buf_ptr().cast::<T>(), self.len()) }
    }

    /// The items, to fill.
    pub fn items_mut(&mut self) -> &mut [T] {
        if self.len() == 0 {
            return &mut [];
        }
        // SAFETY: as for `items`; the buffer is writable (checked in `output`), and `&mut self` makes this the only
        // slice made from it here. An array that Python code reads meanwhile is read half filled.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.buf_ptr().cast::<T>(), self.len()) }
    }
}

/// The bytes of an array as keys.
pub fn as_keys(bytes: &[u8]) -> PyResult<&[Key]> {
    match bytes.as_chunks() {
        (keys, []) => Ok(keys),
        _ => Err(PyValueError::new_err(format!("expected keys of 32 bytes, found {} bytes", bytes.len()))),
    }
}

/// The bytes of an array as keys, to fill.
pub fn as_keys_mut(bytes: &mut [u8]) -> PyResult<&mut [Key]> {
    let len = bytes.len();
    match bytes.as_chunks_mut() {
        (keys, []) => Ok(keys),
        _ => Err(PyValueError::new_err(format!("expected room for keys of 32 bytes, found {len} bytes"))),
    }
}
