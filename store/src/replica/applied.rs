//! What applied entries are told to: watchers, leases, tokens, the follower of compactions, and whoever asks for the
//! ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::AlarmType;
use parking_lot::{Mutex, RwLock};

use crate::disk::state::State;
use crate::lease::table::Table;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::mvcc::writer::Changes;
use crate::mvcc::Position;
use crate::raft::state_machine::Observer;
use crate::rt::{Instant, watch};
use crate::replica::tokens;
use crate::watch::hub::Hub;

/// A batch that takes longer is counted as slow; etcd's figure.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// Why a request needs a second look. All are clear in the common case, so that it costs one load.
pub mod flag {
    /// Users and permissions count.
    pub const AUTH: u8 = 1;
    /// An alarm is raised.
    pub const ALARM: u8 = 2;
    /// The quota is used up.
    pub const FULL: u8 = 4;
    /// This replica is a learner.
    pub const LEARNER: u8 = 8;
}

/// What applied entries are told to; shared by the state machine and the replica.
pub struct Applied {
    pub(super) hub: Hub,
    pub(super) leases: Mutex<Table>,
    pub(super) state: State,
    metrics: Metrics,
    pub(super) tokens: Mutex<tokens::Table>,
    ledger: RwLock<Arc<Ledger>>,
    flags: AtomicU8,
    started: Instant,
    compacted: watch::Sender<i64>,
    cleaned: watch::Sender<i64>,
}

impl Applied {
    /// On `state`, which is about to be opened by the state machine. Leases are checkpointed every `checkpoints`
    /// milliseconds.
    pub fn new(state: State, metrics: Metrics, checkpoints: u64) -> Self {
        Self {
            metrics,
            hub: Hub::default(),
            leases: Mutex::new(Table::with_checkpoints(checkpoints)),
            state,
            tokens: Mutex::default(),
            ledger: RwLock::default(),
            flags: AtomicU8::new(0),
            started: Instant::now(),
            compacted: watch::Sender::new(0),
            cleaned: watch::Sender::new(0),
        }
    }

    /// Alarms, users and roles, members' attributes.
    pub fn ledger(&self) -> Arc<Ledger> {
        self.ledger.read().clone()
    }

    /// The set [`flag`]s.
    pub fn flags(&self) -> u8 {
        self.flags.load(Ordering::Acquire)
    }

    /// Sets or clears a flag.
    pub(super) fn set_flag(&self, flag: u8, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::AcqRel);
        } else {
            self.flags.fetch_and(!flag, Ordering::AcqRel);
        }
    }

    fn ledger_is(&self, ledger: &Arc<Ledger>) {
        *self.ledger.write() = ledger.clone();
        self.set_flag(flag::AUTH, ledger.auth.is_enabled());
        let alarms = ledger.alarms(AlarmType::None);
        self.set_flag(flag::ALARM, !alarms.is_empty());
        self.metrics.show_alarms(&alarms);
    }

    /// What a compaction gave up is off the disk up to this revision.
    pub fn cleaned_up_to(&self, revision: i64) {
        self.cleaned.send_if_modified(|known| std::mem::replace(known, revision.max(*known)) < revision);
    }

    /// Follows [`Self::cleaned_up_to`].
    pub fn cleanings(&self) -> watch::Receiver<i64> {
        self.cleaned.subscribe()
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
    fn written(&self, took: Duration) {
        self.metrics.backend_commit.observe(took.as_secs_f64());
        if took > SLOW_APPLY {
            self.metrics.slow_apply.inc();
        }
    }

    fn applied(&self, changes: &mut Changes, position: Position, index: u64) {
        if !changes.leases.is_empty() {
            let (mut leases, now) = (self.leases.lock(), self.now());
            for (id, lease) in &changes.leases {
                match lease {
                    Some(lease) => leases.note(*id, lease.ttl, lease.remaining, now),
                    None => leases.revoke(*id),
                }
            }
        }
        if let Some(ledger) = changes.ledger.take() {
            self.ledger_is(&ledger);
        }
        if !changes.tokens.is_empty() {
            let (mut tokens, now) = (self.tokens.lock(), self.now());
            changes.tokens.drain(..).for_each(|change| tokens.note(change, now));
        }
        self.hub.publish(std::mem::take(&mut changes.changes), position, index);
        self.compacted_at(position.compacted);
    }

    fn replaced(&self, position: Position, index: u64, ledger: &Arc<Ledger>) {
        self.ledger_is(ledger);
        match self.state.read(|view| view.leases()) {
            Ok(leases) => {
                let leases = leases.into_iter().map(|(id, lease)| (id, lease.ttl, lease.remaining));
                self.leases.lock().replace(leases, self.now());
            }
            Err(fault) => tracing::error!(%fault, "the leases cannot be read"),
        }
        self.hub.replaced(position, index);
        self.compacted_at(position.compacted);
    }
}
