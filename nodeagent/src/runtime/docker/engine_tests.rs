//! The runtime against a real engine: needs root, an engine, `balsa/pause:1` and `balsa/busybox:1`, CNI plugins and
//! nft; says so and passes where one is missing.
//!
//! Each test has a node of its own: a holder container owns a network namespace, and the test runs on a thread that
//! has entered it, as an agent would.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sched::{CloneFlags, setns};

use super::*;
use crate::network::NetworkConfig;
use crate::runtime::{ContainerState, HostPort, Input, Mount, MountSource, PodRef, PodResources, Security};

const CLUSTER: &str = "rt-test";

/// A node for one test; everything made for it goes when it is dropped.
struct Node {
    name: String,
    holder: String,
    state: tempfile::TempDir,
}

impl Node {
    /// `None`, with the reason printed, where no engine can be used.
    fn start(name: &str) -> Option<Self> {
        let missing = |what: &str| {
            println!("skipped: {what}");
            None
        };
        if !nix::unistd::Uid::effective().is_root() {
            return missing("needs root");
        }
        for image in ["balsa/pause:1", "balsa/busybox:1"] {
            if docker(&["image", "inspect", "-f", "ok", image]).is_none() {
                return missing(&format!("no engine answers, or it has no image {image}"));
            }
        }
        if !Path::new("/usr/lib/cni/bridge").exists() && !Path::new("/opt/cni/bin/bridge").exists() {
            return missing("no CNI plugins");
        }
        if Command::new("nft").arg("--version").output().is_err() {
            return missing("no nft");
        }
        let name = format!("{name}-{}", std::process::id());
        let holder = format!("{CLUSTER}-{name}");
        let node = Self { name, holder, state: tempfile::tempdir().expect("temp dir") };
        node.start_holder();
        Some(node)
    }

    fn start_holder(&self) {
        let args = ["run", "-d", "--name", &self.holder, "--hostname", "the-node", "balsa/pause:1"];
        docker(&args).expect("the holder starts");
    }

    fn holder_pid(&self) -> String {
        docker(&["inspect", "-f", "{{.State.Pid}}", &self.holder]).expect("the holder is there")
    }

    /// Runs an agent's part in the node's network.
    fn run<F, W, T>(&self, work: W) -> T
    where
        W: FnOnce(Docker) -> F + Send,
        F: Future<Output = T>,
        T: Send,
    {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.holder_pid())).expect("a namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("enters");
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let docker = self.agent();
                    docker.network().start("10.244.7.0/24").await.expect("the network starts");
                    tokio::time::timeout(Duration::from_secs(180), work(docker)).await.expect("in time")
                })
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn agent(&self) -> Docker {
        let mut network = NetworkConfig::new(self.state.path());
        network.service_cidr = Some("10.96.0.0/16".to_owned());
        let mut config = DockerConfig::new(CLUSTER, &self.name);
        config.holder = Some(self.holder.clone());
        Docker::new(config, Arc::new(Network::new(network)))
    }

    fn label(&self) -> String {
        format!("label={}={}", names::NODE, self.name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let left = docker(&["ps", "-aq", "--filter", &self.label()]).unwrap_or_default();
        for id in left.split_whitespace() {
            docker(&["rm", "-fv", id]);
        }
        for volume in docker(&["volume", "ls", "-q", "--filter", &self.label()]).unwrap_or_default().split_whitespace() {
            docker(&["volume", "rm", volume]);
        }
        docker(&["rm", "-fv", &self.holder]);
        for tree in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let node = tree.path().join("balsa").join(CLUSTER).join(&self.name);
            for pod in std::fs::read_dir(&node).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(pod.path());
            }
            let _ = std::fs::remove_dir(&node);
        }
    }
}

/// The engine's own command; `None` where it fails.
fn docker(args: &[&str]) -> Option<String> {
    let output = Command::new("docker").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn pod(name: &str) -> PodRef {
    PodRef { namespace: "default".into(), name: name.into(), uid: format!("{name}-{}", std::process::id()) }
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

fn app(pod_name: &str, name: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        pod: pod(pod_name),
        name: name.into(),
        attempt: 0,
        spec_hash: "hash".into(),
        image: "balsa/busybox:1".into(),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        args: vec![],
        env: vec![("WORD".into(), "hello".into())],
        working_dir: String::new(),
        mounts: vec![],
        security: Security::default(),
        cpu_shares: 102,
        cpu_limit_milli: None,
        memory_limit: None,
        oom_score_adj: -997,
        stdin: false,
        stdin_once: false,
        tty: false,
        stop_signal: None,
    }
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|word| (*word).to_owned()).collect()
}

