//! The tables in a real kernel: network namespaces of our own, the planned rules, real connections.
//!
//! Needs root, `ip` and `nft`; where these are missing the test says so and passes.
//!
//! ```text
//!  a 10.244.1.2 ─┐
//!  b 10.244.1.3 ─┴─ cni0 10.244.1.1 ─ node ─┬─ 192.0.2.2 ── 192.0.2.1 outside
//!                                           └─ 10.244.2.1 ── 10.244.2.5 remote (a pod of another node)
//! ```

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use super::cidr::Cidr;
use super::nft;
use super::policy::{self, LocalPod, PolicyPod};
use super::service::plan::Plan;
use super::service::tests::{planned, service, slice};
use super::service::text::{Names, replacement, update};
use super::service::conntrack;

/// What is expected to answer gets this long; what is expected to be silent, that long.
const PATIENCE: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_millis(1200);

/// The namespaces; they go with it.
struct World {
    prefix: String,
    stop: Arc<AtomicBool>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for name in ["node", "a", "b", "outside", "remote"] {
            drop(run("ip", &["netns", "del", &format!("{}-{name}", self.prefix)], ""));
        }
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

impl World {
    /// `Err`: why it cannot be had here.
    fn new() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("bt{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let world = Self { prefix, stop: Arc::default() };
        for name in ["node", "a", "b", "outside", "remote"] {
            run("ip", &["netns", "add", &world.name(name)], "")?;
            world.ip(name, "link set lo up")?;
        }
        world.ip("node", "link add cni0 type bridge")?;
        world.ip("node", "addr add 10.244.1.1/24 dev cni0")?;
        world.ip("node", "link set cni0 up")?;
        for (pod, address) in [("a", "10.244.1.2/24"), ("b", "10.244.1.3/24")] {
            world.cable(pod, address)?;
            world.ip("node", &format!("link set to-{pod} master cni0"))?;
            world.ip("node", &format!("link set to-{pod} type bridge_slave hairpin on"))?;
            world.ip(pod, "route add default via 10.244.1.1")?;
        }
        for (name, own, other) in [("outside", "192.0.2.1/24", "192.0.2.2"), ("remote", "10.244.2.5/24", "10.244.2.1")] {
            world.cable(name, own)?;
            world.ip("node", &format!("addr add {other}/24 dev to-{name}"))?;
            world.ip(name, &format!("route add default via {other}"))?;
        }
        world.ip("node", "route add default via 192.0.2.1")?;
        let settings = "echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables";
        run("ip", &["netns", "exec", &world.name("node"), "sh", "-c", settings], "")?;
        world.nft("table ip probe {\n chain c {\n type nat hook output priority 0;\n }\n}\ndelete table ip probe\n")?;
        Ok(world)
    }

    fn name(&self, namespace: &str) -> String {
        format!("{}-{namespace}", self.prefix)
    }

    fn ip(&self, namespace: &str, words: &str) -> Result<(), String> {
        let name = self.name(namespace);
        let mut arguments = vec!["-n", &name];
        arguments.extend(words.split(' '));
        run("ip", &arguments, "")
    }

    fn cable(&self, to: &str, address: &str) -> Result<(), String> {
        self.ip("node", &format!("link add to-{to} type veth peer name eth0 netns {}", self.name(to)))?;
        self.ip("node", &format!("link set to-{to} up"))?;
        self.ip(to, &format!("addr add {address} dev eth0"))?;
        self.ip(to, "link set eth0 up")
    }

    fn nft(&self, text: &str) -> Result<(), String> {
        run("ip", &["netns", "exec", &self.name("node"), "nft", "-f", "-"], text)
    }

