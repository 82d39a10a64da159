//! DANE: a next hop proves by its TLSA records who it is (DAN-02, DAN-03; RFC 7671, RFC 7672 3).
//!
//! Usage 3 names the host's own certificate or key: names and dates in it say nothing then. Usage 2 names an authority, which
//! has to stand in the chain shown, or in the record itself; the chain up to it, its dates and a name are checked as
//! usual. That the host has the key is proved by the handshake, whichever usage it is.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::route::safety::{Dane, Tlsa};

/// Takes a certificate that one of the records matches.
#[derive(Debug)]
pub(super) struct DaneVerifier {
    dane: Arc<Dane>,
    /// What else than the TLSA base domain a certificate may be for.
    domain: Option<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

impl DaneVerifier {
    pub(super) fn new(dane: Arc<Dane>, provider: Arc<CryptoProvider>) -> DaneVerifier {
        let domain = dane.domain.as_ref().and_then(|domain| ServerName::try_from(domain.to_string()).ok());
        DaneVerifier { dane, domain, provider }
    }

    /// Whether the authority of a record of usage 2 vouches for the host. `None`: it is not in the chain.
    fn authority_vouches(
        &self,
        record: &Tlsa,
        host: &ParsedCertificate<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<Result<(), Error>> {
        // A whole certificate in the record need not be shown.
        let whole = (record.selector, record.matching) == (0, 0);
        let own = whole.then(|| CertificateDer::from_slice(&record.data));
        let named = chain.iter().filter(|certificate| matches(record, certificate)).chain(&own);
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(named.cloned());
        if roots.is_empty() {
            return None;
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let known = match &self.domain {
            Some(domain) => verify_server_name(host, name).or_else(|_| verify_server_name(host, domain)),
            None => verify_server_name(host, name),
        };
        Some(known.and_then(|()| verify_server_cert_signed_by_trust_anchor(host, &roots, chain, now, algorithms)))
    }
}

/// True if a certificate is what a record means.
fn matches(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let key;
    let meant: &[u8] = match record.selector {
        0 => certificate,
        _ => match ParsedCertificate::try_from(certificate) {
            Ok(parsed) => {
                key = parsed.subject_public_key_info();
                &key
            }
            Err(_) => return false,
        },
    };
    match record.matching {
        0 => meant == &*record.data,
        1 => digest::digest(&digest::SHA256, meant).as_ref() == &*record.data,
        _ => digest::digest(&digest::SHA512, meant).as_ref() == &*record.data,
    }
}

impl ServerCertVerifier for DaneVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let host = ParsedCertificate::try_from(end_entity)?;
        let mut why = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        for record in self.dane.records.iter() {
            let proved = match record.usage {
                3 => matches(record, end_entity).then_some(Ok(())),
                _ => self.authority_vouches(record, &host, intermediates, server_name, now),
            };
            match proved {
                Some(Ok(())) => return Ok(ServerCertVerified::assertion()),
                // Says more than that no record matches.
                Some(Err(error)) => why = error,
                None => {}
            }
        }
        Err(why)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
