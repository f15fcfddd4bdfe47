//! The header of a NumPy file: version 1.0 of NumPy's format, in 128 bytes.
//!
//! It has the form that NumPy writes. In older caches the row count has 20 columns, padded on the left. This form is
//! read for ever, and the next commit replaces it.

use super::dtype::Dtype;
use super::{Defect, MAX_DIM};

/// Bytes before the first row.
pub const HEADER_BYTES: usize = 128;

const MAGIC: &[u8; 10] = b"\x93NUMPY\x01\x00\x76\x00";
const BEFORE_DTYPE: &str = "{'descr': '";
const AFTER_DTYPE: &str = "', 'fortran_order': False, 'shape': (";
/// Columns of the row count in the older form, and digits of the longest row count.
const ROWS_COLUMNS: usize = 20;
const DTYPE_COLUMNS: usize = 3;
/// Between the two counts of a matrix, and behind the only one of a list.
const COMMA: &str = ",";
const AFTER_SHAPE: &str = "), }";

/// The content of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The dtype.
    pub dtype: Dtype,
    /// Rows that other programs see. All of them are durable.
    pub rows: u64,
    /// Numbers in a row. None in a list of numbers.
    pub dim: Option<u32>,
}

impl Header {
    /// The 128 bytes in NumPy's form.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        self.with_count(&self.rows.to_string())
    }

    /// The 128 bytes in the older form.
    fn to_older_bytes(self) -> [u8; HEADER_BYTES] {
        self.with_count(&format!("{:>ROWS_COLUMNS$}", self.rows))
    }

    fn with_count(self, rows: &str) -> [u8; HEADER_BYTES] {
        let mut bytes = [b' '; HEADER_BYTES];
        let dim = self.dim.map_or(String::new(), |dim| format!(" {dim}"));
        let text = format!("{BEFORE_DTYPE}{}{AFTER_DTYPE}{rows}{COMMA}{dim}{AFTER_SHAPE}", self.dtype.descr);
        super::put(&mut bytes, 0, MAGIC);
        super::put(&mut bytes, MAGIC.len(), text.as_bytes());
        bytes[HEADER_BYTES - 1] = b'\n';
        bytes
    }

    /// Parses the 128 bytes. Only NumPy's form and the older one are valid.
    pub fn parse(bytes: &[u8]) -> Result<Header, Defect> {
        let found = || String::from_utf8_lossy(bytes).trim_end().chars().take(2 * HEADER_BYTES).collect::<String>();
        let header = Self::read(bytes)
            .ok_or_else(|| Defect::new("a .npy header as dejavec writes it", format!("{:?}", found())))?;
        if header.to_bytes() == *bytes || header.to_older_bytes() == *bytes {
            Ok(header)
        } else {
            Err(Defect::new("a .npy header padded as NumPy pads it", format!("{:?}", found())))
        }
    }

    fn read(bytes: &[u8]) -> Option<Header> {
        let text = std::str::from_utf8(bytes.strip_prefix(MAGIC)?).ok()?;
        let (descr, text) = text.strip_prefix(BEFORE_DTYPE)?.split_at_checked(DTYPE_COLUMNS)?;
        let (rows, text) = text.strip_prefix(AFTER_DTYPE)?.split_once(COMMA)?;
        let dim = match text.split_once(AFTER_SHAPE)? {
            ("", _) => None,
            (dim, _) => Some(dim.strip_prefix(' ')?.parse().ok()?),
        };
        let header = Header { dtype: Dtype::parse(descr)?, rows: rows.trim_start().parse().ok()?, dim };
        dim.is_none_or(|dim| (1..=MAX_DIM).contains(&dim)).then_some(header)
    }

    /// Whether bytes are a header of such rows, or a torn one: the beginning of one header and the end of another. A
    /// torn write leaves this, and a reader may meet a writer. Row counts are ignored. If a longer count moved the
    /// dimension, the first digits of the right dimension are accepted too.
    pub fn is_one_or_torn(bytes: &[u8], dtype: Dtype, dim: Option<u32>) -> bool {
        if Header::parse(bytes).is_ok_and(|found| found.dtype == dtype && found.dim == dim) {
            return true;
        }
        let header = Header { dtype, rows: 0, dim };
        // Any digits are accepted for the count. A longer count moves the rest.
        let counts = (1..=ROWS_COLUMNS).flat_map(|digits| {
            let digits = "0".repeat(digits);
            [format!("{digits:>ROWS_COLUMNS$}"), digits]
        });
        let (mut longest_start, mut longest_end) = (0, 0);
        for count in counts {
            let form = header.with_count(&count);
            let first = MAGIC.len() + BEFORE_DTYPE.len() + DTYPE_COLUMNS + AFTER_DTYPE.len();
            let columns = first..first + count.len();
            let agrees = |at: &usize| {
                bytes.get(*at).is_some_and(|found| {
                    *found == form[*at] || columns.contains(at) && (found.is_ascii_digit() || *found == b' ')
                })
            };
            longest_start = longest_start.max((0..HEADER_BYTES).take_while(agrees).count());
            longest_end = longest_end.max((0..HEADER_BYTES).rev().take_while(agrees).count());
        }
        bytes.len() == HEADER_BYTES && longest_start + longest_end >= HEADER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(rows: u64, dim: u32) -> Header {
        Header { dtype: Dtype::parse("<f4").unwrap(), rows, dim: Some(dim) }
    }

    #[test]
    fn a_header_survives_the_way_to_disk_and_back_in_both_forms() {
        for dtype in Dtype::ALL {
            for rows in [0, 1, 10, u64::MAX] {
                for dim in [None, Some(1), Some(384), Some(MAX_DIM)] {
                    let header = Header { dtype, rows, dim };
                    assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
                    assert_eq!(Header::parse(&header.to_older_bytes()), Ok(header));
                }
            }
        }
    }

    #[test]
    fn a_header_is_what_numpy_writes() {
        let mut expected =
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (12, 384), }".to_vec();
        expected.resize(HEADER_BYTES - 1, b' ');
        expected.push(b'\n');
        assert_eq!(header(12, 384).to_bytes(), *expected);
        let mut expected = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (12,), }".to_vec();
        expected.resize(HEADER_BYTES - 1, b' ');
        expected.push(b'\n');
        let list = Header { dtype: Dtype::parse("<i8").unwrap(), rows: 12, dim: None };
        assert_eq!(list.to_bytes(), *expected);
        assert_eq!(Header::parse(&expected), Ok(list));
    }

    #[test]
    fn a_torn_header_is_known_whatever_its_counts_and_forms_were() {
        let dtype = header(0, 384).dtype;
        let rows = [0, 9, 10, 99, 100, 12_345, u64::MAX];
        let forms: Vec<_> =
            rows.iter().flat_map(|rows| [header(*rows, 384).to_bytes(), header(*rows, 384).to_older_bytes()]).collect();
        for old in &forms {
            for new in &forms {
                for cut in 0..=HEADER_BYTES {
                    let torn = [&new[..cut], &old[cut..]].concat();
                    assert!(Header::is_one_or_torn(&torn, dtype, Some(384)), "{}", String::from_utf8_lossy(&torn));
                    assert!(!Header::is_one_or_torn(&torn[..HEADER_BYTES - 1], dtype, Some(384)));
                }
            }
        }
        for other in [header(12, 7), header(12, 3840), header(12, 385)] {
            assert!(!Header::is_one_or_torn(&other.to_bytes(), dtype, Some(384)), "{other:?}");
            assert!(!Header::is_one_or_torn(&other.to_older_bytes(), dtype, Some(384)), "{other:?}");
        }
        let half = Header { dtype: Dtype::parse("<f2").unwrap(), ..header(12, 384) };
        assert!(!Header::is_one_or_torn(&half.to_bytes(), dtype, Some(384)));
        for at in 0..HEADER_BYTES {
            let mut bad = header(12, 384).to_bytes();
            bad[at] ^= 0x80;
            assert!(!Header::is_one_or_torn(&bad, dtype, Some(384)), "byte {at}");
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        for good in [header(12, 384).to_bytes(), header(12, 384).to_older_bytes()] {
            for i in 0..HEADER_BYTES {
                let mut bad = good;
                bad[i] ^= 0x80;
                assert!(Header::parse(&bad).is_err(), "byte {i}");
                assert!(Header::parse(&good[..i]).is_err(), "cut at {i}");
            }
        }
    }

    #[test]
    fn dimensions_out_of_range_are_refused() {
        for dim in ["0", "65537", "+384", "0384", "99999999999"] {
            let text = String::from_utf8(header(1, 384).to_bytes()[10..].to_vec()).unwrap().replacen("384", dim, 1);
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(text.as_bytes());
            bytes.resize(HEADER_BYTES, b' ');
            bytes[HEADER_BYTES - 1] = b'\n';
            assert!(Header::parse(&bytes).is_err(), "dimension {dim}");
        }
    }
}
