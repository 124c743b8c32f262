//! Running CNI plugins.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::cni_config::{self, ConfigList};
use super::records::Record;
use super::{POD_INTERFACE, records};
use crate::runtime::HostPort;

/// A plugin that takes longer is killed.
const DEADLINE: Duration = Duration::from_secs(30);

/// The plugins of this node and their configuration.
#[derive(Debug, Clone)]
pub struct Plugins {
    /// Directories with the programs.
    pub bin: Vec<PathBuf>,
    /// Where the last result of each sandbox is kept: DEL needs it in newer versions of the protocol.
    pub cache: PathBuf,
    /// What they are told.
    pub list: ConfigList,
}

/// For which sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    id: String,
    netns: Option<String>,
    args: String,
    ports: Vec<HostPort>,
    /// Address that it had before.
    pub wanted_ip: Option<IpAddr>,
}

impl Request {
    /// `pid`: process in the sandbox's namespace; without one it is gone.
    pub fn new(record: &Record, pid: Option<i32>) -> Self {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            record.pod.namespace, record.pod.name, record.id, record.pod.uid
        );
        Self {
            id: record.id.clone(),
            netns: pid.map(|pid| format!("/proc/{pid}/ns/net")),
            args,
            ports: record.ports(),
            wanted_ip: record.ips.first().copied(),
        }
    }

    fn environment(&self, command: &str, path: &str) -> Vec<(&'static str, String)> {
        let args = match self.wanted_ip.filter(|_| command == "ADD") {
            Some(ip) => format!("{};IP={ip}", self.args),
            None => self.args.clone(),
        };
        let mut environment = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", self.id.clone()),
            ("CNI_IFNAME", POD_INTERFACE.to_owned()),
            ("CNI_PATH", path.to_owned()),
            ("CNI_ARGS", args),
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ];
        environment.extend(self.netns.clone().map(|netns| ("CNI_NETNS", netns)));
        environment
    }
}

impl Plugins {
    /// Makes the sandbox's interface; returns its addresses.
    pub async fn add(&self, request: &Request) -> Result<Vec<IpAddr>, String> {
        let mut previous: Option<Value> = None;
        for plugin in &self.list.plugins {
            let input = self.list.input(plugin, previous.as_ref(), &request.ports);
            let name = cni_config::plugin_type(plugin).unwrap_or_default();
            let answer = self.run(name, "ADD", request, &input).await?;
            previous = answer.or(previous);
        }
        let result = previous.unwrap_or_default();
        let ips = cni_config::addresses(&result);
        if ips.is_empty() {
            return Err("the CNI plugins gave no address".to_owned());
        }
        records::write_atomically(&self.cache_file(&request.id), result.to_string().as_bytes())?;
        Ok(ips)
    }

    /// Takes it away again; what is not there is a success.
    pub async fn del(&self, request: &Request) -> Result<(), String> {
        let cached = std::fs::read_to_string(self.cache_file(&request.id)).ok();
        let previous = cached.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        for plugin in self.list.plugins.iter().rev() {
            let input = self.list.input(plugin, previous.as_ref(), &request.ports);
            let name = cni_config::plugin_type(plugin).unwrap_or_default();
            self.run(name, "DEL", request, &input).await?;
        }
        let _ = std::fs::remove_file(self.cache_file(&request.id));
        Ok(())
    }

    fn cache_file(&self, id: &str) -> PathBuf {
        self.cache.join(format!("{id}.json"))
    }

    fn find(&self, plugin: &str) -> Result<PathBuf, String> {
        let found = self.bin.iter().map(|dir| dir.join(plugin)).find(|path| path.is_file());
        found.ok_or_else(|| format!("failed to find plugin {plugin:?} in path {:?}", self.bin))
    }

    async fn run(&self, plugin: &str, command: &str, request: &Request, input: &Value) -> Result<Option<Value>, String> {
        let program = self.find(plugin)?;
        let path = self.bin.iter().map(|dir| dir.to_string_lossy()).collect::<Vec<_>>().join(":");
        let run = run_program(&program, request.environment(command, &path), input.to_string());
        let output = tokio::time::timeout(DEADLINE, run)
            .await
            .map_err(|_| format!("plugin type={plugin:?} did not end in {DEADLINE:?}"))?
            .map_err(|error| format!("plugin type={plugin:?} could not be run: {error}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(cni_config::failure(plugin, &stdout, &String::from_utf8_lossy(&output.stderr)));
        }
        if stdout.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&stdout).map(Some).map_err(|error| format!("plugin type={plugin:?} answered no JSON: {error}"))
    }
}

async fn run_program(
    program: &Path,
    environment: Vec<(&'static str, String)>,
    input: String,
) -> std::io::Result<std::process::Output> {
    let mut child = Command::new(program)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin may answer without reading to the end.
        match stdin.write_all(input.as_bytes()).await {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::records::PodName;

    fn record() -> Record {
        Record {
            id: "sandbox".into(),
            pod: PodName { namespace: "ns".into(), name: "p".into(), uid: "u".into() },
            ips: vec!["10.0.0.5".parse().expect("an address")],
            host_ports: String::new(),
        }
    }

    #[test]
    fn the_old_address_is_asked_for_in_add_only() {
        let request = Request::new(&record(), Some(7));
        let get = |command: &str, key: &str| {
            let environment = request.environment(command, "/bin");
            environment.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value).unwrap_or_default()
        };
        assert!(get("ADD", "CNI_ARGS").ends_with(";IP=10.0.0.5"));
        assert!(get("DEL", "CNI_ARGS").ends_with(";K8S_POD_UID=u"));
        assert_eq!(get("ADD", "CNI_NETNS"), "/proc/7/ns/net");
    }

    #[tokio::test]
    async fn a_chain_passes_results_on_and_errors_up() {
        let dir = tempfile::tempdir().expect("temp dir");
        let program = |name: &str, script: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}")).expect("write");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        };
        program("first", r#"echo '{"ips":[{"address":"10.0.0.5/24"}]}'"#);
        program("second", r#"grep -q prevResult && echo '{"ips":[{"address":"10.0.0.6/24"}]}'"#);
        program("bad", r#"echo '{"code":11,"msg":"try again"}'; exit 1"#);
        let plugins = |list: &str| Plugins {
            bin: vec![dir.path().to_owned()],
            cache: dir.path().join("cache"),
            list: cni_config::parse(list).expect("a list"),
        };
        let request = Request::new(&record(), Some(1));
        let good = plugins(r#"{"name":"n","plugins":[{"type":"first"},{"type":"second"}]}"#);
        let expected: Vec<IpAddr> = vec!["10.0.0.6".parse().expect("an address")];
        assert_eq!(good.add(&request).await, Ok(expected));
        assert_eq!(good.del(&request).await, Ok(()));
        let bad = plugins(r#"{"name":"n","plugins":[{"type":"bad"}]}"#);
        assert_eq!(bad.add(&request).await, Err(r#"plugin type="bad" failed: try again"#.to_owned()));
        let missing = plugins(r#"{"name":"n","plugins":[{"type":"none"}]}"#);
        assert!(missing.add(&request).await.is_err_and(|error| error.contains("failed to find plugin")));
    }
}
