//! Answers of services that know users and tokens: nobody is somebody without a clear word, and no name or list allows more senders than it
//! says (AUT-06).

use ringpost::control::auth::fuzzed::{Knows, confirmed, introspected};
use ringpost::smtp::auth::Senders;
use ringpost::smtp::sasl;
use serde_json::Value;

/// Any bytes are an answer. Its texts are tried as reverse-paths.
pub fn run(data: &[u8]) {
    let whole: Value = serde_json::from_slice(data).unwrap_or_default();
    let mut paths = vec!["somebody@else.example".to_owned(), "@".to_owned()];
    texts(&whole, &mut paths);
    let claims = introspected(data, "sub");
    let answers = [claims.clone(), confirmed(data, "user")];
    let senders = &whole["senders"];
    for (user, is_token) in answers.iter().zip([true, false]) {
        let Knows::User(user) = user else { continue };
        for path in paths.iter().filter(|path| !path.is_empty()) {
            let allowed = user.senders.allow(path.as_bytes());
            let by_name = is_token && user.name.contains('@') && senders.is_null();
            let fits = if by_name { path.eq_ignore_ascii_case(&user.name) } else { naive(senders, path) };
            assert!(!allowed || fits, "{path:?} of {}", user.name);
        }
    }
    match claims {
        Knows::User(user) => {
            assert_eq!((&whole["active"], whole["sub"].as_str()), (&Value::Bool(true), Some(&*user.name)));
            assert!(sasl::name(user.name.as_bytes()).is_some());
        }
        Knows::Nobody => assert!(whole["active"].is_boolean()),
        Knows::Nothing => assert!(!whole["active"].is_boolean()),
    }
}

/// A list allows what one of its words does.
fn naive(senders: &Value, path: &str) -> bool {
    let word = |text: &str| {
        text.split(',').map(str::trim).any(|word| !word.is_empty() && Senders::parse(word).allow(path.as_bytes()))
    };
    match senders {
        Value::Null => true,
        // Without a word in it, any.
        Value::String(text) => text.split(',').all(|word| word.trim().is_empty()) || word(text),
        Value::Array(list) => list.iter().filter_map(Value::as_str).any(word),
        _ => false,
    }
}

fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.extend(text.split(',').map(|part| part.trim().to_owned())),
        Value::Array(list) => list.iter().for_each(|value| texts(value, found)),
        Value::Object(members) => members.values().for_each(|value| texts(value, found)),
        _ => {}
    }
    found.truncate(50);
}
