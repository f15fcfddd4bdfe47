//! The dtype of a row. The engine only uses its size.

/// A dtype that a cache can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dtype {
    /// NumPy's descriptor: `<f4`.
    pub descr: &'static str,
    /// Bytes of a number.
    pub item_bytes: u32,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Dtype; 12] = [
        Dtype { descr: "<f2", item_bytes: 2 },
        Dtype { descr: "<f4", item_bytes: 4 },
        Dtype { descr: "<f8", item_bytes: 8 },
        Dtype { descr: "|i1", item_bytes: 1 },
        Dtype { descr: "|u1", item_bytes: 1 },
        Dtype { descr: "|b1", item_bytes: 1 },
        Dtype { descr: "<i2", item_bytes: 2 },
        Dtype { descr: "<u2", item_bytes: 2 },
        Dtype { descr: "<i4", item_bytes: 4 },
        Dtype { descr: "<u4", item_bytes: 4 },
        Dtype { descr: "<i8", item_bytes: 8 },
        Dtype { descr: "<u8", item_bytes: 8 },
    ];

    /// The dtype with this descriptor, if a cache can hold it.
    pub fn parse(descr: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|dtype| dtype.descr == descr)
    }
}
