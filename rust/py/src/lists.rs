//! Lists of Python numbers.

use pyo3::prelude::*;
use pyo3::types::{PyList, PySlice};

/// How many numbers are made before other Python threads get a turn: about a millisecond.
const TURN: usize = 1 << 16;

/// Registers the content of this file in the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(to_lists, module)?)
}

#[pyfunction]
fn to_lists<'py>(py: Python<'py>, rows: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    let (count, dim): (isize, usize) = rows.getattr("shape")?.extract()?;
    let step = isize::try_from((TURN / dim.max(1)).max(1))?;
    let collector = py.import("gc")?;
    let lists = PyList::empty(py);
    let mut start = 0;
    while start < count {
        let end = count.min(start.saturating_add(step));
        // The collector would walk through all new lists again and again, and numbers are never garbage here. No code of
        // Python's runs while it is off, so no other thread can see that.
        let is_on: bool = collector.call_method0("isenabled")?.extract()?;
        if is_on {
            collector.call_method0("disable")?;
        }
        let made = extend(&lists, rows, start, end);
        if is_on {
            collector.call_method0("enable")?;
        }
        made?;
        py.detach(|| ());
        py.check_signals()?;
        start = end;
    }
    Ok(lists)
}

/// Appends the lists of some rows.
fn extend(lists: &Bound<'_, PyList>, rows: &Bound<'_, PyAny>, start: isize, end: isize) -> PyResult<()> {
    let some = rows.get_item(PySlice::new(rows.py(), start, end, 1))?;
    lists.call_method1("extend", (some.call_method0("tolist")?,))?;
    Ok(())
}
