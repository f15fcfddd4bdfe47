//! The header of a list of offsets that is accepted is whole: it begins with the entry 0, and a torn one is known.
#![no_main]

use dejavec_core::format::container::Container;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let column = Container::Ragged.indptr().expect("ragged rows have offsets");
    if column.check(bytes).is_ok() {
        assert_eq!(bytes.len(), column.header_bytes());
        assert_eq!(bytes[128..], [0; 8]);
        assert_eq!(column.check_but_counts(bytes), Ok(()));
    }
    if column.check_but_counts(bytes).is_ok() {
        assert_eq!(bytes[128..], [0; 8]);
    }
});
