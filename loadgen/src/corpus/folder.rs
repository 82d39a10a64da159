//! Messages from a folder, made ready to be sent and found again.
//!
//! A file is a message: line ends become CRLF, an mbox's `From ` line goes, and so do the fields that relays rewrite by
//! duty (`Return-Path`, `Bcc`). Files that SMTP cannot carry (a NUL, a line above 998 bytes) or that begin with no header
//! field are passed over. Bounded in number and size; a folder without a single usable message is an error.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The most messages taken from a folder.
pub(super) const FILES_MAX: usize = 10_000;
/// The most bytes of all of them together.
pub(super) const FOLDER_MAX_BYTES: usize = 256 << 20;
const LINE_MAX_BYTES: usize = 998;

/// The messages of a folder, unstuffed, with CRLF; with `text_only` those alone that are UTF-8.
pub(super) fn load(path: &Path, text_only: bool) -> io::Result<Vec<Vec<u8>>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let entries = fs::read_dir(path).map_err(named)?;
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|f| f.is_file()).collect();
    files.sort();
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for file in files {
        let message = ready(&fs::read(&file).map_err(named)?);
        if let Some(message) = message.filter(|message| !text_only || std::str::from_utf8(message).is_ok()) {
            bytes += message.len();
            messages.push(message);
        }
        if messages.len() == FILES_MAX || bytes > FOLDER_MAX_BYTES {
            break;
        }
    }
    if messages.is_empty() {
        return Err(named(io::Error::new(io::ErrorKind::InvalidData, "holds no message that can be sent")));
    }
    Ok(messages)
}

/// A file's message as it goes over the wire, before dots are stuffed; None if it cannot.
fn ready(file: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(file.len() + file.len() / 32);
    let (mut in_header, mut dropping, mut fields) = (true, false, 0);
    for (number, line) in file.split_inclusive(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > LINE_MAX_BYTES || line.contains(&0) || line.contains(&b'\r') {
            return None;
        }
        if number == 0 && line.starts_with(b"From ") {
            continue;
        }
        if in_header {
            let continued = line.first().is_some_and(|b| *b == b' ' || *b == b'\t');
            in_header = !line.is_empty();
            if in_header && !continued {
                let name = &line[..memchr::memchr(b':', line)?];
                dropping = name.eq_ignore_ascii_case(b"Return-Path") || name.eq_ignore_ascii_case(b"Bcc");
                fields += usize::from(!dropping);
            }
            if in_header && dropping {
                continue;
            }
        }
        message.extend_from_slice(line);
        message.extend_from_slice(b"\r\n");
    }
    (fields > 0).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{Corpus, Form, Letter};
    use crate::marker;

    #[test]
    fn files_become_messages() {
        let file = b"From x Thu Jan  1\nReturn-Path: <x@y>\nSubject: a\n b\nBcc: z@y,\n\tw@y\nFrom: c@d\n\n.dot\nend";
        assert_eq!(ready(file).unwrap(), b"Subject: a\r\n b\r\nFrom: c@d\r\n\r\n.dot\r\nend\r\n");
        assert!(ready(b"").is_none() && ready(b"no header\n").is_none() && ready(b"A: b\0\n").is_none());
        assert!(ready(b"A: b\n\nbare\rreturn\n").is_none());
        assert!(ready(&[b"A: b\n\n".as_slice(), &[b'x'; 999], b"\n"].concat()).is_none());
    }

    #[test]
    fn a_folder_is_sent_whole_and_checks_out() {
        let dir = std::env::temp_dir().join(format!("loadgen-folder-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(Corpus::from_folder(&dir, Form::Stuffed).is_err());
        fs::write(dir.join("1.eml"), "Subject: one\n\n.dots\n").unwrap();
        fs::write(dir.join("2.eml"), "Subject: two\n\nh\u{e9}\n").unwrap();
        fs::write(dir.join("3.bin"), [0u8; 10]).unwrap();
        let corpus = Corpus::from_folder(&dir, Form::Stuffed).unwrap();
        for id in 0..4 {
            let letter = Letter { run: 1, id, recipients: 1, sent_ns: 5 };
            let (mut head, mut tail) = (Vec::new(), Vec::new());
            corpus.write(&letter, &mut head, &mut tail);
            let template = corpus.template(id);
            assert_eq!(template.eight_bit, id % 2 == 1);
            assert_eq!((head.len() as u64) + template.plain_bytes, corpus.message_bytes(id));
            let (found, begun) = marker::parse(&head).unwrap();
            let plain: Vec<u8> = if id % 2 == 0 {
                b"Subject: one\r\n\r\n.dots\r\n".to_vec()
            } else {
                "Subject: two\r\n\r\nh\u{e9}\r\n".into()
            };
            assert_eq!((found.id, found.sum), (id, crc32c::crc32c_append(begun, &plain)));
            assert_eq!(tail, b".\r\n");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
