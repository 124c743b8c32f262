//! Many streams over one connection: the IO around the codec.
//!
//! One task reads, one writes. Every queue is bounded: a stream whose owner does not read holds up the connection, and
//! with it the peer. It decides nothing about what streams are for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::SpdyError;
use super::frame::{Decoder, Encoder, Frame, RST_CANCEL, RST_PROTOCOL_ERROR, RST_REFUSED};
use super::headers::Headers;

/// Streams that may be open at one time.
const MAX_STREAMS: usize = 1024;
/// Pieces of data that wait for a stream's owner.
const QUEUE: usize = 16;
/// How long a peer may take to read what is left and to close after us.
const LINGER: Duration = Duration::from_secs(30);

/// Which end we are: the client's streams are odd, the server's even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opened the connection.
    Client,
    /// Accepted it.
    Server,
}

enum Command {
    Frame(Frame),
    Close,
}

/// A stream that is not over yet.
struct Open {
    /// To its owner; `None` once the peer has said that it is done.
    inbox: Option<mpsc::Sender<Bytes>>,
    /// Whether we may still send.
    outgoing: bool,
    gone: CancellationToken,
}

/// The streams of a connection.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<BTreeMap<u32, Open>>>);

impl Table {
    fn insert(&self, id: u32, inbox: Option<mpsc::Sender<Bytes>>) -> CancellationToken {
        let gone = CancellationToken::new();
        self.0.lock().insert(id, Open { inbox, outgoing: true, gone: gone.clone() });
        gone
    }

    fn inbox(&self, id: u32) -> Option<mpsc::Sender<Bytes>> {
        self.0.lock().get(&id).and_then(|open| open.inbox.clone())
    }

    /// The peer is done, or nobody listens to it any more.
    fn end_incoming(&self, id: u32) {
        self.update(id, |open| open.inbox = None);
    }

    fn end_outgoing(&self, id: u32) {
        self.update(id, |open| open.outgoing = false);
    }

    fn update(&self, id: u32, change: impl FnOnce(&mut Open)) {
        let mut streams = self.0.lock();
        let Some(open) = streams.get_mut(&id) else { return };
        change(open);
        if open.inbox.is_none() && !open.outgoing {
            streams.remove(&id);
        }
    }

    fn reset(&self, id: u32) {
        if let Some(open) = self.0.lock().remove(&id) {
            open.gone.cancel();
        }
    }

    fn reset_all(&self) {
        for open in std::mem::take(&mut *self.0.lock()).into_values() {
            open.gone.cancel();
        }
    }

    /// Why a new stream of the peer is not taken.
    fn refusal(&self, id: u32) -> Option<u32> {
        let streams = self.0.lock();
        if streams.contains_key(&id) {
            return Some(RST_PROTOCOL_ERROR);
        }
        (streams.len() >= MAX_STREAMS).then_some(RST_REFUSED)
    }
}

/// A connection. Dropping it cuts it off; see [`Session::close`].
pub struct Session {
    /// Streams that the peer opened; answered already.
    streams: mpsc::Receiver<Stream>,
    commands: mpsc::Sender<Command>,
    table: Table,
    next_id: AtomicU32,
    ended: CancellationToken,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    _aborts: [AbortOnDrop; 2],
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One stream.
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// What the opener said about it.
    pub headers: Headers,
    /// What comes from the peer; closed when the peer is done (or gone).
    pub incoming: mpsc::Receiver<Bytes>,
    /// The way to the peer.
    pub outgoing: Outgoing,
    /// Cancelled when the peer has reset the stream, or is gone altogether.
    pub gone: CancellationToken,
}

/// The sending half of a stream.
#[derive(Clone)]
pub struct Outgoing {
    id: u32,
    commands: mpsc::Sender<Command>,
    table: Table,
}

impl Outgoing {
    async fn put(&self, frame: Frame) -> bool {
        self.commands.send(Command::Frame(frame)).await.is_ok()
    }

    /// Sends `data`; waits while the connection is busy. `false`: the connection is gone.
    pub async fn send(&self, data: Bytes) -> bool {
        self.put(Frame::Data { id: self.id, fin: false, data }).await
    }

    /// Says that nothing more will come.
    pub async fn finish(&self) -> bool {
        self.table.end_outgoing(self.id);
        self.put(Frame::Data { id: self.id, fin: true, data: Bytes::new() }).await
    }

    /// Ends the stream both ways.
    pub async fn reset(&self) -> bool {
        self.table.reset(self.id);
        self.put(Frame::RstStream { id: self.id, status: RST_CANCEL }).await
    }

    /// Refuses the stream.
    pub async fn refuse(&self) -> bool {
        self.table.reset(self.id);
        self.put(Frame::RstStream { id: self.id, status: RST_REFUSED }).await
    }
}

