//! Waiting longer after each failure: exponential, capped, with jitter.
//!
//! It decides how long; the caller sleeps.

use std::time::Duration;

use rand::RngExt as _;

/// Delays `initial`, doubled after each failure up to `max`, each spread by ±20 % so that processes that failed
/// together do not return together.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// `initial` must not be zero.
    pub fn new(initial: Duration, max: Duration) -> Self {
        assert!(!initial.is_zero(), "a back-off of zero is a busy loop");
        Self { initial, max, failures: 0 }
    }

    /// The back-off of every connection between our processes: 50 ms up to 2 s.
    pub fn connection() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(2))
    }

    /// Counts a failure and says how long to wait.
    pub fn next_delay(&mut self) -> Duration {
        let doubled = self.initial.saturating_mul(1u32 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.max).mul_f64(rand::rng().random_range(0.8..1.2))
    }

    /// To be called after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_starts_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let delays: Vec<u128> = (0..6).map(|_| backoff.next_delay().as_millis()).collect();
        for (delay, nominal) in delays.iter().zip([100, 200, 400, 800, 1000, 1000]) {
            assert!((nominal * 8 / 10..=nominal * 12 / 10).contains(delay), "{delay} ms is not {nominal} ms ± 20 %");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(120));
    }
}
