//! Which member this data directory belongs to. Written once, when the replica starts for the first time; from then on
//! the flags about the cluster are not looked at.
//!
//! A replica that is to join does not know its id: it asks the others in `--initial-cluster` for the members, and is
//! the one with its own peer URL, as with etcd.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use balsa_process::tls::TlsIdentity;
use serde::{Deserialize, Serialize};

use crate::config::{self, ClusterState, Config};
use crate::disk;
use crate::raft::{Members, network};
use crate::replica::Description;

const FILE: &str = "MEMBER";
/// How long the existing members are asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who a replica is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The member's id.
    pub id: u64,
    /// The cluster's id.
    pub cluster_id: u64,
    /// The members as they were at its first start; the log knows better.
    pub members: Members,
    /// Whether it begins the cluster together with those members.
    pub begins: bool,
}

/// Reads who the data directory belongs to.
pub fn read(root: &Path) -> anyhow::Result<Option<Identity>> {
    let path = root.join(FILE);
    match std::fs::read(&path) {
        Ok(stored) => {
            Ok(Some(serde_json::from_slice(&stored).with_context(|| format!("{} is malformed", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Notes who the data directory belongs to.
pub fn write(root: &Path, identity: &Identity) -> anyhow::Result<()> {
    disk::make_dir(root).with_context(|| format!("cannot make {}", root.display()))?;
    let path = root.join(FILE);
    let stored = serde_json::to_vec_pretty(identity).context("an identity that cannot be encoded")?;
    disk::replace_file(&path, &stored).with_context(|| format!("cannot write {}", path.display()))
}

/// Who the flags say that this replica is, in a new cluster.
pub fn of_flags(config: &Config) -> anyhow::Result<Identity> {
    Ok(of(config, config.members()?))
}

/// The same, of these members.
pub fn of(config: &Config, members: Members) -> Identity {
    let cluster_id = config::cluster_id(&config.cluster_token, &members);
    Identity { id: config::member_id(&config.name), cluster_id, members, begins: true }
}

/// Who this replica is: as noted, or found out now and noted.
pub async fn identify(config: &Config, tls: Option<&TlsIdentity>) -> anyhow::Result<Identity> {
    if let Some(known) = read(&config.data_dir)? {
        return Ok(known);
    }
    let flags = of_flags(config)?;
    let identity = match config.initial_cluster_state {
        ClusterState::New => flags,
        // With data, but from before this file was written: it is a founding member.
        ClusterState::Existing if config.data_dir.join("STATE").exists() => flags,
        ClusterState::Existing => ask(config, &flags, tls).await?,
    };
    write(&config.data_dir, &identity)?;
    Ok(identity)
}

async fn ask(config: &Config, flags: &Identity, tls: Option<&TlsIdentity>) -> anyhow::Result<Identity> {
    let own = config.advertise_peer.clone();
    let own = own.or_else(|| flags.members.get(&flags.id).map(|peer| peer.peer_url.clone())).unwrap_or_default();
    let others: Vec<&str> =
        flags.members.iter().filter(|(id, _)| **id != flags.id).map(|(_, peer)| peer.peer_url.as_str()).collect();
    ensure!(!others.is_empty(), "--initial-cluster-state existing needs the existing members in --initial-cluster");
    let asked = tokio::time::timeout(PATIENCE, async {
        let mut problem = String::new();
        loop {
            for url in &others {
                match network::describe(url, tls).await {
                    Ok(described) => match found(described, &own) {
                        Ok(identity) => return identity,
                        Err(missing) => problem = missing,
                    },
                    Err(status) => problem = format!("{url}: {}", status.message()),
                }
            }
            tracing::info!(problem, "waiting for the existing members");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    match asked.await {
        Ok(identity) => Ok(identity),
        Err(_) => bail!("the members in --initial-cluster know no member at {own}; add it first (etcdctl member add)"),
    }
}

/// Who has the peer URL `own` among those who were described, as one that joins them.
pub(crate) fn found(described: Description, own: &str) -> Result<Identity, String> {
    let Description { cluster_id, members, .. } = described;
    let me = members.iter().find(|(_, peer)| peer.peer_urls().iter().any(|url| url == own)).map(|(id, _)| *id);
    let id = me.ok_or_else(|| format!("no member has the peer URL {own}"))?;
    Ok(Identity { id, cluster_id, members, begins: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Peer;

    #[test]
    fn who_joins_is_the_member_with_its_url_and_stays_it() {
        let peer = |url: &str| Peer { peer_url: url.to_owned(), ..Peer::default() };
        let members = Members::from([(1, peer("http://a:1")), (7, peer("http://b:1"))]);
        let described = Description { cluster_id: 5, members, agreed: 3 };
        let identity = found(described.clone(), "http://b:1").unwrap();
        assert_eq!((identity.id, identity.cluster_id, identity.begins), (7, 5, false));
        assert!(found(described, "http://c:1").is_err());
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        write(dir.path(), &identity).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(identity));
        std::fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(read(dir.path()).is_err());
    }
}
