//! Saving while training continues.
//!
//! The protocol: the caller holds the engine idle just long enough to copy weights and moments into memory that only
//! the save knows. The copy moves into a thread `symlm-ckpt`, which writes, flushes and hashes one file after the
//! other, gives each part of the copy back to the system as soon as its file is complete, sends the outcome through a
//! channel and ends. Nothing is shared: the updates that run meanwhile touch their own arenas, and the thread touches
//! the copy and the two files. The outcome is sent last, so whoever has it may count on the memory being free. A thread
//! that panics drops its end of the channel instead, which the caller finds as an error.
//!
//! Where there is no room for a copy, the files are written before the call returns: it costs time and fails nothing.

use super::handle::Engine;
use super::tensors::NamedTensor;
use crate::checkpoint::{Written, write_tensors};
use crate::error::{Error, Result};
use crate::step::plan::copy_bytes;
use crate::step::work::Tensors;
use crate::system::arena::Arena;
use crate::system::{Home, files, machine};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

/// The file of the weights.
pub(super) const WEIGHTS: &str = "model.safetensors";

/// The files of a save, and what each of them holds; the last one only where adapters are trained.
const FILES: [(&str, &[Tensors]); 3] = [
    (WEIGHTS, &[Tensors::Weights]),
    ("optimizer.safetensors", &[Tensors::FirstMoment, Tensors::SecondMoment]),
    ("adapter/adapter_model.safetensors", &[Tensors::Adapters]),
];

