//! Two messages at once with the processor's instructions for SHA-256.
//!
//! One message is bound by latency: each round waits for the one before. The rounds of a second message fill the gaps.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_sha256msg1_epu32,
    _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use sha2::block_api::compress256;

use super::ROUNDS;
use crate::sha256::{BLOCK, Digest, INITIAL, Message, to_bytes};

/// The proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct Two(());

impl Two {
    /// The proof, if the processor has them.
    pub fn detect() -> Option<Two> {
        let found =
            is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1");
        found.then_some(Two(()))
    }

    /// SHA-256 of two messages. If they have the same number of blocks, it takes little longer than one message.
    pub fn digest(self, left: &[u8], right: &[u8]) -> [Digest; 2] {
        let (left, right) = (Message::new(left), Message::new(right));
        let mut states = [INITIAL; 2];
        // SAFETY: the function only requires the features that `detect` found, and only `detect` constructs `self`.
        unsafe {
            compress_two(&mut states, left.iter().zip(right.iter()));
        }
        let common = left.blocks.min(right.blocks);
        for (message, state) in [left, right].iter().zip(&mut states) {
            for block in message.iter().skip(common) {
                compress256(state, std::slice::from_ref(block));
            }
        }
        states.map(|state| to_bytes(&state))
    }
}

/// The vectors of both messages. Each step applies to both, so that the processor can overlap them.
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

/// Compresses pairs of blocks into two states.
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress_two<'a>(states: &mut [[u32; 8]; 2], blocks: impl Iterator<Item = (&'a [u8; BLOCK], &'a [u8; BLOCK])>) {
    // The instructions take the words a, b, e, f in one vector and c, d, g, h in the other, the highest lane first.
    let mut abef: Both = states.map(|[a, b, _, _, e, f, _, _]| vector([f, e, b, a]));
    let mut cdgh: Both = states.map(|[_, _, c, d, _, _, g, h]| vector([h, g, d, c]));
    for (left, right) in blocks {
        let (abef_before, cdgh_before) = (abef, cdgh);
        let [mut w0, mut w1, mut w2, mut w3] = [0, 1, 2, 3].map(|quarter| [load(left, quarter), load(right, quarter)]);
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

/// The next four words of the message schedule after sixteen.
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
