//! Two candidates against the apiserver double.

use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::testing::FakeApi;

fn config(identity: &str) -> LeaderConfig {
    LeaderConfig {
        identity: identity.to_owned(),
        lease: Duration::from_secs(2),
        renew: Duration::from_millis(1200),
        retry: Duration::from_millis(100),
        ..LeaderConfig::new("test", identity)
    }
}

#[tokio::test]
async fn the_second_leads_when_the_first_stops() {
    let fake = FakeApi::start().await;
    let leading: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let candidate = |identity: &'static str, stop: CancellationToken| {
        let leading = leading.clone();
        tokio::spawn(run(fake.client(identity), config(identity), stop, move |lost| {
            let leading = leading.clone();
            async move {
                leading.lock().push(identity);
                assert_eq!(leading.lock().len(), 1, "two leaders at once");
                lost.cancelled().await;
                leading.lock().clear();
            }
        }))
    };
    let (stop_a, stop_b) = (CancellationToken::new(), CancellationToken::new());
    let a = candidate("a", stop_a.clone());
    fake.until("a leads", |_| (*leading.lock() == ["a"]).then_some(())).await;
    let b = candidate("b", stop_b.clone());
    stop_a.cancel();
    a.await.expect("a ends");
    fake.until("b leads", |_| (*leading.lock() == ["b"]).then_some(())).await;
    let lease: Lease = fake.get("kube-system", "test").expect("the lease");
    assert_eq!(lease.spec.and_then(|spec| spec.lease_transitions), Some(1));
    // Somebody takes the lease away: b must notice and stop.
    let mut lease: Lease = fake.get("kube-system", "test").expect("the lease");
    lease.spec.get_or_insert_default().holder_identity = Some("thief".to_owned());
    fake.put(&lease);
    fake.until("b gave up", |_| leading.lock().is_empty().then_some(())).await;
    stop_b.cancel();
    b.await.expect("b ends");
}
