//! Names of a small cluster, as a table; messages as bytes; a server over real sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::server::{Server, resolvers};
use super::wire::{self, Data, Name, Record, Reply, code, kind};
use super::zone::{Answer, NEGATIVE_TTL, Settings, TTL, Zone};

fn service(name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec})).unwrap()
}

fn slice(service: &str, ports: Value, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({"metadata": {"name": service, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints}))
    .unwrap()
}

fn settings() -> Settings {
    let range = |text: &str| text.parse().unwrap();
    Settings {
        domain: "cluster.local".to_owned(),
        server: vec![Ipv4Addr::new(10, 96, 0, 10)],
        own: vec![range("10.96.0.0/16"), range("10.244.0.0/16")],
    }
}

fn zone() -> Zone {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let services = [
        service("web", json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": ports})),
        service("plain", json!({"clusterIP": "10.96.0.8", "ports": [{"port": 80}]})),
        service("db", json!({"clusterIP": "None", "ports": ports})),
        service("idle", json!({"clusterIP": "None", "ports": ports})),
        service("out", json!({"type": "ExternalName", "externalName": "Foo.Example.com"})),
        service("in", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"})),
        service("pending", json!({"ports": ports})),
    ];
    let slices = [
        slice("db", json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}]),
            json!([{"addresses": ["10.244.0.5"], "hostname": "db-0"}, {"addresses": ["10.244.0.6"], "conditions": {"ready": true}},
                {"addresses": ["10.244.0.9"], "conditions": {"ready": false}}])),
        slice("idle", json!([{"name": "http", "port": 80}]), json!([{"addresses": ["10.244.0.9"], "conditions": {"ready": false}}])),
        slice("web", json!([{"name": "http", "port": 80}]), json!([{"addresses": ["10.244.0.7"]}])),
    ];
    Zone::of(settings(), ["ns".to_owned(), "bare".to_owned()], &services, &slices, 3)
}

