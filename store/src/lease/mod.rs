//! Leases: granted and revoked through the log, expired by the leader alone.
//!
//! - [`table`]: when each lease expires, as the leader sees it; pure.
//! - [`expirer`]: the task that revokes what has expired while this replica leads.

pub mod expirer;
pub mod table;