async fn made(docker: &Docker, sandbox: &SandboxStatus, spec: &ContainerSpec) -> String {
    let id = docker.create_container(&sandbox.id, spec).await.expect("made");
    docker.start_container(&id).await.expect("started");
    id
}

/// Waits until a container has ended.
async fn ended(docker: &Docker, id: &str) -> (i32, bool, String) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let status = docker.inspect_container(id).await.expect("inspected");
        if let ContainerState::Exited { exit_code, oom_killed, error, .. } = status.state {
            return (exit_code, oom_killed, error);
        }
        assert!(Instant::now() < until, "{id} has not ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn all_output(mut receiver: mpsc::Receiver<RuntimeResult<Output>>) -> String {
    let mut text = Vec::new();
    while let Some(piece) = receiver.recv().await {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece.expect("a piece");
        text.extend_from_slice(&bytes);
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn forget(docker: &Docker, sandbox: &SandboxStatus) {
    docker.stop_sandbox(&sandbox.id).await.expect("stopped");
    docker.remove_sandbox(&sandbox.id).await.expect("removed");
}

#[test]
fn a_pods_whole_life() {
    let Some(node) = Node::start("life") else { return };
    let node = &node;
    node.run(|docker| async move {
        let began = Instant::now();
        let mut spec = sandbox("life");
        spec.memory_volumes = BTreeMap::from([("cache".to_owned(), Some(1 << 20))]);
        spec.sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())]);
        spec.resources = PodResources { cpu_shares: 102, memory_limit: Some(256 << 20), cpu_limit_milli: Some(1000) };
        let sandbox = docker.create_sandbox(&spec).await.expect("made");
        let sandbox_ready = began.elapsed();
        assert!(sandbox.ready && sandbox.ips.len() == 1, "{sandbox:?}");
        assert_eq!(docker.create_sandbox(&spec).await, Ok(sandbox.clone()), "twice is once");

        let mut main = app("life", "main", "trap 'exit 3' TERM; echo $WORD; echo bad >&2; echo x >/cache/f; sleep 1000 & wait");
        main.mounts = vec![Mount { source: MountSource::Memory("cache".into()), target: "/cache".into(), read_only: false }];
        main.memory_limit = Some(64 << 20);
        main.cpu_limit_milli = Some(500);
        let id = made(&docker, &sandbox, &main).await;
        println!("sandbox {sandbox_ready:?}, with one container {:?}", began.elapsed());
        assert_eq!(docker.create_container(&sandbox.id, &main).await, Ok(id.clone()), "twice is once");
        docker.start_container(&id).await.expect("started twice");
        let web = app("life", "web", "mkdir /www; hostname >/www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www");
        let web = made(&docker, &sandbox, &web).await;

        let found = docker.list_containers().await.expect("listed");
        assert_eq!(found.len(), 2);
        let status = docker.inspect_container(&id).await.expect("inspected");
        assert!(matches!(status.state, ContainerState::Running { .. }), "{status:?}");
        assert_eq!((status.name.as_str(), status.spec_hash.as_str()), ("main", "hash"));
        assert_eq!(status.image, "balsa/busybox:1");

        // A port that only the pod's own loopback has.
        let answer = fetch(&docker, &sandbox.id, 8080).await;
        assert!(answer.contains("life"), "the hostname is the pod's: {answer}");

        let exec = |text: &'static str| words(&["/bin/sh", "-c", text]);
        let limit = Duration::from_secs(30);
        let result = docker.exec(&id, &exec("cat /cache/f; exit 42"), limit).await.expect("ran");
        assert_eq!((result.exit_code, result.output.as_str()), (42, "x\n"));
        let result = docker.exec(&id, &words(&["nosuch"]), limit).await.expect("ran");
        assert_eq!(result.exit_code, 126, "{}", result.output);
        let result = docker.exec(&id, &exec("stat -c %a /cache; dd if=/dev/zero of=/cache/big bs=1M count=3"), limit).await;
        let result = result.expect("ran");
        // The engine reads the two streams side by side: their order is chance.
        assert!(result.output.contains("777\n") && result.output.contains("No space left"), "{}", result.output);
        let timeout = Duration::from_millis(500);
        let slow = docker.exec(&id, &exec("sleep 7777; true"), timeout).await;
        assert_eq!(slow, Err(RuntimeError::Timeout(timeout)));
        let left = docker.exec(&id, &exec("sleep 0.2; ps | grep -c '[s]leep 7777'"), limit).await.expect("ran");
        assert_eq!(left.output.trim(), "0", "the timed-out process is dead, and its child");

        let both = all_output(docker.logs(&id, &LogOptions::default()).await.expect("a log")).await;
        assert!(both.contains("hello\n") && both.contains("bad\n"), "{both}");
        let errors = LogOptions { stderr: true, timestamps: true, ..LogOptions::default() };
        let errors = all_output(docker.logs(&id, &errors).await.expect("a log")).await;
        assert!(errors.ends_with("Z bad\n") && !errors.contains("hello"), "{errors}");
        let usage = docker.usage(&id).await.expect("usage");
        assert!(usage.memory_bytes > 0 && usage.cpu_nanos > 0 && usage.pids > 0, "{usage:?}");
        docker.update_container(&id, 204, Some(250), Some(32 << 20)).await.expect("updated");

        // A new agent knows everything again.
        let again = node.agent();
        again.network().start("10.244.7.0/24").await.expect("starts again");
        assert_eq!(again.list_sandboxes().await.expect("listed"), vec![sandbox.clone()]);
        assert_eq!(again.list_containers().await.expect("listed").len(), 2);

        docker.stop_container(&id, Duration::from_secs(20)).await.expect("stopped");
        assert_eq!(ended(&docker, &id).await, (3, false, String::new()));
        docker.start_container(&id).await.expect("not again");
        assert_eq!(ended(&docker, &id).await.0, 3, "one restart count is one start");
        docker.stop_container(&web, Duration::ZERO).await.expect("killed");
        docker.remove_container(&id).await.expect("removed");
        docker.remove_container(&id).await.expect("removed twice");
        docker.stop_container(&id, Duration::ZERO).await.expect("what is gone has stopped");
        assert!(matches!(docker.inspect_container(&id).await, Err(RuntimeError::NotFound(_))));

        docker.stop_sandbox(&sandbox.id).await.expect("stopped");
        docker.stop_sandbox(&sandbox.id).await.expect("stopped twice");
        let listed = docker.list_sandboxes().await.expect("listed");
        assert!(!listed[0].ready, "{listed:?}");
        docker.remove_sandbox(&sandbox.id).await.expect("removed");
        docker.remove_sandbox(&sandbox.id).await.expect("removed twice");
        assert!(docker.list_sandboxes().await.expect("listed").is_empty());
        let group = PathBuf::from(format!("/sys/fs/cgroup/memory/balsa/{CLUSTER}/{}/{}", node.name, pod("life").uid));
        assert!(!group.exists(), "{group:?}");
        assert_eq!(super::engine_tests::docker(&["volume", "ls", "-q", "--filter", &node.label()]), Some(String::new()));
        assert!(docker.network().addresses(&sandbox.id).is_none());
    });
}