    /// Runs a job in a namespace.
    fn within<T: Send + 'static>(&self, namespace: &str, job: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.name(namespace));
        let thread = std::thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            job()
        });
        thread.join().unwrap()
    }

    /// Listens; tells each client its own name and the client's address, by TCP and by UDP.
    fn serve(&self, namespace: &'static str, port: u16) {
        let stop = self.stop.clone();
        let (tcp, udp) = self.within(namespace, move || {
            let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            tcp.set_nonblocking(true).unwrap();
            (tcp, UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
        });
        udp.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((mut stream, from)) = tcp.accept() {
                    drop(write!(stream, "{namespace} {}", from.ip()));
                } else if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                    drop(udp.send_to(format!("{namespace} {}", from.ip()).as_bytes(), from));
                } else {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
    }

    /// Who answers, and which address it sees.
    fn ask(&self, from: &str, to: &str, patience: Duration) -> String {
        let to: SocketAddr = to.parse().unwrap();
        self.within(from, move || {
            let mut stream = match TcpStream::connect_timeout(&to, patience) {
                Ok(stream) => stream,
                Err(error) => match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => return "refused".to_owned(),
                    std::io::ErrorKind::TimedOut => return "silence".to_owned(),
                    _ => return error.to_string(),
                },
            };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_or_else(|error| error.to_string(), |_| answer)
        })
    }

    fn answer(&self, from: &str, to: &str) -> String {
        self.ask(from, to, PATIENCE)
    }

    fn silent(&self, from: &str, to: &str) -> bool {
        self.ask(from, to, SILENCE) == "silence"
    }
}

/// `None`: said why not.
fn world() -> Option<World> {
    match World::new() {
        Ok(world) => Some(world),
        Err(reason) => {
            eprintln!("not run: {reason}");
            None
        }
    }
}

fn cluster() -> Cidr {
    "10.244.0.0/16".parse().unwrap()
}

fn base() -> String {
    nft::table(&nft::Rules {
        table: "t",
        bridge: "cni0",
        cluster_cidr: "10.244.0.0/16",
        service_cidr: Some("10.96.0.0/16"),
        forwards: vec![nft::Forward { host_ip: None, protocol: "tcp", host_port: 8081, pod_ip: Ipv4Addr::new(10, 244, 1, 2), pod_port: 8080 }],
    })
}

fn http(name: &str, ip: &str, more: Value) -> Service {
    let mut spec = json!({"type": "ClusterIP", "clusterIP": ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    service(name, spec, json!({}))
}

fn node_port(policy: &str, port: u16) -> Value {
    json!({"type": "NodePort", "externalTrafficPolicy": policy, "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": port}]})
}

fn services() -> (Vec<Service>, Vec<EndpointSlice>) {
    let sticky = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}});
    let services = vec![
        http("both", "10.96.0.7", json!({})),
        http("a", "10.96.0.8", node_port("Cluster", 30081)),
        http("b", "10.96.0.9", node_port("Local", 30082)),
        http("none", "10.96.0.11", node_port("Cluster", 30083)),
        http("far", "10.96.0.12", node_port("Local", 30084)),
        http("sticky", "10.96.0.13", sticky),
        http("shown", "10.96.0.14", json!({"externalIPs": ["198.51.100.1"]})),
    ];
    let (a, b) = ("10.244.1.2", "10.244.1.3");
    let slices = [("both", &[a, b][..]), ("a", &[a]), ("b", &[b]), ("far", &["10.244.2.5"]), ("sticky", &[a, b]), ("shown", &[b])];
    (services, slices.iter().map(|(name, endpoints)| slice(name, endpoints)).collect())
}

