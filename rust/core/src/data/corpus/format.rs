//! How a file is divided into documents.

/// A longer object or row is refused: it has to be held in memory at once.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;

/// How a file is divided into documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The file is one document.
    Text,
    /// Every JSON object in it has a document in one field, or an example.
    Json,
    /// Every row has one in the column of that name; the first row names the columns.
    Csv,
    /// The same, with tabs between columns.
    Tsv,
    /// A Parquet or Arrow table, of which another process takes out the rows.
    Table,
}

impl Format {
    /// Whether the file has records: objects of JSON, or rows.
    pub(crate) fn has_records(self) -> bool {
        self != Self::Text
    }

    /// Whether the records are rows of a table.
    pub(crate) fn has_rows(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv | Self::Table)
    }

    /// The byte of the format in the key of the cache.
    pub(crate) fn key(self) -> u8 {
        match self {
            Self::Text => 0,
            Self::Json => 1,
            Self::Csv => 2,
            Self::Tsv => 3,
            Self::Table => 4,
        }
    }
}
