//! The loop that every controller is: keys from informers into a queue, workers that reconcile one key at a time.
//!
//! It decides what an outcome means for the key: a conflict is looked at again soon, a failure after a growing
//! back-off, a success when the plan asked for it.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balsa_client::Decode;
use balsa_client::informer::{Change, Informer};
use balsa_client::workqueue::WorkQueue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Longest back-off of a key that keeps failing.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// One controller: brings the object behind a key a step closer to what it should be.
pub trait Reconciler: Send + Sync + 'static {
    /// What the queue holds.
    type Key: Ord + Clone + Display + Send + Sync + 'static;

    /// For logs, metrics and causes.
    const NAME: &'static str;

    /// Observes, plans, executes. `Ok(Some(delay))`: look again after that long although nothing changed.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Option<Duration>, balsa_client::Error>> + Send;
}

/// The tasks of one controller. Dropping it ends them all.
pub struct Workers<T> {
    /// Keys to work on.
    pub queue: WorkQueue<T>,
    tasks: JoinSet<()>,
}

impl<T: Ord + Clone + Display + Send + Sync + 'static> Default for Workers<T> {
    fn default() -> Self {
        Self { queue: WorkQueue::with_backoff(Duration::from_millis(5), LONGEST_BACKOFF), tasks: JoinSet::new() }
    }
}

impl<T: Ord + Clone + Display + Send + Sync + 'static> Workers<T> {
    /// Queues the keys that `keys` finds in each change of an informer.
    pub fn feed<K: Decode>(&mut self, informer: &Informer<K>, keys: impl Fn(&Change<K>) -> Vec<T> + Send + 'static) {
        let (mut changes, queue) = (informer.subscribe(), self.queue.clone());
        self.tasks.spawn(async move {
            while let Some(change) = changes.recv().await {
                for key in keys(&change) {
                    queue.add(key);
                }
            }
        });
    }

    /// Queues a key at once and then at each interval.
    pub fn tick(&mut self, key: T, every: Duration) {
        let queue = self.queue.clone();
        self.tasks.spawn(async move {
            let mut interval = tokio::time::interval(every);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                queue.add(key.clone());
            }
        });
    }

    /// Works until `stop`; what is being reconciled then is finished first.
    pub async fn run<R: Reconciler<Key = T>>(mut self, reconciler: Arc<R>, workers: usize, metrics: &Metrics, stop: &CancellationToken) {
        for _ in 0..workers {
            let (queue, reconciler, metrics, stop) = (self.queue.clone(), reconciler.clone(), metrics.clone(), stop.clone());
            self.tasks.spawn(async move {
                loop {
                    let key = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        key = queue.next() => match key {
                            Some(key) => key,
                            None => return,
                        },
                    };
                    reconcile_one(&*reconciler, &queue, &key, &metrics).await;
                    queue.done(&key);
                }
            });
        }
        stop.cancelled().await;
        self.queue.shut_down();
        // Workers end by themselves; feeders end with their informers or with this set.
        let grace = tokio::time::sleep(Duration::from_secs(2));
        tokio::pin!(grace);
        loop {
            tokio::select! {
                () = &mut grace => return,
                ended = self.tasks.join_next() => if ended.is_none() { return },
            }
        }
    }
}

async fn reconcile_one<R: Reconciler>(reconciler: &R, queue: &WorkQueue<R::Key>, key: &R::Key, metrics: &Metrics) {
    let start = Instant::now();
    let outcome = reconciler.reconcile(key).await;
    metrics.reconciled(R::NAME, start.elapsed(), outcome.is_ok());
    match outcome {
        Ok(again) => {
            queue.forget(key);
            if let Some(delay) = again {
                queue.add_after(key.clone(), delay);
            }
        }
        Err(error) => {
            if error.is_conflict() {
                tracing::debug!(controller = R::NAME, %key, %error, "somebody else wrote: observing again");
            } else {
                tracing::warn!(controller = R::NAME, %key, %error, "reconciling failed; trying again");
            }
            queue.add_rate_limited(key.clone());
        }
    }
}
