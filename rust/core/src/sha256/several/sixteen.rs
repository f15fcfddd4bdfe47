//! Sixteen messages at once with AVX-512: a vector holds the same word of all of them.

use std::arch::x86_64::{
    __m512i, __mmask16, _mm512_add_epi32, _mm512_loadu_si512, _mm512_mask_add_epi32, _mm512_ror_epi32,
    _mm512_set1_epi32, _mm512_set4_epi32, _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_srli_epi32,
    _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::ROUNDS;
use crate::sha256::{BLOCK, Digest, INITIAL, Message, to_bytes};

/// Messages that are digested at once.
pub const LANES: usize = 16;

/// Truth tables of three operands.
const XOR: i32 = 0x96;
const CHOICE: i32 = 0xCA;
const MAJORITY: i32 = 0xE8;

/// The proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct Sixteen(());

impl Sixteen {
    /// The proof, if the processor has them.
    pub fn detect() -> Option<Sixteen> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")).then_some(Sixteen(()))
    }

    /// SHA-256 of sixteen messages. Takes the time of the longest.
    pub fn digest(self, texts: [&[u8]; LANES]) -> [Digest; LANES] {
        let messages = texts.map(Message::new);
        // SAFETY: the function only requires the features that `detect` found, and only `detect` constructs `self`.
        let states = unsafe { compress_all(&messages) };
        states.map(|state| to_bytes(&state))
    }
}

/// Compresses all blocks of all messages into their states.
#[target_feature(enable = "avx512f,avx512bw")]
fn compress_all(messages: &[Message<'_>; LANES]) -> [[u32; 8]; LANES] {
    const NOTHING: [u8; BLOCK] = [0; BLOCK];
    let mut state = INITIAL.map(|word| _mm512_set1_epi32(word.cast_signed()));
    let most = messages.iter().map(|message| message.blocks).max().unwrap_or(0);
    for at in 0..most {
        // A message that has ended keeps its state.
        let active = (0..LANES).fold(0, |mask, lane| mask | __mmask16::from(at < messages[lane].blocks) << lane);
        let blocks = std::array::from_fn(|lane| load(block(&messages[lane], at).unwrap_or(&NOTHING)));
        compress(&mut state, transposed(blocks), active);
    }
    let words = state.map(|vector| {
        // SAFETY: both types are 64 bytes for which every value is one.
        unsafe { std::mem::transmute::<__m512i, [u32; LANES]>(vector) }
    });
    std::array::from_fn(|lane| words.map(|word| word[lane]))
}

/// Block `at` of a message. Sixteen iterators would take a tenth longer.
fn block<'a>(message: &'a Message<'_>, at: usize) -> Option<&'a [u8; BLOCK]> {
    message.whole.get(at).or_else(|| message.tail().get(at - message.whole.len()))
}

/// A block as sixteen words.
#[target_feature(enable = "avx512f,avx512bw")]
fn load(block: &[u8; BLOCK]) -> __m512i {
    // SHA-256 reads words in big-endian.
    let reversed = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    // SAFETY: the load reads the 64 bytes of the block and requires no alignment.
    let words = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
    _mm512_shuffle_epi8(words, reversed)
}

/// Transposes sixteen blocks into sixteen vectors, each with one word of every block.
#[target_feature(enable = "avx512f")]
fn transposed(blocks: [__m512i; LANES]) -> [__m512i; 16] {
    // Within each quarter of the vectors: four messages' words of one number come together.
    let mut quarters = blocks;
    for four in quarters.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = *four;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        *four = [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ];
    }
    // Then the quarters of the four groups: quarter q of vector i holds word 4 q + i.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut words = quarters;
    for i in 0..4 {
        let [a, b, c, d] = [quarters[i], quarters[4 + i], quarters[8 + i], quarters[12 + i]];
        let (ab, cd) = (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<EVEN>(c, d));
        words[i] = _mm512_shuffle_i32x4::<EVEN>(ab, cd);
        words[8 + i] = _mm512_shuffle_i32x4::<ODD>(ab, cd);
        let (ab, cd) = (_mm512_shuffle_i32x4::<ODD>(a, b), _mm512_shuffle_i32x4::<ODD>(c, d));
        words[4 + i] = _mm512_shuffle_i32x4::<EVEN>(ab, cd);
        words[12 + i] = _mm512_shuffle_i32x4::<ODD>(ab, cd);
    }
    words
}

