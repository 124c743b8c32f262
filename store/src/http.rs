//! What etcd answers by plain HTTP on its client port: `/health`, `/livez`, `/readyz`, `/version`, `/metrics`.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use balsa_proto::etcd::etcdserverpb::RangeRequest;
use prometheus_client::registry::Registry;
use serde_json::json;

use crate::grpc::{Service, VERSION};

#[derive(Clone)]
struct Shared {
    service: Service,
    registry: Arc<Registry>,
}

/// The routes.
pub fn routes(service: Service, registry: Arc<Registry>) -> axum::Router {
    axum::Router::new()
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(Shared { service, registry })
}

/// The values of a query's parameter.
fn values(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value.to_owned()).collect()
}

impl Shared {
    async fn read(&self, serializable: bool) -> Result<(), String> {
        let request = RangeRequest { key: "health".into(), keys_only: true, limit: 1, serializable, ..Default::default() };
        self.service.probe(request).await.map_err(|status| status.message().to_owned())
    }

    async fn health(&self, left_out: &[String], serializable: bool) -> Result<(), String> {
        if let Some(alarm) = self.service.alarm_besides(left_out) {
            return Err(format!("ALARM {alarm}"));
        }
        if !serializable && !self.service.has_leader() {
            return Err("RAFT NO LEADER".to_owned());
        }
        self.read(serializable).await.map_err(|problem| format!("RANGE ERROR:{problem}"))
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// As etcd says it: 200 and `true`, or 503 and why not.
async fn health(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let serializable = values(query.as_deref(), "serializable").first().is_some_and(|value| value == "true");
    let found = shared.health(&values(query.as_deref(), "exclude"), serializable).await;
    shared.service.count_health(found.is_ok());
    match found {
        Ok(()) => answer(StatusCode::OK, "application/json", json!({"health": "true", "reason": ""}).to_string()),
        Err(reason) => {
            let body = json!({"health": "false", "reason": reason}).to_string();
            answer(StatusCode::SERVICE_UNAVAILABLE, "application/json", body)
        }
    }
}

type Check = (&'static str, Result<(), String>);

/// The checks one by one, without those that the query leaves out.
fn checked(checks: Vec<Check>, query: Option<&str>) -> Response {
    let left_out = values(query, "exclude");
    let verbose = query.is_some_and(|query| query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose=")));
    let checks: Vec<_> = checks.into_iter().filter(|(name, _)| !left_out.iter().any(|left| left == name)).collect();
    let lines = checks.iter().map(|(name, found)| match found {
        Ok(()) => format!("[+]{name} ok\n"),
        Err(problem) => format!("[-]{name} failed: {problem}\n"),
    });
    let text: String = lines.collect();
    match checks.iter().all(|(_, found)| found.is_ok()) {
        true if verbose => answer(StatusCode::OK, "text/plain", format!("{text}ok\n")),
        true => answer(StatusCode::OK, "text/plain", "ok\n".to_owned()),
        false => answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain", text),
    }
}

async fn livez(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    checked(vec![("serializable_read", shared.read(true).await)], query.as_deref())
}

async fn readyz(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let corrupt = shared.service.alarm_besides(&["NOSPACE".to_owned()]);
    let learner = shared.service.learns();
    let checks = vec![
        ("data_corruption", corrupt.map_or(Ok(()), |alarm| Err(format!("alarm activated: {alarm}")))),
        ("serializable_read", shared.read(true).await),
        ("linearizable_read", shared.read(false).await),
        ("non_learner", if learner { Err("not supported for learner".to_owned()) } else { Ok(()) }),
    ];
    checked(checks, query.as_deref())
}

async fn version(State(shared): State<Shared>) -> Response {
    let cluster = shared.service.cluster_version();
    let body = json!({"etcdserver": VERSION, "etcdcluster": cluster, "storage": VERSION}).to_string();
    answer(StatusCode::OK, "application/json", body)
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shared.registry) {
        Ok(()) => answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_and_checks_can_be_left_out() {
        let query = Some("exclude=NOSPACE&serializable=true&exclude=CORRUPT&exclude=");
        assert_eq!(values(query, "exclude"), ["NOSPACE", "CORRUPT"]);
        assert_eq!(values(None, "exclude"), Vec::<String>::new());
        let checks = || vec![("a", Ok(())), ("b", Err("no".to_owned()))];
        assert_eq!(checked(checks(), None).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(checked(checks(), Some("exclude=b")).status(), StatusCode::OK);
    }
}
