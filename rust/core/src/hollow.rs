//! Long files without content. A commit that claims the rows of a sparse file would cost memory and time without
//! reason.

use crate::error::{Error, Result};
use crate::format::keys::{RECORD_BYTES, Record};
use crate::key::DEAD;
use crate::records::RecordsFile;

/// No check up to this many rows: they cost little.
const FEW: u64 = 1 << 24;

/// How many records to sample.
const SAMPLES: usize = 64;

/// Rejects committed records if a random sample of them is all zeros.
///
/// A file with a tenth of its records is rejected with a probability of one in a thousand. A cache with so many rows is
/// also rejected if a repair has zeroed nearly all of them: nothing is lost with it.
pub fn refuse(keys: &RecordsFile, rows: u64) -> Result<()> {
    if rows <= FEW {
        return Ok(());
    }
    let mut random = [0; SAMPLES * size_of::<u64>()];
    getrandom::fill(&mut random)
        .map_err(|error| Error::io("draw random rows", keys.path())(std::io::Error::other(error.to_string())))?;
    for number in random.as_chunks().0 {
        // Read, not mapped: a mapping also reads the neighbourhood.
        let mut record = [0; RECORD_BYTES];
        keys.read(u64::from_le_bytes(*number) % rows, &mut record)?;
        if Record::from_bytes(&record).key != DEAD {
            return Ok(());
        }
    }
    Err(Error::corrupt(keys.path(), format!("the keys of {rows} committed rows"), "only zeros"))
}