#[test]
fn services_are_reached_from_everywhere() {
    let Some(world) = world() else { return };
    for name in ["a", "b", "remote"] {
        world.serve(name, 8080);
    }
    let (services, slices) = services();
    let plan = planned(&services, &slices);
    world.nft(&base()).unwrap();
    world.nft(&replacement("t-services", &plan, cluster())).unwrap();
    for (from, to, expected) in [
        // The source stays: pods of this node, of another, and to itself by way of the Service.
        ("a", "10.96.0.9:80", "b 10.244.1.2"),
        ("remote", "10.96.0.9:80", "b 10.244.2.5"),
        ("a", "10.96.0.8:80", "a 10.244.1.1"),
        ("a", "10.96.0.12:80", "remote 10.244.1.2"),
        ("node", "10.96.0.9:80", "b 10.244.1.1"),
        ("outside", "10.96.0.9:80", "b 10.244.1.1"),
        // Nobody there, no such port, no such Service.
        ("a", "10.96.0.11:80", "refused"),
        ("node", "10.96.0.11:80", "refused"),
        ("a", "10.96.0.9:81", "refused"),
        ("node", "10.96.0.99:80", "refused"),
        ("a", "10.96.0.99:80", "refused"),
        // Ports of the node, at each of its addresses.
        ("outside", "192.0.2.2:30081", "a 10.244.1.1"),
        ("a", "192.0.2.2:30081", "a 10.244.1.1"),
        ("remote", "10.244.2.1:30081", "a 10.244.1.1"),
        ("node", "10.244.1.1:30081", "a 10.244.1.1"),
        ("outside", "192.0.2.2:30082", "b 192.0.2.1"),
        ("a", "192.0.2.2:30082", "b 10.244.1.2"),
        ("outside", "192.0.2.2:30083", "refused"),
        ("a", "192.0.2.2:30084", "remote 10.244.1.2"),
        ("node", "192.0.2.2:30084", "remote 10.244.2.1"),
        ("outside", "198.51.100.1:80", "b 10.244.1.1"),
        // hostPort: from outside, and from the pod itself.
        ("outside", "192.0.2.2:8081", "a 192.0.2.1"),
        ("b", "192.0.2.2:8081", "a 10.244.1.3"),
        ("a", "192.0.2.2:8081", "a 10.244.1.1"),
    ] {
        assert_eq!(world.answer(from, to), expected, "{from} -> {to}");
    }
    assert!(world.silent("outside", "192.0.2.2:30084"), "Local, and the endpoint is elsewhere");
    assert_spread_and_affinity(&world, &plan, &services, &slices);
}

fn assert_spread_and_affinity(world: &World, plan: &Plan, services: &[Service], slices: &[EndpointSlice]) {
    let until = Instant::now() + PATIENCE;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 && Instant::now() < until {
        seen.insert(world.answer("remote", "10.96.0.7:80"));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["a 10.244.2.5", "b 10.244.2.5"]);

    let first = world.answer("remote", "10.96.0.13:80");
    let stays = |when: &str| (0..8).for_each(|_| assert_eq!(world.answer("remote", "10.96.0.13:80"), first, "{when}"));
    stays("one table");
    // Other Services come and go: the client stays where it was.
    let fewer = planned(&services[4..], slices);
    world.nft(&update("t-services", &fewer, cluster(), &Names::of(plan))).unwrap();
    stays("after an update");
    assert_eq!(world.answer("a", "10.96.0.9:80"), "refused", "that Service is gone");
    world.nft(&update("t-services", plan, cluster(), &Names::of(&fewer))).unwrap();
    stays("after another");
    assert_eq!(world.answer("a", "10.96.0.9:80"), "b 10.244.1.2");
}

#[test]
fn udp_clients_get_another_endpoint_when_theirs_goes() {
    let Some(world) = world() else { return };
    for name in ["a", "b"] {
        world.serve(name, 5353);
    }
    let dns = service("dns", json!({"type": "ClusterIP", "clusterIP": "10.96.0.8", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}), json!({}));
    let with = |endpoint: &str| planned(std::slice::from_ref(&dns), &[slice("dns", &[endpoint])]);
    let socket = world.within("remote", || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("10.96.0.8:53").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    });
    let ask = || {
        let mut buffer = [0; 64];
        socket.send(b"?").unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    world.nft(&replacement("t-services", &with("10.244.1.2"), cluster())).unwrap();
    assert_eq!(ask(), "a 10.244.2.5");
    let later = with("10.244.1.3");
    world.nft(&replacement("t-services", &later, cluster())).unwrap();
    assert_eq!(ask(), "a 10.244.2.5", "the kernel goes on as it began");
    assert_eq!(world.within("node", move || conntrack::forget(&later)), Ok(1));
    assert_eq!(ask(), "b 10.244.2.5");
}

