//! Memory of a caller, with a place for each row that is read.

use crate::batch::check_bytes;
use crate::error::{Error, Result};

/// The memory.
#[derive(Debug)]
pub struct Target<'a> {
    /// For numbers.
    pub data: &'a mut [u8],
    /// For the index of each number, in a sparse cache.
    pub indices: Option<&'a mut [u8]>,
    /// Where the place of each row begins, and where the last one ends, in elements. None in a dense cache.
    pub indptr: Option<&'a [i64]>,
}

impl<'a, T: AsMut<[u8]> + ?Sized> From<&'a mut T> for Target<'a> {
    fn from(data: &'a mut T) -> Target<'a> {
        Target { data: data.as_mut(), indices: None, indptr: None }
    }
}

/// The place of one row.
#[derive(Debug)]
pub struct RowTarget<'a> {
    /// For its numbers.
    pub data: &'a mut [u8],
    /// For their indices, in a sparse cache.
    pub indices: Option<&'a mut [u8]>,
}

impl RowTarget<'_> {
    pub(crate) fn fill_with_zeros(&mut self) {
        self.data.fill(0);
        if let Some(indices) = &mut self.indices {
            indices.fill(0);
        }
    }
}

/// Places of contiguous rows.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    data: &'a mut [u8],
    indices: Option<&'a mut [u8]>,
    /// As in [`Target`], of these rows.
    indptr: Option<&'a [i64]>,
    sizes: (usize, usize),
}

impl<'a> Target<'a> {
    /// Checks that there is a place for each of `rows` rows. `sizes` are the bytes of an element.
    pub(crate) fn check(&self, rows: usize, sizes: (usize, usize)) -> Result<()> {
        let elements = match self.indptr {
            None => rows,
            Some(offsets) => {
                let ascends = offsets.first() == Some(&0) && offsets.is_sorted();
                if !ascends || Some(offsets.len()) != rows.checked_add(1) {
                    let found = format!("{} that {}", offsets.len(), if ascends { "do" } else { "do not" });
                    return Err(Error::Argument { expected: format!("{rows} + 1 offsets that ascend from 0"), found });
                }
                offsets.last().map_or(0, |last| usize::try_from(*last).unwrap_or(usize::MAX))
            }
        };
        check_bytes("output", elements, sizes.0, self.data.len())?;
        self.indices.as_ref().map_or(Ok(()), |indices| check_bytes("output", elements, sizes.1, indices.len()))
    }

    /// The places of each `piece` rows. The target is checked.
    pub(crate) fn pieces(self, piece: usize, rows: usize, sizes: (usize, usize)) -> Vec<Places<'a>> {
        let Target { mut data, mut indices, indptr } = self;
        let mut pieces = Vec::with_capacity(rows.div_ceil(piece));
        for first in (0..rows).step_by(piece) {
            let last = rows.min(first + piece);
            let indptr = indptr.map(|offsets| &offsets[first..=last]);
            let elements = indptr.map_or(last - first, elements_of);
            pieces.push(Places {
                data: take(&mut data, elements * sizes.0),
                indices: indices.as_mut().map(|indices| take(indices, elements * sizes.1)),
                indptr,
                sizes,
            });
        }
        pieces
    }
}

/// How many elements contiguous rows with these offsets have.
fn elements_of(offsets: &[i64]) -> usize {
    match (offsets.first(), offsets.last()) {
        (Some(first), Some(last)) => (last - first) as usize,
        _ => 0,
    }
}

/// Takes bytes from the front, at most as many as there are.
#[inline]
fn take<'a>(bytes: &mut &'a mut [u8], count: usize) -> &'a mut [u8] {
    let all = std::mem::take(bytes);
    let (front, rest) = all.split_at_mut(count.min(all.len()));
    *bytes = rest;
    front
}

impl<'a> Places<'a> {
    /// The place of the next row.
    #[inline]
    pub(crate) fn next_row(&mut self) -> RowTarget<'a> {
        let elements = match &mut self.indptr {
            None => 1,
            Some(offsets) => {
                let elements = elements_of(offsets.get(..2).unwrap_or_default());
                *offsets = offsets.get(1..).unwrap_or_default();
                elements
            }
        };
        RowTarget {
            data: take(&mut self.data, elements * self.sizes.0),
            indices: self.indices.as_mut().map(|indices| take(indices, elements * self.sizes.1)),
        }
    }
}
