//! One attempt of a probe.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Answer, http};
use crate::runtime::{Runtime, RuntimeError};

/// Who calls, as servers see it.
pub const USER_AGENT: &str = "kube-probe/1.36";

/// Asks once.
pub async fn check(runtime: &Arc<dyn Runtime>, id: &str, container: &Container, probe: &Probe, pod_ip: &str) -> Answer {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    if let Some(action) = &probe.exec {
        exec(runtime, id, action.command.as_deref().unwrap_or_default(), timeout).await
    } else if let Some(action) = &probe.http_get {
        match http::request(container, action, pod_ip) {
            Ok(request) => http_get(&request, timeout).await,
            Err(problem) => Answer::Unknown(problem),
        }
    } else if let Some(action) = &probe.tcp_socket {
        match http::port(container, &action.port) {
            Ok(port) => {
                let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
                tcp(host, port, timeout).await
            }
            Err(problem) => Answer::Unknown(problem),
        }
    } else if let Some(action) = &probe.grpc {
        grpc(pod_ip, action.port, action.service.as_deref().unwrap_or_default(), timeout).await
    } else {
        Answer::Unknown("missing probe handler".to_owned())
    }
}

async fn exec(runtime: &Arc<dyn Runtime>, id: &str, command: &[String], timeout: Duration) -> Answer {
    match runtime.exec(id, command, timeout).await {
        Ok(result) if result.exit_code == 0 => Answer::Success,
        Ok(result) => Answer::Failure(result.output),
        Err(RuntimeError::Timeout(_)) => {
            Answer::Failure(format!("command timed out: \"{}\" timed out after {}s", command.join(" "), timeout.as_secs()))
        }
        Err(error) => Answer::Unknown(error.to_string()),
    }
}

async fn http_get(request: &http::Request, timeout: Duration) -> Answer {
    match http::get(request, USER_AGENT, timeout).await {
        Err(error) => Answer::Failure(error),
        Ok(response) if (200..400).contains(&response.status) => match response.location {
            Some(location) if response.status >= 300 => redirected(request, &location, timeout).await,
            _ => Answer::Success,
        },
        Ok(response) => Answer::Failure(format!("HTTP probe failed with statuscode: {}", response.status)),
    }
}

/// A redirect to the same host is followed (once); one to another host is taken as success, with a remark.
async fn redirected(request: &http::Request, location: &str, timeout: Duration) -> Answer {
    if !location.starts_with('/') && !location.starts_with(&format!("http://{}:{}/", request.host, request.port)) {
        return Answer::Warning(format!("Probe terminated redirects, Response body: {location}"));
    }
    let path = location.find("://").and_then(|at| location[at + 3..].find('/').map(|slash| at + 3 + slash)).unwrap_or(0);
    let next = http::Request { path: location[path..].to_owned(), ..request.clone() };
    match http::get(&next, USER_AGENT, timeout).await {
        Err(error) => Answer::Failure(error),
        Ok(response) if (200..400).contains(&response.status) => Answer::Success,
        Ok(response) => Answer::Failure(format!("HTTP probe failed with statuscode: {}", response.status)),
    }
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> Answer {
    match tokio::time::timeout(timeout, tokio::net::TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Answer::Success,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Answer::Failure(format!("dial tcp {host}:{port}: connect: connection refused"))
        }
        Ok(Err(error)) => Answer::Failure(format!("dial tcp {host}:{port}: {error}")),
        Err(_) => Answer::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

async fn grpc(host: &str, port: i32, service: &str, timeout: Duration) -> Answer {
    let late = || Answer::Failure(format!("timeout: failed to connect service \"{host}:{port}\" within {}s", timeout.as_secs()));
    let whole = async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{host}:{port}"));
        let channel = match endpoint {
            Ok(endpoint) => endpoint.connect_timeout(timeout).connect().await,
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        let Ok(channel) = channel else { return late() };
        let request = HealthCheckRequest { service: service.to_owned() };
        match HealthClient::new(channel).check(request).await {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Answer::Success,
            Ok(answer) => {
                Answer::Failure(format!("service unhealthy (responded with \"{}\")", answer.get_ref().status().as_str_name()))
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => Answer::Failure(
                "this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned(),
            ),
            Err(status) => Answer::Failure(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())),
        }
    };
    tokio::time::timeout(timeout, whole).await.unwrap_or_else(|_| late())
}
