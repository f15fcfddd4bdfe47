//! The content of one row.

/// Where a row lies in the files of its elements.
///
/// An element is one entry of such a file: a token's vector in a ragged cache, a number and its index in a sparse one.
/// In a dense cache each row is one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first element.
    pub start: u64,
    /// The element behind its last.
    pub end: u64,
}

impl Span {
    /// How many elements the row has.
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the row has no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The bytes of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Where it lies. None in a dense cache, where the row number says it.
    pub span: Option<Span>,
    /// Its numbers.
    pub data: &'a [u8],
    /// The index of each number, in a sparse cache.
    pub indices: Option<&'a [u8]>,
}

impl<'a> Row<'a> {
    /// A row of a dense cache.
    #[inline]
    pub fn dense(data: &'a [u8]) -> Row<'a> {
        Row { span: None, data, indices: None }
    }
}
