//! TLS reports: what sessions with mail hosts showed of TLS, as the domains that asked for it are told (RPT-01; RFC 8460).
//!
//! Pure. A shard makes a [`Seen`] of each session that carried, or was opened for, a domain's mail by MX while what the domain publishes had
//! a say; a [`ledger`] adds them up by day and domain, and [`record`] reads where a domain wants its report. What shells, files and
//! letters there are around it is `control::reports`'s.

pub mod ledger;
pub mod record;

use std::net::IpAddr;
use std::sync::Arc;

use super::safety::{HostTls, Identity, Safety, Tlsa};
use super::sts::{Mode, Policy, Sts};
use crate::base::limits;
use crate::mail::date::Day;

/// What went wrong, by the names of RFC 8460 4.3. `dane-required` is for policies that we do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResultType {
    /// STARTTLS was not offered, or refused.
    StartTlsNotSupported,
    /// The certificate is for other names.
    HostMismatch,
    /// The certificate's time is over.
    Expired,
    /// Nobody whom we trust vouches for the certificate.
    NotTrusted,
    /// Something else.
    ValidationFailure,
    /// No TLSA record of the host can be used, or none matches.
    TlsaInvalid,
    /// The TLSA records cannot be looked up.
    DnssecInvalid,
    /// The web server does not give the MTA-STS policy.
    StsFetchError,
    /// The MTA-STS policy cannot be read.
    StsInvalid,
    /// The web server does not prove its name.
    StsWebPkiInvalid,
}

impl ResultType {
    /// All of them.
    pub const ALL: [ResultType; 10] = [
        ResultType::StartTlsNotSupported,
        ResultType::HostMismatch,
        ResultType::Expired,
        ResultType::NotTrusted,
        ResultType::ValidationFailure,
        ResultType::TlsaInvalid,
        ResultType::DnssecInvalid,
        ResultType::StsFetchError,
        ResultType::StsInvalid,
        ResultType::StsWebPkiInvalid,
    ];

    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            ResultType::StartTlsNotSupported => "starttls-not-supported",
            ResultType::HostMismatch => "certificate-host-mismatch",
            ResultType::Expired => "certificate-expired",
            ResultType::NotTrusted => "certificate-not-trusted",
            ResultType::ValidationFailure => "validation-failure",
            ResultType::TlsaInvalid => "tlsa-invalid",
            ResultType::DnssecInvalid => "dnssec-invalid",
            ResultType::StsFetchError => "sts-policy-fetch-error",
            ResultType::StsInvalid => "sts-policy-invalid",
            ResultType::StsWebPkiInvalid => "sts-webpki-invalid",
        }
    }
}

/// Why a handshake failed, or a host would not prove its name, as far as that is known; the words are a fixed few, so that equal faults
/// are one row of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which kind.
    pub result: ResultType,
    /// `failure-reason-code`: an error's name.
    pub reason: &'static str,
}

impl Fault {
    /// The connection ended in the handshake.
    pub const CLOSED: Fault = Fault { result: ResultType::ValidationFailure, reason: "closed-in-handshake" };
    /// The MTA-STS policy does not name the host.
    pub const UNNAMED: Fault = Fault { result: ResultType::ValidationFailure, reason: "mx-not-in-sts-policy" };
    /// There was no STARTTLS to be had.
    pub const NO_STARTTLS: Fault = Fault { result: ResultType::StartTlsNotSupported, reason: "" };
    const UNUSABLE: Fault = Fault { result: ResultType::TlsaInvalid, reason: "no-usable-record" };
    const UNKNOWN_TLSA: Fault = Fault { result: ResultType::DnssecInvalid, reason: "no-secure-answer" };
}

/// The kinds of policies (RFC 8460 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// TLSA records.
    Tlsa,
    /// An MTA-STS policy.
    Sts,
    /// Neither was found.
    None,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [PolicyKind; 3] = [PolicyKind::Tlsa, PolicyKind::Sts, PolicyKind::None];

    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            PolicyKind::Tlsa => "tlsa",
            PolicyKind::Sts => "sts",
            PolicyKind::None => "no-policy-found",
        }
    }
}

/// A policy that was applied, as a report shows it; at most `limits::TLS_REPORT_POLICY_MAX_BYTES` of each list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Which kind.
    pub kind: PolicyKind,
    /// `policy-string`: TLSA records, or the lines of a policy.
    pub text: Vec<Box<str>>,
    /// `policy-domain`: the TLSA base domain, or the domain of the mail (RFC 8460 1.1).
    pub domain: Box<str>,
    /// `mx-host`: what an MTA-STS policy names.
    pub hosts: Vec<Box<str>>,
}

impl Applied {
    /// What was asked of a host for a domain's mail.
    pub fn of(domain: &str, safety: &Safety, sts: Option<&Sts>) -> Applied {
        match (safety, sts.and_then(Sts::policy)) {
            (Safety::Always(Identity::Dane(dane)), _) => Applied::tlsa(&dane.base, &dane.records),
            (Safety::Always(Identity::Name) | Safety::Tested { .. }, Some(policy)) => {
                Applied::sts(domain, Some(policy))
            }
            _ => Applied { kind: PolicyKind::None, text: Vec::new(), domain: domain.into(), hosts: Vec::new() },
        }
    }

    fn tlsa(base: &str, records: &[Tlsa]) -> Applied {
        let text = records.iter().map(|record| {
            let Tlsa { usage, selector, matching, data } = record;
            let hex: String = data.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("{usage} {selector} {matching} {hex}").into()
        });
        Applied { kind: PolicyKind::Tlsa, text: bounded(text), domain: base.into(), hosts: Vec::new() }
    }

