//! One file of rows: its name, its header, and the bytes of an element.

use super::dtype::Dtype;
use super::flat::{self, Metric};
use super::{Defect, npy};

/// A file of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub file_name: &'static str,
    layout: Layout,
}

/// How the bytes of a file lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// A NumPy array: a matrix with `dim` columns, or a list of numbers.
    Npy { dtype: Dtype, dim: Option<u32> },
    /// A FAISS flat index.
    Flat { metric: Metric, dim: u32 },
    /// A NumPy list of where each row ends, behind an entry 0.
    Offsets,
}

/// Bytes of an entry of a list of offsets.
pub const OFFSET_BYTES: usize = 8;

/// The dtype of offsets.
const OFFSET: Dtype = Dtype { descr: "<i8", item_bytes: OFFSET_BYTES as u32 };

impl Column {
    /// A NumPy file: a matrix with `dim` columns, or a list.
    pub(super) fn npy(file_name: &'static str, dtype: Dtype, dim: Option<u32>) -> Column {
        Column { file_name, layout: Layout::Npy { dtype, dim } }
    }

    /// A FAISS flat index.
    pub(super) fn flat(file_name: &'static str, metric: Metric, dim: u32) -> Column {
        Column { file_name, layout: Layout::Flat { metric, dim } }
    }

    /// A NumPy list of where each row ends, behind an entry 0.
    pub(super) fn offsets(file_name: &'static str) -> Column {
        Column { file_name, layout: Layout::Offsets }
    }

    /// Bytes before the first element.
    pub fn header_bytes(self) -> usize {
        match self.layout {
            Layout::Npy { .. } => npy::HEADER_BYTES,
            Layout::Flat { .. } => flat::HEADER_BYTES,
            Layout::Offsets => npy::HEADER_BYTES + OFFSET_BYTES,
        }
    }

    /// Bytes of an element.
    pub fn element_bytes(self) -> u64 {
        match self.layout {
            Layout::Npy { dtype, dim } => u64::from(dim.unwrap_or(1)) * u64::from(dtype.item_bytes),
            Layout::Flat { dim, .. } => u64::from(dim) * size_of::<f32>() as u64,
            Layout::Offsets => OFFSET_BYTES as u64,
        }
    }

    /// Whether the elements are aligned, so that a mapping can be a NumPy array.
    pub fn is_aligned(self) -> bool {
        self.header_bytes().is_multiple_of(size_of::<u64>())
    }

    /// The header of a file that shows `count` elements to other programs.
    pub fn header(self, count: u64) -> Vec<u8> {
        match self.layout {
            Layout::Npy { dtype, dim } => npy::Header { dtype, rows: count, dim }.to_bytes().to_vec(),
            Layout::Flat { metric, dim } => flat::Header { metric, rows: count, dim }.to_bytes().to_vec(),
            Layout::Offsets => {
                let header = npy::Header { dtype: OFFSET, rows: count.saturating_add(1), dim: None };
                [header.to_bytes().as_slice(), &[0; OFFSET_BYTES]].concat()
            }
        }
    }

    /// Checks a header like [`Column::check`], but ignores the counts. They are for other programs, and may be half
    /// written: by a torn write, or by a writer at work.
    pub fn check_but_counts(self, bytes: &[u8]) -> Result<(), Defect> {
        match self.layout {
            Layout::Npy { dtype, dim } if npy::Header::is_one_or_torn(bytes, dtype, dim) => Ok(()),
            Layout::Npy { .. } => self.check(bytes),
            Layout::Offsets => match bytes.split_at_checked(npy::HEADER_BYTES) {
                Some((list, first)) if npy::Header::is_one_or_torn(list, OFFSET, None) => self.check_first(first),
                _ => self.check(bytes),
            },
            Layout::Flat { .. } => {
                let (mut bytes, empty) = (bytes.to_vec(), self.header(0));
                for range in &flat::COUNTS {
                    if let (Some(counts), Some(zeros)) = (bytes.get_mut(range.clone()), empty.get(range.clone())) {
                        counts.copy_from_slice(zeros);
                    }
                }
                self.check(&bytes)
            }
        }
    }

    /// Checks that a header is one of this file, with any count.
    pub fn check(self, bytes: &[u8]) -> Result<(), Defect> {
        let is_right = match self.layout {
            Layout::Npy { dtype, dim } => {
                let found = npy::Header::parse(bytes)?;
                found.dtype == dtype && found.dim == dim
            }
            Layout::Flat { .. } => self.header(flat::Header::parse(bytes)?.rows) == bytes,
            Layout::Offsets => {
                let (list, first) = bytes.split_at_checked(npy::HEADER_BYTES).unwrap_or((bytes, &[]));
                let found = npy::Header::parse(list)?;
                self.check_first(first)?;
                found.dtype == OFFSET && found.dim.is_none() && found.rows > 0
            }
        };
        if is_right {
            return Ok(());
        }
        Err(Defect::new(self.expected(), String::from_utf8_lossy(bytes).trim_end().escape_debug().to_string()))
    }

    /// Checks the first entry of a list of offsets.
    fn check_first(self, bytes: &[u8]) -> Result<(), Defect> {
        match bytes == [0; OFFSET_BYTES] {
            true => Ok(()),
            false => Err(Defect::new("0 as the first offset", super::hex(bytes))),
        }
    }

    fn expected(self) -> String {
        match self.layout {
            Layout::Npy { dtype, dim: Some(dim) } => format!("the npy header of rows of {dim} × {}", dtype.descr),
            Layout::Npy { dtype, dim: None } => format!("the npy header of a list of {}", dtype.descr),
            Layout::Flat { dim, .. } => format!("the faiss header of rows of {dim} × <f4"),
            Layout::Offsets => "the npy header of a list of <i8 with at least one entry".to_owned(),
        }
    }
}