fn rules(policies: &[Value]) -> String {
    let pod = |name: &str, ip: &str| {
        let ports = vec![("http".to_owned(), super::service::backends::Protocol::Tcp, 8080)];
        let labels = [("name".to_owned(), name.to_owned())].into();
        Arc::new(PolicyPod { namespace: "ns".into(), name: name.into(), labels, ips: vec![ip.parse().unwrap()], ports })
    };
    let inputs = policy::Inputs {
        policies: policies.iter().map(|policy| Arc::new(serde_json::from_value(policy.clone()).unwrap())).collect(),
        namespaces: [("ns".to_owned(), Default::default())].into(),
        pods: vec![pod("a", "10.244.1.2"), pod("b", "10.244.1.3"), pod("remote", "10.244.2.5")],
    };
    let local: Vec<LocalPod> = inputs.pods[..2]
        .iter()
        .map(|pod| LocalPod { namespace: pod.namespace.clone(), name: pod.name.clone(), ips: pod.ips.clone() })
        .collect();
    policy::text::table("t-policies", &policy::plan::plan(&inputs, &local))
}

fn policy_of(pod: &str, spec: Value) -> Value {
    let mut whole = json!({"podSelector": {"matchLabels": {"name": pod}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": whole})
}

#[test]
fn policies_hold_on_the_node_and_across_nodes() {
    let Some(world) = world() else { return };
    for name in ["a", "b", "remote", "outside", "node"] {
        world.serve(name, 8080);
    }
    world.serve("b", 9090);
    world.nft(&base()).unwrap();
    let plan = planned(&[http("b", "10.96.0.9", json!({}))], &[slice("b", &["10.244.1.3"])]);
    world.nft(&replacement("t-services", &plan, cluster())).unwrap();
    let (to_a, to_b, to_remote) = ("10.244.1.2:8080", "10.244.1.3:8080", "10.244.2.5:8080");

    // Closed: from pods here and there and by the Service; open for the node, and outwards.
    world.nft(&rules(&[policy_of("b", json!({"policyTypes": ["Ingress"]}))])).unwrap();
    for from in ["a", "remote", "outside"] {
        assert!(world.silent(from, to_b), "{from}");
    }
    assert!(world.silent("a", "10.96.0.9:80"));
    assert_eq!(world.answer("node", to_b), "b 10.244.1.1");
    assert_eq!(world.answer("b", to_a), "a 10.244.1.3", "answers come back");
    assert_eq!(world.answer("b", "10.96.0.9:80"), "b 10.244.1.1", "a pod reaches itself");

    // Some peers, one named port.
    let peers = json!([{"podSelector": {"matchLabels": {"name": "a"}}}, {"ipBlock": {"cidr": "192.0.0.0/8", "except": ["192.0.3.0/24"]}}]);
    let some = json!({"policyTypes": ["Ingress"], "ingress": [{"from": peers, "ports": [{"port": "http"}]}]});
    world.nft(&rules(&[policy_of("b", some)])).unwrap();
    assert_eq!(world.answer("a", to_b), "b 10.244.1.2");
    assert_eq!(world.answer("a", "10.96.0.9:80"), "b 10.244.1.2");
    assert_eq!(world.answer("outside", to_b), "b 192.0.2.1");
    assert!(world.silent("remote", to_b) && world.silent("a", "10.244.1.3:9090"));

    // Leaving.
    let ports = json!([{"port": 8000, "endPort": 9000}]);
    let out = json!({"policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {"matchLabels": {"name": "remote"}}}], "ports": ports}]});
    world.nft(&rules(&[policy_of("a", out)])).unwrap();
    assert_eq!(world.answer("a", to_remote), "remote 10.244.1.2");
    assert!(world.silent("a", to_b) && world.silent("a", "192.0.2.1:8080"));
    assert_eq!(world.answer("a", "10.244.1.1:8080"), "node 10.244.1.2", "its own node");
    assert_eq!(world.answer("b", to_a), "a 10.244.1.3", "and what enters is not its matter");
}
