//! Reading one safetensors file, which may hold anything.

use super::{CHUNK_BYTES, LENGTH_BYTES};
use crate::error::{Error, Result, brief, io_reason};
use crate::system::files::{File, open_regular, read_at};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Header bytes granted to any file, for metadata of other programs.
const HEADER_BASE: usize = 1 << 20;
/// Header bytes granted for each expected tensor.
const HEADER_PER_TENSOR: usize = 512;

/// Reads exactly the expected tensors (names and shapes) of f32 and hands each, with its place in `expected`, to `sink`.
///
/// Everything about the file but its elements is checked before the first call of `sink`.
///
/// # Errors
/// `Data` with the file, and the tensor if it is about one, if the file cannot be read or is not exactly this.
pub fn read_tensors(path: &Path, expected: &[(String, Vec<usize>)], sink: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
    let file = TensorFile::open(path, expected.len())?;
    for (name, shape) in expected {
        file.check(name, shape, &[Dtype::F32])?;
    }
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    file.check_known(expected.len(), &|name| known.contains(name))?;
    let mut values = Vec::new();
    for (index, (name, _)) in expected.iter().enumerate() {
        file.read(name, &mut values)?;
        sink(index, &values);
    }
    Ok(())
}

/// An open file whose header has been checked.
pub(super) struct TensorFile {
    pub(super) path: PathBuf,
    file: File,
    data_start: u64,
    header: Metadata,
}

impl TensorFile {
    /// Opens a file of which about so many tensors are expected.
    ///
    /// The crate has checked the header: the tensors cover the data without gap or overlap, each as large as its shape
    /// and type say. The file ends where the data do.
    pub(super) fn open(path: &Path, tensors: usize) -> Result<Self> {
        let wrong = |what: String| damaged(path, what);
        let cannot_read = |e: std::io::Error| Error::cannot_read(path, &e);
        let (file, size) = open_regular(path).map_err(cannot_read)?;
        let mut length = [0; LENGTH_BYTES];
        if size < LENGTH_BYTES as u64 {
            return Err(wrong(format!("found {size} bytes, expected a safetensors file")));
        }
        read_at(&file, &mut length, 0).map_err(cannot_read)?;
        let length = u64::from_le_bytes(length);
        let most = HEADER_BASE + HEADER_PER_TENSOR * tensors;
        if length > size - LENGTH_BYTES as u64 {
            return Err(wrong(format!("found a header of {length} bytes in a file of {size}")));
        }
        if length > most as u64 {
            return Err(wrong(format!("found a header of {length} bytes, expected at most {most}")));
        }
        let mut header = vec![0; length as usize];
        read_at(&file, &mut header, LENGTH_BYTES as u64).map_err(cannot_read)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(format!("header: {}", brief(&e))))?;
        let data_start = LENGTH_BYTES as u64 + length;
        if data_start.checked_add(header.data_len() as u64) != Some(size) {
            let found = size - data_start;
            return Err(wrong(format!("found {found} bytes of data, expected {}", header.data_len())));
        }
        Ok(Self { path: path.to_owned(), file, data_start, header })
    }

    /// Whether it has a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// The names of its tensors.
    pub(super) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| damaged(&self.path, format!("tensor {name}: missing")))
    }

    /// Checks type and shape of a tensor.
    pub(super) fn check(&self, name: &str, shape: &[usize], types: &[Dtype]) -> Result<()> {
        let info = self.info(name)?;
        let wrong = |what: String| Err(damaged(&self.path, format!("tensor {name}: {what}")));
        if !types.contains(&info.dtype) {
            let types: Vec<_> = types.iter().map(Dtype::to_string).collect();
            return wrong(format!("found type {}, expected {}", info.dtype, types.join(" or ")));
        }
        if info.shape != *shape {
            return wrong(format!("found shape {:?}, expected {shape:?}", info.shape));
        }
        Ok(())
    }

    /// Checks that every tensor of the file is `known`.
    pub(super) fn check_known(&self, expected: usize, known: &dyn Fn(&str) -> bool) -> Result<()> {
        let names = self.names();
        match names.iter().find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => {
                let (name, found) = (brief(name), names.len());
                Err(damaged(&self.path, format!("found {found} tensors, expected {expected}; unknown: {name:?}")))
            }
        }
    }

    /// The elements of a tensor of a type that [`convert`] takes, as f32.
    pub(super) fn read(&self, name: &str, values: &mut Vec<f32>) -> Result<()> {
        values.clear();
        values.reserve_exact(self.info(name)?.shape.iter().product());
        self.chunks(name, &mut |part| {
            values.extend_from_slice(part);
            true
        })
    }

    /// Hands on the elements of a tensor in parts of the same length (but the last), while `sink` wants more.
    pub(super) fn chunks(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> bool) -> Result<()> {
        let info = self.info(name)?;
        let width = info.dtype.bitsize() / 8;
        let mut bytes = vec![0; CHUNK_BYTES / size_of::<f32>() * width];
        let mut values = Vec::with_capacity(CHUNK_BYTES / size_of::<f32>());
        let (mut at, end) = info.data_offsets;
        while at < end {
            let most = bytes.len();
            let part = &mut bytes[..(end - at).min(most)];
            read_at(&self.file, part, self.data_start + at as u64)
                .map_err(|e| damaged(&self.path, format!("tensor {name}: cannot read: {}", io_reason(&e))))?;
            convert(info.dtype, part, &mut values);
            at += part.len();
            if !sink(&values) {
                break;
            }
        }
        Ok(())
    }
}

