//! Bodies of POST /v1/messages: whatever JSON they are, no address holds what could end a line, a text that is given stays as it is, and one
//! that is made has the fields that were asked for and one author (SES-19, SES-20, DAT-04).

use ringpost::control::http::fuzzed::letter;
use ringpost::mail::address::parse_forward_path;
use ringpost::mail::envelope::Envelope;
use serde_json::Value;

pub(crate) const HOSTNAME: &str = "relay.example";
pub(crate) const MOST_BYTES: u64 = 5000;

/// Fields that a message has of its own.
const FIELDS: [&str; 9] =
    ["From", "To", "Cc", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"];

/// Any bytes are a body.
pub fn run(data: &[u8]) {
    let Ok((is_template, messages)) = letter(data, HOSTNAME, MOST_BYTES) else { return };
    let whole: Value = serde_json::from_slice(data).expect("it was read");
    let recipients: usize =
        ["to", "cc", "bcc"].iter().map(|member| whole[*member].as_array().map_or(1, Vec::len)).sum();
    let absent = ["to", "cc", "bcc"].iter().filter(|member| whole[**member].is_null()).count();
    let recipients = recipients - absent;
    assert_eq!(messages.len(), if is_template { recipients } else { 1 });
    for message in messages {
        let Ok((envelope, text)) = message else { continue };
        assert_eq!(envelope.len(), if is_template { 1 } else { recipients });
        check_envelope(&envelope);
        match whole["raw"].as_str() {
            Some(raw) if !is_template => assert_eq!(text, raw.as_bytes()),
            Some(_) => assert!(text.len() as u64 <= MOST_BYTES),
            None => check_composed(&whole, &envelope, &text),
        }
    }
}

/// Addresses are whole mailboxes, as SMTP would have taken them.
pub(crate) fn check_envelope(envelope: &Envelope) {
    for address in envelope.recipients().chain(Some(envelope.sender()).filter(|sender| !sender.is_empty())) {
        let shown = address.escape_ascii();
        assert!(!address.iter().any(u8::is_ascii_control), "{shown}");
        assert!(address.is_ascii() || envelope.utf8, "{shown} without SMTPUTF8");
        let path = [b"<", address, b">"].concat();
        let (read, behind) = parse_forward_path(&path).unwrap_or_else(|error| panic!("{shown}: {error:?}"));
        assert!(read.mailbox == address && behind.is_empty() && address.contains(&b'@'), "{shown}");
    }
}

fn check_composed(whole: &Value, envelope: &Envelope, text: &[u8]) {
    assert!(text.is_ascii() || envelope.utf8);
    let text = str::from_utf8(text).expect("it was made of texts");
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "{text:?}");
    let (header, _) = text.split_once("\r\n\r\n").expect("a header ends");
    let mut given: Vec<&str> = whole["headers"].as_object().into_iter().flatten().map(|(name, _)| &**name).collect();
    let mut own = FIELDS.to_vec();
    for field in unfolded(header) {
        let (name, value) = field.split_once(':').unwrap_or_else(|| panic!("{field:?} is no field"));
        let list = if given.iter().any(|known| known.eq_ignore_ascii_case(name)) { &mut given } else { &mut own };
        let at = list.iter().position(|known| known.eq_ignore_ascii_case(name));
        list.remove(at.unwrap_or_else(|| panic!("nobody asked for {field:?}, or not twice")));
        // What is given is not made as well.
        own.retain(|known| !known.eq_ignore_ascii_case(name));
        assert!(!given.iter().any(|known| known.eq_ignore_ascii_case(name)), "{name} twice");
        if name == "From" {
            one_author(value, whole["from"].as_str().expect("it was read"));
        }
    }
    assert!(given.is_empty(), "{given:?} is lost");
}

fn unfolded(header: &str) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for line in header.split("\r\n") {
        match fields.last_mut() {
            Some(field) if line.starts_with([' ', '\t']) => field.push_str(line),
            _ => fields.push(line.to_owned()),
        }
    }
    fields
}

/// Whatever stands in a name, behind it is one address: that which was given.
fn one_author(field: &str, given: &str) {
    let address = match given.trim().strip_suffix('>') {
        Some(inner) => inner.rsplit_once('<').map_or(given.trim(), |(_, address)| address),
        None => given.trim(),
    };
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in field.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => return assert_eq!(field[at..].trim_end(), format!("<{address}>")),
            ',' | ':' | ';' | '>' | '(' | ')' | '@' if !quoted => break,
            _ => {}
        }
    }
    panic!("{field:?} is not {address}");
}
