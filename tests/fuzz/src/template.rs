//! Templates of POST /v1/messages: whatever is filled in makes no line of the header, all is bounded, and a text without anything to fill in
//! stays as it is (DAT-04).

use ringpost::control::http::fuzzed::{Message, letter};
use serde_json::{Value, json};

use super::letter::{HOSTNAME, MOST_BYTES};

/// The first line are the values, an object of JSON; the rest is the template.
pub fn run(data: &[u8]) {
    let Ok(data) = str::from_utf8(data) else { return };
    let (first, template) = data.split_once('\n').unwrap_or(("", data));
    let values = serde_json::from_str(first).ok().filter(Value::is_object).unwrap_or_else(|| json!({}));
    if let Some(Ok((_, text))) = filled(json!({ "raw": template }), &values) {
        let text = String::from_utf8(text).expect("templates make text");
        // What are no characters are line ends here, and cannot be told from those of values.
        let marks = ['\u{fdd0}', '\u{fdd1}'];
        if !template.contains('{') && !template.contains(marks) {
            assert_eq!(text, template);
        }
        // Loops may repeat what the template itself has.
        if !template.contains("{%") && !template.contains(marks) {
            let header = if text.starts_with("\r\n") { "" } else { text.split("\r\n\r\n").next().unwrap_or_default() };
            let ends = |text: &str| text.matches(['\r', '\n']).count();
            assert!(ends(header) <= ends(template), "a value ends lines of {text:?}");
        }
    }
    let line = template.split(['\r', '\n']).next().unwrap_or_default();
    for letter in
        [json!({ "text": template, "html": template }), json!({ "subject": line, "headers": { "X-Tag": line } })]
    {
        let Some(Ok((_, text))) = filled(letter, &values) else { continue };
        let text = String::from_utf8(text).expect("it is ASCII");
        assert!(text.is_ascii() && !text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
        assert!(text.split("\r\n").all(|line| line.len() <= 998), "{text:?}");
        let (header, _) = text.split_once("\r\n\r\n").expect("a header ends");
        let names =
            header.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])).map(|line| line.split(':').next());
        let known = ["From", "To", "Subject", "X-Tag", "Date", "Message-ID", "MIME-Version"];
        for name in names.flatten() {
            assert!(known.contains(&name) || name.starts_with("Content-"), "{header:?}");
        }
    }
}

fn filled(mut whole: Value, values: &Value) -> Option<Message> {
    whole["from"] = "Ann <ann@a.example>".into();
    whole["to"] = json!({ "address": "bob@b.example", "substitutions": values });
    let (is_template, mut messages) = letter(whole.to_string().as_bytes(), HOSTNAME, MOST_BYTES).ok()?;
    assert!(is_template && messages.len() == 1);
    messages.pop()
}
