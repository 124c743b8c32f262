//! Three real processes, each in a network namespace of its own, and clients in a fourth: links go down, packets get
//! lost in one direction, and come back, while clients note all they ask and hear. Over TLS, as between machines.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use balsa_process::identity::Actor;
use balsa_process::pki::Authority;
use balsa_proto::etcd::etcdserverpb::StatusRequest;
use balsa_store::Config;

use crate::faults::under;
use crate::process::Process;
use crate::recorded::Notes;
use crate::spaces::Lan;
use crate::support::{self, Client, eventually};

/// Calls that must be answered between two faults.
const ENOUGH: usize = 60;

/// The flags of a replica on a machine of its own.
fn config(dir: &Path, number: usize, authority: &Authority) -> Config {
    let name = format!("store{}", number + 1);
    let mut config = Config::single(dir.join(&name));
    let actor = Actor { user: format!("balsa:store:{name}"), groups: vec!["balsa:stores".to_owned()] };
    config.tls = Some(authority.issue_files(dir, &name, &actor, &[Lan::address(number)]).unwrap());
    let at = |port: u16| SocketAddr::new(Lan::address(number).parse().unwrap(), port);
    (config.listen_client, config.listen_peer, config.listen_metrics) = (at(2379), at(2380), at(2381));
    let cluster: Vec<String> = (0..3).map(|n| format!("store{}=https://{}:2380", n + 1, Lan::address(n))).collect();
    config.initial_cluster = cluster.join(",");
    config.name = name;
    config
}

/// The replica that all say leads.
async fn leader(urls: &[String]) -> usize {
    eventually("all follow one leader", async || {
        let mut leaders = Vec::new();
        for url in urls {
            let mut client = Client::new(url);
            let asked = tokio::time::timeout(Duration::from_secs(2), client.maintenance.status(StatusRequest {})).await;
            let status = asked.ok()?.ok()?.into_inner();
            leaders.push((status.leader, status.header?.member_id));
        }
        let (first, _) = leaders[0];
        let agreed = first != 0 && leaders.iter().all(|(leader, _)| *leader == first);
        leaders.iter().position(|(_, member)| agreed && *member == first)
    })
    .await
}

async fn violence(lan: &Lan, urls: &[String], notes: &Notes) {
    for turn in 0..2 {
        // The leader alone, then a follower alone.
        let first = leader(urls).await;
        let alone = if turn == 0 { first } else { (first + 1) % 3 };
        lan.plug(alone, false);
        notes.goes_on(2 * ENOUGH).await;
        lan.plug(alone, true);
        notes.goes_on(ENOUGH).await;
    }
    // Who leads reaches nobody, but hears them, and clients reach it: it must tell them nothing that is stale.
    let deposed = leader(urls).await;
    let others = [(deposed + 1) % 3, (deposed + 2) % 3];
    others.iter().for_each(|other| lan.lose(deposed, *other, true));
    notes.goes_on(2 * ENOUGH).await;
    others.iter().for_each(|other| lan.lose(deposed, *other, false));
    notes.goes_on(ENOUGH).await;
    // One pair cannot talk, first in one direction, then in the other; the third reaches both.
    for outward in [true, false] {
        let first = leader(urls).await;
        let second = (first + 1) % 3;
        let (from, to) = if outward { (first, second) } else { (second, first) };
        lan.lose(from, to, true);
        notes.goes_on(2 * ENOUGH).await;
        lan.lose(from, to, false);
        notes.goes_on(ENOUGH).await;
    }
    // Everybody is alone: no majority, so nothing is acknowledged until the network is whole again.
    (0..3).for_each(|number| lan.plug(number, false));
    tokio::time::sleep(Duration::from_secs(3)).await;
    (0..3).for_each(|number| lan.plug(number, true));
    notes.goes_on(ENOUGH).await;
    leader(urls).await;
}

#[test]
fn partitions_of_real_networks_in_one_and_both_directions_break_no_promise() {
    let lan = match Lan::of(4) {
        Ok(lan) => Arc::new(lan),
        Err(reason) => {
            println!("not run: {reason}");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let client = Actor { user: "client".to_owned(), groups: Vec::new() };
    support::identify(&authority.issue_files(dir.path(), "client", &client, &[]).unwrap());
    let configs: Vec<Config> = (0..3).map(|number| config(dir.path(), number, &authority)).collect();
    let start = |(number, config): (usize, Config)| lan.spaces[number].run(move || Process::start(&config));
    let _processes: Vec<Process> = configs.into_iter().enumerate().map(start).collect();
    let urls: Vec<String> = (0..3).map(|number| format!("https://{}:2379", Lan::address(number))).collect();
    let network = lan.clone();
    lan.spaces[3].run(move || {
        // One thread: all of its sockets are in the namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let notes = Notes::default();
        runtime.block_on(under(&urls, &notes, violence(&network, &urls, &notes)));
    });
}
