//! Items to keys: SHA-256 of what a model reads.

use std::borrow::Cow;
use std::ops::Range;

use crate::parallel;
use crate::sha256;

/// The key of an item: a full SHA-256 digest.
pub type Key = sha256::Digest;

/// The key of a dead row: no item has it, for want of a preimage.
pub const DEAD: Key = [0; 32];

/// First byte of the message of an item with more than text. No UTF-8 text starts with it.
pub const FIELDS_TAG: u8 = 0xFF;

/// Version of the scheme that combines fields.
pub const FIELDS_VERSION: u8 = 1;

/// Texts a piece of parallel work holds, and the fewest that are worth a second thread.
const PIECE: usize = 512;
const TEXTS_PER_THREAD: usize = 256;

/// SHA-256 of one text.
pub fn of_text(text: &[u8]) -> Key {
    sha256::digest(text)
}

/// Writes the key of `text(i)` into `keys[i]`, on all cores.
pub fn of_texts<'a>(text: impl Fn(usize) -> &'a [u8] + Sync, keys: &mut [Key]) {
    let items = keys.len();
    let pieces: Vec<_> = keys.chunks_mut(PIECE).enumerate().collect();
    parallel::for_each(pieces, items, TEXTS_PER_THREAD, |(i, keys)| {
        sha256::digest_all(|j| text(i * PIECE + j), keys);
    });
}

/// Writes the keys of texts that only this thread can reach into `keys`, on all cores.
///
/// `fetch(range)` gives the texts of a range, as many, and is called in order; the first that fails ends it. `rest` does
/// what is left to do when all are fetched.
pub fn of_fetched<'a, E>(
    mut fetch: impl FnMut(Range<usize>) -> Result<Vec<Cow<'a, [u8]>>, E>,
    keys: &mut [Key],
    rest: impl FnOnce(&mut (dyn FnMut() + Send)),
) -> Result<(), E> {
    let items = keys.len();
    let pieces = keys.chunks_mut(PIECE).enumerate().map(|(i, keys)| {
        let first = i * PIECE;
        fetch(first..first + keys.len()).map(|texts| (texts, keys))
    });
    let digest = |(texts, keys): (Vec<Cow<'a, [u8]>>, &mut [Key])| sha256::digest_all(|i| &texts[i], keys);
    parallel::for_each_made(pieces, items, TEXTS_PER_THREAD, digest, rest)
}

/// One field of a batch of items.
pub struct Field<'a> {
    /// Its name, at most 255 bytes.
    pub name: &'a str,
    /// Its length in each item, in bytes; negative where the item has no such field.
    pub lengths: &'a [i64],
    /// The SHA-256 of its content in each item.
    pub digests: &'a [Key],
}

