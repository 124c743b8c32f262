//! port-forward: one TCP connection into a pod joined to a gRPC stream.

use balsa_proto::node::port_forward_input::Input;
use balsa_proto::node::{PortForwardInput, PortForwardOutput, PortForwardStart};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::terminal::first;
use super::{QUEUE, engine};
use crate::runtime::RuntimeError;

/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;

type Sender = mpsc::Sender<Result<PortForwardOutput, Status>>;

/// The first message and its port.
pub async fn read_start(input: &mut Streaming<PortForwardInput>) -> Result<(PortForwardStart, u16), Status> {
    let Some(Input::Start(start)) = first(input).await?.input else {
        return Err(Status::invalid_argument("the first message must be start"));
    };
    let port = u16::try_from(start.port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| Status::invalid_argument(format!("{} is not a valid port", start.port)))?;
    Ok((start, port))
}

/// What to say where nothing answers.
pub fn failure(port: u16, error: &RuntimeError) -> Status {
    let status = engine(error);
    Status::new(status.code(), format!("failed to connect to localhost:{port} inside the pod: {}", status.message()))
}

/// Moves bytes both ways until the pod's side has ended or the caller is gone.
pub fn join(
    connection: TcpStream,
    input: Streaming<PortForwardInput>,
) -> mpsc::Receiver<Result<PortForwardOutput, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let _ = connection.set_nodelay(true);
    let (reader, writer) = connection.into_split();
    tokio::spawn(async move {
        tokio::select! {
            () = outward(reader, &sender) => {}
            () = inward(input, writer) => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn outward(mut reader: OwnedReadHalf, sender: &Sender) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        let message = match reader.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => Ok(PortForwardOutput { data: buffer.split().freeze() }),
            Err(error) => Err(Status::aborted(error.to_string())),
        };
        let broken = message.is_err();
        if sender.send(message).await.is_err() || broken {
            return;
        }
    }
}

/// Ends only when the caller is gone: the end of its messages is passed on as end of file.
async fn inward(mut input: Streaming<PortForwardInput>, mut writer: OwnedWriteHalf) {
    loop {
        match input.message().await {
            Ok(Some(PortForwardInput { input: Some(Input::Data(data)) })) => {
                if writer.write_all(&data).await.is_err() {
                    // The pod reads no more; it may still have something to say, and its end is seen there.
                    return std::future::pending().await;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                let _ = writer.shutdown().await;
                return std::future::pending().await;
            }
            Err(_) => return,
        }
    }
}