/// Compresses one block of each active message into its state.
#[target_feature(enable = "avx512f")]
fn compress(state: &mut [__m512i; 8], mut words: [__m512i; 16], active: __mmask16) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    // One round. Instead of moving all variables, the next round is called with the names rotated.
    macro_rules! round {
        ($turn:ident, $i:literal, $a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident) => {
            let constant = _mm512_set1_epi32(ROUNDS[4 * $turn + $i / 4][$i % 4].cast_signed());
            let sum = _mm512_add_epi32(_mm512_add_epi32(words[$i], constant), $h);
            let choice = _mm512_ternarylogic_epi32::<CHOICE>($e, $f, $g);
            let new = _mm512_add_epi32(_mm512_add_epi32(sum, choice), rotations::<6, 11, 25>($e));
            let majority = _mm512_ternarylogic_epi32::<MAJORITY>($a, $b, $c);
            $d = _mm512_add_epi32($d, new);
            $h = _mm512_add_epi32(_mm512_add_epi32(new, majority), rotations::<2, 13, 22>($a));
        };
    }
    // Constant indices keep the words in registers.
    macro_rules! schedule {
        ($($i:literal)*) => {
            $(words[$i] = next_word(words[$i], words[($i + 1) % 16], words[($i + 9) % 16], words[($i + 14) % 16]);)*
        };
    }
    for turn in 0..4 {
        if turn > 0 {
            schedule!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        }
        round!(turn, 0, a b c d e f g h);
        round!(turn, 1, h a b c d e f g);
        round!(turn, 2, g h a b c d e f);
        round!(turn, 3, f g h a b c d e);
        round!(turn, 4, e f g h a b c d);
        round!(turn, 5, d e f g h a b c);
        round!(turn, 6, c d e f g h a b);
        round!(turn, 7, b c d e f g h a);
        round!(turn, 8, a b c d e f g h);
        round!(turn, 9, h a b c d e f g);
        round!(turn, 10, g h a b c d e f);
        round!(turn, 11, f g h a b c d e);
        round!(turn, 12, e f g h a b c d);
        round!(turn, 13, d e f g h a b c);
        round!(turn, 14, c d e f g h a b);
        round!(turn, 15, b c d e f g h a);
    }
    for (word, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = _mm512_mask_add_epi32(*word, active, *word, new);
    }
}

/// The exclusive or of three right rotations of a vector.
#[target_feature(enable = "avx512f")]
fn rotations<const A: i32, const B: i32, const C: i32>(x: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<XOR>(_mm512_ror_epi32::<A>(x), _mm512_ror_epi32::<B>(x), _mm512_ror_epi32::<C>(x))
}

/// The word of the message schedule 16 places after `first`, from the words 0, 1, 9 and 14 places after `first`.
#[target_feature(enable = "avx512f")]
fn next_word(first: __m512i, second: __m512i, tenth: __m512i, fifteenth: __m512i) -> __m512i {
    let near = _mm512_ternarylogic_epi32::<XOR>(
        _mm512_ror_epi32::<7>(second),
        _mm512_ror_epi32::<18>(second),
        _mm512_srli_epi32::<3>(second),
    );
    let far = _mm512_ternarylogic_epi32::<XOR>(
        _mm512_ror_epi32::<17>(fifteenth),
        _mm512_ror_epi32::<19>(fifteenth),
        _mm512_srli_epi32::<10>(fifteenth),
    );
    _mm512_add_epi32(_mm512_add_epi32(first, tenth), _mm512_add_epi32(near, far))
}
