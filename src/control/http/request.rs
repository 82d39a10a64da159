//! What the body of a POST means: an envelope and a text, or a template and its recipients.
//!
//! Two shapes. `message/rfc822`: the body is the text as it is, and the envelope stands in the query (`from`, `to`) or in
//! the fields `X-Envelope-From` and `X-Envelope-To`. `application/json`: everything stands in one object, [`Letter`].
//! Addresses are read by the same code as those of SMTP. Pure; whatever is wrong is a [`Problem`] that names the place.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::{HeaderMap, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::Value;

use super::answer::Problem;
use crate::mail::address::{AddressError, POSTMASTER, ascii_domain, domain_of, parse_forward_path};
use crate::mail::envelope::Envelope;

/// The fields that may hold the envelope of a text that is given as it is.
pub(super) const ENVELOPE_FROM: &str = "x-envelope-from";
pub(super) const ENVELOPE_TO: &str = "x-envelope-to";

/// One object of JSON. Either `raw`, or at least one of `subject`, `text` and `html`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Letter<'a> {
    /// The reverse-path; with fields, the From field too, and may have a name then: `Name <address>`.
    #[serde(borrow)]
    pub(super) from: Cow<'a, str>,
    /// The reverse-path if it is another than `from`; empty: none, so that nothing is reported.
    #[serde(borrow, default)]
    pub(super) return_path: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) to: Recipients<'a>,
    #[serde(borrow, default)]
    pub(super) cc: Recipients<'a>,
    #[serde(borrow, default)]
    pub(super) bcc: Recipients<'a>,
    /// The whole text, header and body, as it is.
    #[serde(borrow, default)]
    pub(super) raw: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) subject: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) html: Option<Cow<'a, str>>,
    /// Further fields of the header, and those that would else be made: Date, Message-ID, Reply-To.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Values for all recipients; a recipient's own come before them. With any, texts are templates.
    #[serde(default)]
    pub(super) substitutions: Option<serde_json::Map<String, Value>>,
}

/// One or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Recipients<'a> {
    One(#[serde(borrow)] Recipient<'a>),
    Several(#[serde(borrow)] Vec<Recipient<'a>>),
}

/// An address, or an address and what its message says to it alone.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Recipient<'a> {
    Address(#[serde(borrow)] Cow<'a, str>),
    WithValues {
        #[serde(borrow)]
        address: Cow<'a, str>,
        #[serde(default)]
        substitutions: serde_json::Map<String, Value>,
    },
}

impl Default for Recipients<'_> {
    fn default() -> Self {
        Recipients::Several(Vec::new())
    }
}

impl<'a> Recipients<'a> {
    pub(super) fn all(&self) -> &[Recipient<'a>] {
        match self {
            Recipients::One(one) => std::slice::from_ref(one),
            Recipients::Several(several) => several,
        }
    }
}

impl Recipient<'_> {
    pub(super) fn address(&self) -> &str {
        match self {
            Recipient::Address(address) | Recipient::WithValues { address, .. } => address,
        }
    }

    pub(super) fn values(&self) -> Option<&serde_json::Map<String, Value>> {
        match self {
            Recipient::Address(_) => None,
            Recipient::WithValues { substitutions, .. } => Some(substitutions),
        }
    }
}

impl<'a> Letter<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Letter<'a>, Problem> {
        let letter: Letter<'a> = serde_json::from_slice(body).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body is not the JSON wanted: {error}"))
        })?;
        let composed = letter.subject.is_some() || letter.text.is_some() || letter.html.is_some();
        match &letter.raw {
            Some(_) if composed || !letter.headers.is_empty() => {
                Err(Problem::senseless("raw is the whole message: no subject, text, html or headers beside it"))
            }
            None if !composed => {
                Err(Problem::senseless("a message needs raw, or at least one of subject, text and html"))
            }
            _ => Ok(letter),
        }
    }

    /// All recipients of the envelope.
    pub(super) fn recipients(&self) -> impl Iterator<Item = &Recipient<'a>> {
        self.to.all().iter().chain(self.cc.all()).chain(self.bcc.all())
    }

    /// True if texts are templates, and each recipient gets a message of its own.
    pub(super) fn is_template(&self) -> bool {
        self.substitutions.is_some() || self.recipients().any(|recipient| recipient.values().is_some())
    }

    /// The envelope for some of the recipients. The author's address is read too, as it goes into the header.
    pub(super) fn envelope<'t>(
        &self,
        recipients: impl Iterator<Item = &'t str>,
        hostname: &str,
    ) -> Result<Envelope, Problem> {
        let author = address_of("the author", &self.from)?;
        let mut envelope = envelope(self.return_path.as_deref().unwrap_or(author), recipients, hostname)?;
        envelope.utf8 |= !author.is_ascii();
        Ok(envelope)
    }
}