impl Session {
    /// Starts to speak SPDY on `io`.
    pub fn start<T>(io: T, role: Role) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read_half, write_half) = tokio::io::split(io);
        let (commands, command_queue) = mpsc::channel(QUEUE);
        let (accepted, streams) = mpsc::channel(QUEUE);
        let ended = CancellationToken::new();
        let table = Table::default();
        let reading = Reading { role, table: table.clone(), accepted, commands: commands.clone() };
        let reader = tokio::spawn(read_all(read_half, reading, ended.clone()));
        let writer = tokio::spawn(write_all(write_half, command_queue, ended.clone()));
        let aborts = [AbortOnDrop(reader.abort_handle()), AbortOnDrop(writer.abort_handle())];
        let next_id = AtomicU32::new(if role == Role::Client { 1 } else { 2 });
        Self { streams, commands, table, next_id, ended, reader, writer, _aborts: aborts }
    }

    /// The next stream that the peer opens; `None` once the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Opens a stream.
    pub async fn open(&self, headers: Headers) -> Option<Stream> {
        let id = self.next_id.fetch_add(2, Ordering::Relaxed);
        let (inbox, incoming) = mpsc::channel(QUEUE);
        let gone = self.table.insert(id, Some(inbox));
        let outgoing = Outgoing { id, commands: self.commands.clone(), table: self.table.clone() };
        let syn = Frame::SynStream {
            id,
            associated: 0,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers: headers.clone(),
        };
        outgoing.put(syn).await.then_some(Stream { id, headers, incoming, outgoing, gone })
    }

    /// Cancelled when the peer is gone or has said GOAWAY.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Sends all that waits, ends our direction, and gives the peer a moment to end its own: closing a socket that
    /// still has something to read would take back what was sent last.
    pub async fn close(mut self) {
        self.table.reset_all();
        self.streams.close();
        let _ = tokio::time::timeout(LINGER, async {
            let _ = self.commands.send(Command::Close).await;
            let _ = (&mut self.writer).await;
            let _ = (&mut self.reader).await;
        })
        .await;
    }
}

struct Reading {
    role: Role,
    table: Table,
    accepted: mpsc::Sender<Stream>,
    commands: mpsc::Sender<Command>,
}

async fn read_all<T: AsyncRead>(mut io: ReadHalf<T>, reading: Reading, ended: CancellationToken) {
    let _guard = ended.drop_guard();
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    loop {
        buffer.clear();
        match io.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => decoder.push(&buffer),
        }
        match reading.take_all(&mut decoder).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                tracing::debug!(%error, "SPDY connection given up");
                break;
            }
        }
    }
    reading.table.reset_all();
}

impl Reading {
    /// Everything that is complete. `false`: the peer says goodbye.
    async fn take_all(&self, decoder: &mut Decoder) -> Result<bool, SpdyError> {
        while let Some(frame) = decoder.next_frame()? {
            match frame {
                Frame::SynStream { id, fin, headers, .. } => self.accept(id, fin, headers).await,
                Frame::Data { id, fin, data } => self.deliver(id, fin, data).await,
                Frame::RstStream { id, .. } => self.table.reset(id),
                Frame::Headers { id, fin: true, .. } | Frame::SynReply { id, fin: true, .. } => {
                    self.table.end_incoming(id)
                }
                Frame::Ping(id) if self.is_peers(id) => {
                    let _ = self.commands.send(Command::Frame(Frame::Ping(id))).await;
                }
                Frame::GoAway { .. } => return Ok(false),
                Frame::Ping(_)
                | Frame::SynReply { .. }
                | Frame::Headers { .. }
                | Frame::Settings(_)
                | Frame::WindowUpdate { .. } => {}
            }
        }
        Ok(true)
    }

    fn is_peers(&self, id: u32) -> bool {
        (id % 2 == 1) == (self.role == Role::Server)
    }

    async fn accept(&self, id: u32, fin: bool, headers: Headers) {
        let wrong = (id == 0 || !self.is_peers(id)).then_some(RST_PROTOCOL_ERROR);
        if let Some(status) = wrong.or_else(|| self.table.refusal(id)) {
            let _ = self.commands.send(Command::Frame(Frame::RstStream { id, status })).await;
            return;
        }
        let (inbox, incoming) = mpsc::channel(QUEUE);
        let gone = self.table.insert(id, (!fin).then_some(inbox));
        let reply = Frame::SynReply { id, fin: false, headers: Headers::new() };
        let _ = self.commands.send(Command::Frame(reply)).await;
        let outgoing = Outgoing { id, commands: self.commands.clone(), table: self.table.clone() };
        let _ = self.accepted.send(Stream { id, headers, incoming, outgoing, gone }).await;
    }

    async fn deliver(&self, id: u32, fin: bool, data: Bytes) {
        // A stream that nobody reads any more: its data may still be on the way and is of no use.
        if let (false, Some(inbox)) = (data.is_empty(), self.table.inbox(id))
            && inbox.send(data).await.is_err()
        {
            self.table.end_incoming(id);
        }
        if fin {
            self.table.end_incoming(id);
        }
    }
}

async fn write_all<T: AsyncWrite>(mut io: WriteHalf<T>, mut queue: mpsc::Receiver<Command>, ended: CancellationToken) {
    let mut encoder = Encoder::new();
    let mut wire = BytesMut::new();
    let mut closing = false;
    while !closing {
        let Some(first) = queue.recv().await else { break };
        let mut next = Some(first);
        // Whatever waits goes out in one write, up to a reasonable size.
        while let Some(command) = next.take() {
            match command {
                Command::Frame(frame) => {
                    if let Err(error) = encoder.encode(&frame, &mut wire) {
                        tracing::debug!(%error, "SPDY frame cannot be sent");
                        closing = true;
                    }
                }
                Command::Close => closing = true,
            }
            if !closing && wire.len() < 64 * 1024 {
                next = queue.try_recv().ok();
            }
        }
        let written = async {
            io.write_all(&wire).await?;
            io.flush().await
        };
        if written.await.is_err() {
            ended.cancel();
            return;
        }
        wire.clear();
    }
    let _ = io.shutdown().await;
}
