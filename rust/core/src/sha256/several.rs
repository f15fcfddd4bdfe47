//! SHA-256 of several messages at once: two with the instructions for SHA-256, sixteen with AVX-512.
//!
//! The crate digests one message after the other. Each round of a message waits for the round before, so only several
//! messages at once keep the processor's units busy. `unsafe` is needed to call functions that require processor
//! features, and to convert between vectors and arrays of the same size.
#![allow(unsafe_code)]

pub mod sixteen;
pub mod two;

use self::sixteen::{LANES, Sixteen};
use self::two::Two;
use super::{Digest, blocks, digest};
use crate::prefetch;

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

/// Messages of this many blocks or more count as equally long in the sort.
const LONG: usize = 255;

/// Sixteen blocks at once take the time of this many blocks in pairs.
const BLOCKS_OF_SIXTEEN: usize = 10;

/// The kernels of this processor.
#[derive(Debug, Clone, Copy)]
pub struct Several {
    two: Two,
    sixteen: Option<Sixteen>,
}

impl Several {
    /// The kernels that this processor has, or None.
    pub fn detect() -> Option<Several> {
        Some(Several { two: Two::detect()?, sixteen: Sixteen::detect() })
    }

    /// Writes SHA-256 of `text(i)` into `digests[i]`.
    pub fn digest_all<'a>(self, text: impl Fn(usize) -> &'a [u8], digests: &mut [Digest]) {
        let order = by_blocks(digests.len(), |i| text(i).len());
        for (group, some) in order.chunks(LANES).enumerate() {
            // The next messages come from memory while these are digested.
            for i in order.chunks(LANES).nth(group + 1).unwrap_or_default() {
                prefetch::fetch(text(*i));
            }
            match self.sixteen {
                Some(sixteen) if keep_sixteen_busy(some.iter().map(|i| blocks(text(*i).len()))) => {
                    let texts = std::array::from_fn(|lane| some.get(lane).map_or(&[][..], |i| text(*i)));
                    for (i, digest) in some.iter().zip(sixteen.digest(texts)) {
                        digests[*i] = digest;
                    }
                }
                _ => {
                    for pair in some.chunks(2) {
                        match *pair {
                            [i, j] => [digests[i], digests[j]] = self.two.digest(text(i), text(j)),
                            [i] => digests[i] = digest(text(i)),
                            _ => {}
                        }
                    }
                }
            }
        }
    }
}

/// Whether messages of these block counts are faster together than in pairs.
fn keep_sixteen_busy(counts: impl Iterator<Item = usize>) -> bool {
    let (sum, most) = counts.fold((0, 0), |(sum, most), count| (sum + count, most.max(count)));
    sum >= BLOCKS_OF_SIXTEEN * most
}

/// The numbers of the messages, sorted by blocks. So neighbours take about the same time.
fn by_blocks(count: usize, bytes: impl Fn(usize) -> usize) -> Vec<usize> {
    let place = |i| blocks(bytes(i)).min(LONG);
    let mut starts = [0_usize; LONG + 1];
    (0..count).for_each(|i| starts[place(i)] += 1);
    let mut sum = 0;
    starts.iter_mut().for_each(|start| (*start, sum) = (sum, sum + *start));
    let mut order = vec![0; count];
    for i in 0..count {
        let next = &mut starts[place(i)];
        order[*next] = i;
        *next += 1;
    }
    order
}
