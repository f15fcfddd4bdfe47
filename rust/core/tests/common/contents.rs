//! Rows of a test in the form of any container.

use std::ops::Range;

use dejavec_core::batch::Batch;
use dejavec_core::directory::Spec;
use dejavec_core::format::column::Column;
use dejavec_core::format::container::Container;
use dejavec_core::format::dtype::Dtype;
use dejavec_core::format::flat::Metric;
use dejavec_core::format::keys::{HEADER_BYTES, RECORD_BYTES};
use dejavec_core::format::name;
use dejavec_core::key::Key;
use dejavec_core::row::{Row, Span};
use dejavec_core::store::Store;
use dejavec_core::target::Target;

use super::{DIM, Place, keys, spec, vector};

/// One container of each kind.
pub const CONTAINERS: [Container; 4] =
    [Container::Npy, Container::Flat(Metric::L2), Container::Ragged, Container::Sparse];

/// Runs a test on each container. A failure shows on which.
pub fn in_each(test: impl Fn(Container)) {
    for container in CONTAINERS {
        println!("{container:?}");
        test(container);
    }
}

/// A cache in a container, with elements of this many bytes.
pub fn spec_of(container: Container, element_bytes: usize) -> Spec {
    let (dim, dtype) = match container {
        Container::Npy | Container::Ragged if element_bytes.is_multiple_of(4) => (element_bytes / 4, "<f4"),
        Container::Npy | Container::Ragged => (element_bytes, "|u1"),
        Container::Flat(_) => (element_bytes / 4, "<f4"),
        Container::Sparse => (1000, "<f4"),
    };
    Spec { dim: dim as u32, dtype: dtype.into(), container, ..spec() }
}

/// A cache in a container, with elements of four bytes.
pub fn small_spec(container: Container) -> Spec {
    if container == Container::Npy { spec() } else { spec_of(container, DIM) }
}

/// The files of rows of a small cache: those of the numbers first.
pub fn columns(container: Container) -> Vec<Column> {
    let spec = small_spec(container);
    container.columns(Dtype::parse(&spec.dtype).unwrap(), spec.dim)
}

/// The bytes of some rows in each file of a small cache: those of the numbers first, the key records last.
pub fn location(place: &Place, rows: Range<u64>) -> Vec<(&'static str, Range<usize>)> {
    let start_of = |row: u64| match place.container.indptr() {
        None => row,
        Some(column) => {
            // The entry before a row's own is where the row begins.
            let entries = place.read(column.file_name).split_off(column.header_bytes() - 8);
            u64::from_le_bytes(entries.as_chunks().0[row as usize])
        }
    };
    let elements = start_of(rows.start)..start_of(rows.end);
    let bytes = |range: &Range<u64>, header: usize, size: u64| {
        header + (range.start * size) as usize..header + (range.end * size) as usize
    };
    let mut found = Vec::new();
    for column in columns(place.container) {
        let range = if Some(column) == place.container.indptr() { &rows } else { &elements };
        found.push((column.file_name, bytes(range, column.header_bytes(), column.element_bytes())));
    }
    found.push((name::KEYS, bytes(&rows, HEADER_BYTES, RECORD_BYTES as u64)));
    found
}

/// Bytes of an element in its file.
pub fn element_bytes(container: Container, wanted: usize) -> usize {
    if container == Container::Sparse { 4 } else { wanted }
}

/// How many elements an item has in one of its versions. Where rows have elements, some have none at first: later ones
/// would be equal to these, and equal rows are not stored twice.
pub fn elements(container: Container, item: u64, version: u8) -> usize {
    let tokens = match version {
        0 => item as usize % 4,
        _ => 1 + (item as usize + usize::from(version)) % 3,
    };
    match container {
        Container::Npy | Container::Flat(_) => 1,
        Container::Ragged => tokens,
        Container::Sparse => tokens * 7,
    }
}

/// The content of an item in one of its versions, in a small cache.
pub fn content(container: Container, item: u64, version: u8) -> Vec<u8> {
    vector(item, version).into_iter().cycle().take(elements(container, item, version) * DIM).collect()
}

/// The rows of items in one of their versions, in a small cache.
pub fn rows(container: Container, items: impl IntoIterator<Item = u64>, version: u8) -> Contents {
    Contents::of(container, DIM, items.into_iter().map(|item| content(container, item, version)))
}

/// The versions of items that a small cache holds. None for a miss, and for a row that failed. Panics at a row that
/// nobody stored.
pub fn versions(store: &Store, items: impl IntoIterator<Item = u64>) -> Vec<Option<u8>> {
    let items: Vec<u64> = items.into_iter().collect();
    let container = store.meta().unwrap().container;
    let found = read(store, &keys(items.iter().copied())).unwrap();
    let version = |(item, found): (u64, Option<Vec<u8>>)| {
        let found = found?;
        // Only a first version can be without elements.
        let version = found.get(DIM - 1).copied().unwrap_or(0);
        assert_eq!(found, content(container, item, version), "a row of item {item} that nobody stored");
        Some(version)
    };
    items.into_iter().zip(found).map(version).collect()
}

/// The indices of some numbers: others for others.
fn indices_of(data: &[u8]) -> Vec<u8> {
    data.iter().map(|byte| byte ^ 0x5A).collect()
}

