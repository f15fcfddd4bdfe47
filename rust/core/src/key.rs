//! The keys of items: SHA-256 of the content that a model reads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::parallel;
use crate::sha256;
use crate::text::Texts;

/// The key of an item: a full SHA-256 digest.
pub type Key = sha256::Digest;

/// The key of a dead row. No item has it: nobody knows a preimage.
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

/// A piece with this many bytes of code points takes no further text.
const PIECE_BYTES: usize = 128 << 10;

/// Writes the keys of texts that only this thread can reach into `keys`, on all cores.
///
/// `fetch(position, texts)` adds a text to `texts`. It is called in order, and the first failure ends the batch.
/// `detached` runs the work of this thread; see [`parallel::for_each_made`].
pub fn of_fetched<'a, E>(
    mut fetch: impl FnMut(usize, &mut Texts<'a>) -> Result<(), E>,
    mut keys: &mut [Key],
    detached: impl FnMut(&mut (dyn FnMut() + Send)),
) -> Result<(), E> {
    let items = keys.len();
    let mut next = 0;
    // Memory of finished pieces, for later ones: the first touch of a page takes longer than a copy into it.
    let memory = Mutex::new(Vec::new());
    let pieces = std::iter::from_fn(|| {
        let most = keys.len().min(PIECE);
        let mut texts = Texts::with_capacity(most, locked(&memory).pop().unwrap_or_default());
        while texts.len() < most && texts.copied_bytes() < PIECE_BYTES {
            if let Err(error) = fetch(next, &mut texts) {
                return Some(Err(error));
            }
            next += 1;
        }
        let targets = keys.split_off_mut(..texts.len()).filter(|targets| !targets.is_empty())?;
        Some(Ok((texts, targets)))
    });
    let digest = |(texts, targets): (Texts<'a>, &mut [Key])| {
        texts.with_utf8(|texts| sha256::digest_all(|at| texts.get(at), targets));
        locked(&memory).push(texts.into_memory());
    };
    let weight = |(texts, _): &(Texts<'a>, &mut [Key])| texts.copied_bytes();
    parallel::for_each_made(pieces, items, TEXTS_PER_THREAD, weight, digest, detached)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
/// If `text` is an item's only field, the key is the digest of the text. Otherwise the key is SHA-256 over: tag,
/// version, then for each present field the length of its name (1 byte), its name, its length (8) and its digest (32).
///
/// All slices must have the same length. The caller checks that.
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
    fn keys_of_code_points_are_those_of_their_utf8_however_long_the_texts() {
        let texts: Vec<String> = (0..3000_usize).map(|i| "日本a😀".repeat(i * 31 % 700 + i % 2)).collect();
        let mut keys = vec![DEAD; texts.len()];
        let fetch = |at: usize, fetched: &mut Texts<'_>| {
            let code_points: Vec<u32> = texts[at].chars().map(u32::from).collect();
            fetched.push_code_points(code_points.len()).copy_from_slice(&code_points);
            Ok::<(), ()>(())
        };
        of_fetched(fetch, &mut keys, |detached| detached()).unwrap();
        assert!(texts.iter().zip(&keys).all(|(text, key)| *key == reference(text.as_bytes())));
    }

    #[test]
    fn a_text_that_cannot_be_fetched_ends_it_with_its_error() {
        let mut keys = vec![DEAD; 2000];
        let fetch = |at: usize, texts: &mut Texts<'static>| {
            texts.push_utf8(b"text");
            if at == 1234 { Err(at) } else { Ok(()) }
        };
        assert_eq!(of_fetched(fetch, &mut keys, |detached| detached()), Err(1234));
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
