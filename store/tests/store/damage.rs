//! Bytes that nobody meant: on the wires, in the log, in the state, in a snapshot. Nothing panics, nothing is served
//! that was not written.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use balsa_proto::etcd::etcdserverpb as etcd;
use balsa_proto::raft as wire;
use balsa_store::command::{Command, Outcome};
use balsa_store::disk::log::LogDisk;
use balsa_store::disk::state::{self, Batch, State};
use balsa_store::disk::view::DiskView;
use balsa_store::disk::keys;
use balsa_store::error::Fault;
use balsa_store::mvcc::writer::Writer;
use balsa_store::mvcc::{End, KeyRange, Position, View, check};
use balsa_store::raft::codec;
use balsa_store::raft::server::receive;
use bytes::Bytes;
use prost::Message;
use proptest::prelude::*;
use tonic::Status;

/// Any bytes, and bytes that were sensible before something happened to them.
fn damaged(sensible: Vec<Vec<u8>>) -> impl Strategy<Value = Bytes> {
    let hurt = (prop::sample::select(sensible), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), any::<prop::sample::Index>(), 0..4u8);
    let hurt = hurt.prop_map(|(mut bytes, changes, at, how)| {
        let changes = if bytes.is_empty() { vec![] } else { changes };
        for (index, byte) in &changes {
            let index = index.index(bytes.len());
            bytes[index] = *byte;
        }
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            match how {
                0 => bytes.truncate(at),
                1 => {
                    let again = bytes[at..].to_vec();
                    bytes.extend(again);
                }
                2 => drop(bytes.drain(..at)),
                _ => {}
            }
        }
        bytes
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), hurt].prop_map(Bytes::from)
}

fn put(key: &str, value: &str) -> etcd::PutRequest {
    etcd::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease: 7, ..Default::default() }
}

fn nested(depth: usize) -> etcd::TxnRequest {
    let inner = match depth {
        0 => etcd::request_op::Request::RequestPut(put("deep", "down")),
        _ => etcd::request_op::Request::RequestTxn(nested(depth - 1)),
    };
    let compare = etcd::Compare { key: "k".into(), target: 3, ..Default::default() };
    etcd::TxnRequest { compare: vec![compare], success: vec![etcd::RequestOp { request: Some(inner) }], failure: vec![] }
}

fn sensible_commands() -> Vec<Vec<u8>> {
    let commands = [
        Command::Put(put("key", "value")),
        Command::Txn(nested(5)),
        Command::Delete(etcd::DeleteRangeRequest { key: "a".into(), range_end: "b".into(), prev_kv: true }),
        Command::Compact(etcd::CompactionRequest { revision: 5, physical: true }),
        Command::Grant(etcd::LeaseGrantRequest { id: 9, ttl: 30 }),
        Command::Revoke(etcd::LeaseRevokeRequest { id: 9 }),
    ];
    commands.iter().map(|command| command.encode().to_vec()).collect()
}

