//! Channels with room for some messages, whose ends notice when the others are gone.

use super::lock;
use loom::sync::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

struct State<T> {
    messages: VecDeque<T>,
    senders: usize,
    receivers: usize,
}

struct Channel<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    room: usize,
}

/// Puts messages in.
pub struct Sender<T>(Arc<Channel<T>>);

/// Takes messages out.
pub struct Receiver<T>(Arc<Channel<T>>);

/// The other ends are gone, or (of an attempt) there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A channel for `room` messages.
pub fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
    let state = Mutex::new(State { messages: VecDeque::new(), senders: 1, receivers: 1 });
    let channel = Arc::new(Channel { state, changed: Condvar::new(), room });
    (Sender(channel.clone()), Receiver(channel))
}

impl<T> Sender<T> {
    /// Waits for room.
    ///
    /// # Errors
    /// If there is no receiver.
    pub fn send(&self, message: T) -> Result<(), Refused> {
        let mut state = lock(&self.0.state);
        while state.receivers > 0 && state.messages.len() == self.0.room {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.put(state, message)
    }

    /// Does not wait.
    ///
    /// # Errors
    /// If there is no receiver or no room.
    pub fn try_send(&self, message: T) -> Result<(), Refused> {
        let state = lock(&self.0.state);
        if state.messages.len() == self.0.room { Err(Refused) } else { self.put(state, message) }
    }

    fn put(&self, mut state: super::MutexGuard<'_, State<T>>, message: T) -> Result<(), Refused> {
        if state.receivers == 0 {
            return Err(Refused);
        }
        state.messages.push_back(message);
        drop(state);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Waits for a message.
    ///
    /// # Errors
    /// If there is none and no sender.
    pub fn recv(&self) -> Result<T, Refused> {
        let mut state = lock(&self.0.state);
        loop {
            if let Some(message) = state.messages.pop_front() {
                drop(state);
                self.0.changed.notify_all();
                return Ok(message);
            }
            if state.senders == 0 {
                return Err(Refused);
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        lock(&self.0.state).senders -= 1;
        self.0.changed.notify_all();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.receivers -= 1;
        let unread = std::mem::take(&mut state.messages);
        drop(state);
        drop(unread);
        self.0.changed.notify_all();
    }
}
