//! `meta.json`: the description of the cache. It is written once, and by each compaction. People can read it.

use serde_json::{Map, Value, json};

use super::column::Column;
use super::container::Container;
use super::dtype::Dtype;
use super::{Defect, NEWEST_VERSION, Uuid, hex, name};
use crate::checksum;

/// Largest `meta.json` that is read.
pub const MAX_BYTES: u64 = 64 * 1024;

const BEFORE_CHECKSUM: &str = "{\n  \"checksum\": \"";
const AFTER_CHECKSUM: &str = "\",\n";
const CHECKSUM_DIGITS: usize = 16;

/// How much higher the format version of a compacted cache is.
const COMPACTED: u32 = 2;

/// The description of a cache and its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// Identifies the cache in all its files.
    pub uuid: Uuid,
    /// Numbers in a vector, of a row or of a token.
    pub dim: u32,
    /// Their type.
    pub dtype: Dtype,
    /// Which files hold the rows.
    pub container: Container,
    /// The hash seed of the index.
    pub seed: u64,
    /// The identity: which model and settings made the vectors. Opaque here.
    pub identity: Value,
    /// The array kind that the model returned. Opaque here.
    pub output: Value,
    /// The version of dejavec that made the cache.
    pub made_by: String,
    /// How often the cache was compacted. The names of its files have this number.
    pub generation: u64,
}

/// Why a `meta.json` is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A newer format version.
    Newer(u64),
    /// Content that breaks the format.
    Defect(Defect),
}

impl Meta {
    /// The format version of the cache.
    pub fn version(&self) -> u32 {
        self.container.version() + if self.generation == 0 { 0 } else { COMPACTED }
    }

    /// The name of a file of this cache that has its number.
    pub fn file(&self, plain: &str) -> String {
        name::in_generation(plain, self.generation)
    }

    /// The file of the rows' numbers.
    pub fn data(&self) -> Column {
        self.container.data(self.dtype, self.dim)
    }

    /// All files of the rows.
    pub fn columns(&self) -> Vec<Column> {
        self.container.columns(self.dtype, self.dim)
    }

    /// The form of the rows, for messages.
    pub fn form(&self) -> String {
        let (dtype, container) = (self.dtype.descr, self.container.name());
        format!("{} × {dtype} ({container}), returned as {}", self.dim, self.output)
    }

    /// The bytes of the file. The first line holds the checksum of the rest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = json!({
            "format_version": self.version(),
            "uuid": hex(&self.uuid),
            "dim": self.dim,
            "dtype": self.dtype.descr,
            "container": self.container.name(),
            "hash_seed": format!("{:016x}", self.seed),
            "identity": self.identity,
            "output": self.output,
            "made_by": self.made_by,
        });
        if let Some(object) = body.as_object_mut().filter(|_| self.generation > 0) {
            object.insert("generation".into(), self.generation.into());
        }
        let body = format!("{body:#}\n");
        // The checksum line goes between the opening "{\n" and the rest of the body.
        let rest = &body[2..];
        format!("{BEFORE_CHECKSUM}{:016x}{AFTER_CHECKSUM}{rest}", checksum::block(rest.as_bytes())).into_bytes()
    }

    /// Parses the file.
    pub fn parse(bytes: &[u8]) -> Result<Meta, Refusal> {
        let defect = |expected: &str, found: String| Refusal::Defect(Defect::new(expected, found));
        let object: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| defect("a JSON object", error.to_string()))?;
        let version = match object.get("format_version").and_then(Value::as_u64) {
            Some(version) if version > u64::from(NEWEST_VERSION) => return Err(Refusal::Newer(version)),
            Some(version) if version > 0 => version,
            _ => return Err(defect("a format_version", format!("{:?}", object.get("format_version")))),
        };
        let (stored, rest) = split_checksum(bytes).ok_or_else(|| defect("a checksum line", "none".into()))?;
        let computed = format!("{:016x}", checksum::block(rest));
        if stored != computed.as_bytes() {
            let stored = String::from_utf8_lossy(stored);
            return Err(defect(&format!("content with checksum {stored}, as its first lines say"), computed));
        }
        Self::read(&object)
            .filter(|meta| u64::from(meta.version()) == version)
            .ok_or_else(|| defect("uuid, dim, dtype, container, hash_seed, identity, output", "others".into()))
    }

    fn read(object: &Map<String, Value>) -> Option<Meta> {
        let text = |name: &str| object.get(name).and_then(Value::as_str);
        let dim = u32::try_from(object.get("dim")?.as_u64()?).ok()?;
        let dtype = Dtype::parse(text("dtype")?)?;
        // Older files, from the time of only one container, name none.
        let container = object.get("container").map_or(Some(Container::Npy), |name| Container::parse(name.as_str()?));
        Some(Meta {
            uuid: u128::from_str_radix(text("uuid")?, 16).ok().map(swap_to_bytes)?,
            dim,
            dtype,
            container: container.filter(|container| container.holds(dtype) && container.has_dim(dim))?,
            seed: u64::from_str_radix(text("hash_seed")?, 16).ok()?,
            identity: object.get("identity")?.clone(),
            output: object.get("output")?.clone(),
            made_by: text("made_by")?.to_owned(),
            generation: object.get("generation").map_or(Some(0), Value::as_u64)?,
        })
    }
}

