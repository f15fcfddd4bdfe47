//! Eight numbers at once with F16C. `unsafe` is needed to call a function that requires processor features, and to
//! convert between vectors and arrays of the same size.
#![allow(unsafe_code)]

use std::arch::x86_64::{__m128i, __m256, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtps_ph};

use super::{HALF, SINGLE};

/// Numbers per conversion.
const LANES: usize = 8;

/// The proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct Eight(());

impl Eight {
    /// The proof, if the processor has them.
    pub fn detect() -> Option<Eight> {
        (is_x86_feature_detected!("avx") && is_x86_feature_detected!("f16c")).then_some(Eight(()))
    }

    /// Converts all numbers that fill whole vectors; returns how many.
    pub fn write_halves(self, singles: &[u8], halves: &mut [u8]) -> usize {
        // SAFETY: the function only requires the features that `detect` found, and only `detect` constructs `self`.
        unsafe { write_all(singles, halves) }
    }
}

#[target_feature(enable = "avx,f16c")]
fn write_all(singles: &[u8], halves: &mut [u8]) -> usize {
    let singles = singles.as_chunks::<{ LANES * SINGLE }>().0;
    let halves = halves.as_chunks_mut::<{ LANES * HALF }>().0;
    for (singles, halves) in singles.iter().zip(halves.iter_mut()) {
        // SAFETY: both types are 32 bytes for which every value is one.
        let vector = unsafe { std::mem::transmute::<[u8; LANES * SINGLE], __m256>(*singles) };
        let converted = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector);
        // SAFETY: both types are 16 bytes for which every value is one.
        *halves = unsafe { std::mem::transmute::<__m128i, [u8; LANES * HALF]>(converted) };
    }
    singles.len().min(halves.len()) * LANES
}
