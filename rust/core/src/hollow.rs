//! Files that are long and hold nothing: a commit that claims the rows of a sparse file would cost memory and time that
//! no byte on disk justifies.

use crate::error::{Error, Result};
use crate::format::keys::{RECORD_BYTES, Record};
use crate::key::DEAD;
use crate::records::RecordsFile;

/// Rows up to which nobody looks: what they cost is little.
const FEW: u64 = 1 << 24;

/// Records that are looked at.
const SAMPLES: usize = 64;

/// Refuses committed records all of which are zeros, as far as a random sample tells.
///
/// Of files that are filled to a tenth, one in a thousand is refused. A cache with so many rows, of
/// which a repair has zeroed nearly all, is refused too: nothing is lost with it.
pub fn refuse(keys: &RecordsFile, rows: u64) -> Result<()> {
    if rows <= FEW {
        return Ok(());
    }
    let mut random = [0; SAMPLES * size_of::<u64>()];
    getrandom::fill(&mut random)
        .map_err(|error| Error::io("draw random rows", keys.path())(std::io::Error::other(error.to_string())))?;
    for number in random.as_chunks().0 {
        // Read, not mapped: a mapping reads what lies around, too.
        let mut record = [0; RECORD_BYTES];
        keys.read(u64::from_le_bytes(*number) % rows, &mut record)?;
        if Record::from_bytes(&record).key != DEAD {
            return Ok(());
        }
    }
    Err(Error::corrupt(keys.path(), format!("the keys of {rows} committed rows"), "only zeros"))
}
