//! Keys and settings about users: who knows them, what they may prove themselves with, and how often they may fail (`auth.*`).

use std::path::{Path, PathBuf};

use super::ConfigError;
use super::file::{Key, Kind, Values, number, text, texts, time};
use super::settings::{each, optional, small};
use crate::base::limits;
use crate::smtp::auth::{Mechanism, Mechanisms};
use crate::smtp::server::AuthSettings as OfferedAuth;

/// In the manual they stand behind all others.
pub(super) static KEYS: &[Key] = &[
    // ---- users ----
    text(
        "auth.users",
        "",
        "File with the users of `listen.submission` and `listen.submissions`, a line each, as `ringpost user add` makes them: \
         name, verifier and, if need be, the senders it may use. Read again when it changes.",
    ),
    text(
        "auth.url",
        "",
        "HTTP service that is asked about users who are not in `auth.users`: POST of `user`, `password`, `mechanism` and `address` \
         in JSON. 200 with `{\"senders\": [...]}`: the user may send from these, or from anything without them. 401 or 403: no. \
         Anything else: 454.",
    ),
    texts(
        "auth.mechanisms",
        &[],
        "Mechanisms offered: PLAIN, LOGIN, SCRAM-SHA-256, SCRAM-SHA-256-PLUS, OAUTHBEARER, XOAUTH2, GSSAPI, GSS-SPNEGO, NTLM. Empty: all \
         that can be checked, but for SCRAM-SHA-256-PLUS, which some clients choose and cannot do, and NTLM, which is weak. SCRAM needs \
         SCRAM verifiers, and NTLM needs NT hashes: leave out what the users have none for.",
    ),
    Key {
        name: "auth.allow_clear",
        kind: Kind::Flag { default: false },
        manual: "Offer AUTH outside TLS too. Whoever listens then learns passwords.",
    },
    text(
        "auth.kerberos_keytab",
        "",
        "Keytab with the keys of this service, `smtp/HOST@REALM`, for GSSAPI and GSS-SPNEGO. Needs the system's MIT Kerberos \
         library (`libgssapi-krb5-2`), and the users in `auth.users`.",
    ),
    text(
        "auth.kerberos_service",
        "",
        "The principal in the keytab that clients must have a Kerberos ticket for, as `smtp/mail.example.org@EXAMPLE.ORG`. Empty: any there.",
    ),
    text(
        "auth.kerberos_realm",
        "",
        "The realm whose principals are users by their names alone: `alice@EXAMPLE.ORG` is `alice` if this is `EXAMPLE.ORG`. Others \
         are users by their whole names.",
    ),
    text(
        "auth.jwt_key",
        "",
        "PEM file with the public key of whoever signs the tokens (JWT) of OAUTHBEARER and XOAUTH2.",
    ),
    text("auth.jwt_issuer", "", "What a token's `iss` must say. Empty: anything."),
    text("auth.jwt_audience", "", "What a token's `aud` must say. Empty: anything."),
    text(
        "auth.introspection_url",
        "",
        "Where to ask about tokens that are no JWT, or without `auth.jwt_key` (RFC 7662).",
    ),
    text("auth.introspection_secret", "", "File with `name:secret` that the introspection service knows us by."),
    text(
        "auth.token_claim",
        "sub",
        "The claim of a token that names its user. The claim `senders` says what it may send from; without it, the user's name \
         if that is an address, else anything.",
    ),
    time(
        "auth.timeout_ms",
        limits::AUTH_TIMEOUT_MS,
        "What `auth.url` and `auth.introspection_url` may take; then 454.",
    ),
    number(
        "auth.failure_delay_ms",
        limits::AUTH_FAILURE_DELAY_MS,
        0,
        60_000,
        "A failed authentication is answered no sooner than this.",
    ),
    number(
        "auth.failures_per_address",
        limits::AUTH_FAILURES_PER_ADDRESS,
        1,
        1_000_000,
        "Failed authentications of one address, or one IPv6 network of 64 bits, within `auth.failures_window_ms`. More: 421 \
         without a look.",
    ),
    number(
        "auth.failures_per_network",
        limits::AUTH_FAILURES_PER_NETWORK,
        1,
        1_000_000,
        "The same of one network: 24 bits of IPv4, 48 of IPv6.",
    ),
    number(
        "auth.failures_per_user",
        limits::AUTH_FAILURES_PER_USER,
        1,
        1_000_000,
        "The same for one user's name, from wherever.",
    ),
    number(
        "auth.sessions_per_user",
        limits::USER_SESSIONS_MAX,
        1,
        1_000_000,
        "Sessions of one user on one shard. One more gets 421 4.7.0 in answer to AUTH.",
    ),
    time("auth.failures_window_ms", limits::AUTH_FAILURES_WINDOW_MS, "Failed authentications are counted so long."),
];

/// Users (`auth.*`), for listeners that submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSettings {
    /// What is offered inside TLS.
    pub mechanisms: Mechanisms,
    /// The same, but for SCRAM-SHA-256-PLUS, is offered in clear.
    pub allow_clear: bool,
    /// File with users and their verifiers.
    pub users: Option<PathBuf>,
    /// HTTP service that is asked about users and passwords.
    pub url: Option<Box<str>>,
    /// Tokens that prove themselves.
    pub jwt: Option<JwtSettings>,
    /// Who is asked about tokens.
    pub introspection: Option<IntrospectionSettings>,
    /// Kerberos tickets that prove who has them.
    pub kerberos: Option<KerberosSettings>,
    /// The claim of a token that names its user.
    pub token_claim: Box<str>,
    /// What the services asked may take.
    pub timeout_ms: u64,
    /// A failure is answered no sooner.
    pub failure_delay_ms: u64,
    /// Failures of one address, network or user within the window; more are not looked at.
    pub failures_per_address: u32,
    /// See above.
    pub failures_per_network: u32,
    /// See above.
    pub failures_per_user: u32,
    /// Sessions of one user on one shard.
    pub sessions_per_user: u32,
    /// Failures count so long.
    pub failures_window_ms: u64,
}

