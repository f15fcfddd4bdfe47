//! A cache directory, open.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dejavec_core::atomic;
use dejavec_core::directory::{self, Spec};
use dejavec_core::files;
use dejavec_core::format::container::Container;
use dejavec_core::format::{hex, name};
use dejavec_core::generations;
use dejavec_core::key;
use dejavec_core::lock::{self, HeldLock, Patience};
use dejavec_core::repair::{self, Consent};
use dejavec_core::storage::{DiskStorage, Storage};
use dejavec_core::store::{self, Durability, Limits, Options, Seen};
use dejavec_core::verify::{self as checking, Report};
use dejavec_core::{Error, Result};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::buffers::{Array, as_keys, as_keys_mut};
use crate::columns::{Given, Places};
use crate::errors::to_python;
use crate::rows::Rows;
use crate::strings::{all_utf8, borrowed, utf8};

/// Registers the content of this file in the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Store>()?;
    module.add_class::<Numbering>()?;
    module.add_class::<Progress>()?;
    module.add_function(wrap_pyfunction!(before_fork, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork_in_parent, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork_in_child, module)?)?;
    module.add_function(wrap_pyfunction!(make_directories, module)?)?;
    module.add_function(wrap_pyfunction!(under_writers_lock, module)?)?;
    module.add_function(wrap_pyfunction!(repair_directory, module)?)?;
    module.add_function(wrap_pyfunction!(generation, module)?)?;
    module.add_function(wrap_pyfunction!(file_in_generation, module)?)?;
    module.add_function(wrap_pyfunction!(is_of_a_cache, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)
}

#[pyfunction]
fn before_fork() {
    lock::note_fork();
}

#[pyfunction]
fn after_fork_in_parent() {
    lock::note_forked();
}

#[pyfunction]
fn after_fork_in_child() {
    lock::close_inherited();
}

#[pyfunction]
#[pyo3(signature = (path, *, shared))]
fn make_directories(py: Python<'_>, path: PathBuf, shared: bool) -> PyResult<()> {
    detached(py, || atomic::create_directories(&DiskStorage, &path, shared))
}

#[pyfunction]
#[pyo3(signature = (path, function, *, lock_timeout, allow_network))]
fn under_writers_lock<'py>(
    py: Python<'py>,
    path: PathBuf,
    function: &Bound<'py, PyAny>,
    lock_timeout: f64,
    allow_network: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let (lock, patience) = (path.join(name::LOCK), patience(lock_timeout)?);
    let _held = detached(py, || {
        if !allow_network {
            directory::refuse_remote(&DiskStorage, &path)?;
        }
        HeldLock::acquire(&DiskStorage, &lock, patience)
    })?;
    function.call0()
}

#[pyfunction]
#[pyo3(name = "repair", signature = (path, *, lock_timeout, force=false, allow_network=false, progress=None))]
fn repair_directory<'py>(
    py: Python<'py>,
    path: PathBuf,
    lock_timeout: f64,
    force: bool,
    allow_network: bool,
    progress: Option<&Bound<'py, Progress>>,
) -> PyResult<Bound<'py, PyDict>> {
    let consent = Consent { patience: patience(lock_timeout)?, force, allow_network };
    let counted = Progress::counted(progress);
    let report = detached(py, || repair::repair_with(&DiskStorage, &path, consent, &counted))?;
    report_dict(py, report)
}

#[pyfunction]
fn generation(py: Python<'_>, path: PathBuf) -> PyResult<u64> {
    Ok(detached(py, || files::read_meta(&DiskStorage, &path))?.generation)
}

#[pyfunction]
fn file_in_generation(file: &str, generation: u64) -> String {
    name::in_generation(file, generation)
}

#[pyfunction]
fn is_of_a_cache(file: &str) -> bool {
    generations::is_of_a_cache(file)
}

#[pyfunction]
#[pyo3(signature = (path, progress=None))]
fn verify<'py>(
    py: Python<'py>,
    path: PathBuf,
    progress: Option<&Bound<'py, Progress>>,
) -> PyResult<Bound<'py, PyDict>> {
    let counted = Progress::counted(progress);
    let report = detached(py, || checking::verify_with(&DiskStorage, &path, &counted))?;
    report_dict(py, report)
}