/// Rows in memory.
pub struct Contents {
    data: Vec<u8>,
    indices: Option<Vec<u8>>,
    indptr: Option<Vec<i64>>,
}

/// The text of an item of [`super::key`].
pub fn text(item: u64) -> [u8; 8] {
    item.to_le_bytes()
}

/// Texts as a call takes them.
pub fn all_of(texts: &[[u8; 8]]) -> Vec<Option<&[u8]>> {
    texts.iter().map(|text| Some(text.as_slice())).collect()
}

impl Contents {
    /// The rows with this content.
    pub fn of(container: Container, element_bytes: usize, rows: impl IntoIterator<Item = Vec<u8>>) -> Contents {
        let (mut data, mut indptr) = (Vec::new(), vec![0]);
        for row in rows {
            data.extend(row);
            indptr.push((data.len() / element_bytes) as i64);
        }
        Contents {
            indices: container.indices().map(|_| indices_of(&data)),
            indptr: container.indptr().map(|_| indptr),
            data,
        }
    }

    pub fn batch(&self) -> Batch<'_> {
        Batch {
            data: (&self.data).into(),
            indices: self.indices.as_deref(),
            indptr: self.indptr.as_deref(),
            texts: None,
        }
    }
}

/// The content of the rows of some keys. None for a miss, and for a row that failed.
pub fn read(store: &Store, keys: &[Key]) -> dejavec_core::Result<Vec<Option<Vec<u8>>>> {
    let mut rows = vec![0; keys.len()];
    store.lookup(keys, &mut rows)?;
    read_rows(store, keys, &rows)
}

/// The content of the rows of some keys, which a look-up found. None for a miss, and for a row that failed.
pub fn read_rows(store: &Store, keys: &[Key], rows: &[i64]) -> dejavec_core::Result<Vec<Option<Vec<u8>>>> {
    let check = |(data, indices): (Vec<u8>, Option<Vec<u8>>)| {
        assert!(indices.is_none_or(|indices| indices == indices_of(&data)), "wrong indices");
        data
    };
    Ok(read_parts(store, keys, rows)?.into_iter().map(|content| content.map(check)).collect())
}

/// The numbers of a row, and their indices.
pub type Parts = (Vec<u8>, Option<Vec<u8>>);

/// The content of some keys that no test here stored. None for a miss, and for a row that failed.
pub fn read_any(store: &Store, keys: &[Key]) -> dejavec_core::Result<Vec<Option<Parts>>> {
    let mut rows = vec![0; keys.len()];
    store.lookup(keys, &mut rows)?;
    read_parts(store, keys, &rows)
}

fn read_parts(store: &Store, keys: &[Key], rows: &[i64]) -> dejavec_core::Result<Vec<Option<Parts>>> {
    let meta = store.meta()?;
    let (container, size) = (meta.container, meta.data().element_bytes() as usize);
    let mut lengths = vec![0; keys.len()];
    store.lengths(rows, &mut lengths)?;
    let mut indptr = vec![0];
    for (row, length) in rows.iter().zip(lengths) {
        // A dense target has a place for a miss too.
        let length = if container.is_dense() || *row >= 0 { length } else { 0 };
        indptr.push(indptr[indptr.len() - 1] + length);
    }
    if container.is_dense() {
        indptr = (0..=keys.len() as i64).collect();
    }
    let total = indptr[keys.len()] as usize;
    let mut data = vec![0xEE; total * size];
    let mut indices = container.indices().map(|column| vec![0xEE; total * column.element_bytes() as usize]);
    let target = Target {
        data: &mut data,
        indices: indices.as_deref_mut(),
        indptr: container.indptr().map(|_| indptr.as_slice()),
    };
    let failed = store.gather(keys, rows, target, true)?;
    let contents = (0..keys.len()).map(|position| {
        if rows[position] < 0 || failed.contains(&position) {
            return None;
        }
        let range = indptr[position] as usize * size..indptr[position + 1] as usize * size;
        let indices = indices.as_ref().map(|indices| indices[range.clone()].to_vec());
        Some((data[range].to_vec(), indices))
    });
    Ok(contents.collect())
}

/// The bytes of the files of rows, without their headers.
pub struct Files {
    pub data: Vec<u8>,
    pub indices: Option<Vec<u8>>,
    /// With the first entry.
    pub offsets: Option<Vec<u8>>,
    pub element_bytes: usize,
}

impl Files {
    /// The content of a row, if the files hold one.
    pub fn row(&self, row: usize) -> Option<Row<'_>> {
        let size = self.element_bytes;
        let Some(offsets) = &self.offsets else {
            return Some(Row::dense(self.data.get(row * size..(row + 1) * size)?));
        };
        let bound = |at: usize| Some(u64::from_le_bytes(offsets.get(at * 8..at * 8 + 8)?.try_into().ok()?));
        let span = Span { start: bound(row)?, end: bound(row + 1)? };
        let of = |all: &'_ [u8], size: usize| {
            Some((span.start as usize).checked_mul(size)?..(span.end as usize).checked_mul(size)?)
                .filter(|range| range.start <= range.end && range.end <= all.len())
        };
        let indices = match &self.indices {
            None => None,
            Some(all) => Some(&all[of(all, 4)?]),
        };
        Some(Row { span: Some(span), data: &self.data[of(&self.data, size)?], indices })
    }
}
