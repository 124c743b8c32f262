//! How values are sealed and opened, in Kubernetes' formats: a prefix that names the provider and the key, then
//! `nonce ‖ ciphertext ‖ tag` (aesgcm, bound to the object's key in the store), `iv ‖ ciphertext` (aescbc, PKCS#7) or
//! `nonce ‖ box` (secretbox).

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::AesGcm;
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use bytes::Bytes;
use crypto_secretbox::XSalsa20Poly1305;
use rand::Rng as _;

/// What a value begins with that any provider but `identity` has sealed.
const SEALED: &[u8] = b"k8s:enc:";

/// A cipher with its key.
#[derive(Clone)]
pub enum Cipher {
    /// AES in Galois counter mode.
    AesGcm(Vec<u8>),
    /// AES in cipher block chaining mode.
    AesCbc(Vec<u8>),
    /// XSalsa20 and Poly1305.
    Secretbox(Vec<u8>),
}

/// One key of one provider, or the provider that leaves values as they are.
#[derive(Clone)]
pub enum Transformer {
    /// As it is.
    Identity,
    /// Sealed, behind this prefix.
    Sealed {
        /// `k8s:enc:aesgcm:v1:key1:`
        prefix: String,
        /// The cipher.
        cipher: Cipher,
    },
}

impl std::fmt::Debug for Transformer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Sealed { prefix, .. } => f.write_str(prefix),
        }
    }
}

/// A resource's providers; the first one writes.
#[derive(Debug, Clone)]
pub struct Transformers(pub Vec<Transformer>);

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

const FAILED: &str = "the key does not fit, or the value was altered";

/// One call for the three lengths of AES keys; any other was refused with the configuration.
macro_rules! with_aes {
    ($key:expr, $aes:ident => $body:expr) => {
        match $key.len() {
            16 => {
                type $aes = Aes128;
                $body
            }
            24 => {
                type $aes = Aes192;
                $body
            }
            _ => {
                type $aes = Aes256;
                $body
            }
        }
    };
}

impl Cipher {
    fn seal(&self, plain: &[u8], place: &[u8]) -> Result<Vec<u8>, String> {
        let failed = || "cannot encrypt".to_owned();
        match self {
            Self::AesGcm(key) => {
                let nonce: [u8; 12] = random();
                let payload = Payload { msg: plain, aad: place };
                let sealed = with_aes!(key, Aes => {
                    let aead = AesGcm::<Aes, U12>::new_from_slice(key).map_err(|_| failed())?;
                    aead.encrypt((&nonce).into(), payload).map_err(|_| failed())?
                });
                Ok([nonce.as_slice(), &sealed].concat())
            }
            Self::AesCbc(key) => {
                let iv: [u8; 16] = random();
                let sealed = with_aes!(key, Aes => {
                    let encryptor = cbc::Encryptor::<Aes>::new_from_slices(key, &iv).map_err(|_| failed())?;
                    encryptor.encrypt_padded_vec_mut::<Pkcs7>(plain)
                });
                Ok([iv.as_slice(), &sealed].concat())
            }
            Self::Secretbox(key) => {
                let nonce: [u8; 24] = random();
                let secretbox = XSalsa20Poly1305::new_from_slice(key).map_err(|_| failed())?;
                let sealed = secretbox.encrypt((&nonce).into(), plain).map_err(|_| failed())?;
                Ok([nonce.as_slice(), &sealed].concat())
            }
        }
    }

    fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>, String> {
        let failed = || FAILED.to_owned();
        let short = || "the stored data was shorter than the required size".to_owned();
        match self {
            Self::AesGcm(key) => {
                let (nonce, rest) = sealed.split_first_chunk::<12>().ok_or_else(short)?;
                let payload = Payload { msg: rest, aad: place };
                with_aes!(key, Aes => {
                    let aead = AesGcm::<Aes, U12>::new_from_slice(key).map_err(|_| failed())?;
                    aead.decrypt(nonce.into(), payload).map_err(|_| failed())
                })
            }
            Self::AesCbc(key) => {
                let (iv, rest) = sealed.split_first_chunk::<16>().ok_or_else(short)?;
                with_aes!(key, Aes => {
                    let decryptor = cbc::Decryptor::<Aes>::new_from_slices(key, iv).map_err(|_| failed())?;
                    decryptor.decrypt_padded_vec_mut::<Pkcs7>(rest).map_err(|_| failed())
                })
            }
            Self::Secretbox(key) => {
                let (nonce, rest) = sealed.split_first_chunk::<24>().ok_or_else(short)?;
                let secretbox = XSalsa20Poly1305::new_from_slice(key).map_err(|_| failed())?;
                secretbox.decrypt(nonce.into(), rest).map_err(|_| failed())
            }
        }
    }
}

