//! An operator who changes the members while everything goes wrong: through the Cluster service that `etcdctl member`
//! uses, at whichever replica answers, with new replicas that find out who they are as a real one does.
//!
//! It removes nobody whom a majority of those that can come back needs; that far it is wiser than a person.

use std::sync::Arc;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::cluster_server::Cluster as _;
use balsa_proto::etcd::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
};
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::{Instant, sleep};
use tonic::{Request, Status};

use super::wire::{self, Broken, Handler};
use super::world::{self, CLIENTS};
use super::{cluster, nemesis::millis};
use crate::error::Refusal;
use crate::grpc::Service;
use crate::member;

/// Where it sits in the network.
const DESK: usize = CLIENTS + 90;
/// Most members that it wants.
const ENOUGH: usize = 6;

/// What came of a call.
enum Told<T> {
    Done(T),
    /// It certainly changed nothing.
    Refused,
    Unknown,
}

/// See the module.
#[derive(Default)]
pub struct Operator {
    /// Members whose addition was confirmed, and whom nobody asked to go.
    added: Vec<u64>,
    /// Members whose removal was confirmed.
    removed: Vec<u64>,
    /// Was added (or perhaps was), and never comes.
    no_show: bool,
    /// What came of an earlier change is not known.
    confused: bool,
    /// A replica whose disk is lost, and that is still a member.
    lost: Option<usize>,
}

/// The numbers of the members that vote, in every membership that some replica holds for the newest.
fn surest_voters() -> Vec<usize> {
    let views = cluster::present().into_iter().filter_map(world::running).map(|running| {
        let metrics = running.replica.raft().metrics();
        let seen = metrics.borrow_watched();
        let sets = seen.membership_config.get_joint_config().clone();
        sets.into_iter().min_by_key(std::collections::BTreeSet::len).unwrap_or_default()
    });
    let fewest = views.filter(|voters| !voters.is_empty()).min_by_key(std::collections::BTreeSet::len).unwrap_or_default();
    fewest.into_iter().filter_map(cluster::number_of).collect()
}

async fn ask<T: Send + 'static>(at: usize, what: impl Fn(Service) -> BoxFuture<'static, Result<T, Status>> + Send + Sync + 'static) -> Told<T> {
    let handler: Handler<Result<T, Status>> = Arc::new(move |replica| what(Service::new(replica)));
    let certain = |status: &Status| {
        let unavailable = [Refusal::Unhealthy, Refusal::NoLeader].iter().any(|refusal| refusal.to_string() == status.message());
        status.code() != tonic::Code::Unavailable || unavailable
    };
    match wire::call(DESK, at, Duration::from_secs(7), handler).await {
        Ok(Ok(answer)) => Told::Done(answer),
        Ok(Err(status)) => {
            world::note(format_args!("the operator is told {:?}: {}", status.code(), status.message()));
            if certain(&status) { Told::Refused } else { Told::Unknown }
        }
        Err(Broken::Refused) => Told::Refused,
        Err(Broken::Lost) => Told::Unknown,
    }
}

/// The members as some replica knows them; as all must know them if `sure`.
async fn list(sure: bool) -> Option<Vec<Member>> {
    let told = ask(cluster::somebody(), move |service| {
        Box::pin(async move {
            let answer = service.member_list(Request::new(MemberListRequest { linearizable: sure })).await?;
            Ok(answer.into_inner().members)
        })
    });
    match told.await {
        Told::Done(members) => Some(members),
        Told::Refused | Told::Unknown => None,
    }
}

impl Operator {
    async fn add(&mut self, url: String, learner: bool) -> Told<u64> {
        world::note(format_args!("the operator adds {url}{}", if learner { " as a learner" } else { "" }));
        let told = ask(cluster::somebody(), move |service| {
            let peer_ur_ls = vec![url.clone()];
            Box::pin(async move {
                let request = MemberAddRequest { peer_ur_ls, is_learner: learner };
                let answer = service.member_add(Request::new(request)).await?.into_inner();
                Ok(answer.member.map_or(0, |member| member.id))
            })
        });
        let told = told.await;
        match &told {
            // Whom the answer does not name yet is known by the URL.
            Told::Done(id) if *id != 0 => self.added.push(*id),
            Told::Unknown => self.confused = true,
            Told::Done(_) | Told::Refused => {}
        }
        told
    }

