//! Another process whose output is read.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Result};
use std::process::{ChildStdout, ExitStatus, Stdio};

/// A program and its first arguments.
#[derive(Debug, Clone)]
pub(crate) struct Command(Vec<OsString>);

impl Command {
    /// Of a program and its first arguments; `None` if there is no program.
    pub(crate) fn new(words: Vec<OsString>) -> Option<Self> {
        (!words.is_empty()).then_some(Self(words))
    }

    /// Starts it with more arguments. It has no input, and what it says besides its output is dropped.
    pub(crate) fn start(&self, arguments: &[&OsStr]) -> Result<Child> {
        let mut command = std::process::Command::new(&self.0[0]);
        command.args(&self.0[1..]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        apart(&mut command);
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        Ok(Child { child, output })
    }
}

/// A process; killed when it is dropped before its end.
#[derive(Debug)]
pub(crate) struct Child {
    child: std::process::Child,
    output: ChildStdout,
}

impl Child {
    /// What it writes.
    pub(crate) fn output(&mut self) -> &mut impl Read {
        &mut self.output
    }

    /// Ends it, and says how it ended.
    pub(crate) fn wait(&mut self) -> Result<String> {
        // One that has ended already keeps its status.
        let status = match self.child.try_wait()? {
            Some(status) => status,
            None => {
                std::thread::sleep(std::time::Duration::from_millis(100));
                self.child.kill()?;
                self.child.wait()?
            }
        };
        Ok(match (signal(status), status.code()) {
            (Some(signal), _) => format!("signal {signal}"),
            (_, Some(code)) => format!("exit code {code}"),
            _ => "for no known reason".into(),
        })
    }
}

/// Ctrl-C is for this process, which then ends the other.
#[cfg(unix)]
fn apart(command: &mut std::process::Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// As above.
#[cfg(windows)]
fn apart(command: &mut std::process::Command) {
    const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
    std::os::windows::process::CommandExt::creation_flags(command, CREATE_NEW_PROCESS_GROUP);
}

/// The signal that ended a process, if one did.
#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// There are no signals.
#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended; then there is only its status to take.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
