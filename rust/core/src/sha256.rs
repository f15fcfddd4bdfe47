//! SHA-256: one message with the crate `sha2`, or many at once where the processor has instructions for it.
//!
//! The crate digests message after message, and each round of one waits for the round before. Only with several messages
//! in hand can the processor's units be kept busy. This is the only room besides `mmap` with `unsafe`: calls of functions
//! that need a processor's features, and vectors loaded from and stored to arrays of their size.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod sixteen;
#[cfg(target_arch = "x86_64")]
mod two;

use sha2::block_api::compress256;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

const BLOCK: usize = 64;
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The constants of the rounds, four at a time.
#[cfg(target_arch = "x86_64")]
const ROUNDS: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// Messages of this many blocks and more are not told apart when messages are sorted.
const LONG: usize = 255;

/// Sixteen at once take the time of so many blocks in pairs.
#[cfg(target_arch = "x86_64")]
const BLOCKS_OF_SIXTEEN: usize = 10;

/// How many blocks a message of so many bytes takes, its padding included.
pub fn blocks(bytes: usize) -> usize {
    bytes / BLOCK + if bytes % BLOCK + 9 <= BLOCK { 1 } else { 2 }
}

/// A padded message: whole blocks of the text, then one or two blocks of rest, padding and length.
struct Message<'a> {
    whole: &'a [[u8; BLOCK]],
    /// The last bytes of the text, up to a block of them, end at byte 64; the padding follows.
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
        // A copy of fixed length, where there is one, takes a tenth of the time of one of any length.
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

    /// Block `at`, if it has so many.
    #[cfg(target_arch = "x86_64")]
    fn block(&self, at: usize) -> Option<&[u8; BLOCK]> {
        self.whole.get(at).or_else(|| self.tail().get(at - self.whole.len()))
    }

    fn tail(&self) -> &[[u8; BLOCK]] {
        let (blocks, _) = self.padded[self.start..].as_chunks();
        &blocks[..self.blocks - self.whole.len()]
    }

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
    if let (sixteen, Some(two)) = (sixteen::Sixteen::detect(), two::Two::detect()) {
        (0..digests.len()).for_each(|i| fetch(text(i)));
        let order = by_blocks(digests.len(), |i| text(i).len());
        for some in order.chunks(sixteen::LANES) {
            let lengths = || some.iter().map(|i| blocks(text(*i).len()));
            let worth = lengths().sum::<usize>() >= BLOCKS_OF_SIXTEEN * lengths().max().unwrap_or(0);
            if let (Some(sixteen), true) = (sixteen, worth) {
                let texts = std::array::from_fn(|lane| some.get(lane).map_or(&[][..], |i| text(*i)));
                for (i, digest) in some.iter().zip(sixteen.digest(texts)) {
                    digests[*i] = digest;
                }
                continue;
            }
            for pair in some.chunks(2) {
                match *pair {
                    [i, j] => [digests[i], digests[j]] = two.digest(text(i), text(j)),
                    [i] => digests[i] = digest(text(i)),
                    _ => {}
                }
            }
        }
        return;
    }
    digests.iter_mut().enumerate().for_each(|(i, found)| *found = digest(text(i)));
}

/// Asks for bytes that will be read soon, while they come in the order in which they lie.
#[cfg(target_arch = "x86_64")]
fn fetch(bytes: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in bytes.chunks(BLOCK).take(LONG) {
        // SAFETY: a prefetch reads nothing that the program sees, and every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// The numbers of messages, those of fewer blocks first: neighbours then take about as long as each other.
#[cfg(target_arch = "x86_64")]
fn by_blocks(count: usize, bytes: impl Fn(usize) -> usize) -> Vec<usize> {
    let place = |i| blocks(bytes(i)).min(LONG);
    let mut ends = [0_usize; LONG + 1];
    (0..count).for_each(|i| ends[place(i)] += 1);
    let mut sum = 0;
    ends.iter_mut().for_each(|end| (*end, sum) = (sum, sum + *end));
    let mut order = vec![0; count];
    for i in 0..count {
        let next = &mut ends[place(i)];
        order[*next] = i;
        *next += 1;
    }
    order
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
        if let Some(two) = two::Two::detect() {
            for (i, left) in messages.iter().enumerate() {
                for right in messages.iter().skip(i % 7).step_by(7) {
                    assert_eq!(two.digest(left, right), [left, right].map(expected));
                }
            }
        }
        if let Some(sixteen) = sixteen::Sixteen::detect() {
            for start in 0..messages.len() {
                let some: [&Vec<u8>; 16] = std::array::from_fn(|lane| &messages[(start + lane * 37) % messages.len()]);
                assert_eq!(sixteen.digest(some.map(Vec::as_slice)), some.map(expected), "from {start}");
            }
        }
    }
}
