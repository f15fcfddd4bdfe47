//! Conversion of float32 to float16, for a model that returns float16 and a container that holds float32.

#[cfg(target_arch = "x86_64")]
mod eight;

/// Bytes of a float32 and of a float16.
pub const SINGLE: usize = 4;
/// See [`SINGLE`].
pub const HALF: usize = 2;

const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0xFF << 23;
/// 2^16, the first power of two that float16 does not hold.
const TOO_LARGE: u32 = (127 + 16) << 23;
/// 2^-14, the smallest number that float16 holds with all digits.
const SMALLEST_NORMAL: u32 = (127 - 14) << 23;
/// 0.5. Added to a smaller number, it moves the number's digits to the place of a float16's digits.
const HALF_UNIT: u32 = (127 - 1) << 23;

/// The bits of the nearest float16. Ties go to the even one, as in NumPy.
fn half_of(single: u32) -> u16 {
    let sign = single & SIGN;
    let magnitude = single ^ sign;
    // All three results are computed, and one is selected. So the loop over a row has no branch and can be vectorised.
    let digits = magnitude >> 13 & 0x3FF;
    let not_finite = if magnitude > INFINITY { 0x7C00 | digits | u32::from(digits == 0) } else { 0x7C00 };
    let subnormal = (f32::from_bits(magnitude) + f32::from_bits(HALF_UNIT)).to_bits().wrapping_sub(HALF_UNIT);
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub((127 - 15) << 23).wrapping_add(0xFFF + odd) >> 13;
    let found = if magnitude >= TOO_LARGE {
        not_finite
    } else if magnitude < SMALLEST_NORMAL {
        subnormal
    } else {
        normal
    };
    (found | sign >> 16) as u16
}

/// Converts little-endian float32 to float16, rounded to nearest. Both slices hold the same count.
pub fn write_halves(singles: &[u8], halves: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    let done = eight::Eight::detect().map_or(0, |eight| eight.write_halves(singles, halves));
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    let (singles, halves) = (singles.as_chunks::<SINGLE>().0, halves.as_chunks_mut::<HALF>().0);
    for (single, half) in singles.iter().zip(halves).skip(done) {
        *half = half_of(u32::from_le_bytes(*single)).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a float16, by its definition.
    fn value(half: u16) -> f64 {
        let (exponent, digits) = (i32::from(half >> 10 & 0x1F), f64::from(half & 0x3FF));
        let magnitude = match exponent {
            0 => digits * 2_f64.powi(-24),
            31 if digits == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1024.0 + digits) * 2_f64.powi(exponent - 25),
        };
        if half >> 15 == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_float16_survives_as_float32() {
        for half in 0..=u16::MAX {
            let single = value(half) as f32;
            let found = half_of(single.to_bits());
            if value(half).is_nan() {
                assert!(value(found).is_nan());
            } else {
                assert_eq!(found, half, "{single}");
            }
        }
    }

    #[test]
    fn any_other_float32_becomes_the_nearest_the_even_one_of_two() {
        for half in 0..0x7BFF_u16 {
            let (low, high) = (value(half) as f32, value(half + 1) as f32);
            let middle = f32::midpoint(low, high);
            let even = if half % 2 == 0 { half } else { half + 1 };
            for sign in [0, 0x8000] {
                let found = |single: f32| half_of(single.to_bits() | u32::from(sign) << 16);
                assert_eq!(found(middle), even | sign, "{middle}");
                assert_eq!(found(middle.next_down()), half | sign, "{middle}");
                assert_eq!(found(middle.next_up()), (half + 1) | sign, "{middle}");
            }
        }
        let found = |single: f32| value(half_of(single.to_bits()));
        assert_eq!(found(65_519.99), 65_504.0);
        assert_eq!(found(65_520.0), f64::INFINITY);
        assert_eq!(found(f32::MIN), f64::NEG_INFINITY);
        assert_eq!(found(f32::INFINITY), f64::INFINITY);
        assert!(found(f32::NAN).is_nan() && found(f32::from_bits(0x7F80_0001)).is_nan());
    }

    #[test]
    fn a_row_is_written_number_by_number() {
        let numbers: Vec<f32> = (0..37).map(|i| i as f32 / 8.0 - 2.0).collect();
        let singles: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let mut halves = vec![0; numbers.len() * HALF];
        write_halves(&singles, &mut halves);
        let found: Vec<f64> = halves.as_chunks().0.iter().map(|half| value(u16::from_le_bytes(*half))).collect();
        assert_eq!(found, numbers.iter().map(|number| f64::from(*number)).collect::<Vec<_>>());
    }

    #[test]
    fn a_processor_with_instructions_for_it_rounds_as_one_without() {
        // Steps that meet every exponent, and digits on both sides of a half.
        let bits: Vec<u32> = (0..=u32::MAX).step_by(4093).filter(|bits| !f32::from_bits(*bits).is_nan()).collect();
        let singles: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let mut halves = vec![0; bits.len() * HALF];
        write_halves(&singles, &mut halves);
        for (bits, half) in bits.iter().zip(halves.as_chunks().0) {
            assert_eq!(u16::from_le_bytes(*half), half_of(*bits), "{}", f32::from_bits(*bits));
        }
    }
}
