//! What a committed entry does to this replica: applied to the key space in batches, told to watchers and proposers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use balsa_proto::raft as wire;
use futures::{FutureExt as _, Stream, StreamExt as _};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use prost::Message as _;

use super::{LogId, Members, Membership, TypeConfig, codec};
use crate::command::{Command, Outcome};
use crate::disk::checkpoint::{self, SnapshotDir};
use crate::disk::state::{APPLIED, Batch, MEMBERSHIP, State};
use crate::disk::view::DiskView;
use crate::error::Fault;
use crate::ledger::Ledger;
use crate::mvcc::Position;
use crate::mvcc::writer::Writer;

/// Entries that one write to the state takes at most.
const BATCH: usize = 256;

type Responder = Option<openraft::storage::ApplyResponder<TypeConfig>>;
type Snapshot = openraft::type_config::alias::SmSnapshotOf<TypeConfig, StateMachine>;
type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// What others want to know of applied entries.
pub trait Observer: Send + Sync + 'static {
    /// These changes are in the state now, up to this position; called before their proposers are answered.
    fn applied(&self, changes: &mut crate::mvcc::writer::Changes, position: Position, index: u64);
    /// A write to the state took so long.
    fn written(&self, _took: std::time::Duration) {}
    /// The whole state was replaced.
    fn replaced(&self, position: Position, index: u64, ledger: &Arc<Ledger>);
}

/// The replica's state machine.
pub struct StateMachine {
    state: State,
    observer: Arc<dyn Observer>,
    position: Position,
    applied: Option<LogId>,
    membership: Membership,
    ledger: Arc<Ledger>,
    snapshot: Option<(SnapshotMeta, Arc<SnapshotDir>)>,
    snapshots_made: Arc<AtomicU64>,
}

/// The last applied entry that the state records.
pub fn applied_of(state: &State) -> Result<Option<LogId>, Fault> {
    let Some(stored) = state.meta(APPLIED)? else { return Ok(None) };
    let id = wire::LogId::decode(&stored[..]).map_err(|error| Fault(format!("a malformed applied id: {error}")))?;
    Ok(Some(codec::from_wire_log_id(id)))
}

fn membership_of(state: &State) -> Result<Membership, Fault> {
    Ok(state.meta(MEMBERSHIP)?.map(|stored| codec::from_json(&stored)).transpose()?.unwrap_or_default())
}

/// The members as the state records them; `None` if it is nobody's yet.
pub fn members_of(state: &State) -> Result<Option<Members>, Fault> {
    let members: Members = membership_of(state)?.nodes().map(|(id, peer)| (*id, peer.clone())).collect();
    Ok(Some(members).filter(|members| !members.is_empty()))
}

impl StateMachine {
    /// On what `state` holds.
    pub fn open(state: State, observer: Arc<dyn Observer>) -> Result<Self, Fault> {
        let mut machine = Self {
            state,
            observer,
            position: Position::default(),
            applied: None,
            membership: Membership::default(),
            ledger: Arc::default(),
            snapshot: None,
            snapshots_made: Arc::default(),
        };
        machine.reload()?;
        Ok(machine)
    }

    fn reload(&mut self) -> Result<(), Fault> {
        self.position = self.state.read(|view| view.position())?;
        self.applied = applied_of(&self.state)?;
        self.membership = membership_of(&self.state)?;
        self.ledger = Arc::new(self.state.ledger()?);
        let index = self.applied.map_or(0, |id| id.index());
        // What can be read right after opening is on disk.
        self.state.flush(index)?;
        self.observer.replaced(self.position, index, &self.ledger);
        Ok(())
    }

    /// A copy of the state with nothing being applied meanwhile, for a client.
    pub async fn copy(&mut self) -> Result<SnapshotDir, Fault> {
        let (state, number) = (self.state.clone(), self.snapshots_made.fetch_add(1, Ordering::Relaxed));
        let made = crate::rt::blocking(move || checkpoint::create(&state, &format!("snapshot-client-{number}")));
        made.await?
    }

    fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> Result<(), Fault> {
        let opened = self.state.current();
        let view = DiskView::newest_of(opened.db());
        let mut writer = Writer::with_ledger(&view, self.position, self.ledger.clone());
        let mut answers: Vec<(Responder, Outcome)> = Vec::with_capacity(batch.len());
        let mut membership = None;
        for (entry, responder) in batch {
            self.applied = Some(entry.log_id());
            let outcome = match entry.payload {
                EntryPayload::Blank => Outcome::Nothing,
                EntryPayload::Normal(command) => Command::decode(command.0)?.apply(&mut writer)?,
                EntryPayload::Membership(members) => {
                    self.membership = Membership::new(self.applied, members);
                    membership = Some(codec::to_json(&self.membership)?);
                    Outcome::Nothing
                }
            };
            answers.push((responder, outcome));
        }
        let (mut changes, position) = writer.into_changes();
        let applied = self.applied.as_ref().map(codec::wire_log_id).unwrap_or_default();
        let started = tokio::time::Instant::now();
        self.state.write(Batch { changes: &changes, position, applied: applied.encode_to_vec(), membership })?;
        self.position = position;
        if let Some(ledger) = &changes.ledger {
            self.ledger = ledger.clone();
        }
        self.observer.written(started.elapsed());
        self.observer.applied(&mut changes, position, applied.index);
        for (responder, outcome) in answers {
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Arc<SnapshotDir>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        #[cfg(test)]
        if crate::sim::broken(crate::sim::Mutation::ApplyTwice) {
            let before = |id: LogId| super::log_id(id.committed_leader_id().term, id.index().saturating_sub(1));
            return Ok((self.applied.map(before), self.membership.clone()));
        }
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let mut batch = vec![first?];
            while batch.len() < BATCH
                && let Some(Some(next)) = entries.next().now_or_never()
            {
                batch.push(next?);
            }
            if let Err(fault) = self.apply_batch(batch) {
                tracing::error!(%fault, "an entry cannot be applied; this replica stops");
                return Err(fault.into());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let number = self.snapshots_made.fetch_add(1, Ordering::Relaxed);
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        // Taken here, where nothing is applied meanwhile; the copy is hard links. The flush makes sure that the log
        // before it may be purged.
        let (state, index) = (self.state.clone(), self.applied.map_or(0, |id| id.index()));
        #[cfg(test)]
        let careless = crate::sim::broken(crate::sim::Mutation::PurgeUnflushed);
        #[cfg(not(test))]
        let careless = false;
        let made = crate::rt::blocking(move || {
            if !careless {
                state.flush(index)?;
            }
            checkpoint::create(&state, &format!("snapshot-{index}-{number}"))
        });
        let made = made.await.flatten().map(Arc::new);
        if let Ok(dir) = &made {
            self.snapshot = Some((meta.clone(), dir.clone()));
        }
        Builder { meta, made }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Arc<SnapshotDir>) -> io::Result<()> {
        let state = self.state.clone();
        let number = self.snapshots_made.fetch_add(1, Ordering::Relaxed);
        let installed = crate::rt::blocking(move || {
            state.replace(snapshot.path())?;
            checkpoint::create(&state, &format!("snapshot-installed-{number}"))
        });
        let copy = installed.await??;
        self.reload()?;
        if self.applied != meta.last_log_id {
            return Err(io::Error::other(format!(
                "the received snapshot is of {:?}, announced was {:?}",
                self.applied, meta.last_log_id
            )));
        }
        self.snapshot = Some((meta.clone(), Arc::new(copy)));
        tracing::info!(index = self.applied.map(|id| id.index()), revision = self.position.revision, "snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshot.clone().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Hands over the snapshot that was taken when it was made.
pub struct Builder {
    meta: SnapshotMeta,
    made: Result<Arc<SnapshotDir>, Fault>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Arc<SnapshotDir>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = self.made.clone()?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}
