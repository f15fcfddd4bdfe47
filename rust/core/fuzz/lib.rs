//! Shared parts of the fuzz targets.

use dejavec_core::checksum;

/// Corrects the checksum at the end of the bytes, so that a mutated structure passes it.
pub fn seal(bytes: &mut [u8]) {
    if let Some((body, sum)) = bytes.split_last_chunk_mut::<8>() {
        *sum = checksum::block(body).to_le_bytes();
    }
}

/// Parses the bytes unchanged, then with a matching checksum.
pub fn parse_both(bytes: &[u8], parse: impl Fn(&[u8])) {
    parse(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    parse(&sealed);
}
