//! Mutual TLS from three PEM files: the cluster's CA, our certificate, our key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Where a process finds its identity. Flattened into each process's flags.
#[derive(Debug, Clone, clap::Args)]
pub struct TlsFiles {
    /// The cluster's CA certificate, PEM.
    #[arg(long = "tls-ca", env = "BALSA_TLS_CA", value_name = "FILE", required = false, requires_all = ["cert", "key"])]
    pub ca: PathBuf,
    /// This process's certificate, PEM.
    #[arg(long = "tls-cert", env = "BALSA_TLS_CERT", value_name = "FILE", required = false, requires_all = ["ca", "key"])]
    pub cert: PathBuf,
    /// Its private key, PEM.
    #[arg(long = "tls-key", env = "BALSA_TLS_KEY", value_name = "FILE", required = false, requires_all = ["ca", "cert"])]
    pub key: PathBuf,
}

/// Why an identity cannot be used. Never contains key material.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is missing or not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {problem}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The parts do not make a TLS configuration.
    #[error("unusable TLS identity: {0}")]
    Unusable(String),
}

/// A loaded identity: cheap to clone, good for any number of servers and clients.
#[derive(Clone)]
pub struct TlsIdentity {
    inner: Arc<Loaded>,
}

struct Loaded {
    ca_pem: Vec<u8>,
    cert_pem: Vec<u8>,
    key_pem: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsIdentity")
    }
}

/// Whether a server insists on a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// No certificate, no connection.
    Required,
    /// Without one the connection is anonymous until it shows another credential.
    Optional,
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

impl TlsFiles {
    /// Reads and checks the three files.
    pub fn load(&self) -> Result<TlsIdentity, TlsError> {
        let (ca_pem, cert_pem, key_pem) = (read(&self.ca)?, read(&self.cert)?, read(&self.key)?);
        let malformed = |path: &Path, problem: String| TlsError::Malformed { path: path.to_owned(), problem };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&ca_pem) {
            let certificate = certificate.map_err(|error| malformed(&self.ca, error.to_string()))?;
            roots.add(certificate).map_err(|error| malformed(&self.ca, error.to_string()))?;
        }
        let chain = CertificateDer::pem_slice_iter(&cert_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| malformed(&self.cert, error.to_string()))?;
        if chain.is_empty() {
            return Err(malformed(&self.cert, "no certificate in it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| malformed(&self.key, error.to_string()))?;
        let roots = Arc::new(roots);
        Ok(TlsIdentity { inner: Arc::new(Loaded { ca_pem, cert_pem, key_pem, chain, key, roots }) })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl TlsIdentity {
    /// Our own leaf certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.inner.chain[0]
    }

    /// Our certificate with those above it, and its key: for a TLS client with trust of its own.
    pub fn credentials(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.inner.chain.clone(), self.inner.key.clone_key())
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &[u8] {
        &self.inner.ca_pem
    }

    /// For a tonic server that insists on client certificates.
    pub fn tonic_server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.inner.cert_pem, &self.inner.key_pem))
            .client_ca_root(Certificate::from_pem(&self.inner.ca_pem))
    }

    /// For a tonic client. The server is checked against the host name in the endpoint's URI.
    pub fn tonic_client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(Identity::from_pem(&self.inner.cert_pem, &self.inner.key_pem))
            .ca_certificate(Certificate::from_pem(&self.inner.ca_pem))
    }

    /// For any other TLS server. `alpn` in order of preference, such as `[b"h2", b"http/1.1"]`.
    pub fn rustls_server(&self, client: ClientCertificate, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
        self.rustls_server_also(client, alpn, None)
    }

    /// What checks client certificates against our CA.
    pub fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        WebPkiClientVerifier::builder_with_provider(self.inner.roots.clone(), provider())
            .build()
            .map_err(|error| TlsError::Unusable(error.to_string()))
    }

    /// As [`Self::rustls_server`]; the handshake also takes client certificates of further authorities. Which of them it
    /// was is for the caller to ask.
    pub fn rustls_server_also(
        &self,
        client: ClientCertificate,
        alpn: &[&[u8]],
        also: Option<&RootCertStore>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let unusable = |problem: &dyn std::fmt::Display| TlsError::Unusable(problem.to_string());
        let mut roots = RootCertStore::clone(&self.inner.roots);
        roots.extend(also.iter().flat_map(|also| also.roots.iter().cloned()));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = match client {
            ClientCertificate::Required => verifier,
            ClientCertificate::Optional => verifier.allow_unauthenticated(),
        }
        .build()
        .map_err(|error| unusable(&error))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.inner.chain.clone(), self.inner.key.clone_key())
            .map_err(|error| unusable(&error))?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// For any other TLS client.
    pub fn rustls_client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable(error.to_string()))?
            .with_root_certificates(self.inner.roots.clone())
            .with_client_auth_cert(self.inner.chain.clone(), self.inner.key.clone_key())
            .map_err(|error| TlsError::Unusable(error.to_string()))?;
        Ok(Arc::new(config))
    }
}

/// For a TLS client that takes any server's certificate, because nobody can vouch for it: a pod that is probed or
/// proxied to, as Kubernetes does it. The handshake is still checked: the server holds the key of what it shows.
pub fn trusting_client() -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Unusable(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(anybody())
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What [`trusting_client`] checks a server's certificate with.
pub fn anybody() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody(provider()))
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
