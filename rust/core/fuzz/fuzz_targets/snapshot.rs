//! A snapshot's header that is accepted has counts that cannot overflow or make a look-up spin.
#![no_main]

use dejavec_core::format::snapshot::{Header, Name, SLOT_BYTES, SLOTS_OFFSET};
use dejavec_fuzz::parse_both;
use libfuzzer_sys::fuzz_target;

const UUID: [u8; 16] = [5; 16];
const SEED: u64 = 0x0505_0505_0505_0505;

fuzz_target!(|bytes: &[u8]| {
    parse_both(bytes, |bytes| {
        let Ok(header) = Header::parse(bytes, &UUID, SEED) else { return };
        assert!(header.keys < header.capacity && header.keys + header.replaced <= header.rows);
        assert!(header.keys <= header.rows - header.first);
        assert_eq!(Name::parse(&header.file_name(3), 3), Some(header.name()));
        if let Some(layout) = header.layout() {
            assert!(SLOTS_OFFSET + layout.body_bytes <= layout.file_bytes);
            assert_eq!(layout.replaced_entries() * SLOT_BYTES, layout.body_bytes - layout.slots_bytes);
        }
    });
    if let Ok(name) = std::str::from_utf8(bytes) {
        Name::parse(name, 3);
    }
});
