//! Arithmetic on instants that are given: nothing here reads a clock.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// From `earlier` to `later`; zero where `later` comes first.
pub fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

/// `at` plus `delay`, saturating at the end of time.
pub fn after(at: Timestamp, delay: Duration) -> Timestamp {
    let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
    at.saturating_add(delay).unwrap_or(Timestamp::MAX)
}

/// `at` plus whole seconds; negative seconds count as none.
pub fn after_seconds(at: Timestamp, seconds: i64) -> Timestamp {
    after(at, Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// To whole seconds, as every `Time` in the API is: what is compared with a stored value must be cut alike.
pub fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// An API time, whole seconds.
pub fn api(at: Timestamp) -> Option<Time> {
    Some(Time(whole(at)))
}
