//! Seeded random numbers.

/// Seeded random numbers (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// The number of seeds for the random part of a suite: `DEJAVEC_CRASH_SEEDS`, or the given number.
pub fn seeds(default: u64) -> u64 {
    std::env::var("DEJAVEC_CRASH_SEEDS").map_or(default, |text| text.parse().unwrap())
}
