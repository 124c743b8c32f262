//! A proxy in front that has authenticated its clients and says in headers who they are.
//!
//! It is believed only with a client certificate of its own authority (`--requestheader-client-ca-file`), and of an
//! allowed name where names are given. As Kubernetes' request-header authenticator.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderMap;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{AUTHENTICATED, Caller, UNAUTHENTICATED};

/// The flags, with kube-apiserver's names.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FrontProxyFlags {
    /// CA (PEM) of client certificates of proxies that say in headers who calls.
    // An id of its own: `ca` is that of the identity's flags.
    #[arg(
        id = "requestheader_ca",
        long = "requestheader-client-ca-file",
        env = "BALSA_REQUESTHEADER_CLIENT_CA_FILE",
        value_name = "FILE"
    )]
    pub ca: Option<PathBuf>,
    /// Common names that such a certificate may have; any where none is given.
    #[arg(long = "requestheader-allowed-names", env = "BALSA_REQUESTHEADER_ALLOWED_NAMES", value_delimiter = ',')]
    pub names: Vec<String>,
    /// Headers that may hold the user's name.
    #[arg(
        long = "requestheader-username-headers",
        env = "BALSA_REQUESTHEADER_USERNAME_HEADERS",
        value_delimiter = ',',
        default_value = "x-remote-user"
    )]
    pub user: Vec<String>,
    /// Headers that may hold the user's UID.
    #[arg(
        long = "requestheader-uid-headers",
        env = "BALSA_REQUESTHEADER_UID_HEADERS",
        value_delimiter = ',',
        default_value = "x-remote-uid"
    )]
    pub uid: Vec<String>,
    /// Headers that hold the user's groups.
    #[arg(
        long = "requestheader-group-headers",
        env = "BALSA_REQUESTHEADER_GROUP_HEADERS",
        value_delimiter = ',',
        default_value = "x-remote-group"
    )]
    pub groups: Vec<String>,
    /// What headers with further facts about the user begin with.
    #[arg(
        long = "requestheader-extra-headers-prefix",
        env = "BALSA_REQUESTHEADER_EXTRA_HEADERS_PREFIX",
        value_delimiter = ',',
        default_value = "x-remote-extra-"
    )]
    pub extra: Vec<String>,
}

/// Believes proxies.
pub struct FrontProxy {
    flags: FrontProxyFlags,
    roots: RootCertStore,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl FrontProxy {
    /// From the flags; `None` without a CA.
    pub fn load(flags: &FrontProxyFlags) -> anyhow::Result<Option<Self>> {
        let Some(path) = &flags.ca else { return Ok(None) };
        let roots = roots(path)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider).build()?;
        Ok(Some(Self { flags: flags.clone(), roots, verifier }))
    }

    /// The authorities of proxies: the handshake must let their certificates pass.
    pub fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    /// Whether the certificate of the other end, whose holder has this common name, is a proxy's.
    pub fn vouches(&self, chain: &[CertificateDer<'_>], common_name: &str) -> bool {
        let Some((leaf, between)) = chain.split_first() else { return false };
        let named = self.flags.names.is_empty() || self.flags.names.iter().any(|name| name == common_name);
        named && self.verifier.verify_client_cert(leaf, between, UnixTime::now()).is_ok()
    }

    /// Who calls by the proxy's headers; `None`: it does not say.
    pub fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        caller(&self.flags, headers)
    }
}

fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let failed = |error: &dyn std::fmt::Display| anyhow::anyhow!("--requestheader-client-ca-file {}: {error}", path.display());
    let pem = std::fs::read(path).map_err(|error| failed(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    anyhow::ensure!(!roots.is_empty(), failed(&"no certificate in it"));
    Ok(roots)
}

/// Who the headers say that calls. Pure.
fn caller(flags: &FrontProxyFlags, headers: &HeaderMap) -> Option<Caller> {
    let first = |names: &[String]| {
        let texts = names.iter().filter_map(|name| headers.get(name.as_str())?.to_str().ok());
        texts.filter(|text| !text.is_empty()).map(str::to_owned).next()
    };
    let user = first(&flags.user)?;
    let mut groups: Vec<String> = flags
        .groups
        .iter()
        .flat_map(|name| headers.get_all(name.as_str()))
        .filter_map(|value| value.to_str().ok())
        .filter(|group| !group.is_empty())
        .map(str::to_owned)
        .collect();
    if user != "system:anonymous" && !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let mut caller = Caller { user, uid: first(&flags.uid).unwrap_or_default(), groups, ..Caller::default() };
    for prefix in &flags.extra {
        let prefix = prefix.to_ascii_lowercase();
        for (name, value) in headers {
            if let (Some(key), Ok(text)) = (name.as_str().strip_prefix(prefix.as_str()), value.to_str()) {
                let key = crate::rest::route::percent_decoded(key);
                caller.extra.entry(key).or_default().push(text.to_owned());
            }
        }
    }
    Some(caller)
}

#[cfg(test)]
mod tests {
    use super::*;
    use balsa_process::identity::Actor;
    use balsa_process::pki::Authority;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        flags: FrontProxyFlags,
    }

    #[test]
    fn only_certificates_of_its_own_authority_are_a_proxys() {
        let folder = tempfile::tempdir().unwrap();
        let actor = |user: &str| Actor { user: user.into(), groups: Vec::new() };
        let chain = |authority: &Authority, user: &str| {
            let (pem, _) = authority.issue(&actor(user), &[]).unwrap();
            vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()]
        };
        let (ours, others) = (folder.path().join("proxy"), folder.path().join("cluster"));
        let (ours, others) = (Authority::open_or_create(&ours).unwrap(), Authority::open_or_create(&others).unwrap());
        let ca = folder.path().join("proxy/ca.crt");
        let load = |names: Vec<String>| {
            let flags = FrontProxyFlags { ca: Some(ca.clone()), names, ..FrontProxyFlags::default() };
            FrontProxy::load(&flags).unwrap().unwrap()
        };
        let (anybody, named) = (load(Vec::new()), load(vec!["front".into()]));
        assert!(anybody.vouches(&chain(&ours, "x"), "x") && named.vouches(&chain(&ours, "front"), "front"));
        assert!(!named.vouches(&chain(&ours, "x"), "x"), "a name that is not allowed");
        assert!(!anybody.vouches(&chain(&others, "front"), "front"), "another authority");
        assert!(!anybody.vouches(&[], "front"));
        assert!(FrontProxy::load(&FrontProxyFlags::default()).unwrap().is_none());
    }

    #[test]
    fn headers_say_who_calls() {
        let flags = Flags::parse_from(["x"]).flags;
        let mut headers = HeaderMap::new();
        assert_eq!(caller(&flags, &headers), None);
        for (name, value) in [
            ("x-remote-user", "ann"), ("x-remote-uid", "7"), ("x-remote-group", "a"), ("x-remote-group", "b"),
            ("x-remote-extra-example.com%2fscope", "read"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let ann = caller(&flags, &headers).unwrap();
        assert_eq!((ann.user.as_str(), ann.uid.as_str()), ("ann", "7"));
        assert_eq!(ann.groups, ["a", "b", "system:authenticated"]);
        assert_eq!(ann.extra["example.com/scope"], ["read"]);
    }
}
