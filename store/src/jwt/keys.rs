//! The keys of signed tokens: read, and checked that they belong together. Never shown.

use std::path::Path;

use anyhow::{Context as _, bail};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::options;

/// What tokens are signed with, unless they are only checked here, and what they are checked with.
pub struct Keys {
    /// Of the private key.
    pub signing: Option<EncodingKey>,
    /// Of the public key.
    pub verifying: DecodingKey,
}

/// Identifiers of an elliptic-curve key and of the two curves that there are, DER.
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
];
const P384: &[u8] = &[0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// A DER value: tag, length, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut value = vec![tag];
    match content.len() {
        length @ 0..0x80 => value.push(u8::try_from(length).unwrap_or_default()),
        length => {
            let bytes = length.to_be_bytes();
            let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            value.push(0x80 | u8::try_from(bytes.len()).unwrap_or_default());
            value.extend(bytes);
        }
    }
    value.extend_from_slice(content);
    value
}

/// A key as `openssl ecparam -genkey` writes it (SEC 1), in the form that the library reads (PKCS #8).
fn wrapped(sec1: &[u8], method: Algorithm) -> Vec<u8> {
    let curve = if method == Algorithm::ES384 { P384 } else { P256 };
    der(0x30, &[&[0x02, 0x01, 0x00], curve, &der(0x04, sec1)].concat())
}

fn signing(pem: &[u8], method: Algorithm) -> anyhow::Result<EncodingKey> {
    Ok(match method.family() {
        AlgorithmFamily::Hmac => EncodingKey::from_secret(pem),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(pem)?,
        AlgorithmFamily::Ec => match PrivateKeyDer::from_pem_slice(pem) {
            Ok(PrivateKeyDer::Sec1(key)) => EncodingKey::from_ec_der(&wrapped(key.secret_sec1_der(), method)),
            _ => EncodingKey::from_ec_pem(pem)?,
        },
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(pem)?,
    })
}

fn verifying(pem: &[u8], method: Algorithm) -> anyhow::Result<DecodingKey> {
    Ok(match method.family() {
        AlgorithmFamily::Hmac => DecodingKey::from_secret(pem),
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem)?,
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem)?,
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem)?,
    })
}

/// The public key that belongs to a private one.
fn public_of(signing: &EncodingKey, method: Algorithm) -> anyhow::Result<DecodingKey> {
    if method.family() == AlgorithmFamily::Ed {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(signing.inner());
        let pair = pair.map_err(|error| anyhow::anyhow!("an unusable key: {error}"))?;
        return Ok(DecodingKey::from_ed_der(pair.public_key().as_ref()));
    }
    Ok(DecodingKey::from_jwk(&Jwk::from_encoding_key(signing, method)?)?)
}

fn read(path: Option<&Path>) -> anyhow::Result<Option<Vec<u8>>> {
    let content = path.map(|path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display())));
    Ok(content.transpose()?.filter(|content| !content.is_empty()))
}

impl Keys {
    /// Reads them.
    pub fn load(options: &options::Jwt) -> anyhow::Result<Self> {
        let (private, public) = (read(options.private.as_deref())?, read(options.public.as_deref())?);
        Self::of(private.as_deref(), public.as_deref(), options.method)
    }

    /// Of what was read.
    pub fn of(private: Option<&[u8]>, public: Option<&[u8]>, method: Algorithm) -> anyhow::Result<Self> {
        let secret = method.family() == AlgorithmFamily::Hmac;
        let signing = private.map(|pem| signing(pem, method)).transpose().context("the private key cannot be read")?;
        let given = public.filter(|_| !secret).map(|pem| verifying(pem, method)).transpose();
        let given = given.context("the public key cannot be read")?;
        let verifying = match (&signing, given) {
            (None, None) => bail!("missing key data"),
            (_, Some(given)) => given,
            (Some(signing), None) => public_of(signing, method).context("the private key cannot be used")?,
        };
        Ok(Self { signing, verifying })
    }
}