fn shown(records: &[Record]) -> String {
    let words = records.iter().map(|record| match &record.data {
        Data::A(ip) => ip.to_string(),
        Data::Aaaa(ip) => ip.to_string(),
        Data::Name(_, name) => name.to_string(),
        Data::Srv(priority, weight, port, host) => format!("{priority} {weight} {port} {host}"),
        Data::Txt(text) => text.clone(),
        Data::Soa(..) => "SOA".to_owned(),
        Data::Raw(kind, _) => format!("raw {kind}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn ask(zone: &Zone, name: &str, kind: u16) -> String {
    match zone.answer(&Name::parse(name).unwrap(), kind, 0) {
        Answer::Outside => "outside".to_owned(),
        Answer::Alias(reply, target) => format!("{} -> {target}", shown(&reply.answers)),
        Answer::Known(reply) if reply.answers.is_empty() => {
            assert_eq!(shown(&reply.authority), "SOA", "{name}");
            assert_eq!(reply.authority[0].ttl, NEGATIVE_TTL);
            if reply.code == code::NO_NAME { "NXDOMAIN".to_owned() } else { "NODATA".to_owned() }
        }
        Answer::Known(reply) => {
            assert!(reply.authoritative && reply.code == code::OK && reply.answers.iter().all(|record| record.ttl == TTL));
            shown(&reply.answers)
        }
    }
}

#[test]
fn names_mean_what_the_specification_says() {
    use kind::{A, AAAA, ANY, CNAME, NS, PTR, SOA, SRV, TXT};
    let zone = zone();
    for (name, kind, expected) in [
        ("web.ns.svc.cluster.local", A, "10.96.0.7"),
        ("WEB.ns.svc.Cluster.Local.", A, "10.96.0.7"),
        ("web.ns.svc.cluster.local", AAAA, "fd00::7"),
        ("plain.ns.svc.cluster.local", AAAA, "NODATA"),
        ("web.ns.svc.cluster.local", TXT, "NODATA"),
        ("web.ns.svc.cluster.local", ANY, "10.96.0.7, fd00::7"),
        ("none.ns.svc.cluster.local", A, "NXDOMAIN"),
        ("none.ns.svc.cluster.local", AAAA, "NXDOMAIN"),
        ("pending.ns.svc.cluster.local", A, "NXDOMAIN"),
        ("web.other.svc.cluster.local", A, "NXDOMAIN"),
        // A Service with an address has no names below it but its ports'.
        ("10-244-0-7.web.ns.svc.cluster.local", A, "NXDOMAIN"),
        // Empty names in between exist.
        ("cluster.local", A, "NODATA"),
        ("svc.cluster.local", A, "NODATA"),
        ("ns.svc.cluster.local", A, "NODATA"),
        ("bare.svc.cluster.local", A, "NODATA"),
        ("bare.pod.cluster.local", A, "NODATA"),
        ("other.svc.cluster.local", A, "NXDOMAIN"),
        ("_tcp.web.ns.svc.cluster.local", A, "NODATA"),
        ("_http._tcp.web.ns.svc.cluster.local", A, "NODATA"),
        ("nothing.cluster.local", A, "NXDOMAIN"),
        // Ports.
        ("_http._tcp.web.ns.svc.cluster.local", SRV, "0 100 80 web.ns.svc.cluster.local."),
        ("_dns._udp.web.ns.svc.cluster.local", SRV, "0 100 53 web.ns.svc.cluster.local."),
        ("_http._udp.web.ns.svc.cluster.local", SRV, "NXDOMAIN"),
        ("_no._tcp.web.ns.svc.cluster.local", SRV, "NXDOMAIN"),
        ("plain.ns.svc.cluster.local", SRV, "0 100 80 plain.ns.svc.cluster.local."),
        ("_http._tcp.db.ns.svc.cluster.local", SRV,
            "0 100 8080 10-244-0-6.db.ns.svc.cluster.local., 0 100 8080 db-0.db.ns.svc.cluster.local."),
        // Without a cluster IP: the endpoints that are ready.
        ("db.ns.svc.cluster.local", A, "10.244.0.5, 10.244.0.6"),
        ("db-0.db.ns.svc.cluster.local", A, "10.244.0.5"),
        ("10-244-0-6.db.ns.svc.cluster.local", A, "10.244.0.6"),
        ("db-0.db.ns.svc.cluster.local", AAAA, "NODATA"),
        ("db-1.db.ns.svc.cluster.local", A, "NXDOMAIN"),
        ("idle.ns.svc.cluster.local", A, "NXDOMAIN"),
        // Aliases.
        ("out.ns.svc.cluster.local", CNAME, "foo.example.com."),
        ("out.ns.svc.cluster.local", A, "foo.example.com. -> foo.example.com."),
        // Pods by address.
        ("10-244-0-5.ns.pod.cluster.local", A, "10.244.0.5"),
        ("10-244-0-5.ns.pod.cluster.local", AAAA, "NODATA"),
        ("10-244-0-5.other.pod.cluster.local", A, "NXDOMAIN"),
        ("web.ns.pod.cluster.local", A, "NXDOMAIN"),
        // Names of addresses.
        ("7.0.96.10.in-addr.arpa", PTR, "web.ns.svc.cluster.local."),
        ("7.0.96.10.in-addr.arpa", A, "NODATA"),
        ("5.0.244.10.in-addr.arpa", PTR, "db-0.db.ns.svc.cluster.local."),
        ("7.0.244.10.in-addr.arpa", PTR, "NXDOMAIN"),
        ("99.0.96.10.in-addr.arpa", PTR, "NXDOMAIN"),
        ("1.1.1.1.in-addr.arpa", PTR, "outside"),
        ("0.96.10.in-addr.arpa", PTR, "outside"),
        // The zone itself.
        ("dns-version.cluster.local", TXT, "1.1.0"),
        ("cluster.local", NS, "ns.dns.cluster.local."),
        ("ns.dns.cluster.local", A, "10.96.0.10"),
        ("example.com", A, "outside"),
        ("web.ns.svc.cluster.local.example.com", A, "outside"),
        ("local", A, "outside"),
        ("", NS, "outside"),
    ] {
        assert_eq!(ask(&zone, name, kind), expected, "{name} {kind}");
    }
    let Answer::Known(start) = zone.answer(&Name::parse("cluster.local").unwrap(), SOA, 0) else { panic!() };
    assert_eq!(shown(&start.answers), "SOA");
}

#[test]
fn addresses_take_turns() {
    let zone = zone();
    let name = Name::parse("db.ns.svc.cluster.local").unwrap();
    let first = |turn| match zone.answer(&name, kind::A, turn) {
        Answer::Known(reply) => shown(&reply.answers[..1]),
        _ => String::new(),
    };
    assert_eq!([first(0), first(1), first(2)], ["10.244.0.5", "10.244.0.6", "10.244.0.5"]);
}

#[test]
fn before_all_is_known_nothing_is_denied() {
    let zone = Zone::empty(settings());
    let Answer::Known(reply) = zone.answer(&Name::parse("web.ns.svc.cluster.local").unwrap(), kind::A, 0) else { panic!() };
    assert_eq!((reply.code, reply.answers.len()), (code::FAILED, 0));
    assert_eq!(zone.answer(&Name::parse("example.com").unwrap(), kind::A, 0), Answer::Outside);
}

/// A question as a stub resolver sends it.
fn question(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut bytes = wire::write_query(7, &Name::parse(name).unwrap(), kind);
    if let Some(size) = edns {
        bytes[11] = 1;
        bytes.extend([0, 0, 41]);
        bytes.extend(size.to_be_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}

#[test]
fn what_does_not_fit_is_said_to_be_missing() {
    let name = Name::parse("big.ns.svc.cluster.local").unwrap();
    let record = |last| Record { name: name.clone(), ttl: 30, data: Data::A(Ipv4Addr::new(10, 0, 0, last)) };
    let reply = Reply { answers: (0..100).map(record).collect(), ..Reply::default() };
    for (edns, limit, fit) in [(None, 512, 29), (Some(1232), 1232, 73), (Some(4096), 1232, 73), (Some(100), 512, 28)] {
        let query = wire::read_query(&question("big.ns.svc.cluster.local", kind::A, edns)).unwrap();
        let bytes = wire::write_reply(&query, &reply, wire::udp_limit(&query));
        assert!(bytes.len() <= limit && bytes[2] & 2 != 0, "{edns:?}: {}", bytes.len());
        assert_eq!(wire::read_answers(&bytes).unwrap().1.len(), fit, "{edns:?}");
        let whole = wire::write_reply(&query, &reply, 65_535);
        assert_eq!((whole[2] & 2, wire::read_answers(&whole).unwrap().1.len()), (0, 100));
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let good = question("a.b", kind::A, None);
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        wire::read_query(&bytes).err()
    };
    assert_eq!(wire::read_query(&good[..1]).err(), Some(None));
    assert_eq!(changed(2, 0x80), Some(None), "an answer");
    assert_eq!(changed(2, 0x28), Some(Some((7, code::NOT_IMPLEMENTED))), "an update");
    assert_eq!(changed(5, 2), Some(Some((7, code::FORMAT))), "two questions");
    assert_eq!(changed(12, 0xc0), Some(Some((7, code::FORMAT))), "a pointer");
    let mut strange = question("a.b", kind::A, Some(512));
    let version = strange.len() - 5;
    strange[version] = 1;
    let query = wire::read_query(&strange).unwrap();
    let bytes = wire::write_reply(&query, &Reply::default(), 512);
    assert_eq!((bytes[3] & 0xf, bytes[bytes.len() - 6]), (0, 1), "BADVERS");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = wire::read_query(&bytes);
        let _ = wire::read_answers(&bytes);
        let mut headed = question("a.b", kind::A, None);
        headed[2] = 0x81;
        headed[7] = 3;
        headed.extend(&bytes);
        let _ = wire::read_answers(&headed);
        headed[2] = 1;
        if let Ok(query) = wire::read_query(&headed) {
            let _ = wire::write_reply(&query, &Reply::default(), 512);
        }
    }

    #[test]
    fn answers_read_as_they_were_written(names in proptest::collection::vec("[a-z]{1,8}(\\.[a-z]{1,8}){0,3}", 1..12)) {
        let name = |text: &String| Name::parse(text).unwrap();
        let query = wire::read_query(&question(&names[0], kind::CNAME, None)).unwrap();
        let pairs: Vec<Record> = names
            .iter()
            .map(|own| Record { name: name(own), ttl: 5, data: Data::Name(kind::CNAME, name(&names[0])) })
            .collect();
        let reply = Reply { answers: pairs.clone(), ..Reply::default() };
        let bytes = wire::write_reply(&query, &reply, 65_535);
        prop_assert_eq!(wire::read_answers(&bytes), Some((code::OK, pairs)));
    }
}

#[test]
fn the_nodes_resolvers_are_those_of_its_file() {
    let file = "search lan\nnameserver 127.0.0.11\n nameserver 10.96.0.10\nnameserver fd00::1\nnameserver x\n";
    let all = resolvers(file, &["10.96.0.10".parse().unwrap()]);
    assert_eq!(all, ["127.0.0.11:53", "[fd00::1]:53"].map(|text| text.parse::<SocketAddr>().unwrap()));
}

/// Asks over UDP.
async fn udp(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(message, server).await.unwrap();
    let mut buffer = vec![0; 4096];
    let (length, _) = tokio::time::timeout(Duration::from_secs(20), socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(length);
    buffer
}

fn answers(message: &[u8]) -> (u8, String) {
    let (code, records) = wire::read_answers(message).unwrap();
    let read = records.iter().map(|record| match &record.data {
        Data::Raw(kind::A, bytes) => IpAddr::from(<[u8; 4]>::try_from(bytes.as_slice()).unwrap()).to_string(),
        _ => shown(std::slice::from_ref(record)),
    });
    (code, read.collect::<Vec<_>>().join(", "))
}

/// A resolver that knows `foo.example.com` and hears of no other.
async fn start_resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let query = wire::read_query(&buffer[..length]).unwrap();
            let known = query.name == Name::parse("foo.example.com").unwrap();
            let record = Record { name: query.name.clone(), ttl: 60, data: Data::A(Ipv4Addr::new(192, 0, 2, 1)) };
            let reply = match known {
                true => Reply { answers: vec![record], ..Reply::default() },
                false => Reply { code: code::NO_NAME, ..Reply::default() },
            };
            socket.send_to(&wire::write_reply(&query, &reply, 512), from).await.unwrap();
        }
    });
    address
}

async fn start_server(resolvers: Vec<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let server = Server::new(zone(), resolvers);
    let (socket, listener) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let addresses = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
    tokio::spawn(server.clone().serve_udp(socket));
    tokio::spawn(server.serve_tcp(listener));
    addresses
}

#[tokio::test]
async fn a_server_answers_passes_on_and_follows() {
    let (at, tcp) = start_server(vec![start_resolver().await]).await;
    for (name, expected) in [
        ("web.ns.svc.cluster.local", (code::OK, "10.96.0.7")),
        ("foo.example.com", (code::OK, "192.0.2.1")),
        ("bar.example.com", (code::NO_NAME, "")),
        ("out.ns.svc.cluster.local", (code::OK, "foo.example.com., 192.0.2.1")),
        ("in.ns.svc.cluster.local", (code::OK, "web.ns.svc.cluster.local., 10.96.0.7")),
        ("none.ns.svc.cluster.local", (code::NO_NAME, "")),
    ] {
        let answer = udp(at, &question(name, kind::A, Some(1232))).await;
        assert_eq!(answer[..2], [0, 7], "the client's own number");
        assert_eq!(answers(&answer), (expected.0, expected.1.to_owned()), "{name}");
    }
    assert_eq!(udp(at, &[0, 9, 0x28, 0]).await[..4], [0, 9, 0x80, code::NOT_IMPLEMENTED]);

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(tcp).await.unwrap();
    for _ in 0..2 {
        let message = question("db.ns.svc.cluster.local", kind::A, None);
        stream.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
        stream.write_all(&message).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(wire::read_answers(&answer).unwrap().1.len(), 2);
    }
}

#[tokio::test]
async fn without_a_resolver_that_answers_a_question_fails() {
    let (at, _) = start_server(Vec::new()).await;
    assert_eq!(answers(&udp(at, &question("foo.example.com", kind::A, None)).await), (code::FAILED, String::new()));
    let alias = udp(at, &question("out.ns.svc.cluster.local", kind::A, None)).await;
    assert_eq!(answers(&alias), (code::FAILED, "foo.example.com.".to_owned()));
}
