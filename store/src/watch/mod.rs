//! Telling clients of changes: every one once, in order, with no gap, or not at all from a certain point on.
//!
//! There is no queue per watcher. Recent changes lie in one bounded ring that all streams read; a stream that falls
//! behind it reads the state on disk until it has caught up. So a slow client costs no memory, whatever it does.
//!
//! - [`hub`]: the ring, who is interested in which keys, and waking them.
//! - [`watchers`]: the watchers of one stream and what each must still be told; pure.
//! - [`pace`]: when a stream tells the next news; pure.
//! - [`stream`]: one client's stream.

pub mod hub;
pub mod pace;
pub mod stream;
pub mod watchers;
