//! Tensors on disk: the safetensors format, f32 only, with the same bytes for the same tensors.
//!
//! The crate `safetensors` defines and checks the header; the data are written and read here, tensor by tensor, so
//! that neither direction holds more than one tensor beside what the caller holds. Reading uses positioned reads and
//! no memory map: a file that is cut while it is read gives an error, not a signal.

use crate::data::hex;
use crate::error::{Error, Result, brief, io_reason};
use crate::files::open_regular;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the length in front of the header.
const LENGTH_BYTES: usize = 8;
/// Bytes converted at a time.
const CHUNK_BYTES: usize = 1 << 16;
/// Header bytes granted to any file, for metadata of other programs.
const HEADER_BASE: usize = 1 << 20;
/// Header bytes granted for each expected tensor.
const HEADER_PER_TENSOR: usize = 512;

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
    let write = || -> std::io::Result<Written> {
        let mut out = BufWriter::with_capacity(1 << 20, Hashing::new(File::create(path)?));
        content.write(&mut out)?;
        let out = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        out.inner.sync_all()?;
        Ok(out.written())
    };
    write().map_err(|e| Error::cannot_write(path, &e))
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

/// Reads exactly the expected tensors (names and shapes) and hands each, with its place in `expected`, to `sink`.
///
/// Everything about the file but its elements is checked before the first call of `sink`.
///
/// # Errors
/// `Data` with the file, and the tensor if it is about one, if the file cannot be read or is not exactly this.
pub fn read_tensors(path: &Path, expected: &[(String, Vec<usize>)], sink: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
    let cannot_read = |e: std::io::Error| Error::cannot_read(path, &e);
    let (file, size) = open_regular(path).map_err(cannot_read)?;
    let (data_start, header) = read_header(path, &file, size, expected.len())?;
    for (name, shape) in expected {
        let wrong = |what: String| Err(damaged(path, format!("tensor {name}: {what}")));
        let Some(info) = header.info(name) else {
            return wrong("missing".into());
        };
        if info.dtype != Dtype::F32 {
            return wrong(format!("found type {}, expected F32", info.dtype));
        }
        if info.shape != *shape {
            return wrong(format!("found shape {:?}, expected {shape:?}", info.shape));
        }
    }
    let mut names = header.offset_keys();
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    names.retain(|name| !known.contains(name.as_str()));
    if let Some(name) = names.first() {
        let name = brief(name);
        return Err(damaged(
            path,
            format!("found {} tensors, expected {}; unknown: {name:?}", header.offset_keys().len(), expected.len()),
        ));
    }

    let mut bytes = vec![0; CHUNK_BYTES];
    let mut values: Vec<f32> = Vec::new();
    for (index, (name, _)) in expected.iter().enumerate() {
        let Some(info) = header.info(name) else { continue };
        let (start, end) = info.data_offsets;
        values.clear();
        values.reserve_exact((end - start) / size_of::<f32>());
        let mut at = start;
        while at < end {
            let part = &mut bytes[..(end - at).min(CHUNK_BYTES)];
            file.read_exact_at(part, data_start + at as u64)
                .map_err(|e| damaged(path, format!("tensor {name}: cannot read: {}", io_reason(&e))))?;
            values.extend(part.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)));
            at += part.len();
        }
        sink(index, &values);
    }
    Ok(())
}