/// How far a check is.
#[pyclass(module = "dejavec._core", frozen)]
#[derive(Default)]
pub struct Progress {
    inner: Arc<checking::Progress>,
}

impl Progress {
    /// The counter of the core, or one that nobody reads.
    fn counted(progress: Option<&Bound<'_, Progress>>) -> Arc<checking::Progress> {
        progress.map_or_else(Arc::default, |progress| Arc::clone(&progress.get().inner))
    }
}

#[pymethods]
impl Progress {
    #[new]
    fn new() -> Progress {
        Progress::default()
    }

    #[getter]
    fn rows(&self) -> u64 {
        self.inner.rows()
    }

    #[getter]
    fn checked(&self) -> u64 {
        self.inner.checked()
    }
}

/// What row numbers belong to.
#[pyclass(module = "dejavec._core", frozen, eq, hash)]
#[derive(PartialEq, Eq, Hash)]
pub struct Numbering {
    inner: store::Numbering,
}

/// Numbers, indices, offsets as bytes of `<i8`, and the positions that failed.
type MappedRows<'py> = (Rows, Option<Rows>, Option<Bound<'py, PyBytes>>, Vec<usize>);

/// An open cache directory.
#[pyclass(module = "dejavec._core", frozen)]
pub struct Store {
    inner: store::Store,
}

/// Runs work of the core without the GIL, and converts its error to an exception.
fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| to_python(py, error))
}

fn patience(lock_timeout: f64) -> PyResult<Patience> {
    let timeout = Duration::try_from_secs_f64(lock_timeout)
        .map_err(|_| PyValueError::new_err(format!("expected lock_timeout in seconds, found {lock_timeout}")))?;
    Ok(Patience { timeout, interrupted })
}

/// Whether a signal handler raised. [`to_python`] takes the exception.
fn interrupted() -> bool {
    Python::attach(|py| py.check_signals().map_err(|raised| raised.restore(py)).is_err())
}

fn options(
    writable: bool,
    durability: &str,
    lock_timeout: f64,
    shared: bool,
    allow_network: bool,
) -> PyResult<Options> {
    let durability = match durability {
        "commit" => Durability::Commit,
        "close" => Durability::Close,
        other => {
            return Err(PyValueError::new_err(format!("expected durability 'commit' or 'close', found {other:?}")));
        }
    };
    Ok(Options { writable, durability, patience: patience(lock_timeout)?, shared, allow_network })
}

fn container_named(name: &str) -> PyResult<Container> {
    Container::parse(name).ok_or_else(|| {
        let names = Container::ALL.map(Container::name).join(", ");
        PyValueError::new_err(format!("expected a container among {names}, found {name:?}"))
    })
}

fn disk() -> Arc<dyn Storage> {
    Arc::new(DiskStorage)
}

fn report_dict(py: Python<'_>, report: Report) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("rows", report.rows)?;
    dict.set_item("keys", report.keys)?;
    dict.set_item("dead", report.dead)?;
    dict.set_item("replaced", report.replaced)?;
    dict.set_item("damaged", report.damaged)?;
    dict.set_item("problems", report.problems)?;
    dict.set_item("texts", report.texts)?;
    dict.set_item("damaged_texts", report.damaged_texts)?;
    Ok(dict)
}