    /// A new replica with an empty disk joins.
    async fn join(&mut self, learner: bool) -> Option<usize> {
        let number = cluster::size();
        if number >= cluster::MOST {
            return None;
        }
        let url = cluster::url(number);
        if matches!(self.add(url.clone(), learner).await, Told::Refused) {
            return None;
        }
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until {
            let handler: Handler<crate::replica::Description> =
                Arc::new(|replica| Box::pin(std::future::ready(replica.description())));
            let described = wire::call(DESK, cluster::somebody(), Duration::from_secs(2), handler).await;
            if let Some(identity) = described.ok().and_then(|described| member::found(described, &url).ok()) {
                let rate = 950_000 + world::below(100_001);
                let number = cluster::settle_down(identity, rate);
                cluster::start(number).await;
                return Some(number);
            }
            sleep(millis(50, 300)).await;
        }
        // It may yet become a member, which then never comes.
        self.no_show = true;
        world::with(|world| world.places.push(world::Place::new(vacant(), 1_000_000)));
        world::with(|world| world.places[number].gone = true);
        None
    }

    async fn promote(&mut self, number: usize) {
        let id = cluster::id_of(number);
        for _ in 0..6 {
            sleep(millis(100, 1_000)).await;
            world::note(format_args!("the operator promotes store{}", number + 1));
            let told = ask(cluster::somebody(), move |service| {
                Box::pin(async move { service.member_promote(Request::new(MemberPromoteRequest { id })).await.map(drop) })
            });
            match told.await {
                Told::Done(()) => return,
                Told::Refused => {}
                Told::Unknown => self.confused = true,
            }
        }
    }

    /// Whether the removal is certain.
    async fn remove(&mut self, number: usize) -> bool {
        let id = cluster::id_of(number);
        world::note(format_args!("the operator removes store{}", number + 1));
        world::with(|world| world.places[number].leaving = true);
        self.added.retain(|added| *added != id);
        let told = ask(cluster::somebody(), move |service| {
            Box::pin(async move {
                match service.member_remove(Request::new(MemberRemoveRequest { id })).await {
                    Err(status) if status.message() == Refusal::MemberNotFound.to_string() => Ok(()),
                    done => done.map(drop),
                }
            })
        });
        match told.await {
            Told::Done(()) => {
                world::note(format_args!("store{} is removed", number + 1));
                self.removed.push(id);
                self.part(number).await;
                true
            }
            Told::Refused => false,
            Told::Unknown => {
                self.confused = true;
                false
            }
        }
    }

    /// What becomes of a replica that was removed: it hears of it and stops, it is ended, or it is forgotten and goes on.
    async fn part(&mut self, number: usize) {
        if world::chance(400) {
            sleep(millis(0, 1_500)).await;
        }
        if world::chance(300) {
            world::with(|world| world.places[number].gone = true);
        } else {
            cluster::retire(number);
            if world::chance(300) {
                sleep(millis(0, 1_000)).await;
                world::note(format_args!("store{} is started by mistake", number + 1));
                cluster::start(number).await;
            }
        }
    }

    /// A replica's disk is gone: it is removed, and another comes in its place.
    async fn lose(&mut self, number: usize) {
        world::note(format_args!("the disk of store{} is lost", number + 1));
        cluster::retire(number);
        self.lost = Some(number);
    }

    async fn change(&mut self) {
        if let Some(number) = self.lost {
            if self.remove(number).await {
                self.lost = None;
                self.join(false).await;
            }
            return;
        }
        let voters = surest_voters();
        let present = cluster::present();
        let victim = cluster::leader().filter(|_| world::chance(400)).unwrap_or_else(cluster::somebody);
        match world::below(12) {
            0..4 if present.len() < ENOUGH => drop(self.join(false).await),
            4 | 5 if present.len() < ENOUGH => {
                if let Some(number) = self.join(true).await
                    && world::chance(700)
                {
                    self.promote(number).await;
                }
            }
            6 if !self.no_show && cluster::size() < cluster::MOST => {
                let number = cluster::settle_down(vacant(), 1_000_000);
                world::with(|world| world.places[number].gone = true);
                self.no_show = !matches!(self.add(cluster::url(number), false).await, Told::Refused);
            }
            7 if voters.len() >= 3 && voters.contains(&victim) && !self.confused => self.lose(victim).await,
            8 => {
                let (from, to) = (cluster::leader(), cluster::id_of(cluster::somebody()));
                let handler: Handler<bool> = Arc::new(move |replica| Box::pin(async move { replica.move_leader(to).await.is_ok() }));
                if let Some(from) = from {
                    let moved = wire::call(DESK, from, Duration::from_secs(5), handler).await;
                    world::note(format_args!("leadership is moved to {:?}: {moved:?}", cluster::number_of(to)));
                }
            }
            _ if voters.len() >= 3 && present.contains(&victim) => drop(self.remove(victim).await),
            _ => {}
        }
    }

