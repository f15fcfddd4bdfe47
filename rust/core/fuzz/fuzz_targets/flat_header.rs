//! A header that is accepted equals the one that is written for its content.
#![no_main]

use dejavec_core::format::flat::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse(bytes) {
        assert_eq!(header.to_bytes(), bytes);
    }
});
