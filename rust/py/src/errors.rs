//! Errors of the core as the exceptions of `dejavec.errors`.

use dejavec_core::Error;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The class in `dejavec.errors` that stands for an error.
fn class_name(error: &Error) -> &'static str {
    match error {
        Error::Corrupt { .. } | Error::CorruptMeta { .. } | Error::MostlyDamaged { .. } | Error::Missing { .. } => {
            "CorruptCacheError"
        }
        Error::NotFound { .. } => "CacheNotFoundError",
        Error::Foreign { .. } => "ForeignDirectoryError",
        Error::Version { .. } => "UnsupportedVersionError",
        Error::Mismatch { .. } | Error::OtherCache { .. } | Error::Argument { .. } => "VectorsError",
        Error::LockTimeout { .. } => "LockTimeoutError",
        Error::Remote { .. } => "NetworkFileSystemError",
        Error::ReadOnly { .. } => "ReadOnlyCacheError",
        Error::Poisoned { .. } => "PoisonedWriterError",
        Error::Closed { .. } => "ClosedCacheError",
        _ => "StorageError",
    }
}

/// An exception of `dejavec.errors` by the name of its class.
fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let details = PyDict::new(py);
    details.set_item("path", error.path().map(|path| path.display().to_string()))?;
    details.set_item("expected", error.expected())?;
    details.set_item("found", error.found())?;
    details.set_item("remedy", error.remedy())?;
    let class = py.import("dejavec.errors")?.getattr(class_name(error))?;
    Ok(PyErr::from_value(class.call((error.to_string(),), Some(&details))?))
}

/// The Python exception for an error of the core.
pub fn to_python(py: Python<'_>, error: Error) -> PyErr {
    if matches!(error, Error::Interrupted) {
        return PyErr::take(py).unwrap_or_else(|| PyKeyboardInterrupt::new_err(()));
    }
    exception(py, &error).unwrap_or_else(|failed| PyRuntimeError::new_err(format!("{error} (and {failed})")))
}

/// An item that is no text.
pub fn item_error(py: Python<'_>, message: String) -> PyErr {
    let made = py.import("dejavec.errors").and_then(|module| module.getattr("ItemError")?.call1((message,)));
    made.map_or_else(|failed| failed, PyErr::from_value)
}
