//! Many equal writes in batches of 1, 2, 4, …, as long as they succeed: what is refused once is not sent 500 times.

use std::future::Future;

use futures::future::join_all;

/// Calls `write` at most `count` times. Says how many succeeded, and the first error of the batch that failed.
pub async fn slow_start<E, Fut: Future<Output = Result<(), E>>>(count: usize, write: impl Fn() -> Fut) -> (usize, Option<E>) {
    let (mut done, mut batch) = (0, 1);
    while done < count {
        let results = join_all((0..batch.min(count - done)).map(|_| write())).await;
        let mut failure = None;
        for result in results {
            match result {
                Ok(()) => done += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (done, failure);
        }
        batch *= 2;
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_refusal_costs_one_batch() {
        for (limit, count, sent, done) in [(100, 10, 10, 10), (0, 10, 1, 0), (3, 10, 7, 3), (4, 10, 7, 4)] {
            let calls = AtomicUsize::new(0);
            let write = || async { if calls.fetch_add(1, Ordering::SeqCst) < limit { Ok(()) } else { Err("quota") } };
            let result = slow_start(count, write).await;
            assert_eq!((calls.load(Ordering::SeqCst), result.0), (sent, done), "limit {limit}");
            assert_eq!(result.1.is_some(), done < count);
        }
    }
}
