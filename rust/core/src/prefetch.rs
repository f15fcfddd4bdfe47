//! Asking for memory before it is read.
//!
//! What follows a read that misses every cache soon waits for it; nothing waits for a prefetch.
#![allow(unsafe_code)]

/// Bytes that come from memory together.
const LINE: usize = 64;

/// Lines that are asked for, a page of them: of longer bytes the processor fetches the rest when it sees them read.
const LINES: usize = 64;

/// Asks for bytes.
pub fn fetch(bytes: &[u8]) {
    // Few bytes begin where a line does: the last may lie in a line more.
    let lines = bytes.chunks(LINE).take(LINES).map(<[u8]>::as_ptr);
    for line in lines.chain(bytes.last().map(std::ptr::from_ref)) {
        fetch_line(line);
    }
}

/// Asks for the line at an address, which may be any. Does nothing where the processor cannot be asked.
#[inline]
pub fn fetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, faults at no address, and every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
