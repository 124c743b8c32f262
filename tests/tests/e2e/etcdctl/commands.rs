//! Every command of etcdctl's help, run against three stores. A command that this file does not know fails the test.

use std::time::Duration;

use balsa_tests::wait_for;
use serde_json::Value;

use super::Ctl;
use crate::stores::Stores;

/// A command of the help, and what runs it.
type Case = (&'static str, fn(&Ctl));

const CASES: &[Case] = &[
    ("alarm disarm", alarms),
    ("alarm list", alarms),
    ("auth disable", users),
    ("auth enable", users),
    ("auth status", users),
    ("check datascale", check_datascale),
    ("check perf", check_perf),
    ("compaction", compaction),
    ("completion", completion),
    ("defrag", defrag),
    ("del", keys),
    ("downgrade cancel", downgrade),
    ("downgrade enable", downgrade),
    ("downgrade validate", downgrade),
    ("elect", elect),
    ("endpoint hashkv", endpoints),
    ("endpoint health", endpoints),
    ("endpoint status", endpoints),
    ("get", keys),
    ("help", help),
    ("lease grant", leases),
    ("lease keep-alive", leases),
    ("lease list", leases),
    ("lease revoke", leases),
    ("lease timetolive", leases),
    ("lock", lock),
    ("make-mirror", make_mirror),
    ("member add", members),
    ("member list", members),
    ("member promote", members),
    ("member remove", members),
    ("member update", members),
    ("move-leader", move_leader),
    ("put", keys),
    ("role add", users),
    ("role delete", users),
    ("role get", users),
    ("role grant-permission", users),
    ("role list", users),
    ("role revoke-permission", users),
    ("snapshot save", snapshot),
    // 3.5 reads etcd's own file format with these, which our snapshots are not.
    ("snapshot restore", not_our_format),
    ("snapshot status", not_our_format),
    ("txn", keys),
    ("user add", users),
    ("user delete", users),
    ("user get", users),
    ("user grant-role", users),
    ("user list", users),
    ("user passwd", users),
    ("user revoke-role", users),
    ("version", version),
    ("watch", watch),
];

/// The commands that the help lists.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| !line.starts_with("COMMANDS:")).skip(1);
    let lines = lines.take_while(|line| line.starts_with(|c: char| c.is_whitespace()) && !line.trim().is_empty());
    lines.filter_map(|line| line.trim().split('\t').next()).map(|name| name.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_help_works() {
    let stores = Stores::start().await;
    tokio::task::block_in_place(|| every_command(&Ctl::at(&stores.endpoints)));
}

fn every_command(ctl: &Ctl) {
    let listed = listed(&ctl.first(&["help"]));
    assert!(listed.len() > 40, "the help was not understood: {listed:?}");
    let unknown: Vec<_> = listed.iter().filter(|name| !CASES.iter().any(|(known, _)| known == name)).collect();
    assert!(unknown.is_empty(), "etcdctl has commands that no test knows: {unknown:?}");
    let mut done: Vec<fn(&Ctl)> = Vec::new();
    for (name, case) in CASES.iter().filter(|(known, _)| listed.iter().any(|name| name == known)) {
        if !done.iter().any(|ran| std::ptr::fn_addr_eq(*ran, *case)) {
            eprintln!("etcdctl {name} …");
            case(ctl);
            done.push(*case);
        }
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// An id as the commands take it.
fn hex(id: &Value) -> String {
    format!("{:x}", id.as_u64().expect("an id"))
}

fn all(ctl: &Ctl) -> String {
    ctl.endpoints.join(",")
}

fn keys(ctl: &Ctl) {
    assert_eq!(ctl.first(&["put", "cmd/a", "1"]), "OK\n");
    assert_eq!(ctl.first(&["put", "cmd/b", "2"]), "OK\n");
    assert_eq!(ctl.first(&["put", "--prev-kv", "cmd/a", "3"]), "OK\ncmd/a\n1\n");
    assert_eq!(ctl.first(&["put", "--ignore-lease", "cmd/a", "4"]), "OK\n");
    for (words, expected) in [
        (&["get", "cmd/a"][..], "cmd/a\n4\n"),
        (&["get", "cmd/", "--prefix", "--keys-only"], "cmd/a\n\ncmd/b\n\n"),
        (&["get", "cmd/", "--prefix", "--limit=1", "--order=DESCEND", "--sort-by=KEY"], "cmd/b\n2\n"),
        (&["get", "cmd/", "--prefix", "--sort-by=VALUE", "--order=ASCEND", "--print-value-only"], "2\n4\n"),
        (&["get", "cmd/b", "--from-key", "--limit=1", "--consistency=s"], "cmd/b\n2\n"),
        (&["get", "cmd/a", "cmd/b"], "cmd/a\n4\n"),
    ] {
        assert_eq!(ctl.first(words), expected, "{words:?}");
    }
    let swap = "mod(\"cmd/a\") > \"0\"\ncreate(\"cmd/none\") = \"0\"\n\nput cmd/c 5\nget cmd/a\n\nput cmd/c 6\n\n";
    assert_eq!(ctl.ok(&ctl.endpoints[0], &["txn"], Some(swap)), "SUCCESS\n\nOK\n\ncmd/a\n4\n");
    let twice = "\nput cmd/c 5\nput cmd/c 6\n\n\n";
    assert!(ctl.says(&ctl.endpoints[0], &["txn"], Some(twice)).err.contains("duplicate key given in txn request"));
    assert_eq!(ctl.first(&["del", "cmd/", "--prefix", "--prev-kv"]), "3\ncmd/a\n4\ncmd/b\n2\ncmd/c\n5\n");
    assert_eq!(ctl.first(&["del", "cmd/a"]), "0\n");
}

fn watch(ctl: &Ctl) {
    let watching = ctl.start(&["watch", "w/", "--prefix", "--prev-kv", "--progress-notify"]);
    // The stream is there when its first event comes.
    wait_for("the watcher hears", Duration::from_secs(30), || {
        ctl.first(&["put", "w/k", "1"]);
        watching.lines.recv_timeout(Duration::from_millis(300)).map_err(|error| error.to_string())
    });
    ctl.first(&["del", "w/k"]);
    watching.until("DELETE");
    let answer = json(&ctl.first(&["put", "w/k", "2", "--write-out=json"]));
    let revision = answer["header"]["revision"].to_string();
    let history = ctl.start(&["watch", "w/k", "--rev", &revision]);
    history.until("PUT");
    history.until("w/k");
    ctl.first(&["del", "w/", "--prefix"]);
}

fn compaction(ctl: &Ctl) {
    let first = json(&ctl.first(&["put", "c/k", "1", "--write-out=json"]))["header"]["revision"].to_string();
    let second = json(&ctl.first(&["put", "c/k", "2", "--write-out=json"]))["header"]["revision"].to_string();
    assert!(ctl.first(&["compaction", "--physical", &second]).contains("compacted revision"));
    assert!(ctl.fails(&["get", "c/k", "--rev", &first]).contains("required revision has been compacted"));
    assert!(ctl.fails(&["compaction", &second]).contains("required revision has been compacted"));
    assert!(ctl.fails(&["get", "c/k", "--rev", "999999999"]).contains("required revision is a future revision"));
}

fn leases(ctl: &Ctl) {
    let granted = ctl.first(&["lease", "grant", "600"]);
    let lease = granted.split_whitespace().nth(1).expect("a lease").to_owned();
    ctl.first(&["put", "l/k", "v", "--lease", &lease]);
    assert!(ctl.first(&["lease", "list"]).contains(&lease));
    assert!(ctl.first(&["lease", "timetolive", &lease, "--keys"]).contains("l/k"));
    assert!(ctl.first(&["lease", "keep-alive", "--once", &lease]).contains("keepalived with TTL(600)"));
    assert!(ctl.first(&["lease", "revoke", &lease]).contains("revoked"));
    assert_eq!(ctl.first(&["get", "l/k"]), "");
    assert!(ctl.first(&["lease", "timetolive", &lease]).contains("already expired"));
    assert!(ctl.fails(&["lease", "revoke", &lease]).contains("requested lease not found"));
    assert!(ctl.fails(&["put", "l/k", "v", "--lease", &lease]).contains("requested lease not found"));
}

fn lock(ctl: &Ctl) {
    let held = ctl.start(&["lock", "lock/e2e"]);
    held.until("lock/e2e/");
    let waiting = ctl.start(&["lock", "lock/e2e"]);
    assert!(waiting.lines.recv_timeout(Duration::from_secs(1)).is_err(), "one owner at a time");
    drop(held);
    // kill -9 of its owner: the lock is free when the owner's lease has expired, a minute later; so end it by hand.
    let owner = ctl.first(&["get", "lock/e2e/", "--prefix", "--keys-only", "--sort-by=CREATE", "--limit=1"]);
    ctl.first(&["del", owner.trim()]);
    waiting.until("lock/e2e/");
    assert_eq!(ctl.first(&["lock", "lock/other", "echo", "inside"]), "inside\n");
    ctl.first(&["del", "lock/", "--prefix"]);
}

fn elect(ctl: &Ctl) {
    let leader = ctl.start(&["elect", "elect/e2e", "first"]);
    leader.until("first");
    let listening = ctl.start(&["elect", "--listen", "elect/e2e"]);
    listening.until("first");
    ctl.first(&["del", "elect/", "--prefix"]);
}

fn make_mirror(ctl: &Ctl) {
    ctl.first(&["put", "mirror/from/a", "1"]);
    let words = ["make-mirror", "--prefix=mirror/from/", "--dest-prefix=mirror/to/"];
    let words: Vec<&str> = words.into_iter().chain(["--dest-insecure-transport=true", &ctl.endpoints[1]]).collect();
    let _mirror = ctl.start(&words);
    let mirrored = |key: &str| {
        let key = format!("mirror/to/{key}");
        wait_for("the mirror follows", Duration::from_secs(30), || {
            let said = ctl.first(&["get", &key, "--print-value-only"]);
            if said.is_empty() { Err("nothing yet".to_owned()) } else { Ok(said) }
        })
    };
    assert_eq!(mirrored("a"), "1\n");
    ctl.first(&["put", "mirror/from/b", "2"]);
    assert_eq!(mirrored("b"), "2\n");
    ctl.first(&["del", "mirror/", "--prefix"]);
}

fn alarms(ctl: &Ctl) {
    assert_eq!(ctl.first(&["alarm", "list"]), "");
    assert_eq!(ctl.first(&["alarm", "disarm"]), "");
}

fn endpoints(ctl: &Ctl) {
    let healthy = ctl.says(&all(ctl), &["endpoint", "health"], None);
    assert_eq!(format!("{}{}", healthy.out, healthy.err).matches("is healthy").count(), ctl.endpoints.len());
    let status = json(&ctl.ok(&all(ctl), &["endpoint", "status", "--write-out=json"], None));
    for member in status.as_array().expect("a list") {
        let status = &member["Status"];
        assert!(status["leader"].as_u64().is_some_and(|leader| leader != 0), "{member}");
        assert!(status["dbSize"].as_u64().is_some_and(|size| size > 0), "{member}");
        assert_eq!(status["version"], "3.6.0", "{member}");
    }
    let revision = json(&ctl.first(&["put", "hash/k", "v", "--write-out=json"]))["header"]["revision"].to_string();
    ctl.endpoints.iter().for_each(|endpoint| assert_eq!(ctl.ok(endpoint, &["get", "hash/k", "--print-value-only"], None), "v\n"));
    let hashes = json(&ctl.ok(&all(ctl), &["endpoint", "hashkv", "--rev", &revision, "--write-out=json"], None));
    let hashes: Vec<_> = hashes.as_array().expect("a list").iter().map(|member| &member["HashKV"]["hash"]).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    ctl.first(&["del", "hash/k"]);
}

fn defrag(ctl: &Ctl) {
    assert_eq!(ctl.ok(&all(ctl), &["defrag"], None).matches("Finished defragmenting").count(), ctl.endpoints.len());
}

fn snapshot(ctl: &Ctl) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("snapshot.db");
    assert!(ctl.first(&["snapshot", "save", &file.display().to_string()]).contains("Snapshot saved"));
    assert_eq!(std::fs::metadata(&file).expect("the file").len() % 512, 32, "whole blocks and a hash");
}

fn not_our_format(ctl: &Ctl) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("snapshot.db").display().to_string();
    ctl.first(&["snapshot", "save", &file]);
    ctl.fails(&["snapshot", "status", &file]);
}

fn leader_and_other(ctl: &Ctl) -> (String, String) {
    let status = json(&ctl.ok(&all(ctl), &["endpoint", "status", "--write-out=json"], None));
    let members = status.as_array().expect("a list");
    let leads = |member: &&Value| member["Status"]["leader"] == member["Status"]["header"]["member_id"];
    let leader = members.iter().find(leads).expect("a leader");
    let other = members.iter().find(|member| !leads(member)).expect("a follower");
    (leader["Endpoint"].as_str().expect("its endpoint").to_owned(), hex(&other["Status"]["header"]["member_id"]))
}

fn move_leader(ctl: &Ctl) {
    let (_, other) = leader_and_other(ctl);
    assert!(ctl.ok(&all(ctl), &["move-leader", &other], None).contains("Leadership transferred"));
}

fn members(ctl: &Ctl) {
    let list = |words: &[&str]| json(&ctl.first(words))["members"].as_array().expect("members").clone();
    let before = list(&["member", "list", "--write-out=json"]);
    assert_eq!(before.len(), ctl.endpoints.len());
    let scheme = before[0]["peerURLs"][0].as_str().expect("a URL").split(':').next().expect("a scheme").to_owned();
    let (url, moved) = (format!("{scheme}://127.0.0.1:1"), format!("{scheme}://127.0.0.1:2"));
    let added = json(&ctl.first(&["member", "add", "learner", "--learner", "--peer-urls", &url, "--write-out=json"]));
    let id = hex(&added["member"]["ID"]);
    let taken = ctl.fails(&["member", "add", "again", "--peer-urls", &url]);
    assert!(taken.contains("Peer URLs already exists"), "{taken}");
    let not_ready = ctl.fails(&["member", "promote", &id]);
    assert!(not_ready.contains("in sync with leader"), "{not_ready}");
    assert!(ctl.first(&["member", "update", &id, "--peer-urls", &moved]).contains("updated"));
    let found = list(&["member", "list", "--write-out=json"]);
    assert!(found.iter().any(|member| member["peerURLs"][0] == *moved && member["isLearner"] == true), "{found:?}");
    assert!(ctl.first(&["member", "remove", &id]).contains("removed"));
    assert_eq!(list(&["member", "list", "--write-out=json"]).len(), before.len());
    assert!(ctl.fails(&["member", "remove", &id]).contains("member not found"));
}

fn downgrade(ctl: &Ctl) {
    assert!(ctl.first(&["downgrade", "validate", "3.5"]).contains("3.6"));
    assert!(ctl.fails(&["downgrade", "validate", "3.3"]).contains("invalid downgrade target version"));
    ctl.first(&["downgrade", "enable", "3.5"]);
    ctl.first(&["downgrade", "cancel"]);
}

/// As a user, whose name and password are given.
fn by<'a>(user: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&["--user", user], words].concat()
}

fn users(ctl: &Ctl) {
    assert!(ctl.first(&["auth", "status"]).contains("Authentication Status: false"));
    ctl.first(&["user", "add", "root:top"]);
    assert!(ctl.fails(&["user", "add", "root:top"]).contains("user name already exists"));
    ctl.first(&["user", "grant-role", "root", "root"]);
    ctl.first(&["user", "add", "alice:secret"]);
    ctl.first(&["role", "add", "reader"]);
    ctl.first(&["role", "grant-permission", "reader", "read", "u/", "--prefix"]);
    ctl.first(&["role", "grant-permission", "reader", "write", "u/w"]);
    ctl.first(&["user", "grant-role", "alice", "reader"]);
    assert!(ctl.first(&["auth", "enable"]).contains("Authentication Enabled"));
    let root = "root:top";
    let shown = |words: &[&str]| ctl.first(&by(root, words));
    assert!(shown(&["auth", "status"]).contains("Authentication Status: true"));
    shown(&["put", "u/r", "1"]);
    assert_eq!(ctl.first(&by("alice:secret", &["get", "u/", "--prefix", "--print-value-only"])), "1\n");
    ctl.first(&by("alice:secret", &["put", "u/w", "2"]));
    assert!(ctl.fails(&by("alice:secret", &["put", "u/r", "2"])).contains("permission denied"));
    assert!(ctl.fails(&by("alice:wrong", &["get", "u/r"])).contains("authentication failed"));
    assert_eq!(shown(&["user", "list"]), "alice\nroot\n");
    assert!(shown(&["user", "get", "alice"]).contains("reader"));
    assert!(shown(&["user", "get", "alice", "--detail"]).contains("u/"));
    assert_eq!(shown(&["role", "list"]), "reader\n");
    assert!(shown(&["role", "get", "reader"]).contains("u/"));
    assert!(ctl.ok(&ctl.endpoints[0], &by(root, &["user", "passwd", "alice", "--interactive=false"]), Some("new\n")).contains("updated"));
    assert!(ctl.fails(&by("alice:secret", &["get", "u/r"])).contains("authentication failed"));
    shown(&["role", "revoke-permission", "reader", "u/w"]);
    assert!(ctl.fails(&by("alice:new", &["put", "u/w", "3"])).contains("permission denied"));
    shown(&["user", "revoke-role", "alice", "reader"]);
    shown(&["role", "delete", "reader"]);
    shown(&["user", "delete", "alice"]);
    shown(&["del", "u/", "--prefix"]);
    assert!(ctl.fails(&by(root, &["user", "delete", "root"])).contains("invalid auth management"));
    shown(&["auth", "disable"]);
    ctl.first(&["user", "delete", "root"]);
}

fn check_perf(ctl: &Ctl) {
    // A figure of the machine, not of the store, decides whether it passes; that it runs to its end is what counts.
    let said = ctl.says(&ctl.endpoints[0], &["check", "perf", "--load=s", "--auto-compact=true"], None);
    assert!(said.out.contains("PASS") || said.out.contains("FAIL"), "{}{}", said.out, said.err);
    assert!(said.out.contains("Throughput is"), "{}{}", said.out, said.err);
}

fn check_datascale(ctl: &Ctl) {
    let said = ctl.says(&ctl.endpoints[0], &["check", "datascale", "--load=s", "--auto-compact=true", "--auto-defrag=true"], None);
    assert!(said.out.contains("PASS: Approximate"), "{}{}", said.out, said.err);
}

fn completion(ctl: &Ctl) {
    assert!(ctl.first(&["completion", "bash"]).contains("etcdctl"));
}

fn help(ctl: &Ctl) {
    assert!(ctl.first(&["help", "put"]).contains("Puts the given key"));
}

fn version(ctl: &Ctl) {
    assert!(ctl.first(&["version"]).contains("API version"));
}
