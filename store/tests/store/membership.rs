//! Members come and go while clients write.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use balsa_proto::etcd::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    RangeRequest, StatusRequest,
};
use balsa_store::Config;
use balsa_store::config::ClusterState;
use tonic::Code;

use crate::support::{Client, Cluster, eventually, own_addresses};

/// Flags of a fourth replica that is to join.
fn fourth(cluster: &Cluster) -> Config {
    let ports = own_addresses(3);
    let mut config = Config::single(cluster.dir.path().join("store4"));
    config.name = "store4".to_owned();
    (config.listen_client, config.listen_peer, config.listen_metrics) = (ports[0], ports[1], ports[2]);
    config.initial_cluster = format!("{},store4=http://{}", cluster.configs[0].initial_cluster, ports[1]);
    config.initial_cluster_state = ClusterState::Existing;
    config.request_timeout = 20_000;
    config
}

fn addition(config: &Config, is_learner: bool) -> MemberAddRequest {
    MemberAddRequest { peer_ur_ls: vec![format!("http://{}", config.listen_peer)], is_learner }
}

async fn members(client: &mut Client) -> Vec<Member> {
    let list = MemberListRequest { linearizable: true };
    eventually("the members are told", async || client.cluster.member_list(list).await.ok()).await.into_inner().members
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_become_four_and_three_again_while_clients_write() {
    let mut cluster = Cluster::start(|_| ()).await;
    let leader = cluster.leader().await;
    let mut client = Client::new(&cluster.url((leader + 1) % 3));
    eventually("all have said their names and URLs", async || {
        let known = members(&mut client).await;
        known.iter().all(|member| !member.client_ur_ls.is_empty()).then_some(())
    })
    .await;
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let urls = [cluster.url(0), cluster.url(1), cluster.url(2)];
    let writer = async {
        let mut revisions = Vec::new();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let mut writing = Client::new(&urls[number % 3]);
            if let Ok(revision) = writing.put(&format!("w{number:06}"), "kept").await {
                revisions.push((format!("w{number:06}"), revision));
                written.fetch_add(1, Ordering::Relaxed);
            }
        }
        revisions
    };
    let goes_on = async || {
        let enough = written.load(Ordering::Relaxed) + 30;
        eventually("writes go on", async || (written.load(Ordering::Relaxed) >= enough).then_some(())).await;
    };
    let change = async {
        goes_on().await;
        let config = fourth(&cluster);
        let added = client.cluster.member_add(addition(&config, false)).await.unwrap().into_inner();
        assert_eq!(added.members.len(), 4);
        let new = added.member.unwrap();
        assert!(new.name.is_empty() && !new.is_learner, "not started, and to vote");
        let again = client.cluster.member_add(addition(&config, false)).await.unwrap_err();
        assert!(matches!(again.code(), Code::FailedPrecondition | Code::Unavailable), "{again}");
        goes_on().await;
        cluster.configs.push(config);
        cluster.replicas.push(None);
        cluster.run(3).await;
        assert_eq!(cluster.replica(3).id(), new.id);
        eventually("it votes", async || cluster.replica(3).membership().voters.contains(&new.id).then_some(())).await;
        goes_on().await;
        let mut at_new = Client::new(&cluster.url(3));
        let name = members(&mut at_new).await.into_iter().find(|member| member.id == new.id).map(|member| member.name);
        eventually("it has said its name", async || {
            let known = members(&mut client).await;
            known.iter().any(|member| member.name == "store4" && !member.client_ur_ls.is_empty()).then_some(())
        })
        .await;
        assert!(name.is_some());
        // One of the first goes: the one that leads, which is the hardest.
        let leader = cluster.leader().await;
        let gone = cluster.replica(leader).id();
        let survivor = (0..4).find(|number| *number != leader).unwrap();
        let mut asked = Client::new(&cluster.url(survivor));
        let left = eventually("the leader is removed", async || {
            let removed = asked.cluster.member_remove(MemberRemoveRequest { id: gone }).await;
            match removed {
                Ok(answer) => Some(answer.into_inner().members),
                Err(status) if status.code() == Code::NotFound => Some(members(&mut asked).await),
                Err(_) => None,
            }
        })
        .await;
        assert!(left.iter().all(|member| member.id != gone), "{left:?}");
        // It stops by itself, and says why.
        let ended = cluster.replicas[leader].take().unwrap().finished().await;
        assert!(ended.unwrap_err().to_string().contains("removed from the cluster"));
        eventually("an unknown member is not found", async || {
            let unknown = asked.cluster.member_remove(MemberRemoveRequest { id: 1 }).await.unwrap_err();
            (unknown.message() == "etcdserver: member not found").then_some(())
        })
        .await;
        goes_on().await;
        stop.store(true, Ordering::Relaxed);
        survivor
    };
    let (revisions, survivor) = tokio::join!(writer, change);
    let all = RangeRequest { key: "w".into(), range_end: "x".into(), ..Default::default() };
    for number in (0..4).filter(|number| cluster.replicas[*number].is_some()) {
        let mut client = Client::new(&cluster.url(number));
        let held = eventually("a read is answered", async || client.range(all.clone()).await.ok()).await;
        let held: std::collections::BTreeMap<_, _> =
            held.kvs.iter().map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision)).collect();
        for (key, revision) in &revisions {
            assert_eq!(held.get(key), Some(revision), "{key} at {number}, asked was {survivor}");
        }
    }
    // The joined replica is itself again after a restart, whatever its flags say now.
    cluster.configs[3].initial_cluster = String::new();
    let id = cluster.replica(3).id();
    cluster.halt(3).await;
    cluster.run(3).await;
    assert_eq!(cluster.replica(3).id(), id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_when_it_was_removed_learns_it_when_it_starts_again() {
    let mut cluster = Cluster::start(|_| ()).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let mut client = Client::new(&cluster.url(leader));
    client.put("k", "v").await.unwrap();
    let id = cluster.replica(away).id();
    cluster.halt(away).await;
    // One that was only away comes back; so does one whose peers are away: that nobody answers is no reason to go.
    cluster.run(away).await;
    cluster.leader().await;
    cluster.halt(away).await;
    eventually("it is removed", async || {
        let removed = client.cluster.member_remove(MemberRemoveRequest { id }).await;
        removed.ok().map(drop)
    })
    .await;
    for _ in 0..2 {
        cluster.run(away).await;
        let ended = cluster.replicas[away].take().unwrap().finished().await;
        assert!(ended.unwrap_err().to_string().contains("removed from the cluster"));
    }
    assert!(members(&mut client).await.iter().all(|member| member.id != id));
    client.put("k", "w").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_follows_refuses_clients_and_is_promoted() {
    let mut cluster = Cluster::start(|_| ()).await;
    let leader = cluster.leader().await;
    let mut client = Client::new(&cluster.url(leader));
    for number in 0..20 {
        client.put(&format!("k{number}"), "v").await.unwrap();
    }
    let config = fourth(&cluster);
    let new = client.cluster.member_add(addition(&config, true)).await.unwrap().into_inner().member.unwrap();
    assert!(new.is_learner);
    let not_ready = client.cluster.member_promote(MemberPromoteRequest { id: new.id }).await.unwrap_err();
    assert_eq!(not_ready.message(), "etcdserver: can only promote a learner member which is in sync with leader");
    let other = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()], is_learner: true };
    let too_many = client.cluster.member_add(other).await.unwrap_err();
    assert_eq!(too_many.message(), "etcdserver: too many learner members in cluster");
    let moved = MemberUpdateRequest { id: new.id, peer_ur_ls: vec![format!("http://{}", cluster.configs[0].listen_peer)] };
    assert_eq!(client.cluster.member_update(moved).await.unwrap_err().message(), "etcdserver: Peer URLs already exists");
    let bad = MemberUpdateRequest { id: new.id, peer_ur_ls: vec!["nonsense".to_owned()] };
    assert_eq!(client.cluster.member_update(bad).await.unwrap_err().message(), "etcdserver: given member URLs are invalid");
    cluster.configs.push(config);
    cluster.replicas.push(None);
    cluster.run(3).await;
    let mut learner = Client::new(&cluster.url(3));
    let local = RangeRequest { key: "k19".into(), serializable: true, ..Default::default() };
    eventually("the learner has caught up", async || {
        let status = learner.maintenance.status(StatusRequest {}).await.ok()?.into_inner();
        let held = learner.range(local.clone()).await.ok()?;
        (status.is_learner && !held.kvs.is_empty()).then_some(())
    })
    .await;
    for refused in [learner.put("k", "v").await.unwrap_err(), learner.get("k").await.unwrap_err()] {
        assert_eq!(refused.message(), "etcdserver: rpc not supported for learner");
    }
    eventually("it is promoted", async || {
        client.cluster.member_promote(MemberPromoteRequest { id: new.id }).await.ok()
    })
    .await;
    let again = client.cluster.member_promote(MemberPromoteRequest { id: new.id }).await.unwrap_err();
    assert_eq!(again.message(), "etcdserver: can only promote a learner member");
    eventually("it serves", async || learner.put("k", "v").await.ok()).await;
    // Three of four are a majority: the new one counts.
    cluster.halt((leader + 1) % 3).await;
    eventually("writes go on", async || client.put("k", "w").await.ok()).await;
}
