//! Routes to the pods of other nodes.
//!
//! Which ones is pure; the kernel is told by netlink. Ours carry a protocol number of their own, so that those of a
//! peer that went are found, whoever set them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::Peer;
use super::cidr::Cidr;

/// Marks our routes; free in the kernel's list and in iproute2's.
const PROTOCOL: u8 = 98;

/// Where packets of a range go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The range.
    pub destination: Cidr,
    /// Next hop; `None`: dropped.
    pub via: Option<Ipv4Addr>,
}

/// What should be there: one route per peer, and nothing for the rest of the cluster range. Peers without a range
/// yet, or with ours, are left out.
pub fn wanted(cluster: Cidr, own: Cidr, peers: &BTreeMap<String, Peer>) -> Vec<Route> {
    let mut routes = BTreeMap::from([(cluster, None)]);
    for peer in peers.values() {
        let (Ok(range), IpAddr::V4(via)) = (peer.pod_cidr.parse::<Cidr>(), peer.node_ip) else { continue };
        if range != own {
            routes.insert(range, Some(via));
        }
    }
    routes.remove(&own);
    routes.into_iter().map(|(destination, via)| Route { destination, via }).collect()
}

/// Makes ours as wanted. A next hop that is our own address is a node on this same network stack: its pods are on a
/// bridge beside ours.
///
/// # Errors
/// Names what could not be set; the rest is set all the same.
pub async fn apply(wanted: &[Route]) -> Result<(), String> {
    let handle = connect()?;
    let own = own_addresses(&handle).await?;
    let wanted: Vec<Route> = wanted.iter().filter(|route| route.via.is_none_or(|via| !own.contains(&via))).copied().collect();
    let present = ours(&handle).await?;
    let mut problems = Vec::new();
    for route in wanted.iter().filter(|route| !present.iter().any(|(there, _)| there == *route)) {
        if let Err(error) = handle.route().add(message(*route)).replace().execute().await {
            let via = route.via.map_or_else(|| "blackhole".to_owned(), |via| format!("via {via}"));
            problems.push(format!("route {} {via}: {error}", route.destination));
        }
    }
    for (_, message) in present.into_iter().filter(|(there, _)| is_stale(*there, &wanted)) {
        if let Err(error) = handle.route().del(message).execute().await {
            problems.push(format!("removing a route: {error}"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

/// A route whose range is not wanted; one that is wanted otherwise has been replaced already.
fn is_stale(there: Route, wanted: &[Route]) -> bool {
    !wanted.iter().any(|route| route.destination == there.destination)
}

/// Removes ours of these ranges.
pub async fn remove(ranges: &[Cidr]) -> Result<(), String> {
    let handle = connect()?;
    for (_, message) in ours(&handle).await?.into_iter().filter(|(route, _)| ranges.contains(&route.destination)) {
        handle.route().del(message).execute().await.map_err(|error| format!("removing a route: {error}"))?;
    }
    Ok(())
}

/// Whether the interface of that index here is a port of that bridge.
pub async fn is_on_bridge(index: u32, bridge: &str) -> bool {
    let Ok(handle) = connect() else { return false };
    let Some(bridge) = link_index(&handle, bridge).await else { return false };
    let mut links = Box::pin(handle.link().get().match_index(index).execute());
    let Ok(Some(link)) = links.try_next().await else { return false };
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Controller(index) if *index == bridge))
}

/// Removes an interface; one that is not there is removed.
pub async fn remove_link(name: &str) -> Result<(), String> {
    let handle = connect()?;
    let Some(index) = link_index(&handle, name).await else { return Ok(()) };
    handle.link().del(index).execute().await.map_err(|error| format!("removing {name}: {error}"))
}

/// Gives the loopback interface these addresses, where it has them not.
pub async fn hold(ips: &[Ipv4Addr]) -> Result<(), String> {
    if ips.is_empty() {
        return Ok(());
    }
    let handle = connect()?;
    let own = own_addresses(&handle).await?;
    let loopback = link_index(&handle, "lo").await.ok_or("no loopback interface")?;
    for ip in ips.iter().filter(|ip| !own.contains(ip)) {
        let added = handle.address().add(loopback, IpAddr::V4(*ip), 32).replace().execute().await;
        added.map_err(|error| format!("address {ip}: {error}"))?;
    }
    Ok(())
}

/// Takes them away again.
pub async fn release(ips: &[Ipv4Addr]) -> Result<(), String> {
    let handle = connect()?;
    let mut messages = Box::pin(handle.address().get().execute());
    while let Some(message) = messages.try_next().await.map_err(|error| format!("listing addresses: {error}"))? {
        let ours = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Local(IpAddr::V4(ip)) if ips.contains(ip));
        if message.header.prefix_len == 32 && message.attributes.iter().any(ours) {
            handle.address().del(message).execute().await.map_err(|error| format!("removing an address: {error}"))?;
        }
    }
    Ok(())
}

async fn link_index(handle: &Handle, name: &str) -> Option<u32> {
    let mut links = Box::pin(handle.link().get().match_name(name.to_owned()).execute());
    links.try_next().await.ok().flatten().map(|link| link.header.index)
}

fn connect() -> Result<Handle, String> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| format!("no netlink socket: {error}"))?;
    // Ends when the last handle is dropped.
    tokio::spawn(connection);
    Ok(handle)
}

