//! A header that is accepted has one of the two forms, and the same content as the one that replaces it.
#![no_main]

use dejavec_core::format::npy::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse(bytes) {
        assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        assert!(Header::is_one_or_torn(bytes, header.dtype, header.dim));
    }
});
