//! The content of a Python string, read without caching a second copy in it.
//!
//! Python caches the UTF-8 of a string inside it when a caller asks for it. An ASCII string is its own UTF-8. So only
//! ASCII strings are asked for their UTF-8. Other strings are copied as code points.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ptr;

use dejavec_core::text::Texts;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// `str.isascii` as C code. The stable ABI has no other way to ask that neither copies nor caches.
static IS_ASCII: PyOnceLock<Option<IsAscii>> = PyOnceLock::new();

#[derive(Clone, Copy)]
struct IsAscii(ffi::PyCFunction);

impl IsAscii {
    /// The code behind the method of an empty string; None if this Python implements it in another way.
    fn find(py: Python<'_>) -> Option<IsAscii> {
        let method = PyString::new(py, "").getattr("isascii").ok()?;
        let method = method.cast::<pyo3::types::PyCFunction>().ok()?;
        // SAFETY: `method` is a PyCFunction (cast above) and the GIL is held.
        let (flags, code) =
            unsafe { (ffi::PyCFunction_GetFlags(method.as_ptr()), ffi::PyCFunction_GetFunction(method.as_ptr())) };
        (flags == ffi::METH_NOARGS).then_some(IsAscii(code?))
    }

    fn call(self, text: &Bound<'_, PyString>) -> PyResult<bool> {
        // SAFETY: this is the code of a method of `str` without arguments (checked in `find`): by its calling
        // convention it takes a `str`, as `text` is one, and NULL, and returns a new reference or NULL with an
        // exception set.
        let answer = unsafe {
            let answer = (self.0)(text.as_ptr(), ptr::null_mut());
            Bound::from_owned_ptr_or_err(text.py(), answer)?
        };
        answer.is_truthy()
    }
}

fn is_ascii(text: &Bound<'_, PyString>) -> PyResult<bool> {
    match IS_ASCII.get_or_init(text.py(), || IsAscii::find(text.py())) {
        Some(is_ascii) => is_ascii.call(text),
        None => text.call_method0("isascii")?.is_truthy(),
    }
}

/// Adds a text to texts.
pub fn push<'a>(text: &'a Bound<'_, PyString>, texts: &mut Texts<'a>) -> PyResult<()> {
    if is_ascii(text)? {
        texts.push_utf8(text.to_str()?.as_bytes());
        return Ok(());
    }
    let target = texts.push_code_points(text.len()?);
    let length = target.len() as ffi::Py_ssize_t;
    // SAFETY: `text` is a `str`, which cannot change, and the GIL is held; `target` has room for as many code points as
    // the string has, and no terminating zero is asked for.
    let copied = unsafe { ffi::PyUnicode_AsUCS4(text.as_ptr(), target.as_mut_ptr(), length, 0) };
    if copied.is_null() { Err(PyErr::fetch(text.py())) } else { Ok(()) }
}

/// The UTF-8 bytes of a text: borrowed if it is ASCII, else a copy. Lone surrogates are encoded as by `surrogatepass`.
pub fn utf8<'a>(text: &'a Bound<'_, PyString>) -> PyResult<Cow<'a, [u8]>> {
    if is_ascii(text)? {
        return Ok(Cow::Borrowed(text.to_str()?.as_bytes()));
    }
    let mut texts = Texts::default();
    push(text, &mut texts)?;
    Ok(Cow::Owned(texts.with_utf8(|texts| texts.get(0).to_vec())))
}

/// The UTF-8 bytes of texts.
pub fn all_utf8<'a>(texts: &'a [Option<Bound<'_, PyString>>]) -> PyResult<Vec<Option<Cow<'a, [u8]>>>> {
    texts.iter().map(|text| text.as_ref().map(utf8).transpose()).collect()
}

/// References to the bytes of texts.
pub fn borrowed<'a>(texts: &'a [Option<Cow<'_, [u8]>>]) -> Vec<Option<&'a [u8]>> {
    texts.iter().map(Option::as_deref).collect()
}
