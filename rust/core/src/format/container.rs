//! The file that holds the rows, and its header.

use super::dtype::Dtype;
use super::flat::{self, Metric};
use super::{Defect, npy};

/// The format of the rows file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// `vectors.npy`: a NumPy file, of any dtype.
    Npy,
    /// `vectors.faiss`: a FAISS flat index, of float32.
    Flat(Metric),
}

impl Container {
    /// All containers.
    pub const ALL: [Container; 3] =
        [Container::Npy, Container::Flat(Metric::L2), Container::Flat(Metric::InnerProduct)];

    /// The container with this name.
    pub fn parse(name: &str) -> Option<Container> {
        Container::ALL.into_iter().find(|container| container.name() == name)
    }

    /// Its name in `meta.json`.
    pub fn name(self) -> &'static str {
        match self {
            Container::Npy => "npy",
            Container::Flat(Metric::L2) => "faiss-l2",
            Container::Flat(Metric::InnerProduct) => "faiss-ip",
        }
    }

    /// The name of the file.
    pub fn file_name(self) -> &'static str {
        match self {
            Container::Npy => "vectors.npy",
            Container::Flat(_) => "vectors.faiss",
        }
    }

    /// Bytes before the first row.
    pub fn header_bytes(self) -> usize {
        match self {
            Container::Npy => npy::HEADER_BYTES,
            Container::Flat(_) => flat::HEADER_BYTES,
        }
    }

    /// Whether row data is aligned, so that a mapping can be a NumPy array.
    pub fn is_aligned(self) -> bool {
        self.header_bytes().is_multiple_of(size_of::<u64>())
    }

    /// Whether it can hold numbers of this type.
    pub fn holds(self, dtype: Dtype) -> bool {
        match self {
            Container::Npy => true,
            Container::Flat(_) => dtype.descr == "<f4",
        }
    }

    /// The header of a file that shows `rows` rows to other programs.
    pub fn header(self, dtype: Dtype, dim: u32, rows: u64) -> Vec<u8> {
        match self {
            Container::Npy => npy::Header { dtype, rows, dim }.to_bytes().to_vec(),
            Container::Flat(metric) => flat::Header { metric, rows, dim }.to_bytes().to_vec(),
        }
    }

    /// Checks a header like [`Container::check`], but ignores the counts. They are for other programs, and may be half
    /// written: by a torn write, or by a writer at work.
    pub fn check_but_counts(self, bytes: &[u8], dtype: Dtype, dim: u32) -> Result<(), Defect> {
        match self {
            Container::Npy if npy::Header::is_one_or_torn(bytes, dtype, dim) => Ok(()),
            Container::Npy => self.check(bytes, dtype, dim),
            Container::Flat(_) => {
                let (mut bytes, empty) = (bytes.to_vec(), self.header(dtype, dim, 0));
                for range in &flat::COUNTS {
                    if let (Some(counts), Some(zeros)) = (bytes.get_mut(range.clone()), empty.get(range.clone())) {
                        counts.copy_from_slice(zeros);
                    }
                }
                self.check(&bytes, dtype, dim)
            }
        }
    }

    /// Checks that a header belongs to such a file with such rows, of any count.
    pub fn check(self, bytes: &[u8], dtype: Dtype, dim: u32) -> Result<(), Defect> {
        let is_right = match self {
            Container::Npy => {
                let found = npy::Header::parse(bytes)?;
                found.dtype == dtype && found.dim == dim
            }
            Container::Flat(_) => self.header(dtype, dim, flat::Header::parse(bytes)?.rows) == bytes,
        };
        if is_right {
            return Ok(());
        }
        let expected = format!("the {} header of rows of {dim} × {}", self.name(), dtype.descr);
        Err(Defect::new(expected, String::from_utf8_lossy(bytes).trim_end().escape_debug().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_ROWS;
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_none() {
        for container in Container::ALL {
            assert_eq!(Container::parse(container.name()), Some(container));
        }
        assert_eq!(Container::parse("faiss"), None);
    }

    #[test]
    fn a_header_of_other_rows_or_another_container_is_noticed() {
        let dtype = Dtype::parse("<f4").unwrap();
        for container in Container::ALL {
            let header = container.header(dtype, 3, 7);
            assert_eq!(header.len(), container.header_bytes());
            assert_eq!(container.check(&header, dtype, 3), Ok(()));
            assert!(container.check(&header, dtype, 4).is_err());
            // With half written counts a reader opens the cache, and `verify` reports them.
            let other_counts = container.header(dtype, 3, MAX_ROWS);
            let differing: Vec<_> = (0..header.len()).filter(|&at| header[at] != other_counts[at]).collect();
            let mut torn = header.clone();
            for at in &differing[..2] {
                torn[*at] = other_counts[*at];
            }
            assert_eq!(container.check_but_counts(&torn, dtype, 3), Ok(()));
            assert!(container.check(&torn, dtype, 3).is_err());
            assert!(container.check_but_counts(&header, dtype, 4).is_err());
            for other in Container::ALL {
                assert_eq!(other.check(&header, dtype, 3).is_ok(), other == container);
            }
        }
        let half = Dtype::parse("<f2").unwrap();
        assert!(Container::Npy.check(&Container::Npy.header(dtype, 3, 7), half, 3).is_err());
        assert!(Container::Npy.holds(half) && !Container::Flat(Metric::L2).holds(half));
    }
}
