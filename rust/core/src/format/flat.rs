//! The header of `vectors.faiss`: the 45 bytes that FAISS writes before the rows of a flat index.
//!
//! FAISS's `index_write.cpp` writes the fields one after the other, without padding. So the rows are not aligned.

use std::ops::Range;

use super::{Defect, MAX_DIM, MAX_ROWS, bytes_at, hex, put, u32_at, u64_at};

/// Bytes before the first row.
pub const HEADER_BYTES: usize = 45;

/// How a flat index compares vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Squared Euclidean distance.
    L2,
    /// Inner product.
    InnerProduct,
}

impl Metric {
    /// The four letters of the index type: `IndexFlatL2`, `IndexFlatIP`.
    fn magic(self) -> &'static [u8; 4] {
        match self {
            Metric::L2 => b"IxF2",
            Metric::InnerProduct => b"IxFI",
        }
    }

    /// FAISS's number of the metric.
    fn number(self) -> u32 {
        match self {
            Metric::L2 => 1,
            Metric::InnerProduct => 0,
        }
    }
}

const DIM_OFFSET: usize = 4;
const ROWS_OFFSET: usize = DIM_OFFSET + 4;
const UNUSED_OFFSET: usize = ROWS_OFFSET + 8;
const TRAINED_OFFSET: usize = UNUSED_OFFSET + 16;
const METRIC_OFFSET: usize = TRAINED_OFFSET + 1;
const NUMBERS_OFFSET: usize = METRIC_OFFSET + 4;

/// Offsets of the row count and of the number count.
pub const COUNTS: [Range<usize>; 2] = [ROWS_OFFSET..UNUSED_OFFSET, NUMBERS_OFFSET..HEADER_BYTES];

/// The value of two fields that FAISS writes and no longer reads.
const UNUSED: u64 = 1 << 20;

/// The content of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The metric of the index.
    pub metric: Metric,
    /// Rows that FAISS sees. All of them are durable.
    pub rows: u64,
    /// Numbers in a row.
    pub dim: u32,
}

impl Header {
    /// The 45 bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, self.metric.magic());
        put(&mut bytes, DIM_OFFSET, &self.dim.to_le_bytes());
        put(&mut bytes, ROWS_OFFSET, &self.rows.to_le_bytes());
        put(&mut bytes, UNUSED_OFFSET, &UNUSED.to_le_bytes());
        put(&mut bytes, UNUSED_OFFSET + 8, &UNUSED.to_le_bytes());
        bytes[TRAINED_OFFSET] = 1;
        put(&mut bytes, METRIC_OFFSET, &self.metric.number().to_le_bytes());
        // At most 2^40 rows of 2^16 numbers: this cannot overflow.
        let numbers = self.rows.wrapping_mul(self.dim.into());
        put(&mut bytes, NUMBERS_OFFSET, &numbers.to_le_bytes());
        bytes
    }

    /// Parses the 45 bytes. Only the output of [`Header::to_bytes`] is valid.
    pub fn parse(bytes: &[u8]) -> Result<Header, Defect> {
        let refused = || Defect::new("the header of a FAISS flat index as dejavec writes it", hex(bytes));
        let magic: [u8; 4] = bytes_at(bytes, 0);
        let metric = [Metric::L2, Metric::InnerProduct].into_iter().find(|metric| *metric.magic() == magic);
        let header = Header {
            metric: metric.ok_or_else(refused)?,
            rows: u64_at(bytes, ROWS_OFFSET),
            dim: u32_at(bytes, DIM_OFFSET),
        };
        let possible = (1..=MAX_DIM).contains(&header.dim) && header.rows <= MAX_ROWS;
        if possible && header.to_bytes() == *bytes { Ok(header) } else { Err(refused()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_faiss_writes() {
        // `faiss.write_index` of an empty IndexFlatIP(3), and of an IndexFlatL2(64) with 100,000 rows.
        let empty = "497846490300000000000000000000000000100000000000000010000000000001000000000000000000000000";
        let full = "4978463240000000a08601000000000000001000000000000000100000000000010100000000a8610000000000";
        let header = Header { metric: Metric::InnerProduct, rows: 0, dim: 3 };
        assert_eq!(hex(&header.to_bytes()), empty);
        let header = Header { metric: Metric::L2, rows: 100_000, dim: 64 };
        assert_eq!(hex(&header.to_bytes()), full);
    }

    #[test]
    fn a_header_survives_the_way_to_disk_and_back() {
        for metric in [Metric::L2, Metric::InnerProduct] {
            for (rows, dim) in [(0, 1), (1, MAX_DIM), ((1 << 40) - 2, MAX_DIM)] {
                let header = Header { metric, rows, dim };
                assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
            }
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let good = Header { metric: Metric::L2, rows: 12, dim: 384 }.to_bytes();
        for i in 0..HEADER_BYTES {
            let mut bad = good;
            bad[i] ^= 0x80;
            assert!(Header::parse(&bad).is_err(), "byte {i}");
            assert!(Header::parse(&good[..i]).is_err(), "cut at {i}");
        }
        assert!(Header::parse(&Header { metric: Metric::L2, rows: 1, dim: 0 }.to_bytes()).is_err());
    }
}
