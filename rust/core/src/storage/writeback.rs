//! Writing back pages before a sync asks for them: the disk works while the processor does.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::libc::{SYNC_FILE_RANGE_WRITE, sync_file_range};

/// Begins to write the dirty pages of a range to the disk.
pub fn begin(file: &File, start: u64, end: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(start), i64::try_from(end.saturating_sub(start))) else { return };
    // A length of 0 reaches to the end of the file.
    if length > 0 {
        // SAFETY: the call gets three numbers and a descriptor that `file` keeps open, and no pointer. It reads and writes
        // no memory of this process. Its result is dropped: this is only advice, and a later sync reports errors, since
        // the system keeps them for each open file until a sync.
        let _ = unsafe { sync_file_range(file.as_raw_fd(), offset, length, SYNC_FILE_RANGE_WRITE) };
    }
}
