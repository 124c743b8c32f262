//! The cluster's certificates: one CA, one leaf per process.
//!
//! Leaves name their holder by user and groups (for the server) and by host names (for clients); identities are names,
//! and addresses appear only for loopback.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use thiserror::Error;

use crate::identity::Actor;
use crate::tls::TlsFiles;

/// What went wrong while making or reading certificates. Never contains key material.
#[derive(Debug, Error)]
pub enum PkiError {
    /// The certificate library refused.
    #[error("cannot make the certificate for {holder}: {source}")]
    Certificate {
        /// Whose certificate.
        holder: String,
        /// The library's words.
        source: rcgen::Error,
    },
    /// A leaf can name one group only.
    #[error("the certificate for {holder} cannot name more than one group")]
    SeveralGroups {
        /// Whose certificate.
        holder: String,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

/// A certificate authority that can issue leaves.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

fn certificate_error(holder: &str) -> impl FnOnce(rcgen::Error) -> PkiError {
    let holder = holder.to_owned();
    move |source| PkiError::Certificate { holder, source }
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { path, source }
}

/// Writes `content` so that only the owner may read it. The file appears whole or not at all, beside its old content
/// until then; an older file of other rights is replaced, not written into.
pub fn write_private(path: &Path, content: &str) -> Result<(), PkiError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    let partial = Path::new(&name);
    fs::remove_file(partial).ok();
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial).map_err(file_error(partial))?;
    file.write_all(content.as_bytes()).map_err(file_error(partial))?;
    drop(file);
    fs::rename(partial, path).map_err(file_error(path))
}

impl Authority {
    /// The authority kept in `dir` as `ca.crt` and `ca.key`; made there if it is absent.
    pub fn open_or_create(dir: &Path) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !key_path.exists() {
            fs::create_dir_all(dir).map_err(file_error(dir))?;
            let key = KeyPair::generate().map_err(certificate_error("the CA"))?;
            let certificate = authority_params().self_signed(&key).map_err(certificate_error("the CA"))?;
            fs::write(&certificate_path, certificate.pem()).map_err(file_error(&certificate_path))?;
            write_private(&key_path, &key.serialize_pem())?;
        }
        let certificate_pem = fs::read_to_string(&certificate_path).map_err(file_error(&certificate_path))?;
        let key_pem = fs::read_to_string(&key_path).map_err(file_error(&key_path))?;
        let key = KeyPair::from_pem(&key_pem).map_err(certificate_error("the CA"))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(certificate_error("the CA"))?;
        Ok(Self { certificate_pem, issuer })
    }

    /// The CA's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a leaf for `actor`, good as client and, under each of `hosts` (names or addresses), as server.
    /// Returns certificate and key, PEM. An actor with more than one group is refused.
    pub fn issue(&self, actor: &Actor, hosts: &[String]) -> Result<(String, String), PkiError> {
        let error = || certificate_error(&actor.user);
        let key = KeyPair::generate().map_err(error())?;
        let mut params = CertificateParams::new(hosts.to_vec()).map_err(error())?;
        params.distinguished_name.push(DnType::CommonName, actor.user.clone());
        // The library's names hold one value per type: a second organization would silently replace the first.
        if actor.groups.len() > 1 {
            return Err(PkiError::SeveralGroups { holder: actor.user.clone() });
        }
        if let Some(group) = actor.groups.first() {
            params.distinguished_name.push(DnType::OrganizationName, group.clone());
        }
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2044, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(error())?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Issues a leaf into `dir/NAME.crt` and `dir/NAME.key` unless both are there, and says where they are.
    /// `localhost` and the loopback addresses are always among its hosts.
    pub fn issue_files(&self, dir: &Path, name: &str, actor: &Actor, hosts: &[String]) -> Result<TlsFiles, PkiError> {
        let files =
            TlsFiles { ca: dir.join("ca.crt"), cert: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) };
        if !(files.cert.exists() && files.key.exists()) {
            let mut all = hosts.to_vec();
            all.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
            let (certificate, key) = self.issue(actor, &all)?;
            write_private(&files.key, &key)?;
            fs::write(&files.cert, certificate).map_err(file_error(&files.cert))?;
        }
        if !files.ca.exists() {
            fs::write(&files.ca, &self.certificate_pem).map_err(file_error(&files.ca))?;
        }
        Ok(files)
    }
}

/// A new EC P-256 private key, PKCS#8 PEM: what signs service-account tokens (ES256).
pub fn signing_key_pem() -> Result<String, PkiError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(certificate_error("the token key"))?;
    Ok(key.serialize_pem())
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "balsa-ca");
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2044, 1, 1);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_says_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let actor = Actor { user: "system:node:n1".into(), groups: vec!["system:nodes".into()] };
        let files = authority.issue_files(dir.path(), "n1", &actor, &["n1".into()]).unwrap();
        let identity = files.load().unwrap();
        assert_eq!(Actor::from_certificate(identity.certificate()).unwrap(), actor);
    }

    #[test]
    fn a_second_group_is_refused_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let actor = Actor { user: "u".into(), groups: vec!["a".into(), "b".into()] };
        assert!(matches!(authority.issue(&actor, &[]), Err(PkiError::SeveralGroups { .. })));
    }

    #[test]
    fn opening_twice_keeps_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open_or_create(dir.path()).unwrap().certificate_pem().to_owned();
        assert_eq!(Authority::open_or_create(dir.path()).unwrap().certificate_pem(), first);
    }
}
