//! The texts beside the rows: `texts.npy` has their bytes, and `texts-spans.npy` where the text of each row lies.

use super::column::Column;
use super::dtype::Dtype;
use super::{MAX_ELEMENTS, bytes_at, put};
use crate::row::Span;

/// Most bytes of a text that is kept.
pub const MAX_TEXT_BYTES: u64 = 1 << 28;

/// Most bytes of all texts of a cache.
pub const MAX_BYTES: u64 = MAX_ELEMENTS;

/// Bytes of a span.
pub const SPAN_BYTES: usize = 16;

const BYTE: Dtype = Dtype { descr: "|u1", item_bytes: 1 };
const NUMBER: Dtype = Dtype { descr: "<i8", item_bytes: 8 };

/// The file of bytes.
pub fn bytes() -> Column {
    Column::npy("texts.npy", BYTE, None)
}

/// The file of spans: two numbers a row, where the text of the row begins and ends.
pub fn spans() -> Column {
    Column::npy("texts-spans.npy", NUMBER, Some(2))
}

/// What a span says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The row has no text in the file.
    Nowhere,
    /// Its bytes.
    At(Span),
    /// No text can lie there.
    Impossible,
}

impl Place {
    /// Parses a span, in a file with this many bytes of texts.
    pub fn parse(span: &[u8; SPAN_BYTES], file_bytes: u64) -> Place {
        let [start, end] = [0, 8].map(|at| u64::from_le_bytes(bytes_at(span, at)));
        match (start, end) {
            (0, 0) => Place::Nowhere,
            _ if start < end && end <= file_bytes && end - start <= MAX_TEXT_BYTES => Place::At(Span { start, end }),
            _ => Place::Impossible,
        }
    }

    /// The bytes in the file. Only a place in the file has others than zeros.
    pub fn to_bytes(self) -> [u8; SPAN_BYTES] {
        let mut bytes = [0; SPAN_BYTES];
        if let Place::At(span) = self {
            put(&mut bytes, 0, &span.start.to_le_bytes());
            put(&mut bytes, 8, &span.end.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_of_the_file_are_a_place() {
        let span = |start: u64, end: u64| {
            let bytes = [start.to_le_bytes(), end.to_le_bytes()].concat();
            Place::parse(&bytes.try_into().unwrap(), 100)
        };
        let whole = span(0, 100);
        assert_eq!(whole, Place::At(Span { start: 0, end: 100 }));
        assert_eq!(Place::parse(&whole.to_bytes(), 100), whole);
        assert_eq!((span(0, 0), Place::parse(&Place::Nowhere.to_bytes(), 100)), (Place::Nowhere, Place::Nowhere));
        for (start, end) in [(0, 101), (5, 5), (6, 5), (1 << 63, 5), (5, u64::MAX)] {
            assert_eq!(span(start, end), Place::Impossible);
        }
        let long = Place::At(Span { start: 1, end: 2 + MAX_TEXT_BYTES });
        assert_eq!(Place::parse(&long.to_bytes(), u64::MAX), Place::Impossible);
    }

    #[test]
    fn the_headers_are_those_of_numpy() {
        for (column, shape) in [(bytes(), "'|u1', 'fortran_order': False, 'shape': (7,)"), (spans(), "(7, 2)")] {
            let header = column.header(7);
            assert_eq!(column.check(&header), Ok(()));
            assert!(String::from_utf8_lossy(&header).contains(shape));
        }
    }
}
