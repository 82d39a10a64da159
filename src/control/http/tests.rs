//! What bodies mean, what is made of them, and what is refused, without a socket.

use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::json;

use super::answer::Problem;
use super::compose::{self, Templates};
use super::request::{self, Letter};
use crate::smtp::reply;

fn letter(text: &str) -> Letter<'_> {
    Letter::read(text.as_bytes()).unwrap()
}

fn refusal(text: &str) -> String {
    let problem = Letter::read(text.as_bytes()).unwrap_err();
    problem.fields()["error"].as_str().unwrap().to_owned()
}

fn composed(text: &str) -> String {
    String::from_utf8(compose::text(&letter(text), "relay.test").unwrap()).unwrap()
}

#[test]
fn a_letter_is_raw_or_composed() {
    assert_eq!(composed(r#"{"from":"a@b","to":"c@d","raw":"A: b\r\n\r\n.x\r\n"}"#), "A: b\r\n\r\n.x\r\n");
    assert!(refusal(r#"{"from":"a@b","to":"c@d"}"#).contains("needs raw"));
    assert!(refusal(r#"{"from":"a@b","to":"c@d","raw":"x","text":"y"}"#).contains("whole message"));
    assert!(refusal(r#"{"from":"a@b","tu":"c@d","raw":"x"}"#).contains("unknown field `tu`"));
    assert!(refusal("nonsense").contains("not the JSON wanted"));
}

#[test]
fn a_composed_text_has_what_a_message_needs() {
    let text = composed(
        r#"{"from":"Ann <a@b.test>","to":["c@d.test","Dü <e@f.test>"],"bcc":"secret@g.test","subject":"Grüße",
            "text":"one\n.two\n","html":"<p>one</p>","headers":{"X-Tag":"7","date":"Tue, 24 Nov 2026 01:22:08 +0000"}}"#,
    );
    assert!(text.is_ascii(), "{text}");
    for part in [
        "From: \"Ann\" <a@b.test>\r\n",
        "<c@d.test>",
        "Subject: =?utf-8?",
        "X-Tag: 7\r\n",
        "Date: Tue, 24 Nov 2026 01:22:08 +0000\r\n",
        "@relay.test>\r\n",
        "MIME-Version: 1.0\r\n",
        "multipart/alternative",
        "one\r\n.two\r\n",
        "<p>one</p>",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(text.matches("Date:").count(), 1);
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    assert!(text.split("\r\n").all(|line| line.len() <= 998));
}

/// Long and hostile texts become lines that the relay itself would take.
#[test]
fn composed_texts_are_of_short_lines() {
    let text = json!({ "from": "a@b.test", "to": "c@d.test", "text": "x".repeat(5000) + "\r\r\n\nü", "subject": "y".repeat(3000) });
    let text = composed(&text.to_string());
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "{text}");
    let text = composed(r#"{"from":"a@b.test","to":"c@d.test","text":"a\rb\r\nc\nd","html":"<p>\r</p>"}"#);
    assert!(text.contains("a\r\nb\r\nc\r\nd") && text.contains("<p>\r\n</p>"), "{text:?}");
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
}

#[test]
fn fields_cannot_be_smuggled_in() {
    for headers in [
        r#"{"X-A":"b\r\nBcc: c@d"}"#,
        r#"{"X-A\r\nX-B":"b"}"#,
        r#"{"X A":"b"}"#,
        r#"{"From":"other@b"}"#,
        r#"{"":"b"}"#,
        r#"{"Received":"b"}"#,
        r#"{"Date":"b","date":"c"}"#,
    ] {
        let text = format!(r#"{{"from":"a@b","to":"c@d","text":"x","headers":{headers}}}"#);
        assert!(compose::text(&letter(&text), "relay.test").is_err(), "{headers}");
    }
    let text = r#"{"from":"A\nX: y <a@b>","to":"c@d","text":"x"}"#;
    assert!(compose::text(&letter(text), "relay.test").is_err());
    for end in ["\r\n", "\r", "\n", "\0", "\u{b}", "\u{7f}"] {
        for (member, value) in [("subject", format!("a{end}X: y")), ("from", format!("a{end}X: y <a@b>"))] {
            let mut text = json!({ "from": "a@b", "to": "c@d", "text": "x" });
            text[member] = value.into();
            assert!(compose::text(&letter(&text.to_string()), "relay.test").is_err(), "{member} {end:?}");
        }
    }
}

#[test]
fn templates_are_filled_for_each_recipient() {
    let text = json!({
        "from": "a@b.test",
        "to": [{ "address": "c@d.test", "substitutions": { "name": "<Cora> & co" } }, "e@f.test"],
        "subject": "For {{ name }}",
        "text": "Dear {{ name }} at {{ address }}, {% for x in list %}{{ x }};{% endfor %}\n",
        "html": "<p>{{ name }}</p>",
        "headers": { "X-For": "{{ address }}" },
        "substitutions": { "name": "you", "list": [1, 2] },
    })
    .to_string();
    let letter = letter(&text);
    assert!(letter.is_template());
    let templates = Templates::read(&letter, 10_000).unwrap();
    let filled: Vec<String> = letter
        .recipients()
        .map(|to| String::from_utf8(templates.fill(&letter, to, "relay.test").unwrap()).unwrap())
        .collect();
    for (at, parts) in [
        (
            0,
            [
                "For <Cora> & co",
                "Dear <Cora> & co at c@d.test, 1;2;",
                "<p>&lt;Cora&gt; &amp; co</p>",
                "X-For: c@d.test",
            ],
        ),
        (1, ["For you", "Dear you at e@f.test, 1;2;", "<p>you</p>", "X-For: e@f.test"]),
    ] {
        for part in parts {
            assert!(filled[at].contains(part), "{part:?} is not in {}", filled[at]);
        }
    }
    assert!(!filled[0].contains("e@f.test") && !filled[1].contains("c@d.test"));
}

/// In every text that is filled in, a value stays a value.
#[test]
fn values_make_no_fields() {
    let fill = |member: &str, template: &str, value: &str| {
        let mut text = json!({ "from": "a@b", "to": [{ "address": "c@d", "substitutions": { "v": value } }] });
        match member.strip_prefix("headers.") {
            Some(name) => text["headers"] = json!({ name: template }),
            None => text[member] = template.into(),
        }
        if member != "raw" {
            text["text"] = "x".into();
        }
        let text = text.to_string();
        let letter = letter(&text);
        let templates = Templates::read(&letter, 10_000)?;
        templates.fill(&letter, letter.recipients().next().unwrap(), "relay.test")
    };
    for end in ["\r\n", "\r", "\n"] {
        let value = format!("x{end}X-Smuggled: y{end}{end}z");
        for (member, template) in
            [("subject", "{{ v }}"), ("headers.X-V", "{{ v }}"), ("raw", "A: {{ v }}\r\n\r\nx\r\n")]
        {
            assert!(fill(member, template, &value).is_err(), "{member} {end:?}");
        }
        assert!(fill("raw", "{{ v }}", &value).is_err());
        assert!(fill("raw", "A: {% set a %}{{ v }}{% endset %}{{ a }}\r\n\r\nx\r\n", &value).is_err());
        let body = fill("raw", "A: b\r\n\r\n{{ v }}\r\n", &value).unwrap();
        assert_eq!(body, format!("A: b\r\n\r\n{value}\r\n").into_bytes());
        assert_eq!(fill("raw", "\r\n{{ v }}", &value).unwrap(), format!("\r\n{value}").into_bytes());
    }
}

#[test]
fn templates_are_strict_and_bounded() {
    let fill = |text: &str, values: serde_json::Value| {
        let text =
            json!({ "from": "a@b", "to": [{ "address": "c@d", "substitutions": values }], "raw": text }).to_string();
        let letter = letter(&text);
        let templates = Templates::read(&letter, 1000)?;
        templates.fill(&letter, letter.recipients().next().unwrap(), "relay.test")
    };
    assert_eq!(fill("{{ a }}\r\n", json!({ "a": 1 })).unwrap(), b"1\r\n");
    let error = |text, values| fill(text, values).unwrap_err().fields()["error"].as_str().unwrap().to_owned();
    assert!(error("{{ b }}", json!({ "a": 1 })).contains("undefined"));
    assert!(error("{{ a", json!({ "a": 1 })).contains("raw"));
    assert!(error("{% for x in range(1000) %}{{ x }}{% endfor %}", json!({})).contains("raw"));
    let loops = "{% for x in range(9999) %}{% for y in range(9999) %}{% endfor %}{% endfor %}";
    assert!(error(loops, json!({})).contains("fuel"), "{}", error(loops, json!({})));
}

#[test]
fn addresses_are_read_as_in_smtp() {
    let read = |sender: &str, to: &[&str]| request::envelope(sender, to.iter().copied(), "relay.test");
    let envelope = read("a@b.test", &["c@d.test", "Name <e@f.test>", "Postmaster", "\"q q\"@g.test"]).unwrap();
    assert_eq!(envelope.sender(), b"a@b.test");
    let recipients: Vec<&[u8]> = envelope.recipients().collect();
    assert_eq!(recipients, [&b"c@d.test"[..], b"e@f.test", b"postmaster@relay.test", b"\"q q\"@g.test"]);
    assert!(!envelope.utf8);
    assert!(read("", &["c@d.test"]).unwrap().sender().is_empty());
    // EXT-05: the next hop must be told of UTF-8.
    assert!(read("a@b.test", &["c@d.test", "\u{fc}@d.test"]).unwrap().utf8);
    assert!(read("\u{fc}@d.test", &["c@d.test"]).unwrap().utf8);
    let long = format!("{}@d.test", "x".repeat(65));
    for bad in ["", "c", "c@", "postmaster", "c d@e.test", "@x:c@d.test", "c@\u{fc}\u{ad}\u{2028}.test", &long] {
        assert!(read(if bad.is_empty() { "c" } else { bad }, &["c@d.test"]).is_err(), "{bad:?}");
        assert!(bad == "postmaster" || read("a@b.test", &[bad]).is_err(), "{bad:?}");
    }
}

/// What ends a line, a path or a string for SMTP, in each place of an address.
fn hostile_addresses() -> Vec<String> {
    let ends = ["\r", "\n", "\r\n", "\0", "<", ">", "\r\nRCPT TO:<x@y.test>", "> SIZE=1", "\u{1}", "\u{7f}", "\u{85}"];
    let places = |end: &str| {
        [
            format!("c@d.test{end}"),
            format!("{end}c@d.test"),
            format!("c{end}@d.test"),
            format!("c@d{end}.test"),
            format!("\"c{end}\"@d.test"),
            format!("\"\\{end}\"@d.test"),
            format!("c@[192.0.2.1{end}]"),
        ]
    };
    // Within quotes what is printable is a letter like others.
    let is_fine = |text: &String| text.starts_with('"') && !text.contains(char::is_control);
    ends.iter().flat_map(|end| places(end)).filter(|text| !is_fine(text)).collect()
}

/// Nothing that a client says ends a line of SMTP or of the header.
#[test]
fn addresses_smuggle_nothing() {
    let none = HeaderMap::new();
    for bad in hostile_addresses() {
        assert!(request::envelope("a@b.test", std::iter::once(&*bad), "relay.test").is_err(), "{bad:?}");
        assert!(request::envelope(&bad, std::iter::once("c@d.test"), "relay.test").is_err(), "{bad:?}");
        let value: String = bad.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for query in [format!("from={value}&to=e@f.test"), format!("from=e@f.test&to={value}")] {
            let uri: Uri = format!("/v1/messages?{query}").parse().unwrap();
            assert!(request::given_envelope(&uri, &none, "relay.test").is_err(), "{query} {bad:?}");
        }
        for member in ["from", "to", "cc", "bcc", "return_path"] {
            let mut text = json!({ "from": "a@b.test", "to": ["c@d.test"], "return_path": "r@b.test", "text": "x" });
            text[member] = (*bad).into();
            let text = text.to_string();
            let letter = letter(&text);
            let to = letter.recipients().map(|to| to.address());
            assert!(letter.envelope(to, "relay.test").is_err(), "{member} {bad:?}");
        }
    }
}

/// True if the address fields of a composed text hold one address each, and nothing else.
fn one_address_a_field(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let header = text.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ").replace("\r\n\t", " ");
    header.split("\r\n").filter(|line| line.starts_with("From:") || line.starts_with("Cc:")).all(|line| {
        let (mut quoted, mut escaped, mut brackets) = (false, false, 0);
        for c in line.chars() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = quoted,
                '"' => quoted = !quoted,
                '<' => brackets += u32::from(!quoted),
                _ => {}
            }
        }
        brackets == 1
    })
}

/// A name cannot become an address, or another field.
#[test]
fn names_stay_names() {
    for from in [
        "\"x\" <evil@e.test>, \"y\" <a@b.test>",
        "x\" <evil@e.test>, \"y <a@b.test>",
        "<evil@e.test> <a@b.test>",
        "x\\ <a@b.test>",
    ] {
        let text = json!({ "from": from, "to": "c@d.test", "text": "x" }).to_string();
        let letter = letter(&text);
        assert_eq!(letter.envelope(std::iter::once("c@d.test"), "relay.test").unwrap().sender(), b"a@b.test");
        let text = compose::text(&letter, "relay.test").unwrap();
        assert!(one_address_a_field(&text), "{from}: {}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn raw_messages_have_their_envelope_beside_them() {
    let none = HeaderMap::new();
    let uri: Uri = "/v1/messages?from=a%40b.test&to=c+tag@d.test&to=e@f.test".parse().unwrap();
    let envelope = request::given_envelope(&uri, &none, "relay.test").unwrap();
    assert_eq!(envelope.sender(), b"a@b.test");
    assert_eq!(envelope.recipients().collect::<Vec<_>>(), [&b"c+tag@d.test"[..], b"e@f.test"]);
    let mut fields = HeaderMap::new();
    fields.append("x-envelope-from", "a@b.test".parse().unwrap());
    fields.append("x-envelope-to", "c@d.test".parse().unwrap());
    fields.append("x-envelope-to", "e@f.test".parse().unwrap());
    let bare: Uri = "/v1/messages".parse().unwrap();
    assert_eq!(request::given_envelope(&bare, &fields, "relay.test").unwrap().len(), 2);
    assert!(request::given_envelope(&bare, &none, "relay.test").is_err());
    assert!(request::given_envelope(&uri, &fields, "relay.test").is_err(), "two senders");
    let odd: Uri = "/v1/messages?from=a@b.test&tu=c@d.test".parse().unwrap();
    assert!(request::given_envelope(&odd, &none, "relay.test").is_err());
}

#[test]
fn replies_become_statuses() {
    for (reply, status) in [
        (reply::STORAGE_FULL, 507),
        (reply::STORAGE_FAILING, 503),
        (reply::SHUTTING_DOWN, 503),
        (reply::TOO_LARGE, 413),
        (reply::RELAY_DENIED, 403),
        (reply::TOO_MANY_RECIPIENTS, 422),
        (reply::BARE_LINE_END, 422),
        (reply::LOOPING, 422),
    ] {
        let problem = Problem::from(reply);
        assert_eq!(problem.status, StatusCode::from_u16(status).unwrap());
        let fields = problem.fields();
        assert!(reply.text().trim_end().ends_with(fields["error"].as_str().unwrap()), "{fields:?}");
        assert_eq!(fields["reply"], reply.text().trim_end());
    }
}