#[pymethods]
impl Store {
    #[staticmethod]
    #[pyo3(signature = (path, *, mode, durability, lock_timeout, allow_network))]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        mode: &str,
        durability: &str,
        lock_timeout: f64,
        allow_network: bool,
    ) -> PyResult<Store> {
        let writable = match mode {
            "r" => false,
            "a" => true,
            other => return Err(PyValueError::new_err(format!("expected mode 'r' or 'a', found {other:?}"))),
        };
        let options = options(writable, durability, lock_timeout, false, allow_network)?;
        let inner = detached(py, || store::Store::open(disk(), &path, options))?;
        Ok(Store { inner })
    }

    #[staticmethod]
    #[pyo3(signature = (
        path, *, dim, dtype, identity, output, container, durability, lock_timeout, shared, allow_network
    ))]
    #[expect(clippy::too_many_arguments, reason = "the Python signature")]
    fn create(
        py: Python<'_>,
        path: PathBuf,
        dim: u32,
        dtype: String,
        identity: &str,
        output: &str,
        container: &str,
        durability: &str,
        lock_timeout: f64,
        shared: bool,
        allow_network: bool,
    ) -> PyResult<Store> {
        let options = options(true, durability, lock_timeout, shared, allow_network)?;
        let container = container_named(container)?;
        let spec = Spec { dim, dtype, container, identity: json(identity)?, output: json(output)? };
        let inner = detached(py, || store::Store::create(disk(), &path, &spec, options))?;
        Ok(Store { inner })
    }

    #[getter]
    fn path(&self) -> String {
        self.inner.directory().display().to_string()
    }

    #[getter]
    fn uuid(&self, py: Python<'_>) -> PyResult<String> {
        Ok(hex(&self.inner.meta().map_err(|error| to_python(py, error))?.uuid))
    }

    #[getter]
    fn generation(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.inner.meta().map_err(|error| to_python(py, error))?.generation)
    }

    #[getter]
    fn numbering(&self, py: Python<'_>) -> PyResult<Numbering> {
        Ok(Numbering { inner: self.inner.numbering().map_err(|error| to_python(py, error))? })
    }

    #[getter]
    fn dim(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.inner.meta().map_err(|error| to_python(py, error))?.dim)
    }

    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.inner.meta().map_err(|error| to_python(py, error))?.dtype.descr)
    }

    #[getter]
    fn container(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.inner.meta().map_err(|error| to_python(py, error))?.container.name())
    }

    #[getter]
    fn identity(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.inner.meta().map_err(|error| to_python(py, error))?.identity.to_string())
    }

    #[getter]
    fn output(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.inner.meta().map_err(|error| to_python(py, error))?.output.to_string())
    }

    #[getter]
    fn rows(&self, py: Python<'_>) -> PyResult<u64> {
        self.inner.rows().map_err(|error| to_python(py, error))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(usize::try_from(self.inner.keys().map_err(|error| to_python(py, error))?)?)
    }

    fn read_keys(&self, py: Python<'_>, rows: &Bound<'_, PyAny>, out: &Bound<'_, PyAny>) -> PyResult<()> {
        let rows = Array::<i64>::input(rows)?;
        let rows = rows.items();
        let mut out = Array::<u8>::output(out)?;
        let keys = as_keys_mut(out.items_mut())?;
        detached(py, || self.inner.read_keys(rows, keys))
    }

    fn lookup(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, rows: &Bound<'_, PyAny>) -> PyResult<()> {
        let keys = Array::<u8>::input(keys)?;
        let keys = as_keys(keys.items())?;
        let mut rows = Array::<i64>::output(rows)?;
        let rows = rows.items_mut();
        detached(py, || self.inner.lookup(keys, rows))
    }

    fn read_text(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyString>,
        out: &Bound<'_, PyAny>,
        verify: bool,
    ) -> PyResult<bool> {
        let text = utf8(text)?;
        let mut out = Array::<u8>::output(out)?;
        let vector = out.items_mut();
        detached(py, || self.inner.read_newest(&key::of_text(&text), vector, verify))
    }

    fn newest<'py>(&self, py: Python<'py>) -> PyResult<(u64, u64, Bound<'py, PyBytes>)> {
        let newest = detached(py, || self.inner.newest())?;
        Ok((newest.rows, newest.replaced, PyBytes::new(py, &newest.bits.to_bytes())))
    }

    fn partition(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        rows: &Bound<'_, PyAny>,
        first: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let keys = Array::<u8>::input(keys)?;
        let keys = as_keys(keys.items())?;
        let (mut rows, mut first) = (Array::<i64>::output(rows)?, Array::<i64>::output(first)?);
        let (rows, first) = (rows.items_mut(), first.items_mut());
        detached(py, || self.inner.partition(keys, rows, first))
    }

    #[pyo3(signature = (keys, parts, seen, numbering=None, *, indices=None, indptr=None, texts=None))]
    #[expect(clippy::too_many_arguments, reason = "the Python signature")]
    fn append(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        parts: &Bound<'_, PyAny>,
        seen: Option<&Bound<'_, PyAny>>,
        numbering: Option<&Bound<'_, Numbering>>,
        indices: Option<&Bound<'_, PyAny>>,
        indptr: Option<&Bound<'_, PyAny>>,
        texts: Option<Vec<Option<Bound<'_, PyString>>>>,
    ) -> PyResult<Option<usize>> {
        let (keys, rows) = (Array::<u8>::input(keys)?, Given::of(parts, indices, indptr)?);
        let texts = texts.as_deref().map(all_utf8).transpose()?;
        let texts = texts.as_deref().map(borrowed);
        let parts = rows.parts();
        let (keys, batch) = (as_keys(keys.items())?, rows.batch(&parts, texts.as_deref()));
        let seen = seen.map(Array::<i64>::input).transpose()?;
        let numbering = numbering.map(|numbering| numbering.get().inner);
        let seen = seen.as_ref().map(|rows| Seen { rows: rows.items(), numbering });
        detached(py, || match self.inner.append(keys, batch, seen) {
            Err(Error::Renumbered { .. }) => Ok(None),
            appended => appended.map(Some),
        })
    }

    #[pyo3(signature = (keys, parts, *, indices=None, indptr=None, texts=None))]
    fn put(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        parts: &Bound<'_, PyAny>,
        indices: Option<&Bound<'_, PyAny>>,
        indptr: Option<&Bound<'_, PyAny>>,
        texts: Option<Vec<Option<Bound<'_, PyString>>>>,
    ) -> PyResult<usize> {
        let (keys, rows) = (Array::<u8>::input(keys)?, Given::of(parts, indices, indptr)?);
        let texts = texts.as_deref().map(all_utf8).transpose()?;
        let texts = texts.as_deref().map(borrowed);
        let parts = rows.parts();
        let (keys, batch) = (as_keys(keys.items())?, rows.batch(&parts, texts.as_deref()));
        detached(py, || self.inner.put(keys, batch))
    }

    fn delete(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<usize> {
        let keys = Array::<u8>::input(keys)?;
        let keys = as_keys(keys.items())?;
        detached(py, || self.inner.delete(keys))
    }

    fn compact(&self, py: Python<'_>) -> PyResult<u64> {
        detached(py, || self.inner.compact())
    }

    #[pyo3(signature = (*, max_bytes, max_rows, keep))]
    fn prune(
        &self,
        py: Python<'_>,
        max_bytes: Option<u64>,
        max_rows: Option<u64>,
        keep: &Bound<'_, PyAny>,
    ) -> PyResult<u64> {
        let keep = Array::<u8>::input(keep)?;
        let limits = Limits { max_bytes, max_rows, keep: as_keys(keep.items())? };
        detached(py, || self.inner.prune(limits))
    }

    #[pyo3(signature = (*, max_bytes, max_rows, keep))]
    fn pruning(
        &self,
        py: Python<'_>,
        max_bytes: Option<u64>,
        max_rows: Option<u64>,
        keep: &Bound<'_, PyAny>,
    ) -> PyResult<(u64, u64)> {
        let keep = Array::<u8>::input(keep)?;
        let limits = Limits { max_bytes, max_rows, keep: as_keys(keep.items())? };
        let pruning = detached(py, || self.inner.pruning(limits))?;
        Ok((pruning.dropped, pruning.bytes))
    }

    fn put_texts(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        texts: Vec<Option<Bound<'_, PyString>>>,
    ) -> PyResult<usize> {
        let keys = Array::<u8>::input(keys)?;
        let keys = as_keys(keys.items())?;
        let texts = all_utf8(&texts)?;
        let texts = borrowed(&texts);
        detached(py, || self.inner.put_texts(keys, &texts))
    }

    fn texts<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'_, PyAny>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let rows = Array::<i64>::input(rows)?;
        let rows = rows.items();
        let kept = detached(py, || self.inner.texts(rows))?;
        let lengths: Vec<u8> = kept.lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        Ok((PyBytes::new(py, &kept.bytes), PyBytes::new(py, &lengths)))
    }

    fn lengths(&self, py: Python<'_>, rows: &Bound<'_, PyAny>, out: &Bound<'_, PyAny>) -> PyResult<()> {
        let (rows, mut out) = (Array::<i64>::input(rows)?, Array::<i64>::output(out)?);
        let (rows, lengths) = (rows.items(), out.items_mut());
        detached(py, || self.inner.lengths(rows, lengths))
    }

    #[pyo3(signature = (keys, rows, out, *, verify, indices=None, indptr=None))]
    #[expect(clippy::too_many_arguments, reason = "the Python signature")]
    fn gather(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        rows: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        verify: bool,
        indices: Option<&Bound<'_, PyAny>>,
        indptr: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<usize>> {
        let (keys, rows) = (Array::<u8>::input(keys)?, Array::<i64>::input(rows)?);
        let (keys, rows) = (as_keys(keys.items())?, rows.items());
        let mut out = Places::of(out, indices, indptr)?;
        let target = out.target();
        detached(py, || self.inner.gather(keys, rows, target, verify))
    }

    #[pyo3(signature = (keys, rows, out, *, verify))]
    fn gather_halves(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        rows: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        verify: bool,
    ) -> PyResult<Vec<usize>> {
        let (keys, rows, mut out) = (Array::<u8>::input(keys)?, Array::<i64>::input(rows)?, Array::<u8>::output(out)?);
        let (keys, rows, out) = (as_keys(keys.items())?, rows.items(), out.items_mut());
        detached(py, || self.inner.gather_halves(keys, rows, out, verify))
    }

    #[pyo3(signature = (keys, first, *, verify))]
    fn map_rows<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'_, PyAny>,
        first: u64,
        verify: bool,
    ) -> PyResult<Option<MappedRows<'py>>> {
        let keys = Array::<u8>::input(keys)?;
        let keys = as_keys(keys.items())?;
        let Some(mapped) = detached(py, || self.inner.map_rows(keys, first, verify))? else { return Ok(None) };
        let indptr = mapped.indptr.map(|offsets| {
            let bytes: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
            PyBytes::new(py, &bytes)
        });
        Ok(Some((Rows::private(mapped.data), mapped.indices.map(Rows::private), indptr, mapped.failed)))
    }

    #[pyo3(signature = (first, out, *, verify))]
    fn read_rows(&self, py: Python<'_>, first: u64, out: &Bound<'_, PyAny>, verify: bool) -> PyResult<Vec<usize>> {
        let mut out = Array::<u8>::output(out)?;
        let out = out.items_mut();
        detached(py, || self.inner.read_rows(first, out, verify))
    }

    fn map_all(&self, py: Python<'_>) -> PyResult<(Rows, Option<Rows>, Option<Rows>)> {
        let all = detached(py, || self.inner.map_all())?;
        Ok((Rows::shared(all.data), all.indices.map(Rows::shared), all.ends.map(Rows::shared)))
    }

    fn refresh(&self, py: Python<'_>) -> PyResult<u64> {
        detached(py, || self.inner.refresh())
    }

    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.inner.sync())
    }

    fn has_texts(&self, py: Python<'_>) -> PyResult<bool> {
        detached(py, || self.inner.has_texts())
    }

    fn bytes_on_disk(&self, py: Python<'_>) -> PyResult<u64> {
        detached(py, || self.inner.bytes_on_disk())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let statistics = detached(py, || self.inner.statistics())?;
        let dict = PyDict::new(py);
        dict.set_item("rows", statistics.rows)?;
        dict.set_item("keys", statistics.keys)?;
        dict.set_item("synced", statistics.synced)?;
        dict.set_item("epoch", statistics.epoch)?;
        dict.set_item("elements", statistics.elements)?;
        dict.set_item("row_bytes", statistics.row_bytes)?;
        dict.set_item("bytes_on_disk", statistics.bytes_on_disk)?;
        dict.set_item("snapshot_rows", statistics.snapshot_rows)?;
        dict.set_item("delta_rows", statistics.delta_rows)?;
        dict.set_item("texts", statistics.texts)?;
        dict.set_item("reclaimable_rows", statistics.reclaimable_rows)?;
        dict.set_item("reclaimable_bytes", statistics.reclaimable_bytes)?;
        dict.set_item("generation", statistics.generation)?;
        Ok(dict)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.inner.close())
    }
}

/// Parses a JSON argument.
fn json(text: &str) -> PyResult<serde_json::Value> {
    serde_json::from_str(text)
        .map_err(|error| PyValueError::new_err(format!("expected a JSON object, found {text:?}: {error}")))
}
