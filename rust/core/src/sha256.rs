//! SHA-256: of one message with the crate `sha2`, or of several at once if the processor has the instructions.

#[cfg(target_arch = "x86_64")]
mod several;

use sha2::block_api::compress256;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

const BLOCK: usize = 64;
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// How many blocks a message of this many bytes takes, with its padding.
pub fn blocks(bytes: usize) -> usize {
    bytes / BLOCK + if bytes % BLOCK + 9 <= BLOCK { 1 } else { 2 }
}

/// A padded message: whole blocks of the text, then one or two blocks with the rest, the padding and the length.
struct Message<'a> {
    whole: &'a [[u8; BLOCK]],
    /// The last bytes of the text, at most one block, end at byte 64. The padding follows.
    padded: [u8; 3 * BLOCK],
    /// Where the blocks of `padded` begin.
    start: usize,
    blocks: usize,
}

impl<'a> Message<'a> {
    fn new(text: &'a [u8]) -> Self {
        let (whole, rest) = text.as_chunks::<BLOCK>();
        let blocks = blocks(text.len());
        let start = BLOCK - rest.len();
        let mut padded = [0_u8; 3 * BLOCK];
        // A copy of fixed length takes a tenth of the time of a copy of any length.
        match text.last_chunk::<BLOCK>() {
            Some(last) => padded[..BLOCK].copy_from_slice(last),
            None => padded[start..BLOCK].copy_from_slice(rest),
        }
        padded[BLOCK] = 0x80;
        #[expect(clippy::big_endian_bytes, reason = "SHA-256 counts in big-endian")]
        let bits = (text.len() as u64).wrapping_mul(8).to_be_bytes();
        let end = start + (blocks - whole.len()) * BLOCK;
        padded[end - bits.len()..end].copy_from_slice(&bits);
        Message { whole, padded, start, blocks }
    }

    fn tail(&self) -> &[[u8; BLOCK]] {
        let (blocks, _) = self.padded[self.start..].as_chunks();
        &blocks[..self.blocks - self.whole.len()]
    }

    #[cfg(any(target_arch = "x86_64", test))]
    fn iter(&self) -> impl Iterator<Item = &[u8; BLOCK]> {
        self.whole.iter().chain(self.tail())
    }
}

/// SHA-256 of one message.
pub fn digest(text: &[u8]) -> Digest {
    let message = Message::new(text);
    let mut state = INITIAL;
    compress256(&mut state, message.whole);
    compress256(&mut state, message.tail());
    to_bytes(&state)
}

fn to_bytes(state: &[u32; 8]) -> Digest {
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
}

/// Writes SHA-256 of `text(i)` into `digests[i]`.
pub fn digest_all<'a>(text: impl Fn(usize) -> &'a [u8], digests: &mut [Digest]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(several) = several::Several::detect() {
        several.digest_all(text, digests);
        return;
    }
    digests.iter_mut().enumerate().for_each(|(i, found)| *found = digest(text(i)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    fn messages() -> Vec<Vec<u8>> {
        (0..300_usize).map(|n| (0..n).map(|i| (i * 7 + n) as u8).collect()).collect()
    }

    #[test]
    fn a_digest_is_sha256_at_every_length_around_the_block_borders() {
        for message in messages() {
            assert_eq!(digest(&message), <Digest>::from(Sha256::digest(&message)), "length {}", message.len());
            assert_eq!(Message::new(&message).iter().count(), blocks(message.len()));
        }
    }

    #[test]
    fn many_digests_are_those_of_each_whatever_their_lengths_and_number() {
        let mut messages = messages();
        messages.extend((0..40).map(|i| vec![i as u8; 5000 * (i % 5)]));
        // Neighbours of very different lengths, as well as of the same.
        messages.sort_by_key(|message| message.len() * 7919 % 1009);
        for count in [0, 1, 2, 3, 9, 15, 16, 17, 31, 33, 100, messages.len()] {
            for first in [0, 1, messages.len() - count] {
                let Some(some) = messages.get(first..first + count) else { continue };
                let mut digests = vec![[0; 32]; count];
                digest_all(|i| &some[i], &mut digests);
                for (message, digest) in some.iter().zip(digests) {
                    assert_eq!(digest, <Digest>::from(Sha256::digest(message)), "length {}", message.len());
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn two_and_sixteen_at_once_may_have_any_lengths() {
        let messages = messages();
        let expected = |message: &Vec<u8>| <Digest>::from(Sha256::digest(message));
        if let Some(two) = several::two::Two::detect() {
            for (i, left) in messages.iter().enumerate() {
                for right in messages.iter().skip(i % 7).step_by(7) {
                    assert_eq!(two.digest(left, right), [left, right].map(expected));
                }
            }
        }
        if let Some(sixteen) = several::sixteen::Sixteen::detect() {
            for start in 0..messages.len() {
                let some: [&Vec<u8>; 16] = std::array::from_fn(|lane| &messages[(start + lane * 37) % messages.len()]);
                assert_eq!(sixteen.digest(some.map(Vec::as_slice)), some.map(expected), "from {start}");
            }
        }
    }
}