async fn fetch(docker: &Docker, sandbox: &str, port: u16) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let until = Instant::now() + Duration::from_secs(20);
    let mut stream = loop {
        match docker.connect(sandbox, port).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    answer
}

#[test]
fn ends_of_all_kinds() {
    let Some(node) = Node::start("ends") else { return };
    node.run(|docker| async move {
        let mut events = docker.events().await.expect("events");
        let sandbox = docker.create_sandbox(&sandbox("ends")).await.expect("made");
        for (name, command, code) in [("none", "/nosuch", 127), ("not-program", "/etc/passwd", 126)] {
            let spec = ContainerSpec { command: words(&[command]), ..app("ends", name, "") };
            let id = docker.create_container(&sandbox.id, &spec).await.expect("made");
            let error = docker.start_container(&id).await.expect_err("does not start");
            assert!(matches!(error, RuntimeError::Start { exit_code, .. } if exit_code == code), "{error:?}");
            let (exit_code, oom_killed, words) = ended(&docker, &id).await;
            assert_eq!((exit_code, oom_killed), (code, false));
            assert!(!words.is_empty());
        }
        let missing = ContainerSpec { image: "balsa/nosuch:9".into(), ..app("ends", "image", "") };
        let error = docker.create_container(&sandbox.id, &missing).await;
        assert!(matches!(error, Err(RuntimeError::NotFound(_))), "{error:?}");
        let mut unmountable = app("ends", "mount", "");
        let source = MountSource::Host(PathBuf::from("/nowhere/at/all"));
        unmountable.mounts = vec![Mount { source, target: "/x".into(), read_only: true }];
        let error = docker.create_container(&sandbox.id, &unmountable).await;
        assert!(matches!(&error, Err(RuntimeError::Create(words)) if words.contains("/nowhere/at/all")), "{error:?}");

        // tail holds what it reads, so this grows until the kernel stops it.
        let mut greedy = app("ends", "greedy", "tail /dev/zero");
        greedy.memory_limit = Some(8 << 20);
        let id = made(&docker, &sandbox, &greedy).await;
        let (exit_code, oom_killed, _) = ended(&docker, &id).await;
        assert_eq!((exit_code, oom_killed), (137, true));

        let stubborn = made(&docker, &sandbox, &app("ends", "stubborn", "trap '' TERM; while :; do sleep 1; done")).await;
        let began = Instant::now();
        docker.stop_container(&stubborn, Duration::from_secs(1)).await.expect("stopped");
        assert!(began.elapsed() >= Duration::from_millis(900), "the grace was given");
        assert_eq!(ended(&docker, &stubborn).await, (137, false, String::new()), "killed, but not for memory");

        let mut seen = Vec::new();
        while let Ok(event) = events.try_recv() {
            assert_eq!(event.pod_uid, pod("ends").uid);
            seen.push(event.what);
        }
        for what in ["create", "start", "die", "oom"] {
            assert!(seen.iter().any(|seen| seen == what), "{what} is not in {seen:?}");
        }
        forget(&docker, &sandbox).await;
        assert!(docker.list_containers().await.expect("listed").is_empty(), "a sandbox takes its containers along");
    });
}