    /// Without a policy: one that is announced and cannot be had.
    fn sts(domain: &str, policy: Option<&Policy>) -> Applied {
        let lines = policy.into_iter().flat_map(|policy| {
            let head = ["version: STSv1".into(), format!("mode: {}", policy.mode.name()).into()];
            let age = format!("max_age: {}", policy.max_age_s).into();
            head.into_iter().chain([age]).chain(policy.hosts.iter().map(|host| format!("mx: {host}").into()))
        });
        let hosts = policy.into_iter().flat_map(|policy| policy.hosts.iter().cloned());
        Applied { kind: PolicyKind::Sts, text: bounded(lines), domain: domain.into(), hosts: bounded(hosts) }
    }
}

/// As many of them as a report has room for.
fn bounded(texts: impl Iterator<Item = Box<str>>) -> Vec<Box<str>> {
    let mut bytes = 0;
    texts
        .take_while(|text| {
            bytes += text.len();
            bytes <= limits::TLS_REPORT_POLICY_MAX_BYTES
        })
        .collect()
}

/// What is told of a failure; one row for all that are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which kind.
    pub result: ResultType,
    /// `failure-reason-code`, or empty.
    pub reason: Box<str>,
    /// Our end of the connection, if there was one and we know.
    pub sending: Option<IpAddr>,
    /// The mail host, or empty.
    pub host: Box<str>,
    /// What it called itself in its greeting, or empty.
    pub hello: Box<str>,
    /// Its address, if there was a connection.
    pub receiving: Option<IpAddr>,
}

impl Failure {
    /// A fault of a host that was not connected to.
    fn of_host(host: &str, fault: Fault) -> Failure {
        Failure {
            result: fault.result,
            reason: fault.reason.into(),
            sending: None,
            host: host.into(),
            hello: "".into(),
            receiving: None,
        }
    }
}

/// What one session, or one answer of DNS, showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The day by UTC, counted from 1970-01-01.
    pub day: Day,
    /// Whose mail it was for: whose report it is for.
    pub domain: Box<str>,
    /// What was asked of the host.
    pub policy: Applied,
    /// What was wrong; `None`: TLS as the policy wants it.
    pub failure: Option<Failure>,
}

/// For whom a session is counted, and by what.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Whose mail it carries, or was opened for.
    pub domain: Box<str>,
    /// What was known of the domain's MTA-STS policy.
    pub sts: Option<Arc<Sts>>,
}

/// A session that came to its end, as far as TLS goes.
pub struct Session<'a> {
    /// The day by UTC.
    pub day: Day,
    /// What was asked of the host.
    pub safety: &'a Safety,
    /// What was wrong.
    pub fault: Option<Fault>,
    /// The mail host.
    pub host: &'a str,
    /// Our end.
    pub sending: Option<IpAddr>,
    /// Its end.
    pub receiving: IpAddr,
    /// What it called itself.
    pub hello: &'a str,
}

impl Watched {
    /// What there is to be counted of a session. Where the domain announces a policy that cannot be had, that is told as well, since the
    /// session went without it.
    pub fn seen(self, session: &Session<'_>) -> Vec<Seen> {
        let &Session { day, safety, fault, host, sending, receiving, hello } = session;
        let failure = |result, reason: &str| Failure {
            result,
            reason: cut(reason),
            sending,
            host: host.into(),
            hello: cut(hello),
            receiving: Some(receiving),
        };
        let Watched { domain, sts } = self;
        let mut seen = Vec::with_capacity(1);
        if let Some(Sts::Unknown { why, result: Some(result) }) = sts.as_deref() {
            let policy = Applied::sts(&domain, None);
            seen.push(Seen { day, domain: domain.clone(), policy, failure: Some(failure(*result, why)) });
        }
        let policy = Applied::of(&domain, safety, sts.as_deref());
        let failure = fault.map(|fault| failure(fault.result, fault.reason));
        seen.push(Seen { day, domain, policy, failure });
        seen
    }
}

/// What an answer of DNS shows by itself: hosts to which no session is opened, and records that say nothing.
pub fn of_answer<'t>(
    day: Day,
    domain: &str,
    hosts: impl IntoIterator<Item = (&'t str, &'t HostTls)>,
    sts: Option<&Sts>,
) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut push = |policy, host: &str, fault| {
        seen.push(Seen { day, domain: domain.into(), policy, failure: Some(Failure::of_host(host, fault)) });
    };
    let enforced = sts.and_then(Sts::policy).filter(|policy| policy.mode == Mode::Enforce);
    for (host, tls) in hosts {
        match tls {
            HostTls::Failed => push(Applied::tlsa(host, &[]), host, Fault::UNKNOWN_TLSA),
            HostTls::Unusable => push(Applied::tlsa(host, &[]), host, Fault::UNUSABLE),
            HostTls::Records(_) | HostTls::Signed | HostTls::Unknown => {}
        }
        let judged_by_name = !matches!(tls, HostTls::Records(_) | HostTls::Failed);
        if let Some(policy) = enforced.filter(|policy| judged_by_name && !policy.names(host)) {
            push(Applied::sts(domain, Some(policy)), host, Fault::UNNAMED);
        }
    }
    seen
}

/// What others say is told up to a bound, and as text.
fn cut(text: &str) -> Box<str> {
    let most = limits::TLS_REPORT_TEXT_MAX_BYTES;
    let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text[..end].replace(char::is_control, " ").into()
}

#[cfg(test)]
mod tests;