/// Little-endian elements as f32, which holds each of these types exactly.
fn convert(dtype: Dtype, bytes: &[u8], values: &mut Vec<f32>) {
    values.clear();
    let halves = || bytes.as_chunks().0.iter().map(|x| u16::from_le_bytes(*x));
    match dtype {
        Dtype::F16 => values.extend(halves().map(half)),
        Dtype::BF16 => values.extend(halves().map(|x| f32::from_bits(u32::from(x) << 16))),
        _ => values.extend(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x))),
    }
}

/// A binary16 number as binary32.
fn half(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let (sign, exponent, fraction) = ((bits & 0x8000) << 16, (bits >> 10) & 0x1f, bits & 0x3ff);
    match exponent {
        // Fractions of 2^-24; both the conversion and the product are exact.
        0 => {
            let size = fraction as f32 * f32::from_bits(0x3380_0000);
            f32::from_bits(sign | size.to_bits())
        }
        0x1f => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

/// A file that is not what it should be. The header may hold anything: control characters must not reach a terminal.
pub(super) fn damaged(path: &Path, what: String) -> Error {
    let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Error::data(format!("{}: {what}", path.display())).hint("the file is damaged or belongs to another model")
}

#[cfg(test)]
mod tests {
    use super::half;

    /// The value of a finite binary16 number by its definition.
    fn defined(bits: u16) -> f64 {
        let (exponent, fraction) = (i32::from((bits >> 10) & 0x1f), f64::from(bits & 0x3ff));
        let size =
            if exponent == 0 { fraction * 2f64.powi(-24) } else { (1024.0 + fraction) * 2f64.powi(exponent - 25) };
        if bits & 0x8000 == 0 { size } else { -size }
    }

    #[test]
    fn every_half_is_converted_exactly() {
        for bits in 0..=u16::MAX {
            let found = half(bits);
            if bits & 0x7c00 == 0x7c00 {
                assert_eq!(found.is_nan(), bits & 0x3ff != 0);
                assert_eq!(found.is_sign_negative(), bits & 0x8000 != 0);
            } else {
                assert_eq!(f64::from(found).to_bits(), defined(bits).to_bits(), "{bits:#06x}");
            }
        }
    }
}