#[test]
fn streams_pass_both_ways() {
    let Some(node) = Node::start("streams") else { return };
    node.run(|docker| async move {
        let sandbox = docker.create_sandbox(&sandbox("streams")).await.expect("made");
        let mut echo = app("streams", "echo", "cat");
        (echo.stdin, echo.stdin_once) = (true, true);
        let id = made(&docker, &sandbox, &echo).await;

        // Every byte, a close of standard input that leaves the output open, and the exit code.
        let bytes: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
        let session = docker.exec_session(&id, &words(&["sh", "-c", "cat; echo err >&2; exit 7"]), true, false).await;
        let session = session.expect("a session");
        let (out, err, exit) = drive(session, bytes.clone()).await;
        assert_eq!((out == bytes, err.as_slice(), exit), (true, &b"err\n"[..], Ok(7)));

        // A terminal has its size, its control bytes, and no frames.
        let script = "stty raw -echo; printf '\\001\\002'; sleep 0.5; stty size; head -c 3";
        let session = docker.exec_session(&id, &words(&["sh", "-c", script]), true, true).await.expect("a session");
        session.input.send(Input::Resize(111, 44)).await.expect("resized");
        let (out, _, exit) = drive(session, b"abc".to_vec()).await;
        assert_eq!(exit, Ok(0));
        assert!(out.windows(2).any(|pair| pair == [1, 2]), "{out:?}");
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("44 111") && text.ends_with("abc"), "{text:?}");

        let attached = docker.attach(&id, true, false).await.expect("attached");
        attached.input.send(Input::Data(Bytes::from_static(b"to cat\n"))).await.expect("sent");
        attached.input.send(Input::Eof).await.expect("closed");
        let mut output = attached.output;
        assert_eq!(output.recv().await, Some(Output::Stdout(Bytes::from_static(b"to cat\n"))));
        assert_eq!(output.recv().await, None, "cat has ended with its input");
        assert_eq!(ended(&docker, &id).await.0, 0);

        // A log is followed to its end, in order and whole, however slow the reader is.
        let id = made(&docker, &sandbox, &app("streams", "log", "seq 1 50000; sleep 0.3; echo end")).await;
        let follow = LogOptions { follow: true, ..LogOptions::default() };
        let log = all_output(docker.logs(&id, &follow).await.expect("a log")).await;
        assert_eq!((log.lines().count(), log.lines().last()), (50_001, Some("end")));
        let tail = LogOptions { tail_lines: Some(2), ..LogOptions::default() };
        let tail = all_output(docker.logs(&id, &tail).await.expect("a log")).await;
        assert_eq!(tail, "50000\nend\n");
        let image = docker.image("balsa/busybox:1").await.expect("asked").expect("there");
        assert!(image.id.starts_with("sha256:") && image.size > 100_000, "{image:?}");
        assert_eq!(docker.image("balsa/nosuch:9").await, Ok(None));
        assert!(docker.list_images().await.expect("listed").iter().any(|listed| listed.id == image.id));
        let refused = docker.pull_image("127.0.0.1:25999/a:1", None, &|_| {}).await;
        assert!(matches!(&refused, Err(RuntimeError::Pull(words)) if words.contains("cannot be reached")), "{refused:?}");
        forget(&docker, &sandbox).await;
    });
}

