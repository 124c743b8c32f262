//! Making the kernel forget UDP flows that lead to endpoints that are gone.
//!
//! A TCP client notices that nobody answers and connects anew; a UDP client goes on sending from the same port, and the
//! kernel goes on translating as it did for the first packet. [`stale`] says which flows are to go (kube-proxy's rule:
//! those to a Service with serving endpoints whose answers come from none of these); [`forget`] is the thin part that
//! speaks ctnetlink.

use std::net::Ipv4Addr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::backends::Target;
use super::plan::Plan;

const UDP: u8 = 17;
/// `NFNL_SUBSYS_CTNETLINK`
const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const NEW: u16 = SUBSYSTEM << 8;
/// `NLMSG_ERROR`, `NLMSG_DONE`
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Attributes: `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`; within: `CTA_TUPLE_IP`, `CTA_TUPLE_PROTO`, addresses, ports.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const NESTED: u16 = 0x8000;
/// Header of a netlink message, and nfnetlink's behind it.
const HEADER: usize = 16;
const NF_HEADER: usize = 4;
/// More flows than this are not looked at in one go.
const MOST: usize = 1 << 20;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// From.
    pub source: Target,
    /// To.
    pub destination: Target,
    /// Number of the IP protocol.
    pub protocol: u8,
}

/// A flow as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// As it was sent.
    pub original: Tuple,
    /// As the answers come.
    pub reply: Tuple,
}

/// The flows that are to go. Pure.
pub fn stale<'a>(flows: &'a [Flow], plan: &'a Plan) -> impl Iterator<Item = &'a Flow> {
    flows.iter().filter(|flow| {
        let Tuple { destination, protocol, .. } = flow.original;
        let serving = plan.udp.get(&destination).or_else(|| plan.udp_node_ports.get(&destination.1));
        protocol == UDP && serving.is_some_and(|serving| !serving.contains(&flow.reply.source))
    })
}

/// Forgets what is stale. Returns how many flows that were. Blocks.
///
/// # Errors
/// Where the kernel does not let us look; a flow that ended by itself meanwhile is none.
pub fn forget(plan: &Plan) -> Result<usize, String> {
    let text = |error: std::io::Error| format!("conntrack: {error}");
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(text)?;
    socket.bind_auto().map_err(text)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(text)?;
    let flows = list(&socket).map_err(text)?;
    let mut gone = 0;
    for flow in stale(&flows, plan) {
        let message = message(DELETE, REQUEST | ACK, &tuple_attribute(flow.original));
        socket.send(&message, 0).map_err(text)?;
        // Its acknowledgement; "no such flow" is as good as done.
        socket.recv_from_full().map_err(text)?;
        gone += 1;
    }
    Ok(gone)
}

fn list(socket: &Socket) -> std::io::Result<Vec<Flow>> {
    socket.send(&message(GET, REQUEST | DUMP, &[]), 0)?;
    let mut flows = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&bytes) {
            match kind {
                NEW => flows.extend(read_flow(body)),
                DONE => return Ok(flows),
                ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(flows) } else { Err(std::io::Error::from_raw_os_error(-code)) };
                }
                _ => {}
            }
        }
        if flows.len() > MOST {
            return Err(std::io::Error::other("too many flows"));
        }
    }
}

fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + NF_HEADER + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + NF_HEADER + attributes.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // sequence number and port: one question at a time needs neither
    bytes.extend([2, 0, 0, 0]); // AF_INET, NFNETLINK_V0, no resource
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn tuple_attribute(tuple: Tuple) -> Vec<u8> {
    let ip = [attribute(1, &tuple.source.0.octets()), attribute(2, &tuple.destination.0.octets())].concat();
    let proto = [
        attribute(1, &[tuple.protocol]),
        attribute(2, &tuple.source.1.to_be_bytes()),
        attribute(3, &tuple.destination.1.to_be_bytes()),
    ]
    .concat();
    let both = [attribute(TUPLE_IP | NESTED, &ip), attribute(TUPLE_PROTO | NESTED, &proto)].concat();
    attribute(ORIGINAL | NESTED, &both)
}