async fn own_addresses(handle: &Handle) -> Result<Vec<Ipv4Addr>, String> {
    let mut own = Vec::new();
    let mut messages = Box::pin(handle.address().get().execute());
    while let Some(message) = messages.try_next().await.map_err(|error| format!("listing addresses: {error}"))? {
        own.extend(message.attributes.iter().filter_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
            _ => None,
        }));
    }
    Ok(own)
}

async fn ours(handle: &Handle) -> Result<Vec<(Route, RouteMessage)>, String> {
    let mut found = Vec::new();
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let mut messages = Box::pin(handle.route().get(all).execute());
    while let Some(message) = messages.try_next().await.map_err(|error| format!("listing routes: {error}"))? {
        if message.header.protocol == RouteProtocol::from(PROTOCOL)
            && let Some(route) = read(&message)
        {
            found.push((route, message));
        }
    }
    Ok(found)
}

fn read(message: &RouteMessage) -> Option<Route> {
    let mut address = Ipv4Addr::UNSPECIFIED;
    let mut via = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = *ip,
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = Some(*ip),
            _ => {}
        }
    }
    let destination = Cidr::new(address, message.header.destination_prefix_length)?;
    Some(Route { destination, via })
}

fn message(route: Route) -> RouteMessage {
    let builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.address(), route.destination.prefix())
        .protocol(RouteProtocol::from(PROTOCOL));
    match route.via {
        Some(via) => builder.gateway(via).build(),
        None => builder.kind(RouteType::BlackHole).build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_route_per_peer_and_a_blackhole() {
        let peer = |cidr: &str, ip: &str| Peer { pod_cidr: cidr.into(), node_ip: ip.parse().expect("an address") };
        let peers = BTreeMap::from([
            ("self".to_owned(), peer("10.244.1.0/24", "10.0.0.1")),
            ("two".to_owned(), peer("10.244.2.0/24", "10.0.0.2")),
            ("new".to_owned(), peer("", "10.0.0.3")),
            ("six".to_owned(), peer("10.244.4.0/24", "fd00::4")),
        ]);
        let cidr = |text: &str| text.parse::<Cidr>().expect("a range");
        let routes = wanted(cidr("10.244.0.0/16"), cidr("10.244.1.0/24"), &peers);
        assert_eq!(
            routes,
            vec![
                Route { destination: cidr("10.244.0.0/16"), via: None },
                Route { destination: cidr("10.244.2.0/24"), via: Some(Ipv4Addr::new(10, 0, 0, 2)) },
            ]
        );
        assert!(wanted(cidr("10.244.0.0/16"), cidr("10.244.0.0/16"), &BTreeMap::new()).is_empty());
        assert!(!is_stale(Route { via: None, ..routes[1] }, &routes));
    }

    #[test]
    fn what_is_sent_reads_back() {
        for via in [None, Some(Ipv4Addr::new(10, 0, 0, 2))] {
            let route = Route { destination: "10.244.2.0/24".parse().expect("a range"), via };
            assert_eq!(read(&message(route)), Some(route));
        }
    }
}