async fn drive(session: Session, input: Vec<u8>) -> (Vec<u8>, Vec<u8>, RuntimeResult<i32>) {
    let Session { input: sender, mut output, exit } = session;
    tokio::spawn(async move {
        for chunk in input.chunks(10_000) {
            let _ = sender.send(Input::Data(Bytes::copy_from_slice(chunk))).await;
        }
        let _ = sender.send(Input::Eof).await;
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = output.recv().await {
        match piece {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
        }
    }
    (out, err, exit.await.expect("an exit code"))
}

#[test]
fn pods_reach_each_other_and_survive_their_node() {
    let Some(node) = Node::start("net") else { return };
    let web = |name: &str| app(name, "web", "mkdir /www; hostname >/www/index.html; exec httpd -f -p 80 -h /www");
    let (one, two) = node.run(|docker| async move {
        let mut forwarded = sandbox("one");
        let port = |host_ip: Option<&str>, host_port| HostPort {
            host_ip: host_ip.and_then(|ip| ip.parse().ok()),
            host_port,
            container_port: 80,
            protocol: "TCP".into(),
        };
        forwarded.host_ports = vec![port(None, 25_080), port(Some("127.0.0.1"), 25_081)];
        let one = docker.create_sandbox(&forwarded).await.expect("made");
        let two = docker.create_sandbox(&sandbox("two")).await.expect("made");
        made(&docker, &one, &web("one")).await;
        let client = made(&docker, &two, &app("two", "client", "sleep 1000")).await;
        // Debian's static busybox crashes in wget.
        let get = |ip: String, port: u16| {
            let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {ip} {port} | tail -n 1");
            words(&["sh", "-c", &script])
        };
        let limit = Duration::from_secs(30);
        let answer = docker.exec(&client, &get(one.ips[0].to_string(), 80), limit).await.expect("ran");
        assert_eq!((answer.exit_code, answer.output.as_str()), (0, "one\n"));
        // The node's ports, from a pod, from the node itself.
        let gateway = docker.exec(&client, &get("10.244.7.1".into(), 25_080), limit).await.expect("ran");
        assert_eq!(gateway.output, "one\n");
        for port in [25_080, 25_081] {
            let answer = from_node(&format!("127.0.0.1:{port}")).await;
            assert!(answer.ends_with("one\n"), "port {port}: {answer}");
        }
        // A pod on the node's network is where the node is.
        let mut hosted = sandbox("hosted");
        hosted.host_network = true;
        let hosted = docker.create_sandbox(&hosted).await.expect("made");
        assert!(hosted.ready && hosted.ips.is_empty());
        let id = made(&docker, &hosted, &app("hosted", "app", "hostname; ip addr show cni0")).await;
        assert_eq!(ended(&docker, &id).await.0, 0);
        let log = all_output(docker.logs(&id, &LogOptions::default()).await.expect("a log")).await;
        assert!(log.starts_with("the-node\n") && log.contains("10.244.7.1/24"), "{log}");
        // What is nobody's is refused or dropped, not sent to the default route.
        let service = tokio::net::TcpStream::connect("10.96.0.99:80").await.expect_err("refused");
        assert_eq!(service.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(tokio::net::TcpStream::connect("10.244.99.1:80").await.is_err());
        assert_eq!(docker.is_network_lost().await, Ok(false));
        forget(&docker, &hosted).await;
        (one, two)
    });

    // The holder comes back with an empty namespace, and the agent is started in it.
    let old_pid = node.holder_pid();
    docker(&["restart", "-t", "0", &node.holder]).expect("restarted");
    assert_ne!(node.holder_pid(), old_pid);
    let outside = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    assert_eq!(outside.block_on(node.agent().is_network_lost()), Ok(true), "this test is in the host's namespace");
    node.run(|docker| async move {
        let began = Instant::now();
        let listed = docker.list_sandboxes().await.expect("listed");
        println!("two pods repaired in {:?}", began.elapsed());
        assert!(listed.iter().all(|sandbox| sandbox.ready), "{listed:?}");
        for ip in one.ips.iter().chain(&two.ips) {
            assert!(listed.iter().any(|sandbox| sandbox.ips.contains(ip)), "{ip} is gone");
        }
        let answer = from_node(&format!("{}:80", one.ips[0])).await;
        assert!(answer.ends_with("one\n"), "{answer}");
        assert!(from_node("127.0.0.1:25080").await.ends_with("one\n"), "hostPorts are back too");
        forget(&docker, &one).await;
        forget(&docker, &two).await;
    });
}

async fn from_node(address: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let attempt = async {
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        match tokio::time::timeout(Duration::from_secs(3), attempt).await {
            Ok(Ok(answer)) => return answer,
            other => assert!(Instant::now() < until, "{address}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
