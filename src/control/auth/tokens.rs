//! Tokens that prove themselves: JWTs signed by somebody whose public key we have (RFC 7519, RFC 8725).
//!
//! The algorithm is that of the key, never what the token says; `exp` must be there and lie ahead; issuer and audience must be
//! the configured ones. Runs on the control thread.

use std::sync::Arc;

use jsonwebtoken::{DecodingKey, Validation, decode};
use serde_json::Value;

use super::Found;
use super::service::senders_of;
use crate::config::JwtSettings;
use crate::smtp::auth::{Senders, User};

/// Whose tokens are believed.
pub(super) struct Tokens {
    key: DecodingKey,
    validation: Validation,
    claim: Box<str>,
}

impl Tokens {
    pub(super) fn new(settings: &JwtSettings, claim: &str) -> Result<Tokens, String> {
        let named = |why: &str| format!("auth.jwt_key {}: {why}", settings.key.display());
        let pem = std::fs::read(&settings.key).map_err(|error| named(&error.to_string()))?;
        let key = DecodingKey::from_rsa_pem(&pem)
            .or_else(|_| DecodingKey::from_ec_pem(&pem))
            .or_else(|_| DecodingKey::from_ed_pem(&pem))
            .map_err(|_| named("it must hold a public key in PEM: RSA, EC or Ed25519"))?;
        let mut validation = Validation::new_for_family(key.family());
        let mut required = vec!["exp"];
        validation.validate_nbf = true;
        validation.validate_aud = settings.audience.is_some();
        if let Some(audience) = &settings.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Ok(Tokens { key, validation, claim: claim.into() })
    }

    /// Whose the token is.
    pub(super) fn check(&self, token: &str) -> Found {
        match decode::<Value>(token, &self.key, &self.validation) {
            Ok(data) => user_of_claims(&data.claims, &self.claim),
            Err(_) => Found::No,
        }
    }
}

/// True if the text has a JWT's form.
pub(super) fn is_jwt(token: &str) -> bool {
    token.matches('.').count() == 2
}

/// The user that the claims name; whoever has an address for a name sends from it alone, if nothing else is said.
pub(super) fn user_of_claims(claims: &Value, claim: &str) -> Found {
    let Some(name) = claims[claim].as_str().filter(|name| crate::smtp::sasl::name(name.as_bytes()).is_some()) else {
        return Found::No;
    };
    let senders = match &claims["senders"] {
        Value::Null if name.contains('@') => Senders::only(name),
        given => senders_of(given),
    };
    Found::Yes(Arc::new(User { name: name.into(), senders }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
    use serde_json::json;

    fn found(found: Found) -> Option<Arc<User>> {
        match found {
            Found::Yes(user) => Some(user),
            _ => None,
        }
    }

    #[test]
    fn only_whole_fresh_tokens_of_the_issuer_count() {
        let dir = tempfile::tempdir().unwrap();
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, pair.public_key_pem()).unwrap();
        let settings = JwtSettings { key: path, issuer: Some("issuer".into()), audience: Some("mail".into()) };
        let tokens = Tokens::new(&settings, "sub").unwrap();
        let signing = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let exp = get_current_timestamp() + 600;
        let good = json!({ "sub": "u@example.org", "iss": "issuer", "aud": "mail", "exp": exp });
        let sign = |claims: &Value| encode(&Header::new(Algorithm::ES256), claims, &signing).unwrap();
        let user = found(tokens.check(&sign(&good))).unwrap();
        assert_eq!(&*user.name, "u@example.org");
        assert!(user.senders.allow(b"u@example.org") && !user.senders.allow(b"v@example.org"));
        // A name is no list, whatever stands in it.
        for name in ["a@b.test,*", "*,a@b.test", "a@b.test,@example.org", "@example.org"] {
            let user = found(user_of_claims(&json!({ "sub": name }), "sub")).unwrap();
            assert!(!user.senders.allow(b"x@example.org"), "{name}");
        }
        for (key, value) in [
            ("sub", Value::Null),
            ("iss", json!("other")),
            ("aud", json!("web")),
            ("exp", json!(get_current_timestamp() - 600)),
            ("exp", Value::Null),
            ("nbf", json!(exp)),
        ] {
            let mut bad = good.clone();
            bad[key] = value.clone();
            if value.is_null() {
                bad.as_object_mut().unwrap().remove(key);
            }
            assert!(found(tokens.check(&sign(&bad))).is_none(), "{key} = {value}");
        }
        // RFC 8725 2.1: the key's family decides, not the header.
        let hmac = encode(&Header::new(Algorithm::HS256), &good, &EncodingKey::from_secret(b"x").unwrap()).unwrap();
        let none = format!("eyJhbGciOiJub25lIn0.{}.", sign(&good).split('.').nth(1).unwrap());
        let mut cut = sign(&good);
        cut.truncate(cut.len() - 2);
        for bad in [hmac, none, cut, "a.b.c".into(), String::new()] {
            assert!(found(tokens.check(&bad)).is_none(), "{bad}");
        }
    }
}
