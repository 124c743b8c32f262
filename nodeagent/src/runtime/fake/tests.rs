//! The fake, under a paused clock.

use std::collections::BTreeMap;

use super::*;
use crate::runtime::{PodRef, PodResources, Security};

fn pod(name: &str) -> PodRef {
    PodRef { namespace: "default".into(), name: name.into(), uid: format!("uid-{name}") }
}

fn sandbox(name: &str) -> SandboxSpec {
    SandboxSpec {
        pod: pod(name),
        attempt: 0,
        hostname: name.into(),
        host_network: false,
        share_processes: false,
        sysctls: BTreeMap::new(),
        memory_volumes: BTreeMap::new(),
        resources: PodResources::default(),
        host_ports: vec![],
    }
}

fn app(pod_name: &str, image: &str, command: &[&str]) -> ContainerSpec {
    ContainerSpec {
        pod: pod(pod_name),
        name: "app".into(),
        attempt: 0,
        spec_hash: "h".into(),
        image: image.into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        args: vec![],
        env: vec![],
        working_dir: String::new(),
        mounts: vec![],
        security: Security::default(),
        cpu_shares: 2,
        cpu_limit_milli: None,
        memory_limit: None,
        oom_score_adj: 0,
        stdin: false,
        stdin_once: false,
        tty: false,
        stop_signal: None,
    }
}

fn fake() -> FakeRuntime {
    FakeRuntime::new(FakeConfig {
        epoch: "2026-01-01T00:00:00Z".parse().ok(),
        has_every_image: true,
        record_calls: true,
        ..FakeConfig::default()
    })
}

async fn started(fake: &FakeRuntime, spec: &ContainerSpec) -> String {
    let sandbox = fake.create_sandbox(&sandbox(&spec.pod.name)).await.expect("a sandbox");
    let id = fake.create_container(&sandbox.id, spec).await.expect("a container");
    fake.start_container(&id).await.expect("starts");
    id
}

#[tokio::test(start_paused = true)]
async fn a_script_is_played_on_the_paused_clock() {
    let fake = fake();
    let id = started(&fake, &app("a", "busybox:1", &["sh", "-c", "echo hi; sleep 60; exit 3"])).await;
    let status = fake.inspect_container(&id).await.expect("there");
    assert!(matches!(status.state, ContainerState::Running { .. }));
    tokio::time::sleep(Duration::from_secs(61)).await;
    let status = fake.inspect_container(&id).await.expect("there");
    let ContainerState::Exited { started_at, finished_at, exit_code: 3, oom_killed: false, .. } = status.state else {
        panic!("{status:?}");
    };
    assert_eq!(finished_at.duration_since(started_at).as_secs(), 60);
    let mut log = fake.logs(&id, &LogOptions { follow: true, ..LogOptions::default() }).await.expect("a log");
    assert_eq!(log.recv().await, Some(Ok(Output::Stdout("hi\n".into()))));
    assert_eq!(log.recv().await, None);
    fake.start_container(&id).await.expect("nothing to do");
    assert!(!fake.is_running(&id), "what has run is not run again");
    assert_eq!(fake.calls()[..3], ["create_sandbox a", "create_container a/app", "start_container a/app"]);
}

#[tokio::test(start_paused = true)]
async fn images_have_their_ends() {
    let fake = fake();
    for (image, code, oom) in [("fake/exit:7", 7, false), ("fake/oom:1", 137, true)] {
        let id = started(&fake, &app(&image.replace(['/', ':'], "-"), image, &[])).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = fake.inspect_container(&id).await.expect("there");
        assert!(
            matches!(status.state, ContainerState::Exited { exit_code, oom_killed, .. } if (exit_code, oom_killed) == (code, oom)),
            "{status:?}"
        );
    }
    let sandbox = fake.create_sandbox(&sandbox("n")).await.expect("a sandbox");
    let id = fake.create_container(&sandbox.id, &app("n", "fake/nostart:1", &[])).await.expect("made");
    assert!(matches!(fake.start_container(&id).await, Err(RuntimeError::Start { exit_code: 127, .. })));
    assert!(matches!(fake.pull_image("fake/missing:1", None, &|_| {}).await, Err(RuntimeError::Pull(_))));
    assert!(matches!(fake.pull_image("NO", None, &|_| {}).await, Err(RuntimeError::InvalidImageName(_))));
}

#[tokio::test(start_paused = true)]
async fn stops_take_what_the_container_takes() {
    let fake = fake();
    let polite = started(&fake, &app("p", "busybox:1", &["nginx"])).await;
    let mut spec = app("s", "busybox:1", &["nginx"]);
    spec.env = vec![("FAKE_IGNORE_TERM".into(), "1".into())];
    let stubborn = started(&fake, &spec).await;
    for (id, code, seconds) in [(polite, 143, 0), (stubborn, 137, 30)] {
        let began = Instant::now();
        fake.stop_container(&id, Duration::from_secs(30)).await.expect("stops");
        assert_eq!(began.elapsed().as_secs(), seconds);
        let status = fake.inspect_container(&id).await.expect("there");
        assert!(matches!(status.state, ContainerState::Exited { exit_code, .. } if exit_code == code), "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_come_in_order_and_can_be_cut() {
    let fake = fake();
    let mut events = fake.events().await.expect("events");
    let id = started(&fake, &app("e", "fake/exit:0", &[])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fake.cut_events();
    fake.remove_container(&id).await.expect("removed");
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(event.what);
    }
    assert_eq!(seen, ["start", "create", "start", "die"]);
    fake.fail_next("list_containers", RuntimeError::Unavailable("gone".into()));
    assert!(fake.list_containers().await.is_err());
    assert!(fake.list_containers().await.expect("once only").is_empty());
}

#[tokio::test(start_paused = true)]
async fn thousands_of_pods_have_addresses_of_their_own() {
    let fake = fake();
    for number in 0..3000 {
        fake.create_sandbox(&sandbox(&format!("p{number}"))).await.expect("a sandbox");
    }
    let listed = fake.list_sandboxes().await.expect("listed");
    let ips: std::collections::BTreeSet<_> = listed.iter().flat_map(|sandbox| sandbox.ips.clone()).collect();
    assert_eq!(ips.len(), 3000);
}

#[tokio::test]
async fn sessions_echo() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let fake = fake();
    let id = started(&fake, &app("x", "busybox:1", &["nginx"])).await;
    let mut session = fake.exec_session(&id, &["cat".to_owned()], true, false).await.expect("a session");
    session.input.send(super::super::Input::Data("hey".into())).await.expect("sent");
    assert_eq!(session.output.recv().await, Some(Output::Stdout("hey".into())));
    session.input.send(super::super::Input::Eof).await.expect("sent");
    assert_eq!(session.exit.await.expect("an exit"), Ok(0));
    let sandbox = fake.list_sandboxes().await.expect("listed")[0].id.clone();
    let mut stream = fake.connect(&sandbox, 80).await.expect("connects");
    stream.write_all(b"ping").await.expect("written");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.expect("read");
    assert_eq!(&answer, b"ping");
}
