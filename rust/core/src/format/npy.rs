//! The header of `vectors.npy`: version 1.0 of NumPy's format, in 128 bytes of which only 20 ever change.

use super::dtype::Dtype;
use super::{Defect, MAX_DIM};

/// Bytes before the first row.
pub const HEADER_BYTES: usize = 128;

const MAGIC: &[u8; 10] = b"\x93NUMPY\x01\x00\x76\x00";
const BEFORE_DTYPE: &str = "{'descr': '";
const AFTER_DTYPE: &str = "', 'fortran_order': False, 'shape': (";
const ROWS_COLUMNS: usize = 20;

/// Where the row count lies.
pub const ROWS: std::ops::Range<usize> = ROWS_OFFSET..ROWS_OFFSET + ROWS_COLUMNS;

const ROWS_OFFSET: usize = MAGIC.len() + BEFORE_DTYPE.len() + DTYPE_COLUMNS + AFTER_DTYPE.len();
const DTYPE_COLUMNS: usize = 3;
const BETWEEN: &str = ", ";
const AFTER_SHAPE: &str = "), }";

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type of the numbers.
    pub dtype: Dtype,
    /// Rows that other programs see. Never more than are durable.
    pub rows: u64,
    /// Numbers in a row.
    pub dim: u32,
}

impl Header {
    /// The 128 bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [b' '; HEADER_BYTES];
        let text = format!(
            "{BEFORE_DTYPE}{}{AFTER_DTYPE}{:>ROWS_COLUMNS$}{BETWEEN}{}{AFTER_SHAPE}",
            self.dtype.descr, self.rows, self.dim
        );
        super::put(&mut bytes, 0, MAGIC);
        super::put(&mut bytes, MAGIC.len(), text.as_bytes());
        bytes[HEADER_BYTES - 1] = b'\n';
        bytes
    }

    /// Parses the 128 bytes: what [`Header::to_bytes`] writes and nothing else.
    pub fn parse(bytes: &[u8]) -> Result<Header, Defect> {
        let found = || String::from_utf8_lossy(bytes).trim_end().chars().take(2 * HEADER_BYTES).collect::<String>();
        let header = Self::read(bytes)
            .ok_or_else(|| Defect::new("a .npy header as dejavec writes it", format!("{:?}", found())))?;
        if header.to_bytes() == *bytes {
            Ok(header)
        } else {
            Err(Defect::new("a .npy header padded as dejavec pads it", format!("{:?}", found())))
        }
    }

    fn read(bytes: &[u8]) -> Option<Header> {
        let text = std::str::from_utf8(bytes.strip_prefix(MAGIC)?).ok()?;
        let (descr, text) = text.strip_prefix(BEFORE_DTYPE)?.split_at_checked(DTYPE_COLUMNS)?;
        let (rows, text) = text.strip_prefix(AFTER_DTYPE)?.split_at_checked(ROWS_COLUMNS)?;
        let (dim, _) = text.strip_prefix(BETWEEN)?.split_once(AFTER_SHAPE)?;
        let header =
            Header { dtype: Dtype::parse(descr)?, rows: rows.trim_start().parse().ok()?, dim: dim.parse().ok()? };
        (1..=MAX_DIM).contains(&header.dim).then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(rows: u64, dim: u32) -> Header {
        Header { dtype: Dtype::parse("<f4").unwrap(), rows, dim }
    }

    #[test]
    fn a_header_survives_the_way_to_disk_and_back() {
        for dtype in Dtype::ALL {
            for rows in [0, 1, 10, u64::MAX] {
                for dim in [1, 384, MAX_DIM] {
                    let header = Header { dtype, rows, dim };
                    assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
                }
            }
        }
    }

    #[test]
    fn only_the_digits_of_the_row_count_change_as_rows_grow() {
        let (few, many) = (header(1, 384).to_bytes(), header(u64::MAX, 384).to_bytes());
        let changed: Vec<_> = (0..HEADER_BYTES).filter(|&i| few[i] != many[i]).collect();
        assert!(changed.len() <= ROWS_COLUMNS && changed.last().unwrap() - changed[0] < ROWS_COLUMNS);
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let good = header(12, 384).to_bytes();
        for i in 0..HEADER_BYTES {
            let mut bad = good;
            bad[i] ^= 0x80;
            assert!(Header::parse(&bad).is_err(), "byte {i}");
            assert!(Header::parse(&good[..i]).is_err(), "cut at {i}");
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
