//! Tensors on disk: the safetensors format, with the same bytes for the same tensors.
//!
//! The crate `safetensors` defines and checks the header; the data are written and read here, tensor by tensor, so
//! that neither direction holds more than one tensor beside what the caller holds. Reading uses positioned reads and
//! no memory map: a file that is cut while it is read gives an error, not a signal.
//!
//! Checkpoints hold f32 and exactly the tensors of the model ([`read_tensors`]); models from elsewhere may be in several
//! files and in other types ([`read_model`]).

mod model_files;
mod read;
#[cfg(test)]
mod tests;

pub use model_files::read_model;
pub use read::read_tensors;

use crate::error::{Error, Result};
use crate::system::{files, hex};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Bytes of the length in front of the header.
const LENGTH_BYTES: usize = 8;
/// Bytes converted at a time.
const CHUNK_BYTES: usize = 1 << 16;

/// A tensor to write: its name, its shape, its row-major elements.
type Named<'a> = (String, Vec<usize>, &'a [f32]);

/// A file that lies on the disk as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
}

/// What goes through is counted and hashed on its way.
struct Hashing<W> {
    inner: W,
    bytes: u64,
    hash: Sha256,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, bytes: 0, hash: Sha256::new() }
    }

    fn written(self) -> Written {
        Written { bytes: self.bytes, sha256: hex(&self.hash.finalize()) }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Writes tensors, each a name, a shape and its row-major elements, and waits until they are on the disk.
///
/// The file is a function of the tensors alone: they are sorted by name, as the format's own writer has them, and the
/// metadata are exactly `{"format": "pt"}` (more keys would be written in random order).
///
/// # Errors
/// `User` if the file cannot be written, `Internal` if shapes and elements do not agree.
pub fn write_tensors(path: &Path, tensors: &[Named<'_>]) -> Result<Written> {
    let content = Content::new(tensors)?;
    let write = |file: &mut BufWriter<_>| {
        let mut out = Hashing::new(file);
        content.write(&mut out)?;
        Ok(out.written())
    };
    files::write(path, write).map_err(|e| Error::cannot_write(path, &e))
}

/// SHA-256, in hexadecimal digits, of the file that [`write_tensors`] would write.
///
/// # Errors
/// `Internal` if shapes and elements do not agree.
pub fn hash_tensors(tensors: &[Named<'_>]) -> Result<String> {
    let mut out = Hashing::new(std::io::sink());
    Content::new(tensors)?.write(&mut out).map_err(|e| Error::internal(format!("hash of tensors: {e}")))?;
    Ok(out.written().sha256)
}

/// What a file holds: its header, and its tensors in their order.
struct Content<'a> {
    header: Vec<u8>,
    sorted: Vec<&'a Named<'a>>,
}

impl<'a> Content<'a> {
    fn new(tensors: &'a [Named<'a>]) -> Result<Self> {
        let mut sorted: Vec<_> = tensors.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::internal(format!("two tensors are called {}", pair[0].0)));
        }
        let mut end = 0;
        let infos = sorted.iter().map(|(name, shape, values)| {
            let start = end;
            end += size_of_val(*values);
            (name.clone(), TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets: (start, end) })
        });
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let header = Metadata::new(Some(format), infos.collect())
            .map_err(|e| Error::internal(format!("shapes of tensors: {e}")))?;
        let header = serde_json::to_vec(&header).map_err(|e| Error::internal(format!("safetensors header: {e}")))?;
        Ok(Self { header, sorted })
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        // Spaces after the JSON keep the data aligned.
        let padding = self.header.len().next_multiple_of(LENGTH_BYTES) - self.header.len();
        out.write_all(&((self.header.len() + padding) as u64).to_le_bytes())?;
        out.write_all(&self.header)?;
        out.write_all(&[b' '; LENGTH_BYTES][..padding])?;
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        for (_, _, values) in &self.sorted {
            for chunk in values.chunks(CHUNK_BYTES / size_of::<f32>()) {
                bytes.clear();
                bytes.extend(chunk.iter().flat_map(|x| x.to_le_bytes()));
                out.write_all(&bytes)?;
            }
        }
        Ok(())
    }
}
