//! A simulated replica's tasks: they run in its name, on its clock, stop while it is paused and end when it crashes.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::world;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Node>>> = const { RefCell::new(None) };
}

/// One life of a replica, from its start to its crash.
pub struct Node {
    /// Its number, from 0.
    pub number: usize,
    /// How fast its clock runs, millionths of the world's.
    rate: u64,
    alive: AtomicBool,
    paused: AtomicBool,
    parked: Mutex<Vec<Waker>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Node {
    pub fn new(number: usize, rate: u64) -> Arc<Self> {
        Arc::new(Self {
            number,
            rate,
            alive: AtomicBool::new(true),
            paused: AtomicBool::new(false),
            parked: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    /// Starts a task in its name.
    pub fn spawn<F>(self: &Arc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let handle = tokio::spawn(Scoped { node: self.clone(), inner: Some(Box::pin(future)) });
        let mut tasks = self.tasks.lock();
        if tasks.len() >= 64 && tasks.len().is_power_of_two() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(handle.abort_handle());
        handle
    }

    /// Ends every task, wherever it is.
    pub fn kill(&self) {
        self.alive.store(false, Ordering::Relaxed);
        self.tasks.lock().drain(..).for_each(|task| task.abort());
    }

    /// Nothing of it runs until it is resumed; its clock goes on.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    pub fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        self.parked.lock().drain(..).for_each(Waker::wake);
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }
}

/// Starts a task of whoever runs now.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match current() {
        Some(node) => node.spawn(future),
        None => tokio::spawn(future),
    }
}

/// Whose task runs now.
pub fn current() -> Option<Arc<Node>> {
    CURRENT.with(|current| current.borrow().clone())
}

fn scaled(duration: Duration, numerator: u64, denominator: u64) -> Duration {
    let nanos = duration.as_nanos() * u128::from(numerator) / u128::from(denominator);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The clock of whoever runs now.
pub fn local_now() -> Instant {
    match (current(), world::epoch()) {
        (Some(node), Some(epoch)) => epoch + scaled(Instant::now() - epoch, node.rate, 1_000_000),
        _ => Instant::now(),
    }
}

/// The world's time when the clock of whoever runs now shows `local`; never too early.
pub fn global(local: Instant) -> Instant {
    match (current(), world::epoch()) {
        (Some(node), Some(epoch)) => {
            let since = local.saturating_duration_since(epoch);
            epoch + scaled(since, 1_000_000, node.rate) + Duration::from_nanos(2)
        }
        _ => local,
    }
}

struct Scoped<T> {
    node: Arc<Node>,
    inner: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

/// Runs something in a node's name.
fn within<R>(node: &Arc<Node>, work: impl FnOnce() -> R) -> R {
    let before = CURRENT.with(|current| current.replace(Some(node.clone())));
    let result = catch_unwind(AssertUnwindSafe(work));
    CURRENT.with(|current| *current.borrow_mut() = before);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world::halt(format!("store{} panics: {}", node.number + 1, text.unwrap_or_default()));
        resume_unwind(panic)
    })
}

impl<T> Future for Scoped<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        if !this.node.alive.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if this.node.is_paused() {
            this.node.parked.lock().push(context.waker().clone());
            return Poll::Pending;
        }
        // Now and then something else goes first.
        if world::chance(40) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(inner) = &mut this.inner else { return Poll::Pending };
        within(&this.node, || inner.as_mut().poll(context))
    }
}

impl<T> Drop for Scoped<T> {
    fn drop(&mut self) {
        let inner = self.inner.take();
        within(&self.node, || drop(inner));
    }
}
