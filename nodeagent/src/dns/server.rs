//! Sockets of the cluster's DNS, and questions that are passed on to the node's own resolvers.
//!
//! What a name of the cluster means is [`super::zone`]'s word. An alias that leads outside is followed here, because
//! that takes asking somebody else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::wire::{self, Name, Query, Record, Reply, code, kind};
use super::zone::{Answer, Zone};

/// How long one resolver is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often all resolvers are asked.
const ROUNDS: usize = 2;
/// Questions that wait for others at the same time; above that new ones are dropped, and their clients ask again.
const WAITING: usize = 1024;
/// Open connections, and how long one may be silent.
const CONNECTIONS: usize = 256;
const SILENCE: Duration = Duration::from_secs(10);
/// Aliases in a row.
const MOST_ALIASES: usize = 8;
/// Between two tries to listen.
const RETRY: Duration = Duration::from_secs(1);
const MAX_MESSAGE: usize = 65_535;

/// Over what a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// The server's knowledge, shared by all its sockets.
#[derive(Debug)]
pub struct Server {
    zone: RwLock<Arc<Zone>>,
    resolvers: Vec<SocketAddr>,
    turn: AtomicUsize,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// The name servers of a resolv.conf but for some.
pub fn resolvers(file: &str, but: &[IpAddr]) -> Vec<SocketAddr> {
    let mut words = file.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let ips = words.by_ref().filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    ips.filter(|ip| !but.contains(ip)).map(|ip| SocketAddr::new(ip, 53)).take(3).collect()
}

impl Server {
    /// Answers from `zone` until it gets another, and asks `resolvers` for what is not the cluster's.
    pub fn new(zone: Zone, resolvers: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            zone: RwLock::new(Arc::new(zone)),
            resolvers,
            turn: AtomicUsize::new(0),
            waiting: Arc::new(Semaphore::new(WAITING)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        })
    }

    /// From now on answers from this.
    pub fn set_zone(&self, zone: Zone) {
        *self.zone.write() = Arc::new(zone);
    }

