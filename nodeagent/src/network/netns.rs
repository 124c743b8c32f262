//! Work inside another process's network namespace, and telling namespaces apart.
//!
//! A thread changes its namespace for good, so each job gets a thread of its own that ends with it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use futures::TryStreamExt as _;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use tokio::sync::oneshot;

use crate::runtime::{RuntimeError, RuntimeResult};

/// Which network namespace; two are the same when both numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Ours: the calling thread's, which is the process's unless the thread has entered another.
    pub fn of_self() -> std::io::Result<Self> {
        Self::read("/proc/thread-self/ns/net")
    }

    /// Another process's.
    pub fn of(pid: i32) -> std::io::Result<Self> {
        Self::read(&format!("/proc/{pid}/ns/net"))
    }

    fn read(path: &str) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// A pod's interface as it is inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// Index of the cable's other end, in another namespace.
    pub peer: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Runs a job on a thread of its own in the network namespace of `pid`.
///
/// # Errors
/// [`RuntimeError::NotFound`] where the process is gone, [`RuntimeError::Network`] where entering is not allowed.
pub async fn run_in<T, F>(pid: i32, job: F) -> RuntimeResult<T>
where
    T: Send + 'static,
    F: FnOnce() -> RuntimeResult<T> + Send + 'static,
{
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => RuntimeError::NotFound(format!("process {pid} of the sandbox has ended")),
        _ => RuntimeError::Network(format!("{path}: {error}")),
    })?;
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        let entered = setns(&namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| RuntimeError::Network(format!("{path} cannot be entered: {error}")));
        let _ = sender.send(entered.and_then(|()| job()));
    });
    thread.map_err(|error| RuntimeError::Network(format!("no thread for a network namespace: {error}")))?;
    receiver.await.unwrap_or_else(|_| Err(RuntimeError::Network("work in a network namespace broke off".to_owned())))
}

/// Connects to a port of the loopback interface in the network namespace of `pid`. What listens on one address of the
/// pod only is not reached; what listens on all or on loopback is.
pub async fn connect(pid: i32, port: u16, timeout: Duration) -> RuntimeResult<tokio::net::TcpStream> {
    let stream = run_in(pid, move || connect_here(port, timeout)).await?;
    stream
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpStream::from_std(stream))
        .map_err(|error| RuntimeError::Other(format!("port {port}: {error}")))
}

fn connect_here(port: u16, timeout: Duration) -> RuntimeResult<TcpStream> {
    let loopbacks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut first_error = None;
    for ip in loopbacks {
        match TcpStream::connect_timeout(&SocketAddr::new(ip, port), timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    let error = first_error.map(|error| error.to_string()).unwrap_or_default();
    Err(RuntimeError::Other(format!("failed to connect to localhost:{port} inside the pod: {error}")))
}

/// What an interface in the network namespace of `pid` is.
pub async fn link_in(pid: i32, name: &'static str) -> RuntimeResult<PodLink> {
    run_in(pid, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| RuntimeError::Network(error.to_string()))?;
        runtime.block_on(read_link(name)).map_err(|error| RuntimeError::Network(format!("{name}: {error}")))
    })
    .await
}

async fn read_link(name: &str) -> Result<PodLink, rtnetlink::Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| {
        rtnetlink::Error::NamespaceError(format!("no netlink socket: {error}"))
    })?;
    tokio::spawn(connection);
    let mut links = Box::pin(handle.link().get().match_name(name.to_owned()).execute());
    let link = links.try_next().await?.ok_or(rtnetlink::Error::RequestFailed)?;
    let peer = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    let mut addresses = Vec::new();
    let mut messages = Box::pin(handle.address().get().set_link_index_filter(link.header.index).execute());
    while let Some(message) = messages.try_next().await? {
        addresses.extend(message.attributes.iter().filter_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        }));
    }
    Ok(PodLink { peer: peer.unwrap_or(0), addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_namespace_is_ours() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        assert_eq!(Identity::of_self().expect("ours"), Identity::of(pid).expect("ours by pid"));
        assert!(Identity::of(i32::MAX).is_err());
    }

    #[tokio::test]
    async fn a_process_that_is_gone_has_no_namespace() {
        let result = run_in(i32::MAX, || Ok(())).await;
        assert!(matches!(result, Err(RuntimeError::NotFound(_))), "{result:?}");
    }
}
