//! What the store asks of its runtime: tasks, blocking work, a clock that never goes back, "newest value" channels.
//!
//! In production this is tokio and nothing else. Unit tests are compiled against [`crate::sim`] instead, where every
//! task belongs to a simulated replica that can be paused or crash at any await, clocks run at different rates, and
//! one seed decides every order; the code above this seam is the same.

use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Sleep;

use crate::error::Fault;

#[cfg(test)]
pub use crate::sim::newest as watch;
#[cfg(not(test))]
pub use tokio::sync::watch;

/// Starts a task.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(test)]
    return crate::sim::node::spawn(future);
    #[cfg(not(test))]
    tokio::spawn(future)
}

/// Does what may wait for the disk without holding up the runtime's threads.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    #[cfg(test)]
    return Ok(work());
    #[cfg(not(test))]
    tokio::task::spawn_blocking(work).await.map_err(|error| Fault(format!("a thread of the store failed: {error}")))
}

/// A moment of this replica's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(tokio::time::Instant);

impl Instant {
    /// Now.
    pub fn now() -> Self {
        #[cfg(test)]
        return Self(crate::sim::node::local_now());
        #[cfg(not(test))]
        Self(tokio::time::Instant::now())
    }

    /// Time since then.
    pub fn elapsed(&self) -> Duration {
        Self::now().0.saturating_duration_since(self.0)
    }

    /// The runtime's own moment at which this replica's clock will be there.
    pub fn at_runtime(self) -> tokio::time::Instant {
        #[cfg(test)]
        return crate::sim::node::global(self.0);
        #[cfg(not(test))]
        self.0
    }
}

/// Waits until this replica's clock is there.
pub fn sleep_until(deadline: Instant) -> Sleep {
    tokio::time::sleep_until(deadline.at_runtime())
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 -= duration;
    }
}
