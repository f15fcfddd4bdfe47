//! The files that hold the rows.

use super::column::Column;
use super::dtype::Dtype;
use super::flat::Metric;
use super::{MAX_DIM, MAX_TOKENS};

/// How rows lie in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// `vectors.npy`: a NumPy file, of any dtype.
    Npy,
    /// `vectors.faiss`: a FAISS flat index, of float32.
    Flat(Metric),
    /// Rows of any number of vectors: `vectors.npy`, and `indptr.npy` with where each row ends.
    Ragged,
    /// Rows of few numbers: `values.npy`, `indices.npy`, and `indptr.npy` with where each row ends.
    Sparse,
}

const INDEX: Dtype = Dtype { descr: "<i4", item_bytes: 4 };

impl Container {
    /// All containers.
    pub const ALL: [Container; 5] = [
        Container::Npy,
        Container::Flat(Metric::L2),
        Container::Flat(Metric::InnerProduct),
        Container::Ragged,
        Container::Sparse,
    ];

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
            Container::Ragged => "ragged",
            Container::Sparse => "sparse",
        }
    }

    /// The format version of a cache in it that was never compacted.
    pub fn version(self) -> u32 {
        if self.is_dense() { 1 } else { 2 }
    }

    /// Whether each row is one vector.
    pub fn is_dense(self) -> bool {
        matches!(self, Container::Npy | Container::Flat(_))
    }

    /// Whether its rows have exactly these parts beside their numbers.
    pub(crate) fn has_parts(self, indices: bool, indptr: bool) -> bool {
        indices == self.indices().is_some() && indptr != self.is_dense()
    }

    /// Whether it can hold numbers of this type.
    pub fn holds(self, dtype: Dtype) -> bool {
        match self {
            Container::Npy | Container::Ragged | Container::Sparse => true,
            Container::Flat(_) => dtype.descr == "<f4",
        }
    }

    /// The largest dimension.
    pub fn max_dim(self) -> u32 {
        // Indices are signed numbers of 32 bits. Vocabularies are larger than dense vectors.
        if self == Container::Sparse { i32::MAX.unsigned_abs() } else { MAX_DIM }
    }

    /// Whether vectors can have this dimension.
    pub fn has_dim(self, dim: u32) -> bool {
        (1..=self.max_dim()).contains(&dim)
    }

    /// The most elements of a row.
    pub fn max_elements_of_row(self, dim: u32) -> u64 {
        match self {
            Container::Npy | Container::Flat(_) => 1,
            Container::Ragged => MAX_TOKENS,
            Container::Sparse => dim.into(),
        }
    }

    /// The file of the rows' numbers.
    pub fn data(self, dtype: Dtype, dim: u32) -> Column {
        match self {
            Container::Npy | Container::Ragged => Column::npy("vectors.npy", dtype, Some(dim)),
            Container::Flat(metric) => Column::flat("vectors.faiss", metric, dim),
            Container::Sparse => Column::npy("values.npy", dtype, None),
        }
    }

    /// The file of the index of each number.
    pub fn indices(self) -> Option<Column> {
        (self == Container::Sparse).then(|| Column::npy("indices.npy", INDEX, None))
    }

    /// The file of where each row ends, counted in elements. Without it each row is one element.
    pub fn indptr(self) -> Option<Column> {
        (!self.is_dense()).then(|| Column::offsets("indptr.npy"))
    }

    /// All files of the rows.
    pub fn columns(self, dtype: Dtype, dim: u32) -> Vec<Column> {
        [Some(self.data(dtype, dim)), self.indices(), self.indptr()].into_iter().flatten().collect()
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
    fn a_header_of_other_rows_or_another_file_is_noticed() {
        let [dtype, half] = ["<f4", "<f2"].map(|descr| Dtype::parse(descr).unwrap());
        let columns: Vec<Column> =
            Container::ALL.into_iter().flat_map(|container| container.columns(dtype, 3)).collect();
        for column in &columns {
            let header = column.header(7);
            assert_eq!(header.len(), column.header_bytes());
            assert_eq!(column.check(&header), Ok(()));
            // With half written counts a reader opens the cache, and `verify` reports them.
            let other_counts = column.header(MAX_ROWS);
            let differing: Vec<_> = (0..header.len()).filter(|&at| header[at] != other_counts[at]).collect();
            let mut torn = header.clone();
            for at in &differing[..2] {
                torn[*at] = other_counts[*at];
            }
            assert_eq!(column.check_but_counts(&torn), Ok(()));
            assert!(column.check(&torn).is_err(), "{column:?}");
            assert!(column.check(&header[..header.len() - 1]).is_err(), "{column:?}");
            for other in &columns {
                assert_eq!(other.check(&header).is_ok(), other == column, "{other:?}");
                assert_eq!(other.check_but_counts(&header).is_ok(), other == column, "{other:?}");
            }
        }
        let header = Container::Npy.data(dtype, 3).header(7);
        for other in [Container::Npy.data(dtype, 4), Container::Npy.data(half, 3)] {
            assert!(other.check(&header).is_err() && other.check_but_counts(&header).is_err());
        }
        assert!(Container::Npy.holds(half) && !Container::Flat(Metric::L2).holds(half));
    }

    #[test]
    fn the_first_offset_is_zero() {
        let offsets = Container::Ragged.indptr().unwrap();
        let mut header = offsets.header(0);
        header[128] = 1;
        assert!(offsets.check(&header).is_err() && offsets.check_but_counts(&header).is_err());
    }
}