fn sensible_append() -> Vec<u8> {
    let entry = |index, payload| wire::Entry { term: 3, index, payload };
    let command = wire::entry::Payload::Command(Command::Put(put("key", "value")).encode());
    let members = wire::entry::Payload::Membership(Bytes::from_static(br#"{"configs":[[1,2,3]],"nodes":{}}"#));
    wire::AppendRequest {
        vote: Some(wire::Vote { term: 3, node: 1, committed: true }),
        previous: Some(wire::LogId { term: 2, index: 6 }),
        entries: vec![entry(7, None), entry(8, Some(command)), entry(9, Some(members))],
        leader_commit: Some(wire::LogId { term: 2, index: 6 }),
    }
    .encode_to_vec()
}

/// What becomes of a request's bytes before anything is proposed.
fn take_in(bytes: &Bytes) {
    if let Ok(request) = etcd::RangeRequest::decode(bytes.clone()) {
        let _refused = check::range(&request);
    }
    if let Ok(request) = etcd::PutRequest::decode(bytes.clone()) {
        let _refused = check::put(&request);
    }
    if let Ok(request) = etcd::DeleteRangeRequest::decode(bytes.clone()) {
        let _refused = check::delete(&request);
    }
    if let Ok(request) = etcd::TxnRequest::decode(bytes.clone())
        && check::txn(&request, 128).is_ok()
    {
        let _either = (check::is_read_only(&request), check::is_serializable(&request));
    }
    let _either = (etcd::WatchRequest::decode(bytes.clone()), etcd::LeaseGrantRequest::decode(bytes.clone()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn requests_of_any_bytes_are_taken_or_refused(bytes in damaged(vec![
        nested(3).encode_to_vec(),
        put("key", "value").encode_to_vec(),
        etcd::RangeRequest { key: "a".into(), range_end: "b".into(), sort_target: 4, limit: -1, ..Default::default() }.encode_to_vec(),
    ])) {
        take_in(&bytes);
    }

    #[test]
    fn messages_between_replicas_of_any_bytes_are_taken_or_refused(bytes in damaged(vec![sensible_append()])) {
        if let Ok(request) = wire::AppendRequest::decode(bytes.clone())
            && let Ok(request) = codec::from_wire_append(request)
        {
            codec::wire_append(request).unwrap();
        }
        if let Ok(response) = wire::AppendResponse::decode(bytes.clone()) {
            let _any = codec::from_wire_append_result(response);
        }
        let _refused = codec::from_json::<balsa_store::raft::Vote>(&bytes);
        let _refused = Outcome::decode(bytes);
    }

    #[test]
    fn keys_of_any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok((prefix, main, sub)) = keys::split(&bytes) {
            let _refused = keys::user_key(prefix);
            prop_assert_eq!(prefix.len() + 16, bytes.len(), "{} {}", main, sub);
        }
        let _refused = (keys::split_revision(&bytes), keys::user_key(&bytes), state::decode_position(&bytes));
        let _refused = keys::decode_version(1, 0, &bytes, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// What a follower passes on, or a log held, is decoded before it is applied; what can be decoded can be applied.
    #[test]
    fn commands_of_any_bytes_are_applied_or_refused(bytes in damaged(sensible_commands())) {
        let memory = balsa_store::mvcc::memory::Memory::default();
        let mut writer = Writer::new(&memory, Position::default());
        if let Ok(command) = Command::decode(bytes) {
            prop_assert!(command.apply(&mut writer).is_ok());
        }
    }
}

#[test]
fn a_transaction_nested_past_all_bounds_is_refused_not_followed() {
    for depth in [20, 60, 90] {
        take_in(&nested(depth).encode_to_vec().into());
    }
    // Deeper than any decoder goes along: built by hand, a message in a message.
    let mut bytes: Vec<u8> = nested(0).encode_to_vec();
    for _ in 0..20_000 {
        let mut op = vec![0x22];
        prost::encoding::encode_varint(bytes.len() as u64, &mut op);
        op.extend(&bytes);
        let mut txn = vec![0x12];
        prost::encoding::encode_varint(op.len() as u64, &mut txn);
        txn.extend(&op);
        bytes = txn;
        if bytes.len() > 1 << 20 {
            break;
        }
    }
    assert!(etcd::TxnRequest::decode(&bytes[..]).is_err());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_file() && path.metadata().unwrap().len() > 0);
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Flips one bit, somewhere.
fn flip(path: &Path, at: u64, bit: u8) {
    let mut content = std::fs::read(path).unwrap();
    let at = usize::try_from(at % content.len() as u64).unwrap();
    content[at] ^= 1 << (bit % 8);
    std::fs::write(path, content).unwrap();
}

/// A fixed sequence that looks random.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |number| Some(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)))
        .skip(1)
        .map(|number| number >> 33)
}

fn entry(index: u64) -> Bytes {
    format!("entry {index} {}", "x".repeat(usize::try_from(index * 37 % 900).unwrap())).into()
}

#[tokio::test]
async fn a_log_with_a_flipped_bit_or_a_torn_end_is_cut_or_refused_and_never_read_wrong() {
    const ENTRIES: u64 = 120;
    let dir = tempfile::tempdir().unwrap();
    let (written, hurt) = (dir.path().join("written"), dir.path().join("hurt"));
    let log = LogDisk::open(&written, |_| ()).unwrap();
    for index in 1..=ENTRIES {
        let (sender, synced) = tokio::sync::oneshot::channel();
        log.append(index, vec![entry(index)], Box::new(move |result| sender.send(result).unwrap())).await.unwrap();
        synced.await.unwrap().unwrap();
    }
    log.save_vote(b"a vote".to_vec()).await.unwrap();
    drop(log);
    let (mut refused, mut cut, mut whole) = (0, 0, 0);
    let mut number = numbers(1);
    for turn in 0..60 {
        let _gone = std::fs::remove_dir_all(&hurt);
        copy(&written, &hurt);
        let all = files(&hurt.join("log"));
        let path = &all[usize::try_from(number.next().unwrap()).unwrap() % all.len()];
        if turn % 4 == 3 {
            let length = path.metadata().unwrap().len();
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(number.next().unwrap() % length).unwrap();
        } else {
            flip(path, number.next().unwrap(), 3);
        }
        match LogDisk::open(&hurt, |_| ()).and_then(|log| Ok((log.bounds()?, log.read(1, ENTRIES + 1)?))) {
            Err(fault) => {
                assert!(fault.0.contains("raft log") || fault.0.contains("database"), "{fault}");
                refused += 1;
            }
            Ok((bounds, entries)) => {
                for (index, found) in (1..).zip(&entries) {
                    assert_eq!(*found, entry(index), "what is read is what was written");
                }
                assert_eq!(bounds.map_or(0, |(_, last)| last), entries.len() as u64, "no hole: {}", path.display());
                if entries.len() as u64 == ENTRIES { whole += 1 } else { cut += 1 }
            }
        }
    }
    assert!(refused > 0 && whole > 0, "refused {refused}, cut {cut}, unhurt {whole}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_write_to_the_log_that_a_crash_tore_is_cut_and_damage_to_it_is_refused() {
    const PAGE: usize = 4096;
    let dir = tempfile::tempdir().unwrap();
    let (written, hurt) = (dir.path().join("written"), dir.path().join("hurt"));
    let log = LogDisk::open(&written, |_| ()).unwrap();
    let newest = |root: &std::path::Path| {
        let logs = files(&root.join("log")).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "log"));
        logs.max()
    };
    // Empty files are not listed.
    let length = |path: Option<std::path::PathBuf>| path.map_or(0, |path| usize::try_from(path.metadata().unwrap().len()).unwrap());
    let mut first = 0;
    for (index, size) in [(1, 9_000), (2, 9_000), (3, 40_000)] {
        first = length(newest(&written));
        let (sender, synced) = tokio::sync::oneshot::channel();
        let entry = Bytes::from(vec![0xab; size]);
        log.append(index, vec![entry], Box::new(move |result| sender.send(result).unwrap())).await.unwrap();
        synced.await.unwrap().unwrap();
    }
    let last = length(newest(&written));
    let copies = std::cell::Cell::new(0);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        // Each in a place of its own: what was opened before is let go a moment after its end.
        copies.set(copies.get() + 1);
        let hurt = hurt.join(copies.get().to_string());
        // As a crash leaves it: the log is still open.
        copy(&written, &hurt);
        let path = newest(&hurt).unwrap();
        let mut content = std::fs::read(&path).unwrap();
        change(&mut content);
        std::fs::write(&path, content).unwrap();
        LogDisk::open(&hurt, |_| ()).and_then(|log| Ok(log.bounds()?.map_or(0, |(_, last)| last)))
    };
    assert_eq!(with(&|_| ()).unwrap(), 3);
    let mut mended = 0;
    for page in first.div_ceil(PAGE)..=last / PAGE {
        let torn = with(&|content: &mut Vec<u8>| {
            let end = content.len().min((page + 1) * PAGE);
            content[page * PAGE..end].fill(0);
        });
        assert_eq!(torn.unwrap(), 2, "without page {page}");
        mended += 1;
    }
    assert!(mended > 5);
    for place in [first + 100, first + 20_000, last - 100] {
        let flipped = with(&|content: &mut Vec<u8>| content[place] ^= 8);
        assert!(flipped.unwrap_err().0.contains("raft log"), "a flipped bit at {place}");
    }
    let hole = with(&|content: &mut Vec<u8>| content[2 * PAGE..3 * PAGE].fill(0));
    assert!(hole.unwrap_err().0.contains("raft log"), "a hole in front of what was written later");
}

#[test]
fn a_state_with_a_flipped_bit_is_refused_or_unhurt() {
    let dir = tempfile::tempdir().unwrap();
    let (written, hurt) = (dir.path().join("written"), dir.path().join("hurt"));
    let everything = |state: &State| {
        state.read(|view| {
            let all = KeyRange { start: Bytes::new(), end: End::Unbounded };
            let mut keys = BTreeMap::new();
            View::scan(view, &all, i64::MAX, false, &mut |key, version| {
                keys.insert(key, version);
                ControlFlow::Continue(())
            })?;
            Ok::<_, Fault>((view.position()?, keys))
        })
    };
    let expected = {
        let state = State::open(&written).unwrap();
        let mut position = Position::default();
        for number in 0..40 {
            let opened = state.current();
            let view = DiskView::newest_of(opened.db());
            let mut writer = Writer::new(&view, position);
            Command::Put(etcd::PutRequest { lease: 0, ..put(&format!("key{}", number % 25), &"value".repeat(200)) }).apply(&mut writer).unwrap();
            let (changes, after) = writer.into_changes();
            state.write(Batch { changes: &changes, position: after, applied: vec![], membership: None }).unwrap();
            position = after;
        }
        state.flush(0).unwrap();
        everything(&state).unwrap()
    };
    let (mut refused, mut number) = (0, numbers(2));
    for _ in 0..40 {
        let _gone = std::fs::remove_dir_all(&hurt);
        copy(&written, &hurt);
        let all = files(&hurt.join("state-0"));
        flip(&all[usize::try_from(number.next().unwrap()).unwrap() % all.len()], number.next().unwrap(), 5);
        match State::open(&hurt).and_then(|state| everything(&state)) {
            Ok(found) => assert_eq!(found, expected, "what is read is what was written"),
            Err(fault) => {
                assert!(fault.0.contains("state") || fault.0.contains("database"), "{fault}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "some damage was found");
}

fn piece(file: &str, data: &[u8], last: bool) -> wire::SnapshotChunk {
    let mut crc = crc32fast::Hasher::new();
    crc.update(data);
    wire::SnapshotChunk { header: Bytes::new(), file: file.to_owned(), data: data.to_vec().into(), crc: crc.finalize(), last }
}

async fn received(pieces: Vec<Result<wire::SnapshotChunk, Status>>) -> Result<Vec<String>, Status> {
    let dir = tempfile::tempdir().unwrap();
    receive(&mut futures::stream::iter(pieces), dir.path()).await?;
    Ok(files(dir.path()).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
}

#[tokio::test]
async fn a_snapshot_whose_pieces_make_no_sense_is_refused() {
    let whole = vec![Ok(piece("000001.sst", b"one", true)), Ok(piece("CURRENT", b"two", true))];
    assert_eq!(received(whole).await.unwrap(), ["000001.sst", "CURRENT"]);
    let wrong_crc = wire::SnapshotChunk { crc: 7, ..piece("a", b"one", true) };
    for (name, pieces) in [
        ("a wrong checksum", vec![Ok(wrong_crc)]),
        ("data without a file", vec![Ok(piece("", b"one", true))]),
        ("a file in a file", vec![Ok(piece("a", b"one", false)), Ok(piece("b", b"two", true))]),
        ("an end in the middle", vec![Ok(piece("a", b"one", false))]),
        ("a way out", vec![Ok(piece("../a", b"one", true))]),
        ("a hidden file", vec![Ok(piece(".a", b"one", true))]),
        ("an absolute path", vec![Ok(piece("/tmp/a", b"one", true))]),
        ("a broken stream", vec![Ok(piece("a", b"one", true)), Err(Status::unavailable("gone"))]),
    ] {
        assert!(received(pieces).await.is_err(), "{name}");
    }
}