/// Name, size and hash of every file.
pub type SavedFiles = Vec<(&'static str, Written)>;

/// The tensors of one file at one moment.
struct Copy {
    values: Arena,
    table: Vec<(String, Vec<usize>, Range<usize>)>,
}

impl Copy {
    fn of(tensors: &[NamedTensor<'_>]) -> Result<Self> {
        let values = Arena::new(tensors.iter().map(|(_, _, values)| values.len()).sum())?;
        let mut table = Vec::with_capacity(tensors.len());
        let mut start = 0;
        for (name, shape, source) in tensors {
            // SAFETY: nobody else knows the arena.
            unsafe { values.slice_mut(start, source.len()) }.copy_from_slice(source);
            table.push((name.clone(), shape.clone(), start..start + source.len()));
            start += source.len();
        }
        Ok(Self { values, table })
    }

    /// Writes the file and gives the memory back.
    fn write(self, path: &Path) -> Result<Written> {
        let tensors: Vec<_> = self
            .table
            .iter()
            // SAFETY: nobody writes the arena any more.
            .map(|(name, shape, at)| (name.clone(), shape.clone(), unsafe { self.values.slice(at.start, at.len()) }))
            .collect();
        write_tensors(path, &tensors)
    }
}

impl Engine {
    /// Writes weights and moments into a folder; returns when they are on the disk.
    ///
    /// # Errors
    /// `User` if a file cannot be written, `Internal` if the engine is closed or busy.
    pub fn save(&self, folder: &Path) -> Result<SavedFiles> {
        let write = |(file, which): (&'static str, &[Tensors])| {
            let path = folder.join(file);
            make_folder(&path)?;
            let written = self.tensors(which, |tensors| write_tensors(&path, tensors))??;
            Ok((file, written))
        };
        self.files().map(write).collect()
    }

    /// The files of a save of this engine.
    pub(super) fn files(&self) -> impl Iterator<Item = (&'static str, &'static [Tensors])> {
        FILES.into_iter().take(if self.state.adapters.is_some() { FILES.len() } else { FILES.len() - 1 })
    }

    /// Writes the weights that adapters are added to, to a file.
    ///
    /// # Errors
    /// `User` if the file cannot be written, `Internal` if the engine is closed or busy or trains no adapters.
    pub fn save_base(&self, path: &Path) -> Result<Written> {
        if self.state.adapters.is_none() {
            return Err(Error::internal("an engine without adapters has no base weights"));
        }
        self.tensors(&[Tensors::Base], |tensors| write_tensors(path, tensors))?
    }

    /// As [`Engine::save`], but returns when a copy is taken, and writes from it while updates continue.
    ///
    /// # Errors
    /// `Internal` if the engine is closed or busy. Everything else comes with [`Saving::finish`].
    pub fn save_begin(&self, folder: &Path) -> Result<Saving> {
        self.save_with(folder, machine::available_memory().map(|available| available.bytes))
    }

    fn save_with(&self, folder: &Path, available: Option<f64>) -> Result<Saving> {
        let adapters = self.state.adapters.as_ref().map(|adapters| &adapters.table);
        let needed = copy_bytes(self.layout(), adapters);
        if available.is_none_or(|available| needed <= available)
            && let Some(saving) = self.save_aside(folder.to_owned())?
        {
            return Ok(saving);
        }
        Ok(Saving { outcome: Outcome::Known(self.save(folder)), thread: None, process: Home::here() })
    }

    /// A save by its own thread; `None` if the system has no memory or no thread for it.
    fn save_aside(&self, folder: PathBuf) -> Result<Option<Saving>> {
        let mut copies = Vec::with_capacity(FILES.len());
        for (file, which) in self.files() {
            match self.tensors(which, Copy::of)? {
                Ok(copy) => copies.push((file, copy)),
                Err(_) => return Ok(None),
            }
        }
        let (send, outcome) = bounded(1);
        let write = move || {
            let write = |(file, copy): (&'static str, Copy)| {
                let path = folder.join(file);
                make_folder(&path)?;
                Ok((file, copy.write(&path)?))
            };
            let files = copies.into_iter().map(write).collect();
            // Nobody may be waiting any more.
            let _ = send.send(files);
        };
        let thread = std::thread::Builder::new().name("symlm-ckpt".into()).spawn(write);
        let saving = |thread| Saving { outcome: Outcome::Due(outcome), thread: Some(thread), process: Home::here() };
        Ok(thread.ok().map(saving))
    }
}

/// Makes the subfolder that some files of a save lie in.
fn make_folder(path: &Path) -> Result<()> {
    let Some(folder) = path.parent().filter(|folder| folder.ends_with("adapter")) else { return Ok(()) };
    files::make_folder(folder).map_err(|e| Error::cannot_write(folder, &e))
}

enum Outcome {
    Due(Receiver<Result<SavedFiles>>),
    Known(Result<SavedFiles>),
}

/// A save under way. Dropped before its end it waits for it.
pub struct Saving {
    outcome: Outcome,
    thread: Option<JoinHandle<()>>,
    /// The thread lives in this process only, not in one forked from it.
    process: Home,
}

impl Saving {
    /// Whether everything is written, or has failed; waits for it up to `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        let Outcome::Due(due) = &self.outcome else { return true };
        if !self.process.is_here() {
            self.outcome = Outcome::Known(Err(Error::internal("the save is under way in another process")));
            return true;
        }
        let outcome = match due.recv_timeout(timeout) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => Err(Error::internal("the checkpoint thread has panicked")),
        };
        self.outcome = Outcome::Known(outcome);
        true
    }

    /// Waits for the end; gives the files.
    ///
    /// # Errors
    /// `User` if a file could not be written.
    pub fn finish(mut self) -> Result<SavedFiles> {
        while !self.wait(Duration::from_secs(3600)) {}
        self.join();
        match std::mem::replace(&mut self.outcome, Outcome::Known(Ok(Vec::new()))) {
            Outcome::Known(outcome) => outcome,
            Outcome::Due(_) => Err(Error::internal("a save has ended without an outcome")),
        }
    }

    fn join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.process.is_here() {
            // A panic has become the outcome already.
            let _ = thread.join();
        } else {
            std::mem::forget(thread);
        }
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineConfig;
    use crate::step::{Switches, TokenSource};
    use std::sync::Arc;
    use symlm_kernels::Isa;

    fn engine() -> Engine {
        let config = serde_json::from_str::<EngineConfig>(
            r#"{"model": {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 12, "num_layers": 1, "num_heads": 2,
                "num_kv_heads": 1, "seq_len": 10, "rope_theta": 1e4, "rms_norm_eps": 1e-5, "tie_embeddings": true},
                "train": {"batch_size": 3, "max_steps": 9, "learning_rate": 1e-2, "warmup_steps": 0, "decay_start": 9,
                "schedule": "wsd", "min_lr_ratio": 0.1, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
                "grad_clip": 1.0, "seed": 1}, "threads": 2}"#,
        );
        let source: Arc<dyn TokenSource> = Arc::new((0..1000).map(|i| i * i % 50).collect::<Vec<u32>>());
        Engine::new(config.unwrap(), Isa::detect(), source, Switches::default()).unwrap()
    }

    fn train(engine: &Engine, step: u64) {
        engine.run_until(step).unwrap();
        while engine.step() < step {
            engine.poll(Duration::from_secs(10)).unwrap();
        }
    }

    /// Waits until the thread of a save has gone: a joined thread may still be listed for a moment.
    fn gone(name: &str) -> bool {
        let names = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect::<Vec<_>>()
        };
        (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            names().iter().all(|found| found.trim() != name)
        })
    }

    #[test]
    fn a_save_holds_the_moment_it_was_begun_at_and_tells_what_it_wrote() {
        let folder = |_| tempfile::tempdir().unwrap();
        let [before, aside, direct] = [0, 1, 2].map(folder);
        let engine = engine();
        train(&engine, 3);
        let expected = engine.save(before.path()).unwrap();
        let saving = engine.save_with(aside.path(), None).unwrap();
        assert!(saving.thread.is_some());
        train(&engine, 6);
        let files = saving.finish().unwrap();
        assert_eq!(files, expected);
        let no_room = engine.save_with(direct.path(), Some(10.0)).unwrap();
        assert!(no_room.thread.is_none());
        assert_ne!(no_room.finish().unwrap(), expected);
        for (name, written) in files {
            let bytes = std::fs::read(aside.path().join(name)).unwrap();
            assert_eq!(written.bytes, bytes.len() as u64);
            assert_eq!(written.sha256, crate::system::hex(&<sha2::Sha256 as sha2::Digest>::digest(&bytes)));
            assert!(bytes == std::fs::read(before.path().join(name)).unwrap(), "{name}");
        }
        assert!(gone("symlm-ckpt"));
    }

    #[test]
    fn a_save_that_fails_says_so_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let nowhere = folder.path().join("gone");
        for available in [None, Some(0.0)] {
            let mut saving = engine.save_with(&nowhere, available).unwrap();
            while !saving.wait(Duration::from_millis(1)) {}
            let error = saving.finish().unwrap_err();
            assert_eq!(error.kind, crate::ErrorKind::User);
            assert!(error.message.ends_with("gone/model.safetensors: no such file or directory"), "{error}");
        }
        // The engine is as it was.
        train(&engine, 1);
        drop(engine.save_with(folder.path(), None).unwrap());
        assert!(folder.path().join("optimizer.safetensors").is_file());
    }
}
