//! What binds an AUTH exchange to its TLS session: `tls-exporter` of RFC 9266, and `tls-server-end-point` of RFC 5929.
//!
//! The first is for TLS 1.3. rustls' connections without buffers have no call that exports key material, but tell the secret that it
//! comes from to a key log, on the thread that works at the handshake. So the key log here keeps that one secret, for the connection
//! at work to fetch at once; everything else it is told is dropped. What RFC 8446 7.5 makes of it is computed with rustls' own
//! HKDF. In TLS 1.2 nothing is exported.
//!
//! The second is a hash of our certificate, computed once as it is loaded.

use std::cell::RefCell;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::hash::Hash;
use rustls::crypto::tls13::{Hkdf, OkmBlock};
use rustls::pki_types::{AlgorithmIdentifier, alg_id};
use rustls::{KeyLog, SupportedCipherSuite};
use zeroize::Zeroizing;

const SECRET: &str = "EXPORTER_SECRET";
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";

thread_local! {
    static TOLD: RefCell<Option<Secret>> = const { RefCell::new(None) };
}

/// The secret that exported keys come from.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// The key log.
#[derive(Debug)]
pub(super) struct Ear;

impl KeyLog for Ear {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == SECRET {
            TOLD.set(Some(Zeroizing::new(secret.to_vec())));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == SECRET
    }
}

/// The secret of the connection that was worked at just now, if it was told one.
pub(super) fn told() -> Option<Secret> {
    TOLD.take()
}

/// `tls-exporter` of a session with this suite.
pub(super) fn exporter(suite: SupportedCipherSuite, secret: &Secret) -> Option<[u8; 32]> {
    let suite = suite.tls13()?;
    export(suite.hkdf_provider, suite.common.hash_provider, secret)
}

/// RFC 8446 7.5, for no context.
fn export(hkdf: &dyn Hkdf, hash: &dyn Hash, secret: &Secret) -> Option<[u8; 32]> {
    let empty = hash.start().finish();
    let mut derived = Zeroizing::new(vec![0; hash.output_len()]);
    expand_label(hkdf, secret, LABEL, empty.as_ref(), &mut derived)?;
    let mut exported = [0; 32];
    expand_label(hkdf, &derived, b"exporter", empty.as_ref(), &mut exported)?;
    Some(exported)
}

/// RFC 8446 7.1.
fn expand_label(hkdf: &dyn Hkdf, secret: &[u8], label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
    let length = u16::try_from(out.len()).ok()?.to_be_bytes();
    let (label_length, context_length) = ([6 + label.len() as u8], [context.len() as u8]);
    let info: [&[u8]; 6] = [&length, &label_length, b"tls13 ", label, &context_length, context];
    hkdf.expander_for_okm(&OkmBlock::new(secret)).expand_slice(&info, out).ok()
}

/// `tls-server-end-point` of a certificate in DER: its hash by the hash of its signature (RFC 5929 4.1). `None` for signatures with
/// no hash of their own, and for older ones that nobody takes any more.
pub(super) fn end_point(certificate: &[u8]) -> Option<Arc<[u8]>> {
    let (body, _) = sequence(certificate)?;
    let (_to_be_signed, behind) = sequence(body)?;
    let (algorithm, _) = sequence(behind)?;
    let is = |names: [AlgorithmIdentifier; 3]| names.iter().any(|name| name.as_ref() == algorithm);
    let hash = if is([alg_id::ECDSA_SHA256, alg_id::RSA_PKCS1_SHA256, alg_id::RSA_PSS_SHA256]) {
        &digest::SHA256
    } else if is([alg_id::ECDSA_SHA384, alg_id::RSA_PKCS1_SHA384, alg_id::RSA_PSS_SHA384]) {
        &digest::SHA384
    } else if is([alg_id::ECDSA_SHA512, alg_id::RSA_PKCS1_SHA512, alg_id::RSA_PSS_SHA512]) {
        &digest::SHA512
    } else {
        return None;
    };
    Some(digest::digest(hash, certificate).as_ref().into())
}

/// What a SEQUENCE in DER holds, and what stands behind it.
fn sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[0x30, first], rest) = der.split_first_chunk()? else { return None };
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["relay.example".to_owned()]).unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_hashed_as_it_is_signed() {
        for (algorithm, hash) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, &digest::SHA256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, &digest::SHA384),
            (&rcgen::PKCS_RSA_SHA256, &digest::SHA256),
            (&rcgen::PKCS_RSA_SHA512, &digest::SHA512),
        ] {
            let made = certificate(algorithm);
            assert_eq!(end_point(&made).as_deref(), Some(digest::digest(hash, &made).as_ref()), "{algorithm:?}");
        }
        let made = certificate(&rcgen::PKCS_ED25519);
        assert_eq!(end_point(&made), None);
        // What is cut short is none, and nothing panics.
        for length in 0..made.len() {
            assert_eq!(end_point(&made[..length]), None);
        }
    }
}
