//! What an error of rustls is called in TLS reports (RPT-01; RFC 8460 4.3.1). Pure.

use std::error::Error as StdError;

use rustls::{AlertDescription, CertificateError, Error};

use crate::route::reports::{Fault, ResultType};

/// What went wrong, for the domain whose host it is about.
pub(super) fn fault(error: &Error) -> Fault {
    let (result, reason) = match error {
        Error::InvalidCertificate(about) => of_certificate(about),
        Error::AlertReceived(alert) => (ResultType::ValidationFailure, alert_name(*alert)),
        Error::NoCertificatesPresented => (ResultType::NotTrusted, "no-certificate"),
        Error::PeerIncompatible(_) => (ResultType::ValidationFailure, "nothing-in-common"),
        Error::PeerMisbehaved(_) => (ResultType::ValidationFailure, "peer-misbehaved"),
        Error::InvalidMessage(_) => (ResultType::ValidationFailure, "invalid-message"),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            (ResultType::ValidationFailure, "message-out-of-place")
        }
        Error::DecryptError => (ResultType::ValidationFailure, "decrypt-error"),
        _ => (ResultType::ValidationFailure, "other-tls-error"),
    };
    Fault { result, reason }
}

fn of_certificate(error: &CertificateError) -> (ResultType, &'static str) {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (ResultType::Expired, "Expired"),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            (ResultType::HostMismatch, "NotValidForName")
        }
        // Said by nobody but `dane`.
        CertificateError::ApplicationVerificationFailure => (ResultType::TlsaInvalid, "no-record-matches"),
        CertificateError::UnknownIssuer => (ResultType::NotTrusted, "UnknownIssuer"),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (ResultType::NotTrusted, "NotValidYet")
        }
        CertificateError::BadEncoding => (ResultType::NotTrusted, "BadEncoding"),
        CertificateError::BadSignature => (ResultType::NotTrusted, "BadSignature"),
        CertificateError::Revoked => (ResultType::NotTrusted, "Revoked"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            (ResultType::NotTrusted, "InvalidPurpose")
        }
        CertificateError::UnhandledCriticalExtension => (ResultType::NotTrusted, "UnhandledCriticalExtension"),
        _ => (ResultType::NotTrusted, "other-certificate-error"),
    }
}

fn alert_name(alert: AlertDescription) -> &'static str {
    alert.as_str().unwrap_or("unknown-alert")
}

/// True if a connection failed because the peer's certificate proves nothing.
pub(crate) fn is_about_certificate(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An error of the system's kind hides the one inside from `source`.
        let inside = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        if inside.is_some_and(|inside| is_about_certificate(inside)) {
            return true;
        }
        match error.downcast_ref() {
            Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => return true,
            _ => next = error.source(),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RPT-01: the names of RFC 8460 for what rustls says.
    #[test]
    fn errors_have_names_of_reports() {
        let certificate = |error| fault(&Error::InvalidCertificate(error)).result;
        for (error, result) in [
            (CertificateError::Expired, ResultType::Expired),
            (CertificateError::NotValidForName, ResultType::HostMismatch),
            (CertificateError::UnknownIssuer, ResultType::NotTrusted),
            (CertificateError::NotValidYet, ResultType::NotTrusted),
            (CertificateError::BadSignature, ResultType::NotTrusted),
            (CertificateError::ApplicationVerificationFailure, ResultType::TlsaInvalid),
        ] {
            assert_eq!(certificate(error.clone()), result, "{error:?}");
        }
        let alert = fault(&Error::AlertReceived(AlertDescription::HandshakeFailure));
        assert_eq!(alert, Fault { result: ResultType::ValidationFailure, reason: "HandshakeFailure" });
        assert_eq!(fault(&Error::DecryptError).result, ResultType::ValidationFailure);
    }

    #[test]
    fn certificate_errors_are_found_in_chains() {
        let wrapped = |error: Error| std::io::Error::other(std::io::Error::other(error));
        assert!(is_about_certificate(&Error::InvalidCertificate(CertificateError::Expired)));
        assert!(is_about_certificate(&wrapped(Error::InvalidCertificate(CertificateError::Expired))));
        assert!(!is_about_certificate(&wrapped(Error::DecryptError)));
        assert!(!is_about_certificate(&std::io::Error::from_raw_os_error(111)));
    }
}
