//! UTF-8 of sixteen code points at once with AVX-512. `unsafe` is needed to call a function that requires processor
//! features, and to convert between vectors and arrays of the same size.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_cmpge_epu32_mask, _mm512_mask_mov_epi32, _mm512_maskz_compress_epi8,
    _mm512_movepi8_mask, _mm512_or_si512, _mm512_set1_epi32, _mm512_slli_epi32, _mm512_srli_epi32,
};

use super::LONGEST;

/// Code points that are encoded at once.
const LANES: usize = 16;

/// Bytes per write, however many the code points take.
pub const WRITTEN: usize = LANES * LONGEST;

/// The proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct Sixteen(());

impl Sixteen {
    /// The proof, if the processor has them.
    pub fn detect() -> Option<Sixteen> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi2");
        has_all.then_some(Sixteen(()))
    }

    /// Encodes code points into `out` and returns how many bytes they take. `out` has [`LONGEST`] bytes for each code
    /// point and [`WRITTEN`] more.
    pub fn encode(self, code_points: &[u32], out: &mut [u8]) -> usize {
        // SAFETY: the function only requires the features that `detect` found, and only `detect` constructs `self`.
        unsafe { encode_all(code_points, out) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn encode_all(code_points: &[u32], out: &mut [u8]) -> usize {
    let mut end = 0;
    let (groups, rest) = code_points.as_chunks::<LANES>();
    for group in groups {
        end += encode_group(group, LANES, &mut out[end..]);
    }
    if !rest.is_empty() {
        let mut last = [0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        end += encode_group(&last, rest.len(), &mut out[end..]);
    }
    end
}

/// Encodes the first `count` code points.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn encode_group(group: &[u32; LANES], count: usize, out: &mut [u8]) -> usize {
    let all = |bits: u32| _mm512_set1_epi32(bits.cast_signed());
    // SAFETY: both types are 64 bytes for which every value is one.
    let code = unsafe { std::mem::transmute::<[u32; LANES], __m512i>(*group) };
    let [two, three, four] = [0x80, 0x800, 0x1_0000].map(|limit| _mm512_cmpge_epu32_mask(code, all(limit)));
    let six = _mm512_set1_epi32(0x3F);
    let (low, middle, high) = (
        _mm512_and_si512(code, six),
        _mm512_and_si512(_mm512_srli_epi32::<6>(code), six),
        _mm512_and_si512(_mm512_srli_epi32::<12>(code), six),
    );
    let either = |left, right| _mm512_or_si512(left, right);
    let of_two = either(either(all(0x80C0), _mm512_srli_epi32::<6>(code)), _mm512_slli_epi32::<8>(low));
    let of_three = either(
        either(all(0x0080_80E0), _mm512_srli_epi32::<12>(code)),
        either(_mm512_slli_epi32::<8>(middle), _mm512_slli_epi32::<16>(low)),
    );
    let of_four = either(
        either(either(all(0x8080_80F0), _mm512_srli_epi32::<18>(code)), _mm512_slli_epi32::<8>(high)),
        either(_mm512_slli_epi32::<16>(middle), _mm512_slli_epi32::<24>(low)),
    );
    // The bytes of an encoding start at the lowest byte of its lane. The bytes above them are dropped.
    let (mut words, mut valid) = (code, all(0x80));
    for (takes, encoded, bytes) in [(two, of_two, 0x8080), (three, of_three, 0x0080_8080), (four, of_four, 0x8080_8080)]
    {
        words = _mm512_mask_mov_epi32(words, takes, encoded);
        valid = _mm512_mask_mov_epi32(valid, takes, all(bytes));
    }
    let wanted = u64::MAX >> ((LANES - count) * LONGEST);
    let valid = _mm512_movepi8_mask(valid) & wanted;
    let bytes = _mm512_maskz_compress_epi8(valid, words);
    if let Some(place) = out.first_chunk_mut::<WRITTEN>() {
        // SAFETY: both types are 64 bytes for which every value is one.
        *place = unsafe { std::mem::transmute::<__m512i, [u8; WRITTEN]>(bytes) };
    }
    valid.count_ones() as usize
}
