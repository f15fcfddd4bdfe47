//! A `meta.json` that is accepted is possible, and survives being written.
#![no_main]

use dejavec_core::checksum;
use dejavec_core::format::meta::Meta;
use libfuzzer_sys::fuzz_target;

fn check(bytes: &[u8]) {
    if let Ok(meta) = Meta::parse(bytes) {
        assert!(meta.container.has_dim(meta.dim) && meta.container.holds(meta.dtype));
        assert_eq!(Meta::parse(&meta.to_bytes()), Ok(meta));
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The input as the body behind a checksum line that holds.
    let mut file = format!("{{\n  \"checksum\": \"{:016x}\",\n", checksum::block(bytes)).into_bytes();
    file.extend_from_slice(bytes);
    check(&file);
});
