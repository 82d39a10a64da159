//! DKIM keys: from a PEM file to something that signs, over aws-lc-rs (BLK-01; RFC 8301 3.2, RFC 8463).
//!
//! Keys are read on the main thread, at the start and at a reload, and used by all shards. RSA from 2048 to 4096 bits, which is what
//! aws-lc signs with and what DNS can hold; Ed25519. Errors name the remedy; nothing here panics on a file.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, digest};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::mail::dkim::{Algorithm, Digest, SigningKey};

/// The longest RSA key, in octets: one signature of a longer one is no field that others like to see.
const RSA_MAX_BYTES: usize = 512;

/// Reads a key from a PEM file: PKCS #8, or PKCS #1 of RSA. The error says what is wrong with it.
pub fn read_key(path: &Path) -> Result<Arc<dyn SigningKey>, String> {
    let der = PrivateKeyDer::from_pem_file(path).map_err(|error| format!("cannot be read as a key in PEM: {error}"))?;
    match &der {
        PrivateKeyDer::Pkcs1(key) => rsa(RsaKeyPair::from_der(key.secret_pkcs1_der())),
        PrivateKeyDer::Pkcs8(key) => {
            let der = key.secret_pkcs8_der();
            match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                Ok(pair) => Ok(Arc::new(Ed25519 { public: pair.public_key().as_ref().into(), pair })),
                Err(_) => rsa(RsaKeyPair::from_pkcs8(der)),
            }
        }
        _ => Err(REMEDY.to_owned()),
    }
}

const REMEDY: &str = "is neither an RSA key of 2048 to 4096 bits nor an Ed25519 key";

fn rsa<E>(pair: Result<RsaKeyPair, E>) -> Result<Arc<dyn SigningKey>, String> {
    let pair = pair.ok().filter(|pair| pair.public_modulus_len() <= RSA_MAX_BYTES).ok_or(REMEDY)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| REMEDY)?;
    let public = public.as_ref().into();
    Ok(Arc::new(Rsa { pair, public }))
}

/// A SHA-256 that nothing was put into yet.
pub fn new_digest() -> Box<dyn Digest> {
    Box::new(Sha256(Context::new(&SHA256)))
}

struct Sha256(Context);

impl Digest for Sha256 {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(self: Box<Self>) -> [u8; 32] {
        self.0.finish().as_ref().try_into().expect("SHA-256 has 32 octets")
    }
}

#[derive(Debug)]
struct Rsa {
    pair: RsaKeyPair,
    public: Box<[u8]>,
}

impl SigningKey for Rsa {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RsaSha256
    }
    fn public_key(&self) -> &[u8] {
        &self.public
    }
    fn sign(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.resize(start + self.pair.public_modulus_len(), 0);
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut out[start..]).is_ok()
    }
}

#[derive(Debug)]
struct Ed25519 {
    pair: Ed25519KeyPair,
    public: Box<[u8]>,
}

impl SigningKey for Ed25519 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Ed25519Sha256
    }
    fn public_key(&self) -> &[u8] {
        &self.public
    }
    /// What is signed is the hash (RFC 8463 3).
    fn sign(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let Ok(signature) = self.pair.try_sign(digest(&SHA256, text).as_ref()) else { return false };
        out.extend_from_slice(signature.as_ref());
        true
    }
}
