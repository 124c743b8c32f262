//! The runtime that openraft runs on: [`crate::rt`]'s tasks and clock, tokio's channels.

use std::fmt;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::async_runtime::{AsyncRuntime, instant};

use crate::rt::{self, Instant};

type Tokio = openraft::impls::TokioRuntime;

impl instant::Instant for Instant {
    fn now() -> Self {
        Instant::now()
    }
}

/// See the module.
pub struct Runtime(Tokio);

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = Instant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    #[cfg(not(test))]
    type ThreadLocalRng = rand::rngs::ThreadRng;
    #[cfg(test)]
    type ThreadLocalRng = rand::rngs::SmallRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    #[cfg(not(test))]
    type Watch = <Tokio as AsyncRuntime>::Watch;
    #[cfg(test)]
    type Watch = crate::sim::newest::Newest;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        rt::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        rt::sleep_until(Instant::now() + duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        rt::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Self::timeout_at(Instant::now() + duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline.at_runtime(), future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    #[cfg(not(test))]
    fn thread_rng() -> Self::ThreadLocalRng {
        rand::rng()
    }

    #[cfg(test)]
    fn thread_rng() -> Self::ThreadLocalRng {
        crate::sim::world::fork_rng()
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
