//! Copies of what can be read only once: the standard input, pipes, devices.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::packing::{Packing, may_be_packed};
use super::source::Source;
use super::table::{TABLE_HEAD, is_table, may_be_table};
use super::wanted::Wanted;
use crate::error::{Error, Result, io_reason};
use crate::foreign::HEAD_BYTES;
use crate::system::files::{Room, temporary, temporary_folder};
use crate::system::interrupts::{INTERVAL, Watch};
use crate::system::stream::Stream;

const READ_BYTES: usize = 64 * 1024;
/// Names the standard input.
pub(crate) const STANDARD_INPUT: &str = "-";

/// Copies the standard input.
pub(crate) fn standard_input(wanted: &Arc<Wanted>) -> Result<Source> {
    let name = "standard input";
    let mut stream = Stream::standard_input().map_err(|e| Error::cannot_read(Path::new(name), &e))?;
    spool(&mut stream, name, Path::new(""), wanted)
}

/// Copies a pipe or a device.
pub(crate) fn pipe(path: &Path, wanted: &Arc<Wanted>) -> Result<Source> {
    let mut stream = Stream::open(path).map_err(|e| Error::cannot_read(path, &e))?;
    spool(&mut stream, &path.display().to_string(), path, wanted)
}

/// Copies a stream to a temporary file. What it is called says how it is divided, where it is called anything.
fn spool(stream: &mut Stream, name: &str, given: &Path, wanted: &Arc<Wanted>) -> Result<Source> {
    let failed = |error: &std::io::Error| {
        let folder = temporary_folder();
        let error = Error::user(format!(
            "cannot copy {name} to a temporary file in {}: {}",
            folder.display(),
            io_reason(error)
        ));
        error.hint("TMPDIR says where temporary files go")
    };
    let mut copy = temporary().map_err(|e| failed(&e))?;
    let extension = given.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let named = extension.is_some_and(|extension| !Packing::of_extension(&extension).is_packed());
    let known = Source::file(given.to_owned(), 0, wanted);
    let mut source = Source { path: copy.path().to_owned(), name: name.to_owned(), named, ..known };
    let mut buffer = vec![0; READ_BYTES];
    let (mut head, mut watch, mut room) = (Vec::new(), Watch::new(&wanted.interrupts), Room::default());
    loop {
        watch.look()?;
        let n = match stream.read(&mut buffer, INTERVAL) {
            Ok(Some(n)) => n,
            Ok(None) => continue,
            Err(error) => return Err(source.read_error(&error)),
        };
        if n == 0 {
            break;
        }
        head.extend_from_slice(&buffer[..n.min(HEAD_BYTES - head.len())]);
        // Stops at once on a stream of binary data, which may never end.
        if !source.packing.is_packed()
            && !may_be_packed(head.first())
            && !(may_be_table(&head) && (head.len() < TABLE_HEAD || is_table(&head)))
            && let Some(at) = memchr::memchr(0, &buffer[..n])
        {
            source.check_head(&head)?;
            return Err(source.binary(source.bytes + at as u64));
        }
        let written = copy.write_all(&buffer[..n]).and_then(|()| room.wrote(copy.as_file(), n));
        written.map_err(|e| failed(&e))?;
        source.bytes += n as u64;
    }
    source._spool = Some(copy.into_temp_path());
    Ok(source)
}
