//! The readers of this room behind plain types, for the fuzzer (`tests/fuzz`): what bodies mean, and what the file of holds says.
//! Nobody else calls them. Errors are the texts that a client or the operator is told.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::answer::Problem;
use super::compose;
pub use super::orders::Standing;
use super::orders::{Holds, read_order};
use super::request::{Letter, given_envelope};
use crate::mail::envelope::Envelope;
use crate::shard::orders::{Order, Target};

/// A message as it would go to a shard, or why it is not made.
pub type Message = Result<(Envelope, Vec<u8>), String>;

/// What a JSON body for `/v1/messages` is made into; whether it is a template, and all its messages.
pub fn letter(body: &[u8], hostname: &str, most_bytes: u64) -> Result<(bool, Vec<Message>), String> {
    let letter = Letter::read(body).map_err(told)?;
    if letter.is_template() {
        let each = compose::each(&letter, hostname, most_bytes).map_err(told)?;
        return Ok((true, each.map(|(_, message)| message.map_err(told)).collect()));
    }
    let envelope = letter.envelope(letter.recipients().map(|recipient| recipient.address()), hostname).map_err(told)?;
    let text = compose::text(&letter, hostname).map_err(told)?;
    Ok((false, vec![Ok((envelope, text))]))
}

/// The envelope of a text that is given as it is, by its query and fields. `None`: HTTP has no such query or field.
pub fn given(query: &str, fields: &[(&str, &[u8])], hostname: &str) -> Option<Result<Envelope, String>> {
    let uri: Uri = format!("/v1/messages?{query}").parse().ok()?;
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(given_envelope(&uri, &headers, hostname).map_err(told))
}

/// What a body for `/v1/queue` orders.
pub fn order(body: &[u8]) -> Result<(Order, Target), String> {
    read_order(body).map_err(told)
}

/// What the file of holds says: targets, and tenants with rates.
pub fn holds(text: &[u8]) -> Result<Standing, String> {
    Holds::read(text)
}

/// The file of holds that says this.
pub fn holds_text(targets: &[Target], rates: &[(Box<str>, u32)]) -> Vec<u8> {
    Holds::text(targets, rates).expect("names are texts")
}

fn told(problem: Problem) -> String {
    problem.fields()["error"].as_str().expect("a problem has a text").to_owned()
}