/// The bytes of a number that was parsed from their hexadecimal digits.
fn swap_to_bytes(number: u128) -> Uuid {
    number.swap_bytes().to_le_bytes()
}

fn split_checksum(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = bytes.strip_prefix(BEFORE_CHECKSUM.as_bytes())?;
    let (stored, bytes) = bytes.split_at_checked(CHECKSUM_DIGITS)?;
    Some((stored, bytes.strip_prefix(AFTER_CHECKSUM.as_bytes())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::flat::Metric;

    fn meta() -> Meta {
        Meta {
            uuid: [0xab; 16],
            dim: 384,
            dtype: Dtype::parse("<f4").unwrap(),
            container: Container::Npy,
            seed: u64::MAX,
            identity: json!({"model": {"name": "größe", "revision": "r"}}),
            output: json!({"library": "numpy", "dtype": "float32"}),
            made_by: "dejavec 0.1.0".into(),
            generation: 0,
        }
    }

    #[test]
    fn meta_survives_the_way_to_disk_and_back() {
        let mut meta = meta();
        assert_eq!(Meta::parse(&meta.to_bytes()), Ok(meta.clone()));
        meta.uuid = std::array::from_fn(|i| i as u8);
        assert_eq!(Meta::parse(&meta.to_bytes()), Ok(meta));
    }

    #[test]
    fn numbers_of_an_identity_come_back_digit_for_digit() {
        let text = r#"{"tiny":8.543481012872812e-14,"large":123456789012345678901234567890}"#;
        let meta = Meta { identity: serde_json::from_str(text).unwrap(), ..meta() };
        assert_eq!(Meta::parse(&meta.to_bytes()).unwrap().identity.to_string(), text);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let good = meta().to_bytes();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            assert!(Meta::parse(&bad) != Ok(meta()), "byte {i}");
            assert!(Meta::parse(&good[..i]).is_err() || i == good.len() - 1, "cut at {i}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let text = String::from_utf8(meta().to_bytes()).unwrap();
        let newer = text.replace("\"format_version\": 1", "\"format_version\": 7");
        assert_eq!(Meta::parse(newer.as_bytes()), Err(Refusal::Newer(7)));
    }

    #[test]
    fn a_container_that_cannot_hold_the_dtype_is_refused() {
        let meta = Meta { container: Container::Flat(Metric::L2), ..meta() };
        assert_eq!(Meta::parse(&meta.to_bytes()), Ok(meta.clone()));
        let half = Meta { dtype: Dtype::parse("<f2").unwrap(), ..meta };
        assert!(Meta::parse(&half.to_bytes()).is_err());
        let wide = Meta { container: Container::Sparse, dim: 250_002, ..half };
        assert_eq!(Meta::parse(&wide.to_bytes()), Ok(wide.clone()));
        assert!(Meta::parse(&Meta { container: Container::Ragged, ..wide }.to_bytes()).is_err());
    }

    #[test]
    fn only_a_compacted_cache_has_a_generation() {
        let first = meta();
        assert!(!String::from_utf8(first.to_bytes()).unwrap().contains("generation"));
        let compacted = Meta { generation: 3, ..first };
        assert_eq!((compacted.version(), compacted.file("vectors.npy")), (3, "vectors.3.npy".into()));
        assert_eq!(Meta::parse(&compacted.to_bytes()), Ok(compacted));
    }

    #[test]
    fn the_version_is_that_of_the_container_and_of_a_compaction() {
        for (container, generation) in Container::ALL.into_iter().flat_map(|container| [(container, 0), (container, 1)])
        {
            let text = String::from_utf8(Meta { container, generation, ..meta() }.to_bytes()).unwrap();
            let version = container.version() + if generation == 0 { 0 } else { 2 };
            assert!(text.contains(&format!("\"format_version\": {version},")));
            let (head, body) = text.split_once(AFTER_CHECKSUM).unwrap();
            let body = body.replace(&format!("version\": {version}"), &format!("version\": {}", 5 - version));
            let sum = format!("{:016x}", checksum::block(body.as_bytes()));
            let other = format!("{}{sum}{AFTER_CHECKSUM}{body}", &head[..BEFORE_CHECKSUM.len()]);
            assert!(matches!(Meta::parse(other.as_bytes()), Err(Refusal::Defect(_))), "{other}");
        }
    }
}
