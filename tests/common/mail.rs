//! Messages to send, and what must be true of them when they arrive.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::programs;

/// Dots doubled, the naive way.
pub(crate) fn stuffed(raw: &[u8]) -> Vec<u8> {
    lines(raw)
        .flat_map(|line| [if line.starts_with(b".") { &b"."[..] } else { b"" }, line])
        .flatten()
        .copied()
        .collect()
}

/// Doubled dots made single, the naive way.
pub(crate) fn unstuffed(wire: &[u8]) -> Vec<u8> {
    lines(wire).flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}

/// Lines with their CRLF.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").map_or(rest.len(), |at| at + 2);
        let (line, behind) = rest.split_at(end);
        rest = behind;
        (!line.is_empty()).then_some(line)
    })
}

/// Takes one Received field off the top; None if there is none.
pub(crate) fn take_received(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if !text.starts_with(b"Received: ") {
        return None;
    }
    let mut end = lines(text).next()?.len();
    // The field goes on while lines begin with a blank. Our own folds with a tab or blank, and so may what follows
    // only if the message began so, which no test message does.
    while text[end..].starts_with(b" ") || text[end..].starts_with(b"\t") {
        end += lines(&text[end..]).next()?.len();
    }
    Some(text.split_at(end))
}

/// Asserts that `arrived` is `sent` under exactly one new Received field (DAT-09, TRC-01); returns that field.
pub(crate) fn assert_identical(arrived: &[u8], sent: &[u8], what: &str) -> String {
    let cut = arrived.len().checked_sub(sent.len()).unwrap_or_else(|| {
        panic!("{what}: {} bytes arrived of {}: {}", arrived.len(), sent.len(), arrived.escape_ascii())
    });
    let (field, rest) = arrived.split_at(cut);
    if rest != sent {
        let at = rest.iter().zip(sent).position(|(a, b)| a != b).unwrap();
        let near = |text: &[u8]| text[at.saturating_sub(20)..text.len().min(at + 60)].escape_ascii().to_string();
        panic!("{what}: differs at byte {at}: sent {}, arrived {}", near(sent), near(rest));
    }
    let text = String::from_utf8(field.to_vec()).expect("a trace field is ASCII");
    assert!(text.starts_with("Received: from ") && text.ends_with("\r\n"), "{what}: {text:?} on top");
    let folded = text.trim_end().split("\r\n").skip(1).all(|line| line.starts_with([' ', '\t']));
    assert!(folded && text.is_ascii(), "{what}: {text:?} on top");
    text
}

/// A message with a subject of its own.
pub(crate) fn plain(subject: &str) -> Vec<u8> {
    format!(
        "From: Sender <sender@example.com>\r\nTo: Receiver <receiver@example.org>\r\nSubject: {subject}\r\n\
         Date: Tue, 24 Nov 2026 02:00:00 +0000\r\nMessage-ID: <{subject}@example.com>\r\n\r\nHello.\r\n"
    )
    .into_bytes()
}

/// Messages made to be hard, not dot-stuffed, with a name each.
pub(crate) fn torture() -> Vec<(String, Vec<u8>)> {
    let head = b"From: a@example.com\r\nTo: b@example.org\r\nSubject: torture\r\n\r\n".to_vec();
    let with = |body: &[u8]| [&head[..], body].concat();
    let every_octet: Vec<u8> = (0..=255).filter(|octet| !b"\r\n".contains(octet)).collect();
    let long = |length: usize, byte: u8| [&vec![byte; length][..], b"\r\n"].concat();
    let mut seams = Vec::new();
    for length in (0..998).step_by(7) {
        // A dot at the start of a line, at every distance from buffer seams.
        seams.extend_from_slice(&[b".", &vec![b's'; length][..], b"\r\n"].concat());
    }
    let list: Vec<(&str, Vec<u8>)> = vec![
        ("no body", head.clone()),
        ("no header", b"\r\nonly a body\r\n".to_vec()),
        ("no colon anywhere", b"just text\r\nand more\r\n".to_vec()),
        ("one empty line", b"\r\n".to_vec()),
        ("nothing at all", Vec::new()),
        ("dots", with(b".\r\n..\r\n...\r\n.x\r\nx.\r\n. \r\n.\t.\r\n")),
        ("a dot first", b".\r\nleading\r\n".to_vec()),
        ("many empty lines", with(&b"\r\n".repeat(500))),
        ("many dots", with(&b".\r\n".repeat(5000))),
        ("seams", with(&seams)),
        ("long lines", with(&[long(998, b'x'), long(998, b'.'), long(997, b'y')].concat())),
        ("long header", [b"X-Long: ", &long(990, b'h')[..], b"Subject: s\r\n\r\nbody\r\n"].concat()),
        ("trailing blanks", with(b"blank \r\ntab\t\r\n \r\n\t\r\n")),
        ("NUL", with(b"a\0b\r\n\0\r\n\0\0\0\r\n")),
        ("every octet", with(&[&every_octet[..], b"\r\n"].concat())),
        ("UTF-8", with("Grüße, 世界, \u{1f4ec}\r\n".as_bytes())),
        (
            "own trace",
            [b"Received: from x by y;\r\n\tTue, 24 Nov 2026 02:00:00 +0000\r\n", &head[..], b"x\r\n"].concat(),
        ),
        (
            "a megabyte",
            with(&b"0123456789abcdefghijklmnopqrstuvwxyz.0123456789abcdefghijklmnopqrstuvwxyz\r\n".repeat(14_000)),
        ),
    ];
    list.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()
}

/// The mail that CPython's tests keep, made fit for the wire: line ends are CRLF.
pub(crate) fn cpython() -> Vec<(String, Vec<u8>)> {
    let find = "import os, test.test_email; print(os.path.join(os.path.dirname(test.test_email.__file__), 'data'))";
    let output = programs::run(Command::new(programs::python()).args(["-c", find]), Duration::from_secs(20));
    let hint = "CPython's test mail is missing; install it with: apt-get install libpython3-testsuite";
    assert!(output.status.success(), "{hint}");
    let dir = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}; {hint}", dir.display()))
        .flatten()
        .map(|e| e.path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "txt"));
    files.sort();
    assert!(files.len() > 20, "{hint}");
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, wire_safe(&text))
        })
        .collect()
}

/// Every CRLF, bare CR and bare LF becomes CRLF; the last line gets one.
fn wire_safe(text: &[u8]) -> Vec<u8> {
    let mut safe = Vec::new();
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'\n' if at > 0 && text[at - 1] == b'\r' => {}
            b'\r' | b'\n' => safe.extend_from_slice(b"\r\n"),
            other => safe.push(*other),
        }
    }
    if !safe.is_empty() && !safe.ends_with(b"\r\n") {
        safe.extend_from_slice(b"\r\n");
    }
    safe
}