    /// Changes the members until then.
    pub async fn work(mut self, until: Instant) -> Self {
        sleep(millis(300, 2_000)).await;
        while Instant::now() < until {
            self.change().await;
            sleep(millis(50, 1_500)).await;
        }
        self
    }

    /// After the last fault, with everybody up who is present: what was begun is finished, and whoever was removed is
    /// ended. A change that was confirmed must have come true.
    pub async fn finish(&mut self) {
        let until = Instant::now() + Duration::from_secs(60);
        // Calls whose answer was lost have ended by then.
        sleep(Duration::from_secs(8)).await;
        let members = loop {
            if let Some(number) = self.lost
                && self.remove(number).await
            {
                self.lost = None;
            }
            if self.lost.is_none()
                && let Some(members) = list(true).await
            {
                break members;
            }
            if Instant::now() > until {
                return world::halt("a minute after the last fault nobody knows who the members are".to_owned());
            }
            sleep(Duration::from_millis(200)).await;
        };
        let is_member = |id: u64| members.iter().any(|member| member.id == id);
        for id in self.removed.iter().filter(|id| is_member(**id)) {
            world::violation(format!("the member {id:x} was removed, and is there: {members:?}"));
        }
        for id in self.added.iter().filter(|id| !is_member(**id)) {
            world::violation(format!("the member {id:x} was added, and is missing: {members:?}"));
        }
        for number in 0..cluster::size() {
            let (leaving, gone) = world::with(|world| (world.places[number].leaving, world.places[number].gone)).unwrap_or_default();
            if gone {
                cluster::crash(number);
            } else if !is_member(cluster::id_of(number)) {
                if !leaving {
                    world::violation(format!("store{} is no member any more: {members:?}", number + 1));
                }
                cluster::retire(number);
            }
        }
    }

    /// Whether somebody was added who never came.
    pub fn waits_for_nobody(&self) -> bool {
        self.no_show
    }
}

/// Nobody's identity.
fn vacant() -> member::Identity {
    member::Identity { id: 0, cluster_id: 0, members: Default::default(), begins: false }
}

/// Why the membership is not at rest yet: it is half changed, replicas differ, or somebody who has caught up does not vote.
pub fn at_rest() -> Result<(), String> {
    let mut first = None;
    for number in cluster::present() {
        let running = world::running(number).ok_or_else(|| format!("store{} is not up", number + 1))?;
        let config = {
            let metrics = running.replica.raft().metrics();
            let seen = metrics.borrow_watched();
            seen.membership_config.clone()
        };
        if config.get_joint_config().len() != 1 {
            return Err(format!("store{} is between two memberships: {config:?}", number + 1));
        }
        let voters: Vec<u64> = config.voter_ids().collect();
        for (id, peer) in config.nodes() {
            let comes = cluster::number_of(*id).is_some_and(|number| !cluster::is_gone(number));
            if peer.joining && comes && !voters.contains(id) {
                return Err(format!("{peer:?} has caught up and does not vote"));
            }
        }
        let (known, who) = first.get_or_insert_with(|| (config.clone(), number));
        if *known != config {
            return Err(format!("store{} and store{} differ: {known:?} and {config:?}", *who + 1, number + 1));
        }
    }
    Ok(())
}

/// As many voters as may be down at once.
pub fn spare() -> Vec<usize> {
    let mut voters = surest_voters();
    voters.retain(|number| !cluster::is_gone(*number));
    let count = voters.len().saturating_sub(1) / 2;
    while voters.len() > count {
        voters.remove(world::below(voters.len() as u64) as usize);
    }
    voters
}