/// Where the data start, and the header, which the crate has checked: the tensors cover the data without gap or
/// overlap, each as large as its shape and type say. The file ends where the data do.
fn read_header(path: &Path, file: &File, size: u64, tensors: usize) -> Result<(u64, Metadata)> {
    let wrong = |what: String| damaged(path, what);
    let mut length = [0; LENGTH_BYTES];
    if size < LENGTH_BYTES as u64 {
        return Err(wrong(format!("found {size} bytes, expected a safetensors file")));
    }
    file.read_exact_at(&mut length, 0).map_err(|e| Error::cannot_read(path, &e))?;
    let length = u64::from_le_bytes(length);
    let most = HEADER_BASE + HEADER_PER_TENSOR * tensors;
    if length > size - LENGTH_BYTES as u64 {
        return Err(wrong(format!("found a header of {length} bytes in a file of {size}")));
    }
    if length > most as u64 {
        return Err(wrong(format!("found a header of {length} bytes, expected at most {most}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact_at(&mut header, LENGTH_BYTES as u64).map_err(|e| Error::cannot_read(path, &e))?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(format!("header: {}", brief(&e))))?;
    let data_start = LENGTH_BYTES as u64 + length;
    if data_start.checked_add(header.data_len() as u64) != Some(size) {
        let found = size - data_start;
        return Err(wrong(format!("found {found} bytes of data, expected {}", header.data_len())));
    }
    Ok((data_start, header))
}

/// A file that is not what it should be. The header may hold anything: control characters must not reach a terminal.
fn damaged(path: &Path, what: String) -> Error {
    let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Error::data(format!("{}: {what}", path.display())).hint("the file is damaged or belongs to another model")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A path of its own for each test, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("symlm-checkpoint-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    type Tensor = (String, Vec<usize>, Vec<f32>);

    fn example() -> Vec<Tensor> {
        let values = |n: usize| (0..n).map(|i| (i as f32 - 7.5) * 1.25e-3).collect::<Vec<f32>>();
        vec![
            ("model.norm.weight".into(), vec![5], values(5)),
            ("a".into(), vec![3, 7], values(21)),
            ("large".into(), vec![200, 101], values(20_200)),
            ("b".into(), vec![1], vec![f32::from_bits(1)]),
        ]
    }

    fn write(path: &Path, tensors: &[Tensor]) {
        let views: Vec<_> = tensors.iter().map(|(n, s, v)| (n.clone(), s.clone(), v.as_slice())).collect();
        write_tensors(path, &views).unwrap();
    }

    fn shapes(tensors: &[Tensor]) -> Vec<(String, Vec<usize>)> {
        tensors.iter().map(|(n, s, _)| (n.clone(), s.clone())).collect()
    }

    fn read(path: &Path, expected: &[(String, Vec<usize>)]) -> Result<Vec<Vec<f32>>> {
        let mut found = vec![Vec::new(); expected.len()];
        read_tensors(path, expected, &mut |i, values| found[i] = values.to_vec())?;
        Ok(found)
    }

    fn message(result: Result<Vec<Vec<f32>>>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.kind, crate::ErrorKind::Data);
        error.message
    }

    #[test]
    fn what_is_written_is_read() {
        let (file, tensors) = (Scratch::new(), example());
        write(&file.0, &tensors);
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (found, (name, _, values)) in read(&file.0, &shapes(&tensors)).unwrap().iter().zip(&tensors) {
            assert_eq!(bits(found), bits(values), "{name}");
        }
    }

    #[test]
    fn the_file_is_what_the_format_s_own_writer_makes() {
        let (file, mut tensors) = (Scratch::new(), example());
        write(&file.0, &tensors);
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.2.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|(t, b)| (t.0.clone(), safetensors::tensor::TensorView::new(Dtype::F32, t.1.clone(), b).unwrap()));
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let theirs = safetensors::serialize(views, Some(format)).unwrap();
        let ours = std::fs::read(&file.0).unwrap();
        assert!(ours == theirs);
        assert!(ours[LENGTH_BYTES..].starts_with(br#"{"__metadata__":{"format":"pt"},"#));
        let sum = |tensors: &[Tensor]| {
            let views: Vec<_> = tensors.iter().map(|(n, s, v)| (n.clone(), s.clone(), v.as_slice())).collect();
            hash_tensors(&views).unwrap()
        };
        assert_eq!(sum(&tensors), hex(&Sha256::digest(&ours)));
        // The order of the arguments does not matter.
        tensors.reverse();
        assert_eq!(sum(&tensors), hex(&Sha256::digest(&ours)));
        write(&file.0, &tensors);
        assert!(std::fs::read(&file.0).unwrap() == ours);
    }

    #[test]
    fn errors_name_the_file_and_the_tensor() {
        let (file, tensors) = (Scratch::new(), example());
        write(&file.0, &tensors);
        let path = file.0.display().to_string();
        let mut expected = shapes(&tensors);
        expected[1].1 = vec![7, 3];
        assert_eq!(message(read(&file.0, &expected)), format!("{path}: tensor a: found shape [3, 7], expected [7, 3]"));
        expected[1] = ("c".into(), vec![3, 7]);
        assert_eq!(message(read(&file.0, &expected)), format!("{path}: tensor c: missing"));
        expected.remove(1);
        assert_eq!(message(read(&file.0, &expected)), format!("{path}: found 4 tensors, expected 3; unknown: \"a\""));
        assert!(message(read(Path::new("/nonexistent"), &expected)).starts_with("cannot read /nonexistent"));
        let views = [("t".to_owned(), safetensors::tensor::TensorView::new(Dtype::I32, vec![1], &[0; 4]).unwrap())];
        std::fs::write(&file.0, safetensors::serialize(views, None).unwrap()).unwrap();
        assert_eq!(
            message(read(&file.0, &[("t".into(), vec![1])])),
            format!("{path}: tensor t: found type I32, expected F32")
        );
    }

    #[test]
    fn shapes_that_do_not_fit_the_elements_and_double_names_are_refused() {
        let file = Scratch::new();
        let values = [0.0; 6];
        assert!(write_tensors(&file.0, &[("a".into(), vec![7], &values)]).is_err());
        assert!(write_tensors(&file.0, &[("a".into(), vec![6], &values), ("a".into(), vec![6], &values)]).is_err());
    }

    fn small() -> Vec<Tensor> {
        vec![("ab".into(), vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]), ("cd".into(), vec![3], vec![5.0, 6.0, 7.0])]
    }

    proptest! {
        #[test]
        fn a_cut_or_longer_file_is_refused(cut in 0_usize..400) {
            let file = Scratch::new();
            write(&file.0, &small());
            let mut bytes = std::fs::read(&file.0).unwrap();
            let whole = bytes.len();
            bytes.resize(cut, 0);
            std::fs::write(&file.0, &bytes).unwrap();
            prop_assert!(cut == whole || read(&file.0, &shapes(&small())).is_err());
        }

        /// A flipped bit gives an error or tensors of the right shape, and no panic.
        #[test]
        fn flipped_bits_do_no_harm(flips in prop::collection::vec((0_usize..400, 0_u8..8), 1..4)) {
            let file = Scratch::new();
            write(&file.0, &small());
            let mut bytes = std::fs::read(&file.0).unwrap();
            for (at, bit) in flips {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            }
            std::fs::write(&file.0, &bytes).unwrap();
            match read(&file.0, &shapes(&small())) {
                Ok(found) => prop_assert_eq!((found[0].len(), found[1].len()), (4, 3)),
                Err(error) => prop_assert!(!error.message.contains('\n')),
            }
        }

        #[test]
        fn hostile_headers_do_no_harm(
            header in "\\{(\"(ab|cd|__metadata__)\":\\{\"dtype\":\"(F32|F4|BF16)\",\"shape\":\\[[0-9]{1,20}(,[0-9]{1,20})?\\],\
                       \"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\},?){0,3}\\}",
            length in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
            data in 0_usize..40,
        ) {
            let file = Scratch::new();
            let mut bytes = length.unwrap_or(header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.resize(bytes.len() + data, 0);
            std::fs::write(&file.0, &bytes).unwrap();
            prop_assert!(read(&file.0, &shapes(&small())).is_err());
        }
    }
}
