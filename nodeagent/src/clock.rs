//! The wall clock, in step with tokio's: with paused time in tests, both stand still and move together.

use std::sync::OnceLock;

use jiff::Timestamp;

/// Now.
pub fn now() -> Timestamp {
    if cfg!(test) { paused() } else { Timestamp::now() }
}

/// A fixed beginning plus what tokio's clock has counted since.
fn paused() -> Timestamp {
    static START: OnceLock<Timestamp> = OnceLock::new();
    thread_local! {
        static FIRST: tokio::time::Instant = tokio::time::Instant::now();
    }
    let start = START.get_or_init(Timestamp::now);
    FIRST.with(|first| start.checked_add(first.elapsed()).unwrap_or(*start))
}
