//! The variables that name services.
//!
//! Pure. Only services with a cluster IP count; those of the pod's own namespace where links are enabled, and
//! `default/kubernetes` always.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

/// Variables for a pod. `own` are the services of its namespace, `default` those of the namespace `default`.
pub fn variables(own: &[Service], default: &[Service], links: bool) -> BTreeMap<String, String> {
    let master = default.iter().filter(|service| service.metadata.name.as_deref() == Some("kubernetes"));
    let own = own.iter().filter(|_| links);
    // A service of the pod's own namespace that is called `kubernetes` takes the place of the cluster's, whole.
    let by_name: BTreeMap<&str, &Service> = master
        .chain(own)
        .filter(|service| address(service).is_some())
        .filter_map(|service| Some((service.metadata.name.as_deref()?, service)))
        .collect();
    let mut out = BTreeMap::new();
    by_name.values().for_each(|service| one(service, &mut out));
    out
}

/// Its cluster IP, where it has one.
fn address(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    let named = spec.type_.as_deref() == Some("ExternalName");
    spec.cluster_ip.as_deref().filter(|ip| !named && !ip.is_empty() && *ip != "None")
}

fn one(service: &Service, out: &mut BTreeMap<String, String>) {
    let (Some(ip), Some(spec)) = (address(service), &service.spec) else { return };
    let Some(first) = spec.ports.as_ref().and_then(|ports| ports.first()) else { return };
    let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    // An IPv6 address needs brackets where a port follows.
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    out.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    out.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.insert(format!("{name}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string());
        }
        let url = format!("{}://{host}:{}", protocol.to_ascii_lowercase(), port.port);
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_ascii_uppercase());
        out.insert(prefix.clone(), url.clone());
        out.insert(format!("{prefix}_PROTO"), protocol.to_ascii_lowercase());
        out.insert(format!("{prefix}_PORT"), port.port.to_string());
        out.insert(format!("{prefix}_ADDR"), ip.to_owned());
        if index == 0 {
            out.insert(format!("{name}_PORT"), url);
        }
    }
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ip: &str) -> Service {
        serde_json::from_value(serde_json::json!({ "metadata": { "name": name }, "spec": {
            "clusterIP": ip, "ports": [{ "name": "web-ui", "port": 80 }, { "port": 53, "protocol": "UDP" }] } }))
        .unwrap()
    }

    #[test]
    fn all_forms() {
        let all = variables(&[service("my-db", "10.96.0.7"), service("headless", "None")], &[], true);
        let text: Vec<_> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "MY_DB_PORT=tcp://10.96.0.7:80",
                "MY_DB_PORT_53_UDP=udp://10.96.0.7:53",
                "MY_DB_PORT_53_UDP_ADDR=10.96.0.7",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_PORT_80_TCP=tcp://10.96.0.7:80",
                "MY_DB_PORT_80_TCP_ADDR=10.96.0.7",
                "MY_DB_PORT_80_TCP_PORT=80",
                "MY_DB_PORT_80_TCP_PROTO=tcp",
                "MY_DB_SERVICE_HOST=10.96.0.7",
                "MY_DB_SERVICE_PORT=80",
                "MY_DB_SERVICE_PORT_WEB_UI=80",
            ]
        );
        let master = [service("kubernetes", "10.96.0.1"), service("other", "10.96.0.2")];
        let unlinked = variables(&[service("a", "10.96.0.9")], &master, false);
        assert!(unlinked.contains_key("KUBERNETES_SERVICE_HOST") && unlinked.len() == 12);
        let external = serde_json::json!({ "metadata": { "name": "x" }, "spec": {
            "type": "ExternalName", "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] } });
        assert!(variables(&[serde_json::from_value(external).unwrap()], &[], true).is_empty());
    }

    #[test]
    fn a_namesake_of_the_api_takes_its_place_whole() {
        let mine: Service = serde_json::from_value(serde_json::json!({ "metadata": { "name": "kubernetes" }, "spec": {
            "clusterIP": "10.96.0.9", "ports": [{ "port": 81 }] } }))
        .unwrap();
        let master = [service("kubernetes", "10.96.0.1")];
        let all = variables(&[mine.clone()], &master, true);
        assert_eq!((all["KUBERNETES_PORT"].as_str(), all["KUBERNETES_SERVICE_PORT"].as_str()), ("tcp://10.96.0.9:81", "81"));
        assert!(!all.contains_key("KUBERNETES_PORT_80_TCP"));
        assert_eq!(variables(&[mine], &master, false)["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
    }
}
