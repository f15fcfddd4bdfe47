//! Errors of the core as exceptions. Python chooses the class and the remedy of each kind.

use dejavec_core::Error;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;

/// The exception that `dejavec.support.core_errors` makes of an error.
fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let path = error.path().map(|path| path.display().to_string());
    let details = (error.kind(), error.to_string(), path, error.expected(), error.found());
    let made = py.import("dejavec.support.core_errors")?.getattr("exception")?.call1(details)?;
    Ok(PyErr::from_value(made))
}

/// The Python exception for an error of the core.
pub fn to_python(py: Python<'_>, error: Error) -> PyErr {
    if matches!(error, Error::Interrupted) {
        return PyErr::take(py).unwrap_or_else(|| PyKeyboardInterrupt::new_err(()));
    }
    exception(py, &error).unwrap_or_else(|failed| PyRuntimeError::new_err(format!("{error} (and {failed})")))
}

/// The error for an item that is no text.
pub fn item_error(py: Python<'_>, message: String) -> PyErr {
    let made = py.import("dejavec.errors").and_then(|module| module.getattr("ItemError")?.call1((message,)));
    made.map_or_else(|failed| failed, PyErr::from_value)
}
