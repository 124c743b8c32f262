//! A namespace and its standard objects, from the caches.

use super::plan::{Observed, ROOT_CA, SERVICE_ACCOUNT};
use crate::runtime::Context;

/// Looks at the caches.
pub fn observe(context: &Context, namespace: &str) -> Observed {
    Observed {
        namespace: context.namespaces.cache().get("", namespace),
        has_service_account: context.default_accounts.cache().get(namespace, SERVICE_ACCOUNT).is_some(),
        root_ca: context.root_cas.cache().get(namespace, ROOT_CA),
    }
}
