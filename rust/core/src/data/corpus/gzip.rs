//! Unpacking gzip data: member by member, with the zeros that tapes and tar put behind the last one.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read};

use flate2::bufread::GzDecoder;

use super::counted::Counted;

/// What every member begins with.
const MAGIC: &[u8] = b"\x1f\x8b";

/// Something behind the last member that is neither a member nor zeros.
#[derive(Debug, thiserror::Error)]
#[error("found bytes that are not gzip data behind the last member")]
pub(crate) struct Garbage;

/// Unpacks the members of gzip data.
#[derive(Debug)]
pub(crate) struct Members {
    state: State,
}

#[derive(Debug)]
enum State {
    Member(Box<GzDecoder<BufReader<Counted>>>),
    /// All members are read.
    Done(BufReader<Counted>),
    /// Between a member and the next.
    Between,
}

impl Members {
    pub(crate) fn new(packed: BufReader<Counted>) -> Self {
        Self { state: State::Member(Box::new(GzDecoder::new(packed))) }
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

impl Read for Members {
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
            return Ok(n);
        }
        Ok(0)
    }
}
