//! Keys that want work: each at most once in the queue, each with at most one worker.
//!
//! Thin: a lock, a wake-up and a timer around [`core::Core`], which decides.

pub mod core;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::core::Core;

/// A queue of keys with the rules of client-go's rate-limited work queue: see [`core::Core`]. Clones share it.
///
/// Bounded by the number of distinct keys.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    core: Mutex<Core<T>>,
    /// Something became ready, or an earlier timer than the known ones was set, or the queue was shut down.
    changed: Notify,
    start: Instant,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T: Ord + Clone> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Ord + Clone> WorkQueue<T> {
    /// An empty queue with the usual back-off: 5 ms doubled per failure, at most 1000 s.
    pub fn new() -> Self {
        Self::with_backoff(Duration::from_millis(5), Duration::from_secs(1000))
    }

    /// An empty queue with another back-off.
    pub fn with_backoff(first: Duration, max: Duration) -> Self {
        let core = Mutex::new(Core::new(first, max));
        Self { shared: Arc::new(Shared { core, changed: Notify::new(), start: Instant::now() }) }
    }

    fn change<R>(&self, change: impl FnOnce(&mut Core<T>, Duration) -> R) -> R {
        let result = change(&mut self.shared.core.lock(), self.shared.start.elapsed());
        self.shared.changed.notify_one();
        result
    }

    /// `item` wants work now.
    pub fn add(&self, item: T) {
        self.change(|core, _| core.add(item));
    }

    /// `item` wants work after `delay`; of several delays the shortest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        self.change(|core, now| core.add_after(item, delay, now));
    }

    /// `item` failed and wants to be tried again after its back-off.
    pub fn add_rate_limited(&self, item: T) {
        self.change(|core, now| core.add_rate_limited(item, now));
    }

    /// `item` succeeded: its back-off starts anew.
    pub fn forget(&self, item: &T) {
        self.shared.core.lock().forget(item);
    }

    /// How often in a row `item` was added rate-limited.
    pub fn failures(&self, item: &T) -> u32 {
        self.shared.core.lock().failures(item)
    }

    /// The next item to work on; to be given back with [`WorkQueue::done`]. `None` once the queue is shut down and
    /// empty. May be called by several workers; dropping the future loses nothing.
    pub async fn next(&self) -> Option<T> {
        loop {
            let changed = self.shared.changed.notified();
            let (wait, more) = {
                let mut core = self.shared.core.lock();
                let now = self.shared.start.elapsed();
                if let Some(item) = core.pop(now) {
                    // One wake-up may stand for several items, and while we work somebody else has to mind the timers.
                    if core.has_ready() || core.next_timer().is_some() {
                        self.shared.changed.notify_one();
                    }
                    return Some(item);
                }
                (core.next_timer().map(|at| at.saturating_sub(now)), !core.is_shut_down())
            };
            if !more {
                self.shared.changed.notify_one();
                return None;
            }
            match wait {
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Work on `item` has ended, well or not. If it was added meanwhile, it is queued again.
    pub fn done(&self, item: &T) {
        self.change(|core, _| core.done(item));
    }

    /// Items that are ready and not being worked on.
    pub fn len(&self) -> usize {
        self.shared.core.lock().len()
    }

    /// Whether nothing is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing is accepted any more; what is ready is still handed out, delayed items are dropped.
    pub fn shut_down(&self) {
        self.change(|core, _| core.shut_down());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_and_back_off_pass_with_the_clock() {
        let queue = WorkQueue::new();
        queue.add_after("slow", Duration::from_secs(60));
        queue.add_after("fast", Duration::from_secs(1));
        let start = Instant::now();
        assert_eq!(queue.next().await, Some("fast"));
        assert_eq!(start.elapsed().as_secs(), 1);
        queue.add_rate_limited("fast");
        queue.done(&"fast");
        assert_eq!(queue.next().await, Some("fast"));
        assert!(start.elapsed() < Duration::from_millis(1100));
        assert_eq!(queue.next().await, Some("slow"));
        assert_eq!(start.elapsed().as_secs(), 60);
        queue.shut_down();
        assert_eq!(queue.next().await, None);
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_workers_never_share_a_key_and_miss_none() {
        let queue: WorkQueue<u32> = WorkQueue::new();
        let busy = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
        let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (queue, busy, count) = (queue.clone(), busy.clone(), count.clone());
                tokio::spawn(async move {
                    while let Some(item) = queue.next().await {
                        assert!(busy.lock().insert(item), "{item} is worked on twice");
                        tokio::task::yield_now().await;
                        assert!(busy.lock().remove(&item));
                        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        queue.done(&item);
                    }
                })
            })
            .collect();
        for round in 0..50 {
            for item in 0..20 {
                queue.add(item);
            }
            if round % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
        queue.shut_down();
        for worker in workers {
            tokio::time::timeout(Duration::from_secs(20), worker).await.expect("a worker hangs").expect("a worker failed");
        }
        assert!(count.load(std::sync::atomic::Ordering::Relaxed) >= 20);
    }
}
