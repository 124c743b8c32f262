//! CNI configuration and answers: text to plain data and back.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::cidr::Cidr;
use crate::runtime::HostPort;

/// A list of plugins that together make a pod's network.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigList {
    /// Name of the network.
    pub name: String,
    /// Version of the protocol that the plugins are spoken to in.
    pub version: String,
    /// Configuration of each plugin, in the order of ADD.
    pub plugins: Vec<Map<String, Value>>,
    /// Whether it is ours, so that routes between nodes are ours too.
    pub built_in: bool,
}

impl ConfigList {
    /// Whether a plugin of it makes hostPorts.
    pub fn maps_ports(&self) -> bool {
        self.plugins.iter().any(wants_ports)
    }

    /// What a plugin gets on its standard input.
    pub fn input(&self, plugin: &Map<String, Value>, previous: Option<&Value>, ports: &[HostPort]) -> Value {
        let mut input = plugin.clone();
        input.insert("name".to_owned(), json!(self.name));
        input.insert("cniVersion".to_owned(), json!(self.version));
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        if wants_ports(plugin) && !ports.is_empty() {
            input.insert("runtimeConfig".to_owned(), json!({"portMappings": port_mappings(ports)}));
        }
        input.remove("capabilities");
        Value::Object(input)
    }
}

fn wants_ports(plugin: &Map<String, Value>) -> bool {
    plugin.get("capabilities").and_then(|capabilities| capabilities.get("portMappings")) == Some(&Value::Bool(true))
}

fn port_mappings(ports: &[HostPort]) -> Value {
    let each = ports.iter().map(|port| {
        json!({
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol.to_ascii_lowercase(),
            "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        })
    });
    each.collect()
}

/// Bridge and host-local. Masquerading is not the plugin's: it would hide pods from each other across nodes.
pub fn built_in(bridge: &str, pod_cidr: Cidr, data_dir: &Path) -> ConfigList {
    let plugin = json!({
        "type": "bridge",
        "bridge": bridge,
        "isGateway": true,
        "ipMasq": false,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "dataDir": data_dir.to_string_lossy(),
            "ranges": [[{"subnet": pod_cidr.to_string()}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let plugins = plugin.as_object().cloned().into_iter().collect();
    ConfigList { name: "pods".to_owned(), version: "0.4.0".to_owned(), plugins, built_in: true }
}

/// The first list in a directory, by file name; `None` where there is none.
///
/// # Errors
/// Says which file is not a configuration and why.
pub fn first_in(dir: &Path) -> Result<Option<ConfigList>, String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(None) };
    let is_config = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|extension| ["conflist", "conf", "json"].iter().any(|known| extension == *known))
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_config).collect();
    paths.sort();
    let Some(path) = paths.first() else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map(Some).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads a list (`plugins`) or a single plugin's configuration.
pub fn parse(text: &str) -> Result<ConfigList, String> {
    let value: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let string = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let plugins = match value.get("plugins") {
        None => vec![value.clone()],
        Some(Value::Array(plugins)) => plugins
            .iter()
            .map(|plugin| plugin.as_object().cloned().ok_or("a plugin is not an object"))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err("plugins is not a list".to_owned()),
    };
    if plugins.is_empty() || plugins.iter().any(|plugin| plugin_type(plugin).is_none()) {
        return Err("every plugin needs a type".to_owned());
    }
    Ok(ConfigList {
        name: string("name").ok_or("a network needs a name")?,
        version: string("cniVersion").unwrap_or_else(|| "0.2.0".to_owned()),
        plugins,
        built_in: false,
    })
}

/// The plugin's program; a path instead of a name is none.
pub fn plugin_type(plugin: &Map<String, Value>) -> Option<&str> {
    plugin.get("type").and_then(Value::as_str).filter(|name| !name.is_empty() && !name.contains('/'))
}

/// The pod's addresses in a result of any version of the protocol.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let lists = result.get("ips").and_then(Value::as_array);
    let newer = lists.into_iter().flatten().filter_map(|ip| ip.get("address"));
    let older = ["ip4", "ip6"].into_iter().filter_map(|family| result.get(family)?.get("ip"));
    let texts = newer.chain(older).filter_map(Value::as_str);
    texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

/// What a plugin that failed says, in one line.
pub fn failure(plugin: &str, stdout: &str, stderr: &str) -> String {
    let answer: Option<Value> = serde_json::from_str(stdout.trim()).ok();
    let text = |key: &str| answer.as_ref().and_then(|answer| answer.get(key)?.as_str().map(str::to_owned));
    let words = match (text("msg"), text("details")) {
        (Some(msg), Some(details)) if !details.is_empty() => format!("{msg}: {details}"),
        (Some(msg), _) => msg,
        (None, _) => format!("{} {}", stdout.trim(), stderr.trim()).trim().to_owned(),
    };
    format!("plugin type={plugin:?} failed: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_list_has_the_nodes_range() {
        let cidr: Cidr = "10.244.1.0/24".parse().expect("a range");
        let list = built_in("cni0", cidr, Path::new("/state/cni"));
        let input = list.input(&list.plugins[0], None, &[]);
        assert_eq!(input["ipam"]["ranges"][0][0]["subnet"], "10.244.1.0/24");
        assert_eq!(input["ipam"]["dataDir"], "/state/cni");
        assert_eq!((&input["cniVersion"], &input["name"]), (&json!("0.4.0"), &json!("pods")));
        assert!(!list.maps_ports());
    }

    #[test]
    fn lists_and_single_plugins_are_read() {
        let list = parse(
            r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"},
            {"type":"portmap","capabilities":{"portMappings":true}}]}"#,
        )
        .expect("a list");
        assert!(list.maps_ports() && !list.built_in);
        let port = HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: "TCP".into() };
        let input = list.input(&list.plugins[1], Some(&json!({"ips": []})), std::slice::from_ref(&port));
        assert_eq!(input["runtimeConfig"]["portMappings"][0]["protocol"], "tcp");
        assert_eq!((&input["prevResult"], &input["capabilities"]), (&json!({"ips": []}), &Value::Null));
        assert_eq!(list.input(&list.plugins[0], None, &[port])["runtimeConfig"], Value::Null);

        assert_eq!(parse(r#"{"name":"n","type":"bridge"}"#).expect("one").plugins.len(), 1);
        for text in ["[]", r#"{"type":"bridge"}"#, r#"{"name":"n"}"#, r#"{"name":"n","plugins":[]}"#,
            r#"{"name":"n","plugins":[{"type":"../../bin/sh"}]}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn answers_of_all_versions_are_read() {
        let ips = |text: &str| addresses(&serde_json::from_str(text).expect("JSON"));
        let expected: Vec<IpAddr> = vec!["10.1.2.3".parse().expect("an address")];
        assert_eq!(ips(r#"{"ips":[{"version":"4","address":"10.1.2.3/24"}]}"#), expected);
        assert_eq!(ips(r#"{"ip4":{"ip":"10.1.2.3/24"}}"#), expected);
        assert_eq!(ips(r#"{"ips":[{"address":"what"}]}"#), Vec::<IpAddr>::new());
    }

    #[test]
    fn failures_are_one_line() {
        let answer = r#"{"code":999,"msg":"failed to allocate","details":"no IP left"}"#;
        assert_eq!(failure("bridge", answer, ""), r#"plugin type="bridge" failed: failed to allocate: no IP left"#);
        assert_eq!(failure("x", "", "boom\n"), r#"plugin type="x" failed: boom"#);
    }
}
