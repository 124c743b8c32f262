//! The two limits of a rollout: how many pods above, how many below `spec.replicas`.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `spec.replicas`, 1 where it is absent.
pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0)
}

/// Whether the strategy is RollingUpdate (the default).
pub fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// A number or a percentage of `total`. `None` for text that is neither.
pub fn resolve(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let scaled = percent.checked_mul(i64::from(total))?;
            let rounded = if round_up { scaled.checked_add(99)?.div_euclid(100) } else { scaled.div_euclid(100) };
            i32::try_from(rounded).ok()
        }
    }
}

/// (maxSurge, maxUnavailable) in pods. Surge rounds up, unavailable rounds down; both zero would never move, so then
/// one may be unavailable. 25 % of 10 is a surge of 3 and 2 unavailable.
fn resolved(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let total = replicas(deployment);
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let surge = resolve(surge, total, true).unwrap_or(0).max(0);
    let unavailable = resolve(unavailable, total, false).unwrap_or(0).max(0);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// Pods above `spec.replicas`; 0 unless rolling.
pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) { resolved(deployment).0 } else { 0 }
}

/// Pods below `spec.replicas`; 0 unless rolling.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let total = replicas(deployment);
    if !is_rolling(deployment) || total == 0 {
        return 0;
    }
    resolved(deployment).1.min(total)
}
