//! Another process whose output is read.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Result;
use std::process::{ExitStatus, Stdio};

use super::stream::Stream;

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
        let output = Stream::of_child(child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?);
        Ok(Child { child, output })
    }
}

/// A process; killed when it is dropped before its end.
#[derive(Debug)]
pub(crate) struct Child {
    child: std::process::Child,
    output: Stream,
}

impl Child {
    /// What it writes.
    pub(crate) fn output(&mut self) -> &mut Stream {
        &mut self.output
    }

    /// Ends it, and says how it ended.
    pub(crate) fn wait(&mut self) -> Result<End> {
        // One that has ended already keeps its status.
        let status = match self.child.try_wait()? {
            Some(status) => status,
            None => {
                std::thread::sleep(std::time::Duration::from_millis(100));
                self.child.kill()?;
                self.child.wait()?
            }
        };
        Ok(End(status))
    }
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct End(ExitStatus);

impl End {
    /// Whether its own clock of processor time ended it.
    pub(crate) fn by_clock(&self) -> bool {
        #[cfg(unix)]
        return signal(self.0) == Some(libc::SIGPROF);
        #[cfg(not(unix))]
        return false;
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (signal(self.0), self.0.code()) {
            (Some(signal), _) => write!(f, "signal {signal}"),
            (_, Some(code)) => write!(f, "exit code {code}"),
            _ => f.write_str("for no known reason"),
        }
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::time::Duration;

    fn shell(script: &str) -> Child {
        Command::new(vec!["sh".into(), "-c".into()]).unwrap().start(&[script.as_ref()]).unwrap()
    }

    #[test]
    fn one_that_writes_nothing_is_not_waited_for() {
        let mut child = shell("sleep 1000");
        assert_eq!(child.output().read(&mut [0; 8], Duration::from_millis(10)).unwrap(), None);
    }

    #[test]
    fn how_it_ended_is_told() {
        let ended = |script| {
            let mut child = shell(script);
            while child.output().read(&mut [0; 8], Duration::from_secs(1)).unwrap() != Some(0) {}
            // Its output may be closed some time before it is gone.
            while child.child.try_wait().unwrap().is_none() {}
            child.wait().unwrap()
        };
        assert!(ended("kill -s PROF $$").by_clock());
        let end = ended("exit 7");
        assert!(!end.by_clock());
        assert_eq!(end.to_string(), "exit code 7");
    }
}