/// Messages in a buffer: type and body. What is cut off ends it.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER>() {
        let [a, b, c, d, e, f, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(body) = bytes.get(HEADER..length) else { break };
        all.push((u16::from_ne_bytes([e, f]), body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// Attributes in a buffer: type without flags, and value.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let Some(([a, b, c, d], _)) = bytes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let Some(value) = bytes.get(4..length) else { break };
        all.push((u16::from_ne_bytes([*c, *d]) & 0x3fff, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn read_flow(body: &[u8]) -> Option<Flow> {
    let attributes = attributes(body.get(NF_HEADER..)?);
    let tuple = |kind: u16| attributes.iter().find(|(own, _)| *own == kind).and_then(|(_, value)| read_tuple(value));
    Some(Flow { original: tuple(ORIGINAL)?, reply: tuple(REPLY)? })
}

fn read_tuple(bytes: &[u8]) -> Option<Tuple> {
    let outer = attributes(bytes);
    let get = |part: u16, kind: u16| -> Option<&[u8]> {
        let (_, value) = outer.iter().find(|(own, _)| *own == part)?;
        attributes(value).into_iter().find(|(own, _)| *own == kind).map(|(_, value)| value)
    };
    let address = |kind: u16| get(TUPLE_IP, kind)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
    let port = |kind: u16| get(TUPLE_PROTO, kind).and_then(|value| value.first_chunk()).map_or(0, |port| u16::from_be_bytes(*port));
    Some(Tuple {
        source: (address(1)?, port(2)),
        destination: (address(2)?, port(3)),
        protocol: *get(TUPLE_PROTO, 1)?.first()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn target(text: &str) -> Target {
        let (ip, port) = text.split_once(':').unwrap();
        (ip.parse().unwrap(), port.parse().unwrap())
    }

    fn flow(protocol: u8, to: &str, answered_by: &str) -> Flow {
        let client = target("10.244.0.9:5000");
        Flow {
            original: Tuple { source: client, destination: target(to), protocol },
            reply: Tuple { source: target(answered_by), destination: client, protocol },
        }
    }

    #[test]
    fn what_leads_to_endpoints_that_are_gone_is_forgotten() {
        let serving = BTreeSet::from([target("10.244.0.5:53")]);
        let plan = Plan {
            udp: BTreeMap::from([(target("10.96.0.7:53"), serving.clone())]),
            udp_node_ports: BTreeMap::from([(30053, serving)]),
            ..Plan::default()
        };
        for (flow, expected) in [
            (flow(UDP, "10.96.0.7:53", "10.244.0.5:53"), false),
            (flow(UDP, "10.96.0.7:53", "10.244.0.6:53"), true),
            (flow(UDP, "10.96.0.7:53", "10.96.0.7:53"), true),
            (flow(6, "10.96.0.7:53", "10.244.0.6:53"), false),
            (flow(UDP, "10.96.0.8:53", "10.244.0.6:53"), false),
            (flow(UDP, "172.18.0.2:30053", "10.244.0.6:53"), true),
        ] {
            assert_eq!(stale(&[flow], &plan).count() == 1, expected, "{flow:?}");
        }
    }

    #[test]
    fn messages_are_read_as_they_are_written() {
        let flow = flow(UDP, "10.96.0.7:53", "10.244.0.5:53");
        let reply = attribute(REPLY | NESTED, &attributes(&tuple_attribute(flow.reply))[0].1.to_vec());
        let bytes = [message(NEW, 0, &[tuple_attribute(flow.original), reply].concat()), message(DONE, 0, &[])].concat();
        let all = messages(&bytes);
        assert_eq!(all.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [NEW, DONE]);
        assert_eq!(read_flow(all[0].1), Some(flow));
        for end in 0..bytes.len() {
            let _ = messages(&bytes[..end]).into_iter().map(|(_, body)| read_flow(body)).count();
        }
    }
}