    /// Listens until `stop`; an address that is not there yet, or is taken, is tried again.
    pub async fn listen(self: Arc<Self>, address: Ipv4Addr, port: u16, stop: CancellationToken) {
        let mut told = false;
        loop {
            match bind(SocketAddr::from((address, port))).await {
                Ok((udp, tcp)) => {
                    tracing::info!(%address, port, "cluster DNS listens");
                    let serving = async { tokio::join!(self.clone().serve_udp(udp), self.clone().serve_tcp(tcp)) };
                    tokio::select! {
                        _ = serving => {}
                        () = stop.cancelled() => return,
                    }
                }
                Err(error) if !told => {
                    tracing::warn!(%address, port, %error, "cluster DNS cannot listen yet");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Ends where the socket does not work any more.
    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error about an earlier answer.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return tracing::warn!(%error, "DNS socket"),
            };
            let Some(message) = buffer.get(..length) else { continue };
            match self.at_once(message, Transport::Udp) {
                Quick::Say(answer) => drop(socket.send_to(&answer, from).await),
                Quick::Nothing => {}
                Quick::Ask(query, follow) => {
                    let Ok(permit) = self.waiting.clone().try_acquire_owned() else { continue };
                    let (server, socket, message) = (self.clone(), socket.clone(), message.to_vec());
                    tokio::spawn(async move {
                        let answer = server.ask_on(&query, &message, follow, Transport::Udp).await;
                        drop(socket.send_to(&answer, from).await);
                        drop(permit);
                    });
                }
            }
        }
    }

    /// Ends where the socket does not work any more.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "DNS connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let server = self.clone();
            tokio::spawn(async move {
                // However it ends: the client sees that.
                drop(server.serve_stream(stream).await);
                drop(permit);
            });
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let message = tokio::time::timeout(SILENCE, read_message(&mut stream)).await??;
            let answer = match self.at_once(&message, Transport::Tcp) {
                Quick::Say(answer) => answer,
                Quick::Nothing => return Ok(()),
                Quick::Ask(query, follow) => self.ask_on(&query, &message, follow, Transport::Tcp).await,
            };
            tokio::time::timeout(SILENCE, write_message(&mut stream, &answer)).await??;
        }
    }

    /// What can be said without asking anybody.
    fn at_once(&self, message: &[u8], transport: Transport) -> Quick {
        let query = match wire::read_query(message) {
            Ok(query) => query,
            Err(Some(refused)) => return Quick::Say(wire::refusal(refused)),
            Err(None) => return Quick::Nothing,
        };
        if query.class != wire::IN {
            return Quick::Say(encode(&query, &Reply { code: code::REFUSED, ..Reply::default() }, transport));
        }
        match self.zone.read().answer(&query.name, query.kind, self.turn()) {
            Answer::Known(reply) => Quick::Say(encode(&query, &reply, transport)),
            Answer::Alias(reply, target) => Quick::Ask(query, Some((reply, target))),
            Answer::Outside => Quick::Ask(query, None),
        }
    }

    fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    async fn ask_on(&self, query: &Query, message: &[u8], follow: Option<(Reply, Name)>, transport: Transport) -> Vec<u8> {
        match follow {
            None => match self.forward(query, message, transport).await {
                Some(answer) => answer,
                None => encode(query, &Reply { code: code::FAILED, ..Reply::default() }, transport),
            },
            Some((reply, target)) => encode(query, &self.follow(query.kind, reply, target).await, transport),
        }
    }

    /// Follows an alias to its end.
    async fn follow(&self, asked: u16, mut reply: Reply, mut target: Name) -> Reply {
        for _ in 0..MOST_ALIASES {
            let answer = self.zone.read().clone().answer(&target, asked, self.turn());
            match answer {
                Answer::Known(end) => {
                    reply.answers.extend(end.answers);
                    return Reply { code: end.code, authority: end.authority, ..reply };
                }
                Answer::Alias(more, next) => {
                    reply.answers.extend(more.answers);
                    target = next;
                }
                Answer::Outside => {
                    let (code, answers) = self.look_up(&target, asked).await.unwrap_or((code::FAILED, Vec::new()));
                    reply.answers.extend(answers);
                    return Reply { code, authoritative: false, ..reply };
                }
            }
        }
        Reply { code: code::FAILED, ..reply }
    }

    async fn look_up(&self, name: &Name, asked: u16) -> Option<(u8, Vec<Record>)> {
        let message = wire::write_query(0, name, asked);
        let query = wire::read_query(&message).ok()?;
        let answer = self.forward(&query, &message, Transport::Udp).await?;
        let (code, answers) = wire::read_answers(&answer)?;
        let wanted = |record: &Record| matches!(&record.data, wire::Data::Name(kind::CNAME, _)) || record.data.kind() == asked;
        Some((code, answers.into_iter().filter(wanted).collect()))
    }

    /// Passes a question on; the first answer counts.
    async fn forward(&self, query: &Query, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        for _ in 0..ROUNDS {
            for resolver in &self.resolvers {
                let id = rand::random();
                let asked = wire::with_id(message.to_vec(), id);
                let answer = tokio::time::timeout(PATIENCE, async {
                    match transport {
                        Transport::Udp => ask_udp(*resolver, &asked, id, query).await,
                        Transport::Tcp => ask_tcp(*resolver, &asked).await,
                    }
                })
                .await;
                match answer {
                    Ok(Ok(answer)) if wire::answers_to(&answer, id, query) => return Some(wire::with_id(answer, query.id)),
                    Ok(Ok(_)) => tracing::debug!(%resolver, "an answer to another question"),
                    Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver does not answer"),
                    Err(_) => tracing::debug!(%resolver, "resolver does not answer in time"),
                }
            }
        }
        None
    }
}

/// What is to be done with a message.
enum Quick {
    Say(Vec<u8>),
    Ask(Query, Option<(Reply, Name)>),
    Nothing,
}

fn encode(query: &Query, reply: &Reply, transport: Transport) -> Vec<u8> {
    let limit = match transport {
        Transport::Udp => wire::udp_limit(query),
        Transport::Tcp => MAX_MESSAGE,
    };
    // Whoever asks us gets names of others looked up.
    wire::write_reply(query, reply, limit)
}

async fn bind(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
}

async fn ask_udp(resolver: SocketAddr, message: &[u8], id: u16, query: &Query) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if wire::answers_to(answer, id, query) {
            return Ok(answer.to_vec());
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, message).await?;
    read_message(&mut stream).await
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| std::io::Error::other("message too long"))?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}