/// Writes the keys of items with several fields into `keys`, on all cores.
///
/// An item whose only field is `text` keeps the digest of the text. Any other has SHA-256 over: tag, version, then for
/// each present field the length of its name (1 byte), its name, its length (8) and its digest (32).
///
/// All slices must have one length; the caller checks.
pub fn of_fields(fields: &[Field<'_>], keys: &mut [Key]) {
    let items = keys.len();
    let pieces: Vec<_> = keys.chunks_mut(PIECE).enumerate().collect();
    parallel::for_each(pieces, items, TEXTS_PER_THREAD, |(i, keys)| of_fields_piece(fields, i * PIECE, keys));
}

fn of_fields_piece(fields: &[Field<'_>], first: usize, keys: &mut [Key]) {
    let mut messages = Vec::new();
    let mut combined = Vec::new();
    for (i, key) in keys.iter_mut().enumerate() {
        let start = messages.len();
        messages.extend_from_slice(&[FIELDS_TAG, FIELDS_VERSION]);
        let mut present = 0;
        let mut plain_text = None;
        for field in fields {
            let (length, digest) = (field.lengths[first + i], &field.digests[first + i]);
            let Ok(length) = u64::try_from(length) else { continue };
            present += 1;
            plain_text = (field.name == "text").then_some(digest);
            messages.push(u8::try_from(field.name.len()).unwrap_or(u8::MAX));
            messages.extend_from_slice(field.name.as_bytes());
            messages.extend_from_slice(&length.to_le_bytes());
            messages.extend_from_slice(digest);
        }
        match plain_text {
            Some(digest) if present == 1 => {
                *key = *digest;
                messages.truncate(start);
            }
            _ => combined.push((i, start..messages.len())),
        }
    }
    let mut digests = vec![DEAD; combined.len()];
    sha256::digest_all(|i| &messages[combined[i].1.clone()], &mut digests);
    for ((i, _), digest) in combined.iter().zip(digests) {
        keys[*i] = digest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn reference(text: &[u8]) -> Key {
        Sha256::digest(text).into()
    }

    #[test]
    fn keys_are_sha256_at_every_length_around_the_block_borders() {
        let texts: Vec<Vec<u8>> = (0..700_usize).map(|n| (0..n).map(|i| (i * 7 + n) as u8).collect()).collect();
        let mut keys = vec![DEAD; texts.len()];
        of_texts(|i| &texts[i], &mut keys);
        for (text, key) in texts.iter().zip(&keys) {
            assert_eq!(*key, reference(text), "length {}", text.len());
            assert_eq!(of_text(text), reference(text));
        }
    }

    #[test]
    fn long_and_short_texts_mix_in_one_batch() {
        let texts: Vec<Vec<u8>> = (0..2000_usize).map(|i| vec![i as u8; (i * 37) % 9000]).collect();
        let mut keys = vec![DEAD; texts.len()];
        of_texts(|i| &texts[i], &mut keys);
        assert!(texts.iter().zip(&keys).all(|(text, key)| *key == reference(text)));
    }

    #[test]
    fn the_key_of_several_fields_is_the_documented_message_at_any_place_in_the_batch() {
        let texts: Vec<String> = (0..1500).map(|i| format!("text {i}")).collect();
        let digests: Vec<Key> = texts.iter().map(|text| of_text(text.as_bytes())).collect();
        let lengths: Vec<i64> = texts.iter().map(|text| text.len() as i64).collect();
        let titles: Vec<i64> = (0..1500).map(|i| if i % 3 == 0 { -1 } else { 7 }).collect();
        let fields = [
            Field { name: "text", lengths: &lengths, digests: &digests },
            Field { name: "title", lengths: &titles, digests: &digests },
        ];
        let mut keys = vec![DEAD; 1500];
        of_fields(&fields, &mut keys);
        for (i, key) in keys.iter().enumerate() {
            let mut message = vec![0xFF, 1, 4];
            message.extend_from_slice(b"text");
            message.extend_from_slice(&lengths[i].to_le_bytes());
            message.extend_from_slice(&digests[i]);
            message.push(5);
            message.extend_from_slice(b"title");
            message.extend_from_slice(&7_u64.to_le_bytes());
            message.extend_from_slice(&digests[i]);
            assert_eq!(*key, if i % 3 == 0 { digests[i] } else { reference(&message) }, "item {i}");
        }
    }

    #[test]
    fn text_alone_keeps_its_digest_and_fields_do_not_run_together() {
        let field = |name: &'static str, text: &str| (name, vec![text.len() as i64], vec![of_text(text.as_bytes())]);
        let key = |fields: &[(&'static str, Vec<i64>, Vec<Key>)]| {
            let fields: Vec<_> =
                fields.iter().map(|(name, lengths, digests)| Field { name, lengths, digests }).collect();
            let mut keys = [DEAD];
            of_fields(&fields, &mut keys);
            keys[0]
        };
        assert_eq!(key(&[field("text", "a b")]), of_text(b"a b"));
        let left = key(&[field("text", "x"), field("title", "a b"), field("body", "c")]);
        let right = key(&[field("text", "x"), field("title", "a"), field("body", "b c")]);
        assert_ne!(left, right);
        assert_ne!(key(&[field("title", "a")]), key(&[field("body", "a")]));
        let absent = ("title", vec![-1], vec![DEAD]);
        assert_eq!(key(&[field("text", "x"), absent]), of_text(b"x"));
    }
}
