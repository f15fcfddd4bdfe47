//! Texts: UTF-8 that is borrowed, or code points that are encoded first.

#[cfg(target_arch = "x86_64")]
mod sixteen;

use std::cell::RefCell;
use std::ops::Range;

/// Bytes of the longest encoding of a code point.
const LONGEST: usize = 4;

/// Code points that are encoded together if all of them take the same number of bytes.
const TOGETHER: usize = 8;

/// Bytes behind an encoding that may be overwritten.
const SPARE: usize = 64;

/// Bytes of a thread's buffer for encodings.
const MOST_KEPT: usize = 4 << 20;

/// Texts in order. A text without UTF-8 is copied here as code points.
#[derive(Debug, Default)]
pub struct Texts<'a> {
    texts: Vec<Text<'a>>,
    /// May be longer than its used part: memory that served other texts is reused without zeroing it again.
    code_points: Vec<u32>,
    used: usize,
}

#[derive(Debug)]
enum Text<'a> {
    Utf8(&'a [u8]),
    CodePoints(Range<usize>),
}

impl<'a> Texts<'a> {
    /// No texts, and room for this many. Their code points go to `memory` and overwrite its content.
    pub fn with_capacity(texts: usize, memory: Vec<u32>) -> Texts<'a> {
        Texts { texts: Vec::with_capacity(texts), code_points: memory, used: 0 }
    }

    /// Adds a text in UTF-8.
    pub fn push_utf8(&mut self, text: &'a [u8]) {
        self.texts.push(Text::Utf8(text));
    }

    /// Adds a text of this many code points, and returns the place for them. The caller fills it completely.
    pub fn push_code_points(&mut self, length: usize) -> &mut [u32] {
        let range = self.used..self.used + length;
        if self.code_points.len() < range.end {
            self.code_points.resize(range.end, 0);
        }
        self.used = range.end;
        self.texts.push(Text::CodePoints(range.clone()));
        &mut self.code_points[range]
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Bytes of the copied code points.
    pub fn copied_bytes(&self) -> usize {
        self.used * size_of::<u32>()
    }

    /// Calls `work` with the texts in UTF-8. Lone surrogates are encoded like any code point, as by Python's
    /// `surrogatepass`.
    pub fn with_utf8<R>(&self, work: impl FnOnce(&Encoded<'_, 'a>) -> R) -> R {
        thread_local! {
            /// Allocated once in each thread: the first touch of a page takes longer than encoding into it.
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let mut bytes = BUFFER.take();
        bytes.resize(bytes.len().max(self.used * LONGEST + SPARE), 0);
        let mut ends = Vec::with_capacity(self.texts.len());
        let mut end = 0;
        for text in &self.texts {
            if let Text::CodePoints(range) = text {
                end += encode(&self.code_points[range.clone()], &mut bytes[end..]);
            }
            ends.push(end);
        }
        let done = work(&Encoded { texts: self, bytes: &bytes, ends });
        if bytes.len() <= MOST_KEPT {
            BUFFER.set(bytes);
        }
        done
    }

    /// The memory of the code points, for reuse.
    pub fn into_memory(self) -> Vec<u32> {
        self.code_points
    }
}

/// The UTF-8 bytes of [`Texts`].
#[derive(Debug)]
pub struct Encoded<'t, 'a> {
    texts: &'t Texts<'a>,
    bytes: &'t [u8],
    /// The end of each text's encoded bytes. They begin at the end of the text before.
    ends: Vec<usize>,
}

impl Encoded<'_, '_> {
    /// Text `at`.
    pub fn get(&self, at: usize) -> &[u8] {
        match &self.texts.texts[at] {
            Text::Utf8(text) => text,
            Text::CodePoints(_) => &self.bytes[at.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[at]],
        }
    }
}

/// Encodes code points into `out` and returns how many bytes were written. `out` has [`LONGEST`] bytes for each code
/// point and [`SPARE`] more.
fn encode(code_points: &[u32], out: &mut [u8]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let Some(sixteen) = sixteen::Sixteen::detect() {
        return sixteen.encode(code_points, out);
    }
    encode_by_groups(code_points, out)
}

/// [`encode`] for any processor.
fn encode_by_groups(code_points: &[u32], out: &mut [u8]) -> usize {
    let mut end = 0;
    let (groups, rest) = code_points.as_chunks::<TOGETHER>();
    let mut last = [0; TOGETHER];
    last[..rest.len()].copy_from_slice(rest);
    for group in groups.iter().chain([&last]) {
        let Some(place) = out.get_mut(end..).and_then(|rest| rest.first_chunk_mut()) else { break };
        end += encode_group(group, place);
    }
    // Zeros fill the last group up. They come last and take one byte each.
    end - (TOGETHER - rest.len())
}

/// Most neighbours in a text belong to one script: then all lengths are known at once.
fn encode_group(group: &[u32; TOGETHER], out: &mut [u8; LONGEST * TOGETHER]) -> usize {
    let (least, most) = group.iter().fold((u32::MAX, 0), |(least, most), code| (least.min(*code), most.max(*code)));
    match (least, most) {
        (_, ..0x80) => encode_equal::<1>(group, out),
        (0x80.., ..0x800) => encode_equal::<2>(group, out),
        (0x800.., ..0x1_0000) => encode_equal::<3>(group, out),
        (0x1_0000.., _) => encode_equal::<4>(group, out),
        _ => encode_mixed(group, out),
    }
}

/// Encodes code points that all take `BYTES` bytes.
fn encode_equal<const BYTES: usize>(group: &[u32; TOGETHER], out: &mut [u8; LONGEST * TOGETHER]) -> usize {
    let (places, _) = out.as_chunks_mut::<BYTES>();
    for (place, code_point) in places.iter_mut().zip(group) {
        for (at, byte) in place.iter_mut().enumerate() {
            let bits = (*code_point >> (6 * (BYTES - 1 - at))) as u8;
            *byte = if at == 0 { FIRST[BYTES] | bits } else { 0x80 | bits & 0x3F };
        }
    }
    TOGETHER * BYTES
}

/// The marker bits in the first byte of an encoding, by its number of bytes.
const FIRST: [u8; LONGEST + 1] = [0, 0, 0xC0, 0xE0, 0xF0];

/// Encodes code points of different lengths. Without branches, since a processor cannot predict the lengths.
fn encode_mixed(group: &[u32; TOGETHER], out: &mut [u8; LONGEST * TOGETHER]) -> usize {
    let (mut words, mut lengths) = ([0; TOGETHER], [0; TOGETHER]);
    for ((word, length), code_point) in words.iter_mut().zip(&mut lengths).zip(group) {
        // All bits set if the encoding takes at least this many bytes.
        let takes = |limit: u32| 0_u32.wrapping_sub(u32::from(*code_point >= limit));
        let (two, three, four) = (takes(0x80), takes(0x800), takes(0x1_0000));
        let six = |shift: u32| *code_point >> shift & 0x3F;
        let of_two = 0x80C0 | *code_point >> 6 & 0x1F | six(0) << 8;
        let of_three = 0x0080_80E0 | *code_point >> 12 & 0xF | six(6) << 8 | six(0) << 16;
        let of_four = 0x8080_80F0 | *code_point >> 18 | six(12) << 8 | six(6) << 16 | six(0) << 24;
        *word = *code_point & !two | of_two & two & !three | of_three & three & !four | of_four & four;
        *length = 1 + (two & 1) + (three & 1) + (four & 1);
    }
    let mut end = 0;
    for at in (0..TOGETHER).step_by(2) {
        let pair = u64::from(words[at]) | u64::from(words[at + 1]) << (8 * lengths[at]);
        // The bound has no effect before the last pair. It removes a bounds check.
        let start = end.min(LONGEST * TOGETHER - size_of::<u64>());
        out[start..start + size_of::<u64>()].copy_from_slice(&pair.to_le_bytes());
        end += (lengths[at] + lengths[at + 1]) as usize;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The encoding, which must be the same on every processor.
    fn utf8_of(code_points: &[u32]) -> Vec<u8> {
        let mut texts = Texts::default();
        texts.push_code_points(code_points.len()).copy_from_slice(code_points);
        let mut by_groups = vec![0xFF; code_points.len() * LONGEST + SPARE];
        let written = encode_by_groups(code_points, &mut by_groups);
        texts.with_utf8(|texts| {
            assert_eq!(texts.get(0), &by_groups[..written]);
            texts.get(0).to_vec()
        })
    }

    #[test]
    fn every_character_is_encoded_as_rust_encodes_it_alone_and_in_a_run() {
        for character in '\0'..=char::MAX {
            let code = u32::from(character);
            let expected = character.to_string();
            assert_eq!(utf8_of(&[code]), expected.as_bytes(), "U+{code:X}");
            if code % 97 == 0 || code < 0x900 {
                assert_eq!(utf8_of(&[code; 21]), expected.repeat(21).as_bytes(), "U+{code:X}");
            }
        }
    }

    #[test]
    fn scripts_may_change_anywhere_in_a_text() {
        let alphabet = ['a', 'é', '日', '😀', ' ', 'ب'];
        for seed in 0..2_000_usize {
            let text: String =
                (0..seed % 40).map(|i| alphabet[(seed / (i / 3 + 1) + i / 7) % alphabet.len()]).collect();
            let code_points: Vec<u32> = text.chars().map(u32::from).collect();
            assert_eq!(utf8_of(&code_points), text.as_bytes());
        }
    }

    #[test]
    fn a_lone_surrogate_takes_three_bytes_and_a_pair_six() {
        assert_eq!(utf8_of(&[0xD800]), [0xED, 0xA0, 0x80]);
        assert_eq!(utf8_of(&[0xD83D, 0xDE00]), [0xED, 0xA0, 0xBD, 0xED, 0xB8, 0x80]);
    }

    #[test]
    fn borrowed_and_copied_texts_keep_their_order() {
        let mut texts = Texts::with_capacity(4, Vec::new());
        texts.push_utf8(b"one");
        texts.push_code_points(2).copy_from_slice(&[0x65E5, 0x672C]);
        texts.push_utf8(b"");
        texts.push_code_points(1).copy_from_slice(&[0xE9]);
        texts.push_code_points(0);
        texts.with_utf8(|encoded| {
            let found: Vec<_> = (0..texts.len()).map(|at| std::str::from_utf8(encoded.get(at)).unwrap()).collect();
            assert_eq!(found, ["one", "日本", "", "é", ""]);
        });
        assert_eq!(texts.copied_bytes(), 12);
    }
}
