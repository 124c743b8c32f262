//! Who owns which field: metadata.managedFields, kept by the rules of `balsa_api::patch::apply`.

use balsa_api::kind::Kind;
use balsa_api::patch::apply::{self, Writer};
use balsa_api::status::ApiResult;
use serde_json::Value;

use super::{Api, Call};

fn writer<'a>(call: &'a Call, subresource: &'a str) -> Writer<'a> {
    let manager = if call.manager.is_empty() { "unknown" } else { &call.manager };
    Writer { manager, subresource, now: call.now }
}

impl Api {
    /// Records in `new` who wrote what, compared with `old`. An apply has done so itself.
    pub(super) fn track_managers(
        &self,
        call: &Call,
        kind: &dyn Kind,
        new: &mut Value,
        old: Option<&Value>,
        subresource: &str,
    ) -> ApiResult<()> {
        if !call.applies {
            apply::track(kind, old, new, writer(call, subresource));
        }
        Ok(())
    }

    /// The state after a configuration was applied to `old`.
    pub(super) fn apply_config(
        &self,
        call: &Call,
        kind: &dyn Kind,
        old: Option<&Value>,
        config: &Value,
        subresource: &str,
        force: bool,
    ) -> ApiResult<Value> {
        apply::apply(kind, old, config, writer(call, subresource), force)
    }
}
