//! SHA-256: one message with the crate `sha2`, or two at once where the processor has instructions for it.
//!
//! With those instructions one message is bound by latency: each round waits for the one before. The rounds of two
//! messages fit into each other's gaps, and the crate offers no way to mix them. This is the only room besides `mmap`
//! with `unsafe`: one call of a function that needs a processor's feature.
#![allow(unsafe_code)]

use sha2::block_api::compress256;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

const BLOCK: usize = 64;
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

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

/// The proof that this processor can digest two messages at once.
#[derive(Debug, Clone, Copy)]
pub struct TwoAtOnce(());

impl TwoAtOnce {
    /// The proof, if it can.
    pub fn detect() -> Option<TwoAtOnce> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1") {
            return Some(TwoAtOnce(()));
        }
        None
    }

    /// SHA-256 of two messages; of messages with equal [`blocks`] in little more than the time of one.
    pub fn digest(self, left: &[u8], right: &[u8]) -> [Digest; 2] {
        let (left, right) = (Message::new(left), Message::new(right));
        let mut states = [INITIAL; 2];
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the function needs nothing but the features that `detect` found, and only `detect` makes a `self`.
        unsafe {
            x86::compress_two(&mut states, left.iter().zip(right.iter()));
        }
        let common = if cfg!(target_arch = "x86_64") { left.blocks.min(right.blocks) } else { 0 };
        for (message, state) in [left, right].iter().zip(&mut states) {
            for block in message.iter().skip(common) {
                compress256(state, std::slice::from_ref(block));
            }
        }
        states.map(|state| to_bytes(&state))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
    };

    use super::BLOCK;

    /// The constants of the rounds, four at a time.
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

    /// Both messages' vectors: what happens to one happens to the other, so that the processor can overlap them.
    type Both = [__m128i; 2];

    /// Four words as a vector, the first in the lowest lane.
    #[target_feature(enable = "sse2")]
    fn vector([a, b, c, d]: [u32; 4]) -> __m128i {
        _mm_set_epi32(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed())
    }

    /// Sixteen bytes of a block as four words.
    #[target_feature(enable = "ssse3")]
    fn load(block: &[u8; BLOCK], quarter: usize) -> __m128i {
        let halves = block.as_chunks::<8>().0;
        let word = |half: usize| i64::from_le_bytes(halves[2 * quarter + half]);
        // SHA-256 reads words in big-endian.
        let reversed = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        _mm_shuffle_epi8(_mm_set_epi64x(word(1), word(0)), reversed)
    }

    /// Takes two states through pairs of blocks.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    pub fn compress_two<'a>(
        states: &mut [[u32; 8]; 2],
        blocks: impl Iterator<Item = (&'a [u8; BLOCK], &'a [u8; BLOCK])>,
    ) {
        // The instructions want the words a, b, e, f in one vector and c, d, g, h in the other, highest first.
        let mut abef: Both = states.map(|[a, b, _, _, e, f, _, _]| vector([f, e, b, a]));
        let mut cdgh: Both = states.map(|[_, _, c, d, _, _, g, h]| vector([h, g, d, c]));
        for (left, right) in blocks {
            let (abef_before, cdgh_before) = (abef, cdgh);
            let [mut w0, mut w1, mut w2, mut w3] =
                [0, 1, 2, 3].map(|quarter| [load(left, quarter), load(right, quarter)]);
            for (turn, [k0, k1, k2, k3]) in ROUNDS.as_chunks().0.iter().enumerate() {
                if turn > 0 {
                    w0 = next_words(w0, w1, w2, w3);
                    w1 = next_words(w1, w2, w3, w0);
                    w2 = next_words(w2, w3, w0, w1);
                    w3 = next_words(w3, w0, w1, w2);
                }
                four_rounds(&mut abef, &mut cdgh, w0, *k0);
                four_rounds(&mut abef, &mut cdgh, w1, *k1);
                four_rounds(&mut abef, &mut cdgh, w2, *k2);
                four_rounds(&mut abef, &mut cdgh, w3, *k3);
            }
            for lane in 0..2 {
                abef[lane] = _mm_add_epi32(abef[lane], abef_before[lane]);
                cdgh[lane] = _mm_add_epi32(cdgh[lane], cdgh_before[lane]);
            }
        }
        for (state, (abef, cdgh)) in states.iter_mut().zip(abef.into_iter().zip(cdgh)) {
            let [f, e, b, a] = words(abef);
            let [h, g, d, c] = words(cdgh);
            *state = [a, b, c, d, e, f, g, h];
        }
    }

    /// Four rounds with their words of the message schedule.
    #[target_feature(enable = "sha,sse4.1")]
    fn four_rounds(abef: &mut Both, cdgh: &mut Both, words: Both, constants: [u32; 4]) {
        let constants = vector(constants);
        for lane in 0..2 {
            let sum = _mm_add_epi32(words[lane], constants);
            cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], sum);
            abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], _mm_shuffle_epi32::<0b1110>(sum));
        }
    }

    /// The four words of the message schedule that follow sixteen.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn next_words(w0: Both, w1: Both, w2: Both, w3: Both) -> Both {
        [0, 1].map(|lane| {
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0[lane], w1[lane]), _mm_alignr_epi8::<4>(w3[lane], w2[lane]));
            _mm_sha256msg2_epu32(sum, w3[lane])
        })
    }

    /// The four words of a vector, the lowest lane first.
    #[target_feature(enable = "sse4.1")]
    fn words(vector: __m128i) -> [u32; 4] {
        [
            _mm_extract_epi32::<0>(vector),
            _mm_extract_epi32::<1>(vector),
            _mm_extract_epi32::<2>(vector),
            _mm_extract_epi32::<3>(vector),
        ]
        .map(i32::cast_unsigned)
    }
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
    fn two_digests_at_once_are_those_of_each_whatever_their_lengths() {
        let Some(two) = TwoAtOnce::detect() else { return };
        let messages = messages();
        for (i, left) in messages.iter().enumerate() {
            for right in messages.iter().skip(i % 7).step_by(7) {
                let expected = [left, right].map(|message| <Digest>::from(Sha256::digest(message)));
                assert_eq!(two.digest(left, right), expected, "lengths {} and {}", left.len(), right.len());
            }
        }
    }
}