impl Transformers {
    /// Seals a value for its place in the store.
    pub fn seal(&self, key: &str, value: &Bytes) -> Result<Bytes, String> {
        match self.0.first() {
            Some(Transformer::Sealed { prefix, cipher }) => {
                Ok([prefix.as_bytes(), &cipher.seal(value, key.as_bytes())?].concat().into())
            }
            _ => Ok(value.clone()),
        }
    }

    /// Opens a value with whichever provider sealed it.
    pub fn open(&self, key: &str, value: Bytes) -> Result<Bytes, String> {
        for transformer in &self.0 {
            match transformer {
                Transformer::Identity if !value.starts_with(SEALED) => return Ok(value),
                Transformer::Identity => {}
                Transformer::Sealed { prefix, cipher } => {
                    if let Some(sealed) = value.strip_prefix(prefix.as_bytes()) {
                        return cipher.open(sealed, key.as_bytes()).map(Bytes::from);
                    }
                }
            }
        }
        Err("no provider with a key for it is configured".to_owned())
    }

    /// Whether a stored value is as this configuration would write it.
    pub fn is_current(&self, value: &[u8]) -> bool {
        match self.0.first() {
            Some(Transformer::Sealed { prefix, .. }) => value.starts_with(prefix.as_bytes()),
            _ => !value.starts_with(SEALED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn every_cipher_opens_what_it_sealed_and_nothing_else() {
        let ciphers = [16, 24, 32]
            .into_iter()
            .flat_map(|size| [Cipher::AesGcm(vec![7; size]), Cipher::AesCbc(vec![7; size])])
            .chain([Cipher::Secretbox(vec![7; 32])]);
        for (index, cipher) in ciphers.enumerate() {
            for plain in [b"".as_slice(), b"x", &[1; 16], &[2; 1000]] {
                let sealed = cipher.seal(plain, b"/place").unwrap();
                assert_eq!(cipher.open(&sealed, b"/place").unwrap(), plain, "{index}");
                assert_ne!(sealed, cipher.seal(plain, b"/place").unwrap(), "no nonce twice");
                assert!(cipher.open(&sealed[..sealed.len() - 1], b"/place").is_err(), "{index}");
                assert!(cipher.open(&sealed[..5], b"/place").is_err());
                if matches!(cipher, Cipher::AesGcm(_)) {
                    assert!(cipher.open(&sealed, b"/other").is_err());
                }
            }
        }
    }

    #[test]
    fn values_of_others_are_opened() {
        // From the test vectors of NIST (SP 800-38A, F.2.1, first block; the second block is our padding's).
        let cbc = Cipher::AesCbc(hex("2b7e151628aed2a6abf7158809cf4f3c"));
        let iv = hex("000102030405060708090a0b0c0d0e0f");
        let block = hex("7649abac8119b246cee98e9b12e9197d");
        let whole = {
            let key = hex("2b7e151628aed2a6abf7158809cf4f3c");
            let encryptor = cbc::Encryptor::<Aes128>::new_from_slices(&key, &iv).unwrap();
            encryptor.encrypt_padded_vec_mut::<Pkcs7>(&hex("6bc1bee22e409f96e93d7e117393172a"))
        };
        assert_eq!(&whole[..16], &block[..]);
        assert_eq!(cbc.open(&[iv, whole].concat(), b"").unwrap(), hex("6bc1bee22e409f96e93d7e117393172a"));
        // Test case 2 of the specification of GCM: a zero key, nonce and block.
        let gcm = Cipher::AesGcm(vec![0; 16]);
        let sealed = [vec![0; 12], hex("0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf")].concat();
        assert_eq!(gcm.open(&sealed, b"").unwrap(), vec![0; 16]);
    }
}
