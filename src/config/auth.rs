//! Settings about users: who knows them, what they may prove themselves with, and how often they may fail (`auth.*`).

use std::path::PathBuf;

use super::ConfigError;
use super::file::Values;
use super::settings::{each, optional, small};
use crate::smtp::auth::{Mechanism, Mechanisms};
use crate::smtp::server::AuthSettings as OfferedAuth;

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
    let possible = |mechanism: Mechanism| match mechanism {
        Mechanism::Plain | Mechanism::Login => users.is_some() || service.is_some(),
        Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => users.is_some(),
        Mechanism::OauthBearer | Mechanism::Xoauth2 => jwt.is_some() || introspection.is_some(),
    };
    const REMEDY: &str = "must be mechanisms that auth.users, auth.url, auth.jwt_key or auth.introspection_url can check: \
                          PLAIN, LOGIN, SCRAM-SHA-256, SCRAM-SHA-256-PLUS, OAUTHBEARER, XOAUTH2";
    let named = each(values, "auth.mechanisms", |text| {
        Mechanism::of_name(text.as_bytes()).filter(|mechanism| possible(*mechanism)).ok_or(REMEDY)
    })?;
    let usual = |mechanism: &Mechanism| possible(*mechanism) && *mechanism != Mechanism::ScramSha256Plus;
    let all = || Mechanism::ALL.into_iter().filter(usual).collect();
    let chosen: Vec<Mechanism> = if named.is_empty() { all() } else { named };
    Ok(AuthSettings {
        mechanisms: chosen.into_iter().fold(Mechanisms::NONE, Mechanisms::with),
        allow_clear: values.flag("auth.allow_clear"),
        users,
        url: service,
        jwt,
        introspection,
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