impl AuthSettings {
    /// What a session that submits is offered (AUT-01).
    pub fn offered(&self) -> OfferedAuth {
        let in_clear =
            if self.allow_clear { self.mechanisms.without(Mechanism::ScramSha256Plus) } else { Mechanisms::NONE };
        OfferedAuth { inside_tls: self.mechanisms, in_clear, demanded: true }
    }
}

/// Tokens signed by somebody whose key we have (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// PEM file with the issuer's public key.
    pub key: PathBuf,
    /// What `iss` must say, if anything.
    pub issuer: Option<Box<str>>,
    /// What `aud` must say, if anything.
    pub audience: Option<Box<str>>,
}

/// Who knows about tokens (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionSettings {
    /// Where to ask.
    pub url: Box<str>,
    /// File with `name:secret` to ask with.
    pub secret: PathBuf,
}

/// In the queue's directory: what was shown once.
pub(super) const KERBEROS_REPLAYS: &str = "kerberos-replays";

/// Kerberos tickets (RFC 4120), checked with the keys of a keytab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KerberosSettings {
    /// The keytab.
    pub keytab: PathBuf,
    /// The principal that they must be for, if not any in the keytab.
    pub service: Option<Box<str>>,
    /// The realm that users' names leave out.
    pub realm: Option<Box<str>>,
    /// File in the spool that remembers what was shown with them, so that nothing is taken twice.
    pub replays: PathBuf,
}

pub(super) fn auth(values: &Values) -> Result<AuthSettings, ConfigError> {
    let text = |name: &str| Some(values.text(name)).filter(|text| !text.is_empty());
    let url = |name: &str| {
        optional(values, name, |text| {
            let good = text.starts_with("http://") || text.starts_with("https://");
            if good { Ok(Box::from(text)) } else { Err("must be a URL, for instance http://127.0.0.1:8080/auth") }
        })
    };
    let users: Option<PathBuf> = text("auth.users").map(Into::into);
    let service = url("auth.url")?;
    let jwt = text("auth.jwt_key").map(|key| JwtSettings {
        key: key.into(),
        issuer: text("auth.jwt_issuer").map(Into::into),
        audience: text("auth.jwt_audience").map(Into::into),
    });
    let introspection = match (url("auth.introspection_url")?, text("auth.introspection_secret")) {
        (Some(url), Some(secret)) => Some(IntrospectionSettings { url, secret: secret.into() }),
        (Some(url), None) => {
            return Err(ConfigError::new(
                "auth.introspection_url",
                url.into_string(),
                "needs auth.introspection_secret",
            ));
        }
        (None, _) => None,
    };
    let kerberos = text("auth.kerberos_keytab").map(|keytab| KerberosSettings {
        keytab: keytab.into(),
        service: text("auth.kerberos_service").map(Into::into),
        realm: text("auth.kerberos_realm").map(Into::into),
        replays: Path::new(values.text("queue.dir")).join(KERBEROS_REPLAYS),
    });
    if let (Some(kerberos), None) = (&kerberos, &users) {
        return Err(ConfigError::new(
            "auth.kerberos_keytab",
            kerberos.keytab.display().to_string(),
            "needs auth.users, where those who have Kerberos tickets are listed",
        ));
    }
    let possible = |mechanism: Mechanism| match mechanism {
        Mechanism::Gssapi | Mechanism::GssSpnego => kerberos.is_some(),
        Mechanism::Ntlm => users.is_some(),
        Mechanism::Plain | Mechanism::Login => users.is_some() || service.is_some(),
        Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => users.is_some(),
        Mechanism::OauthBearer | Mechanism::Xoauth2 => jwt.is_some() || introspection.is_some(),
    };
    const REMEDY: &str = "must be mechanisms that auth.users, auth.url, auth.jwt_key, auth.introspection_url or \
                          auth.kerberos_keytab can check: PLAIN, LOGIN, SCRAM-SHA-256, SCRAM-SHA-256-PLUS, OAUTHBEARER, XOAUTH2, \
                          GSSAPI, GSS-SPNEGO, NTLM";
    let named = each(values, "auth.mechanisms", |text| {
        Mechanism::of_name(text.as_bytes()).filter(|mechanism| possible(*mechanism)).ok_or(REMEDY)
    })?;
    let unusual = [Mechanism::ScramSha256Plus, Mechanism::Ntlm];
    let usual = |mechanism: &Mechanism| possible(*mechanism) && !unusual.contains(mechanism);
    let all = || Mechanism::ALL.into_iter().filter(usual).collect();
    let chosen: Vec<Mechanism> = if named.is_empty() { all() } else { named };
    Ok(AuthSettings {
        mechanisms: chosen.into_iter().fold(Mechanisms::NONE, Mechanisms::with),
        allow_clear: values.flag("auth.allow_clear"),
        users,
        url: service,
        jwt,
        introspection,
        kerberos,
        token_claim: values.text("auth.token_claim").into(),
        timeout_ms: values.number("auth.timeout_ms"),
        failure_delay_ms: values.number("auth.failure_delay_ms"),
        failures_per_address: small(values, "auth.failures_per_address"),
        failures_per_network: small(values, "auth.failures_per_network"),
        failures_per_user: small(values, "auth.failures_per_user"),
        sessions_per_user: small(values, "auth.sessions_per_user"),
        failures_window_ms: values.number("auth.failures_window_ms"),
    })
}