/// The name and the address of `Name <address>`; without brackets all is the address.
pub(super) fn named(text: &str) -> (Option<&str>, &str) {
    let text = text.trim();
    match text.strip_suffix('>').and_then(|inner| inner.rsplit_once('<')) {
        Some((name, address)) => {
            let name = name.trim();
            let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
            (Some(name).filter(|name| !name.is_empty()), address)
        }
        None => (None, text),
    }
}

/// An envelope of these addresses, read as SMTP reads them (SES-08, SES-16, SES-19, SES-20, EXT-05).
pub(super) fn envelope<'t>(
    sender: &str,
    recipients: impl Iterator<Item = &'t str>,
    hostname: &str,
) -> Result<Envelope, Problem> {
    let mut envelope = Envelope::new();
    if !sender.is_empty() {
        let address = mailbox(sender).map_err(|error| wrong_address("the sender", sender, error))?;
        envelope.set_sender(address.as_bytes());
    }
    envelope.utf8 = !sender.is_ascii();
    for text in recipients {
        if text.as_bytes().eq_ignore_ascii_case(POSTMASTER) {
            envelope.push_recipient_parts(&[POSTMASTER, b"@", hostname.as_bytes()]);
        } else {
            let address = address_of("the recipient", text)?;
            envelope.push_recipient(address.as_bytes());
            envelope.utf8 |= !address.is_ascii();
        }
    }
    Ok(envelope)
}

/// The address of `Name <address>` or of an address alone.
fn address_of<'t>(whose: &str, text: &'t str) -> Result<&'t str, Problem> {
    if text.contains(char::is_control) {
        return Err(wrong_address(whose, text, AddressError::EightBit));
    }
    let address = named(text).1;
    mailbox(address).map_err(|error| wrong_address(whose, address, error))
}

/// A mailbox that stands alone: no source route, nothing behind it, and a domain that DNS can know.
fn mailbox(text: &str) -> Result<&str, AddressError> {
    if text.contains(char::is_control) {
        return Err(AddressError::EightBit);
    }
    let path = format!("<{text}>");
    match parse_forward_path(path.as_bytes())? {
        (read, b"") if read.mailbox == text.as_bytes() && text.contains('@') => {
            ascii_domain(domain_of(read.mailbox)).map(|_| text).ok_or(AddressError::Domain)
        }
        _ => Err(AddressError::Route),
    }
}

fn wrong_address(whose: &str, text: &str, error: AddressError) -> Problem {
    let why = match error {
        AddressError::TooLong => "is too long",
        AddressError::EightBit => "has a character where none may stand",
        AddressError::LocalPart => "has a wrong local part",
        AddressError::Domain => "has a wrong domain, or none",
        AddressError::Literal => "has a wrong address literal",
        AddressError::Brackets | AddressError::Route => "is no address",
    };
    let shown: String = text.chars().take(100).collect();
    Problem::senseless(format!("{whose} {shown:?} {why}"))
}

/// Sender and recipients of a `message/rfc822`, from the query or from fields; both are given only by mistake.
pub(super) fn given_envelope(uri: &Uri, headers: &HeaderMap, hostname: &str) -> Result<Envelope, Problem> {
    let query = uri.query().unwrap_or_default();
    let (mut senders, mut recipients) = (Vec::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // Percent codes only: a plus sign is part of many an address, a space of hardly any.
        let value = percent_decode_str(value).decode_utf8().map_err(|_| Problem::senseless("the query is no UTF-8"))?;
        match name {
            "from" => senders.push(value),
            "to" => recipients.push(value),
            _ => return Err(Problem::senseless(format!("the query has from and to only, not {name:?}"))),
        }
    }
    for (field, into) in [(ENVELOPE_FROM, &mut senders), (ENVELOPE_TO, &mut recipients)] {
        for value in headers.get_all(field) {
            let text = value.to_str().map_err(|_| Problem::senseless(format!("{field} is not ASCII")))?;
            into.push(text.trim().into());
        }
    }
    match &senders[..] {
        [sender] => envelope(sender, recipients.iter().map(|to| &**to), hostname),
        [] => Err(Problem::senseless("no sender: want ?from=ADDRESS&to=ADDRESS, or X-Envelope-From and X-Envelope-To")),
        _ => Err(Problem::senseless("more than one sender")),
    }
}
