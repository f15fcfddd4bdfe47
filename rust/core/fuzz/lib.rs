//! What the fuzz targets share.

use dejavec_core::checksum;

/// Puts the right checksum over bytes that end with one, so that a mutated structure gets past it.
pub fn seal(bytes: &mut [u8]) {
    if let Some((body, sum)) = bytes.split_last_chunk_mut::<8>() {
        *sum = checksum::block(body).to_le_bytes();
    }
}

/// Gives the bytes to a parser as they are, then with a checksum that holds.
pub fn parse_both(bytes: &[u8], parse: impl Fn(&[u8])) {
    parse(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    parse(&sealed);
}
