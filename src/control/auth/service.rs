//! Services asked over HTTP: about a user and a password, or about a token (RFC 7662).
//!
//! No redirects are followed, time and length of an answer are bounded, and what went wrong is told by kind alone: neither
//! question nor answer ever reaches a log (AUT-08). Runs on the control thread; it waits without holding it.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use super::Found;
use super::tokens::user_of_claims;
use crate::base::limits::AUTH_ANSWER_MAX_BYTES;
use crate::config::{AuthSettings, IntrospectionSettings};
use crate::smtp::auth::{AuthRequest, Senders, User};

/// The way to all services.
pub(super) struct Services {
    http: Client,
    url: Option<Box<str>>,
    introspection: Option<Introspection>,
    token_claim: Box<str>,
}

struct Introspection {
    url: Box<str>,
    name: String,
    secret: String,
}

impl Introspection {
    fn load(settings: &IntrospectionSettings) -> Result<Introspection, String> {
        let named = |why: &str| format!("auth.introspection_secret {}: {why}", settings.secret.display());
        let text = std::fs::read_to_string(&settings.secret).map_err(|error| named(&error.to_string()))?;
        let (name, secret) = text.trim().split_once(':').ok_or_else(|| named("it must hold name:secret"))?;
        Ok(Introspection { url: settings.url.clone(), name: name.to_owned(), secret: secret.to_owned() })
    }
}

impl Services {
    pub(super) fn new(settings: &AuthSettings) -> Result<Services, String> {
        let http = Client::builder()
            .timeout(Duration::from_millis(settings.timeout_ms))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("Ringpost")
            .build()
            .map_err(|error| format!("no HTTP: {error}"))?;
        let introspection = settings.introspection.as_ref().map(Introspection::load).transpose()?;
        Ok(Services { http, url: settings.url.clone(), introspection, token_claim: settings.token_claim.clone() })
    }

    pub(super) fn knows_passwords(&self) -> bool {
        self.url.is_some()
    }

    pub(super) fn knows_tokens(&self) -> bool {
        self.introspection.is_some()
    }

    /// Asks whether the password is the user's.
    pub(super) async fn check_password(&self, request: &AuthRequest, user: &str, password: &[u8]) -> Found {
        let Some(url) = &self.url else { return Found::No };
        // JSON has no other texts.
        let Ok(password) = str::from_utf8(password) else { return Found::No };
        let mechanism = request.mechanism.name();
        let question = json!({
            "user": user, "password": password, "mechanism": mechanism, "address": request.peer.to_string()
        });
        let answer = self.http.post(&**url).header("content-type", "application/json").body(question.to_string());
        match answer.send().await {
            Ok(answer) if answer.status() == StatusCode::OK => {
                body(answer).await.map_or(Found::Unknown, |text| confirmed(&text, user))
            }
            Ok(answer) if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Found::No,
            Ok(_) | Err(_) => Found::Unknown,
        }
    }

    /// Asks whose the token is.
    pub(super) async fn check_token(&self, token: &str) -> Found {
        let Some(service) = &self.introspection else { return Found::No };
        let question = format!("token={}&token_type_hint=access_token", percent_encoded(token));
        let answer = self
            .http
            .post(&*service.url)
            .basic_auth(&service.name, Some(&service.secret))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(question);
        match answer.send().await {
            Ok(answer) if answer.status() == StatusCode::OK => {
                body(answer).await.map_or(Found::Unknown, |text| introspected(&text, &self.token_claim))
            }
            Ok(_) | Err(_) => Found::Unknown,
        }
    }
}

/// What it means that a service knows the password, in an answer that says more of the user.
pub(super) fn confirmed(answer: &[u8], user: &str) -> Found {
    match serde_json::from_slice::<Value>(answer) {
        Ok(facts) => Found::Yes(Arc::new(User { name: user.into(), senders: senders_of(&facts["senders"]) })),
        Err(_) => Found::Unknown,
    }
}

/// Whose a token is by a service's answer (RFC 7662 2.2).
pub(super) fn introspected(answer: &[u8], claim: &str) -> Found {
    match serde_json::from_slice::<Value>(answer) {
        Ok(claims) if claims["active"] == true => user_of_claims(&claims, claim),
        Ok(claims) if claims["active"] == false => Found::No,
        _ => Found::Unknown,
    }
}

/// The senders in a service's answer: a list or a text; nothing: any. A list that is there and empty allows nothing, nor does
/// anything else.
pub(super) fn senders_of(value: &Value) -> Senders {
    match value {
        Value::Null => Senders::Any,
        Value::String(text) => Senders::parse(text),
        Value::Array(list) => {
            let list: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            let whole = list.join(",");
            let empty = whole.split(',').all(|part| part.trim().is_empty());
            if empty { Senders::Of(Box::default()) } else { Senders::parse(&whole) }
        }
        _ => Senders::Of(Box::default()),
    }
}

/// The answer's bytes; none: too long, or cut off.
async fn body(mut answer: Response) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.ok()? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > AUTH_ANSWER_MAX_BYTES {
            return None;
        }
    }
    Some(bytes)
}

fn percent_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_read_and_nothing_is_let_through_encoding() {
        assert_eq!(senders_of(&Value::Null), Senders::Any);
        assert_eq!(senders_of(&json!(["a@b", "@c"])), Senders::parse("a@b,@c"));
        assert_eq!(senders_of(&json!("a@b")), Senders::parse("a@b"));
        for nobody in [json!([]), json!([""]), json!([" ", ",", 7]), json!(false), json!({"a@b": true})] {
            assert!(!senders_of(&nobody).allow(b"a@b"), "{nobody}");
        }
        assert_eq!(percent_encoded("aZ9-._~+/=&"), "aZ9-._~%2B%2F%3D%26");
    }
}
