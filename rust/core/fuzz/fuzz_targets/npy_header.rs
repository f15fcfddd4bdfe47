//! A header that is accepted is the one that is written for what it says.
#![no_main]

use dejavec_core::format::npy::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse(bytes) {
        assert_eq!(header.to_bytes(), bytes);
    }
});
