//! A key file's header that is accepted is the one that is written; any 40 bytes are a record, and come back as they are.
#![no_main]

use dejavec_core::format::keys::{RECORD_BYTES, Record, check, header};
use dejavec_core::row::Row;
use dejavec_fuzz::parse_both;
use libfuzzer_sys::fuzz_target;

const UUID: [u8; 16] = [5; 16];

fuzz_target!(|bytes: &[u8]| {
    for version in [1, 2] {
        parse_both(bytes, |bytes| {
            if check(bytes, &UUID, version).is_ok() {
                // The zeros of the header are not checked, so that a later version may use them.
                assert_eq!(bytes[..32], header(&UUID, version)[..32]);
            }
        });
    }
    for bytes in bytes.as_chunks::<RECORD_BYTES>().0 {
        let record = Record::from_bytes(bytes);
        assert_eq!(record.to_bytes(), *bytes);
        assert!(!record.holds(0, &Row::dense(bytes)) || record.key != [0; 32]);
    }
});
