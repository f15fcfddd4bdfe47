//! Prefetching memory.
//!
//! A read that misses every cache soon stalls the instructions behind it. A prefetch stalls nothing.
#![allow(unsafe_code)]

/// Bytes of a cache line.
const LINE: usize = 64;

/// Lines to prefetch: one page. The processor itself prefetches the rest of a longer range.
const LINES: usize = 64;

/// Prefetches bytes.
pub fn fetch(bytes: &[u8]) {
    // Few ranges begin at a line, so the last byte may be in one line more.
    let lines = bytes.chunks(LINE).take(LINES).map(<[u8]>::as_ptr);
    for line in lines.chain(bytes.last().map(std::ptr::from_ref)) {
        fetch_line(line);
    }
}

/// Prefetches the line at any address. Does nothing on processors without such an instruction.
#[inline]
pub fn fetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no visible effect and faults at no address. Every x86-64 processor has the
        // instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
