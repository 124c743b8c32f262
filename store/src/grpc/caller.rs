//! Who calls, and whether this replica may answer. While auth is off and nothing else is out of the ordinary, this is
//! one load.

use balsa_process::identity::Actor;
use tonic::{Request, Status};

use super::Service;
use crate::error::Refusal;
use crate::jwt;
use crate::ledger::Who;
use crate::replica::applied::flag;

/// A client's user; none while auth is off, or when it gave none.
pub type Caller = Option<Who>;

/// Metadata in which a client sends its token, and what it may be called as well.
const TOKEN: [&str; 2] = ["token", "authorization"];
/// Metadata by which a client wants its stream ended when there is no leader.
const NEEDS_LEADER: &str = "hasleader";

impl Service {
    /// Whoever sent the request. A learner refuses it.
    pub(super) async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        if self.replica.applied().flags() & flag::LEARNER != 0 {
            return Err(Refusal::NotForLearner.into());
        }
        self.caller_of_any(request).await
    }

    /// The same for what a learner answers too.
    pub(super) async fn caller_of_any<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        if self.replica.applied().flags() & flag::AUTH == 0 {
            return Ok(None);
        }
        let given = TOKEN.iter().find_map(|name| request.metadata().get(*name)).map(|token| token.to_str());
        match given {
            Some(Ok(token)) => self.bearer(token.strip_prefix("Bearer ").unwrap_or(token)).await.map(Some),
            Some(Err(_)) => Err(Refusal::InvalidAuthToken.into()),
            None => Ok(self.certified(request)),
        }
    }

    async fn bearer(&self, token: &str) -> Result<Who, Status> {
        if let Some(signer) = &self.signer {
            return signer.who(token, jwt::now()).ok_or_else(|| Refusal::InvalidAuthToken.into());
        }
        if let Some(who) = self.replica.token_owner(token) {
            return Ok(who);
        }
        // Given out by another replica a moment ago, perhaps.
        self.replica.linearize().await?;
        self.replica.token_owner(token).ok_or_else(|| Refusal::InvalidAuthToken.into())
    }

    /// By the common name of its certificate, which TLS has verified.
    fn certified<T>(&self, request: &Request<T>) -> Caller {
        let certificates = request.peer_certs()?;
        let actor = Actor::from_certificate(certificates.first()?).ok()?;
        Some(Who { user: actor.user, revision: self.replica.applied().ledger().auth.revision() })
    }

    /// Refuses whoever is not root, while auth is enabled.
    pub(super) async fn admin<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.caller_of_any(request).await?;
        self.replica.applied().ledger().auth.admin(caller.as_ref())?;
        Ok(caller)
    }

    /// Refuses whoever is nobody, while auth is enabled.
    pub(super) fn somebody(&self, caller: &Caller) -> Result<(), Status> {
        let enabled = self.replica.applied().flags() & flag::AUTH != 0;
        if enabled && caller.is_none() { Err(Refusal::UserEmpty.into()) } else { Ok(()) }
    }

    /// Whether the client wants its stream ended when there is no leader; refuses it when there is none now.
    pub(super) fn needs_leader<T>(&self, request: &Request<T>) -> Result<bool, Status> {
        let needs = request.metadata().get(NEEDS_LEADER).is_some_and(|value| value == "true");
        if needs && self.replica.leadership().borrow().leader.is_none() {
            return Err(Refusal::NoLeader.into());
        }
        Ok(needs)
    }
}

/// What the HTTP endpoints ask.
impl Service {
    /// Reads as the store itself.
    pub(crate) async fn probe(&self, request: balsa_proto::etcd::etcdserverpb::RangeRequest) -> Result<(), Status> {
        if !request.serializable {
            self.replica.linearize().await?;
        }
        let read = |view: &crate::disk::view::DiskView<'_>| crate::mvcc::range::range(view, &request, view.position()?);
        Ok(self.replica.state().read(read).map(drop)?)
    }

    /// Whether a leader is known.
    pub(crate) fn has_leader(&self) -> bool {
        self.replica.leadership().borrow().leader.is_some()
    }

    /// Whether this replica is a learner.
    pub(crate) fn learns(&self) -> bool {
        self.replica.applied().flags() & flag::LEARNER != 0
    }

    /// Counts what `/health` said.
    pub(crate) fn count_health(&self, well: bool) {
        let metrics = self.replica.metrics();
        if well { metrics.health_success.inc() } else { metrics.health_failures.inc() };
    }
}
