//! The floor under every look-up by text: a plain SHA-256 loop, one message at a time, with the crate `sha2`.
//!
//!     sha256_floor DIRECTORY THREADS
//!
//! DIRECTORY holds `bytes`, the messages one behind the other, and `offsets`, where each begins and the last ends, as
//! 64-bit little-endian integers. The messages are split over the threads in runs of equal count. Prints the
//! nanoseconds of one pass, after one that only warms up, and the XOR of all digests in hex, to check the work.

use std::path::Path;
use std::time::Instant;

use sha2::{Digest, Sha256};

type Failure = Box<dyn std::error::Error>;

fn xor_of_digests(bytes: &[u8], offsets: &[usize]) -> [u8; 32] {
    offsets.windows(2).fold([0; 32], |mut sum, ends| {
        let digest = Sha256::digest(&bytes[ends[0]..ends[1]]);
        sum.iter_mut().zip(digest).for_each(|(sum, byte)| *sum ^= byte);
        sum
    })
}

fn on_threads(bytes: &[u8], offsets: &[usize], threads: usize) -> Result<[u8; 32], Failure> {
    let run = (offsets.len() - 1).div_ceil(threads).max(1);
    let mut sum = [0_u8; 32];
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..offsets.len() - 1)
            .step_by(run)
            .map(|start| &offsets[start..=(start + run).min(offsets.len() - 1)])
            .map(|part| scope.spawn(|| xor_of_digests(bytes, part)))
            .collect();
        for part in parts {
            let digest = part.join().map_err(|_| "a thread panicked")?;
            sum.iter_mut().zip(digest).for_each(|(sum, byte)| *sum ^= byte);
        }
        Ok(sum)
    })
}

fn main() -> Result<(), Failure> {
    let [directory, threads]: [String; 2] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "usage: sha256_floor DIRECTORY THREADS")?;
    let bytes = std::fs::read(Path::new(&directory).join("bytes"))?;
    let offsets = std::fs::read(Path::new(&directory).join("offsets"))?;
    let (words, _) = offsets.as_chunks::<8>();
    let offsets = words.iter().map(|word| usize::try_from(u64::from_le_bytes(*word))).collect::<Result<Vec<_>, _>>()?;
    let threads: usize = threads.parse()?;
    on_threads(&bytes, &offsets, threads)?;
    let start = Instant::now();
    let sum = on_threads(&bytes, &offsets, threads)?;
    let nanoseconds = start.elapsed().as_nanos();
    println!("{nanoseconds} {}", sum.map(|byte| format!("{byte:02x}")).concat());
    Ok(())
}
