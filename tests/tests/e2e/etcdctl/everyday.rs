//! What people do with etcdctl every day, at each replica.

use super::Ctl;

#[test]
fn put_get_txn_lease_compact_and_status_work_on_any_replica() {
    let ctl = Ctl::under_test();
    let all = &ctl.endpoints;
    let ok = |endpoints: &str, words: &[&str], input: Option<&str>| ctl.ok(endpoints, words, input);
    for (index, endpoint) in all.iter().enumerate() {
        let key = format!("e2e/{index}");
        assert_eq!(ok(endpoint, &["put", &key, "value"], None), "OK\n");
        for other in all {
            assert_eq!(ok(other, &["get", &key, "--print-value-only"], None), "value\n");
        }
    }
    assert_eq!(ok(&all[0], &["get", "e2e/", "--prefix", "--count-only", "--write-out=fields"], None).matches("\"Count\" : 3").count(), 1);
    let txn = "value(\"e2e/0\") = \"value\"\n\nput e2e/0 changed\n\nput e2e/0 wrong\n\n";
    assert!(ok(&all[1], &["txn"], Some(txn)).starts_with("SUCCESS"));
    assert_eq!(ok(&all[2], &["get", "e2e/0", "--print-value-only"], None), "changed\n");
    let granted = ok(&all[0], &["lease", "grant", "600"], None);
    let lease = granted.split_whitespace().nth(1).expect("a lease ID").to_owned();
    ok(&all[1], &["put", "e2e/leased", "x", &format!("--lease={lease}")], None);
    assert!(ok(&all[2], &["lease", "timetolive", &lease, "--keys"], None).contains("e2e/leased"));
    ok(&all[0], &["lease", "revoke", &lease], None);
    assert_eq!(ok(&all[1], &["get", "e2e/leased"], None), "");
    let fields = ok(&all[0], &["get", "e2e/0", "--write-out=json"], None);
    let answer: serde_json::Value = serde_json::from_str(&fields).expect("JSON");
    let revision = answer["header"]["revision"].as_u64().expect("a revision").to_string();
    let watched = ok(&all[2], &["get", "e2e/", "--prefix", "--rev", &revision, "--keys-only"], None);
    assert!(watched.contains("e2e/1"), "{watched}");
    let status = ok(&all.join(","), &["endpoint", "status", "--write-out=json"], None);
    let members: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let leaders: Vec<u64> = members.as_array().expect("a list").iter().filter_map(|member| member["Status"]["leader"].as_u64()).collect();
    assert!(leaders.len() == 3 && leaders.iter().all(|leader| *leader == leaders[0] && *leader != 0), "{status}");
    ok(&all[0], &["del", "e2e/", "--prefix"], None);
}
