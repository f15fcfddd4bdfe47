//! Mapped rows as a Python buffer.
#![allow(unsafe_code)]

use std::ffi::c_int;

use dejavec_core::mmap::PrivateMapping;
use dejavec_core::records::Records;
use pyo3::ffi;
use pyo3::prelude::*;

/// Registers the content of this file in the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Rows>()
}

/// The owner of the memory.
enum Memory {
    Shared(Records),
    Private(PrivateMapping),
}

/// Rows of the vectors file as a buffer.
#[pyclass(module = "dejavec._core", frozen)]
pub struct Rows {
    memory: Memory,
}

impl Rows {
    /// Rows that all readers share. The buffer is read-only.
    pub fn shared(records: Records) -> Self {
        Rows { memory: Memory::Shared(records) }
    }

    /// Private rows of the caller. The buffer is writable.
    pub fn private(mapping: PrivateMapping) -> Self {
        Rows { memory: Memory::Private(mapping) }
    }

    fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Shared(records) => records.bytes(),
            Memory::Private(mapping) => mapping,
        }
    }
}

#[pymethods]
impl Rows {
    fn __len__(&self) -> usize {
        self.bytes().len()
    }

    // SAFETY (contract): called by the interpreter with a Py_buffer to fill in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let rows = slf.get();
        let bytes = rows.bytes();
        let read_only = c_int::from(matches!(rows.memory, Memory::Shared(_)));
        // SAFETY: `view` belongs to the interpreter. The view takes a reference to `slf`, so the memory stays alive.
        // Only a private mapping is declared writable: its pages are writable and belong to this process alone. Rust
        // code makes no reference into a private mapping once Python has it.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                isize::try_from(bytes.len())?,
                read_only,
                flags,
            )
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
