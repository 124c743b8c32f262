//! What applied entries are told to: watchers, leases, the follower of compactions.

use parking_lot::Mutex;

use crate::disk::state::State;
use crate::lease::table::Table;
use crate::mvcc::writer::Changes;
use crate::mvcc::Position;
use crate::raft::state_machine::Observer;
use crate::rt::{Instant, watch};
use crate::watch::hub::Hub;

/// What applied entries are told to; shared by the state machine and the replica.
pub struct Applied {
    pub(super) hub: Hub,
    pub(super) leases: Mutex<Table>,
    pub(super) state: State,
    started: Instant,
    compacted: watch::Sender<i64>,
}

impl Applied {
    /// On `state`, which is about to be opened by the state machine.
    pub fn new(state: State) -> Self {
        let (hub, leases, started) = (Hub::default(), Mutex::default(), Instant::now());
        Self { hub, leases, state, started, compacted: watch::Sender::new(0) }
    }

    /// Milliseconds of a clock that never goes back; what the lease table counts in.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Follows the compacted revision.
    pub fn compactions(&self) -> watch::Receiver<i64> {
        self.compacted.subscribe()
    }

    fn compacted_at(&self, revision: i64) {
        self.compacted.send_if_modified(|known| std::mem::replace(known, revision) != revision);
    }
}

impl Observer for Applied {
    fn applied(&self, changes: &mut Changes, position: Position, index: u64) {
        if !changes.leases.is_empty() {
            let (mut leases, now) = (self.leases.lock(), self.now());
            for (id, lease) in &changes.leases {
                match lease {
                    Some(lease) => leases.grant(*id, lease.ttl, now),
                    None => leases.revoke(*id),
                }
            }
        }
        self.hub.publish(std::mem::take(&mut changes.changes), position, index);
        self.compacted_at(position.compacted);
    }

    fn replaced(&self, position: Position, index: u64) {
        match self.state.read(|view| view.leases()) {
            Ok(leases) => {
                let leases = leases.into_iter().map(|(id, lease)| (id, lease.ttl));
                self.leases.lock().replace(leases, self.now());
            }
            Err(fault) => tracing::error!(%fault, "the leases cannot be read"),
        }
        self.hub.replaced(position, index);
        self.compacted_at(position.compacted);
    }
}
