//! Threads of rayon that are really gone when they are dropped.
//!
//! Training counts the threads of the process, so these must neither be the global ones of rayon nor linger:
//! dropping a plain `rayon::ThreadPool` only asks them to leave.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::limits::MAX_THREADS;

/// Named threads, joined on drop.
#[derive(Debug)]
pub(crate) struct Threads {
    pool: Option<rayon::ThreadPool>,
    handles: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Threads {
    /// Starts `threads` threads.
    pub(crate) fn new(threads: usize) -> Result<Self> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(Error::usage(format!("found {threads} threads, expected 1 to {MAX_THREADS}")));
        }
        // Made first, so that threads already started are joined should a later one fail to start.
        let mut this = Self { pool: None, handles: Arc::default() };
        let handles = Arc::clone(&this.handles);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .spawn_handler(move |thread| {
                let name = format!("symlm-tok{:02}", thread.index());
                let handle = std::thread::Builder::new().name(name).spawn(|| thread.run())?;
                handles.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
                Ok(())
            })
            .build()
            .map_err(|error| Error::user(format!("cannot start {threads} threads: {error}")))?;
        this.pool = Some(pool);
        Ok(this)
    }

    /// Number of threads.
    pub(crate) fn count(&self) -> usize {
        self.rayon().current_num_threads()
    }

    /// The rayon pool; parallel iterators must run inside its `install`.
    pub(crate) fn rayon(&self) -> &rayon::ThreadPool {
        self.pool.as_ref().expect("the pool is only taken by drop")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.pool.take());
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for handle in handles.drain(..) {
            // A panic of a task reaches its caller through rayon, so there is nothing left to report here.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn work_runs_on_the_named_threads() {
        let threads = Threads::new(3).unwrap();
        let names: Vec<String> = threads.rayon().install(|| {
            (0..100).into_par_iter().map(|_| std::thread::current().name().unwrap_or("").to_owned()).collect()
        });
        assert!(names.iter().all(|name| name.starts_with("symlm-tok")));
        assert_eq!(threads.count(), 3);
    }

    #[test]
    fn absurd_thread_counts_are_usage_errors() {
        assert_eq!(Threads::new(0).unwrap_err().kind, crate::ErrorKind::Usage);
        assert_eq!(Threads::new(1 << 30).unwrap_err().kind, crate::ErrorKind::Usage);
    }
}
