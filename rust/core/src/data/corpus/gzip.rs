//! Unpacking gzip data: member by member, with the zeros that tapes and tar put behind the last one, up to a measure.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read};

use flate2::bufread::GzDecoder;

use super::counted::Counted;

/// What every member begins with.
pub(crate) const MAGIC: &[u8] = b"\x1f\x8b";
/// Bytes that any gzip file may unpack to.
const UNPACKED_BYTES: u64 = 64 << 20;
/// Beyond that, so many for each byte on disk. Text has 2 to 20; what has more is nothing to learn from, but may fill
/// a disk: the format goes up to 1,032.
const UNPACKED_RATIO: u64 = 200;

/// Something behind the last member that is neither a member nor zeros.
#[derive(Debug, thiserror::Error)]
#[error("found bytes that are not gzip data behind the last member")]
pub(crate) struct Garbage;

/// Unpacks gzip data up to a measure.
#[derive(Debug)]
pub(crate) struct Unpacked {
    state: State,
    bytes: u64,
}

#[derive(Debug)]
enum State {
    Member(Box<GzDecoder<BufReader<Counted>>>),
    /// All members are read.
    Done(BufReader<Counted>),
    /// Between a member and the next.
    Between,
}

impl Unpacked {
    pub(crate) fn new(packed: BufReader<Counted>) -> Self {
        Self { state: State::Member(Box::new(GzDecoder::new(packed))), bytes: 0 }
    }

    /// The reader of the bytes on disk.
    pub(crate) fn packed(&self) -> &BufReader<Counted> {
        match &self.state {
            State::Member(member) => member.get_ref(),
            State::Done(packed) => packed,
            State::Between => unreachable!("only inside of next_member"),
        }
    }

    pub(crate) fn into_packed(self) -> BufReader<Counted> {
        match self.state {
            State::Member(member) => member.into_inner(),
            State::Done(packed) => packed,
            State::Between => unreachable!("only inside of next_member"),
        }
    }

    /// Passes from the end of a member to the next, or to the end.
    fn next_member(&mut self) -> std::io::Result<()> {
        let (packed, more) = match std::mem::replace(&mut self.state, State::Between) {
            State::Member(member) => {
                let mut packed = member.into_inner();
                let more = pass_padding(&mut packed);
                (packed, more)
            }
            State::Done(packed) => (packed, Ok(false)),
            State::Between => unreachable!("only inside of next_member"),
        };
        self.state = match more {
            Ok(true) => State::Member(Box::new(GzDecoder::new(packed))),
            _ => State::Done(packed),
        };
        more.map(drop)
    }
}

/// Whether another member follows. Otherwise only zeros may.
fn pass_padding(packed: &mut BufReader<Counted>) -> std::io::Result<bool> {
    if packed.fill_buf()?.first() == MAGIC.first() {
        return Ok(true);
    }
    loop {
        let padding = packed.fill_buf()?;
        let size = padding.len();
        if padding.iter().any(|&byte| byte != 0) {
            return Err(Error::new(ErrorKind::InvalidData, Garbage));
        }
        packed.consume(size);
        if size == 0 {
            return Ok(false);
        }
    }
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let State::Member(member) = &mut self.state {
            let n = member.read(buffer)?;
            if n == 0 {
                self.next_member()?;
                continue;
            }
            self.bytes += n as u64;
            let packed = member.get_ref().get_ref().bytes();
            if self.bytes > UNPACKED_BYTES && self.bytes / UNPACKED_RATIO > packed {
                let what = format!(
                    "found gzip data that unpacks to more than {UNPACKED_RATIO} times its size ({} MiB of {packed} bytes), \
                     expected text",
                    self.bytes >> 20
                );
                return Err(Error::new(ErrorKind::FileTooLarge, what));
            }
            return Ok(n);
        }
        Ok(0)
    }
}
