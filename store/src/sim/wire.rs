//! The simulated network: calls that are delayed, lost, doubled or overtaken, and streams that keep their order but
//! may break while what was sent is still on its way.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::world;
use crate::replica::Replica;

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Nobody listened: it certainly had no effect.
    Refused,
    /// It may have had an effect, now or later.
    Lost,
}

/// What a replica does for a caller.
pub type Handler<T> = Arc<dyn Fn(Arc<Replica>) -> BoxFuture<'static, T> + Send + Sync>;

/// Whether a message gets there; takes its time.
async fn travel(from: usize, to: usize) -> bool {
    let delay = world::message_delay();
    if !delay.is_zero() {
        sleep(delay).await;
    }
    let loss = world::with(|world| world.loss).unwrap_or(0);
    !world::is_cut(from, to) && !world::chance(loss)
}

/// Calls replica `to`. What was sent goes its way even when the caller is gone.
pub async fn call<T: Send + 'static>(from: usize, to: usize, limit: Duration, handler: Handler<T>) -> Result<T, Broken> {
    call_maybe_twice(from, to, limit, handler, 0).await
}

/// The same for what must stand being delivered twice, which happens `twice` times in a thousand: Raft's own messages.
pub async fn call_maybe_twice<T: Send + 'static>(
    from: usize,
    to: usize,
    limit: Duration,
    handler: Handler<T>,
    twice: u64,
) -> Result<T, Broken> {
    let (sender, answer) = oneshot::channel();
    let repeats = world::chance(twice);
    // Not in the caller's name: a crash does not call back what is on the wire.
    tokio::spawn(async move {
        if repeats {
            let again = handler.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(world::below(400))).await;
                if travel(from, to).await
                    && let Some(running) = world::running(to)
                {
                    world::note(format_args!("{from}->{to} again"));
                    running.node.spawn(async move { again(running.replica).await });
                }
            });
        }
        if !travel(from, to).await {
            return;
        }
        let result = match world::running(to) {
            None => Err(Broken::Refused),
            Some(running) => {
                let served = running.node.spawn(async move { handler(running.replica).await });
                served.await.map_err(|_| Broken::Lost)
            }
        };
        if travel(to, from).await {
            let _gone = sender.send(result);
        }
    });
    match timeout(limit, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => {
            // Nothing will come; a caller often notices only by its timeout.
            sleep(limit.min(Duration::from_millis(world::below(500)))).await;
            Err(Broken::Lost)
        }
        Err(_) => Err(Broken::Lost),
    }
}

/// One direction of a stream: what is put in comes out in the same order, later, until the stream breaks.
pub fn pipe<T: Send + 'static>(from: usize, to: usize) -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    let (sender, mut entered) = mpsc::channel::<T>(256);
    let (leaving, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        let mut free_at = Instant::now();
        while let Some(message) = entered.recv().await {
            // What follows closely waits no extra time.
            free_at = free_at.max(Instant::now() + world::message_delay());
            sleep_until(free_at).await;
            if world::is_cut(from, to) || world::chance(1) || leaving.send(message).await.is_err() {
                return;
            }
        }
    });
    (sender, receiver)
}
