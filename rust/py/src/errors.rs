//! Errors of the core as the exceptions of `dejavec.errors`.

use dejavec_core::Error;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;

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
    let class = py.import("dejavec.errors")?.getattr(class_name(error))?;
    // The sentence is the core's own, so it is not composed of the parts once more.
    let made = class.call1((error.to_string(),))?;
    made.setattr("path", error.path().map(|path| path.display().to_string()))?;
    made.setattr("expected", error.expected())?;
    made.setattr("found", error.found())?;
    made.setattr("remedy", error.remedy())?;
    Ok(PyErr::from_value(made))
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
