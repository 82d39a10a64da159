//! DKIM: a message cut anywhere is signed as it is whole, a body's canonical form is that of a naive reader, and nothing that a
//! header holds breaks a field of ours (BLK-02, BLK-03).

use std::sync::Arc;

use ringpost::base::time::UnixMs;
use ringpost::mail::dkim::{Algorithm, Digest, Key, KeyRing, RelaxedBody, Signing, SigningKey};

#[derive(Debug)]
struct Pen;

impl SigningKey for Pen {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RsaSha256
    }
    fn public_key(&self) -> &[u8] {
        b""
    }
    /// Tells texts apart.
    fn sign(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&super::rng(text).below(u64::MAX).to_le_bytes());
        true
    }
}

struct Text(Vec<u8>);

impl Digest for Text {
    fn update(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn finish(self: Box<Self>) -> [u8; 32] {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&super::rng(&self.0).below(u64::MAX).to_le_bytes());
        hash
    }
}

/// Any bytes are a message, and a body.
pub fn run(data: &[u8]) {
    let key = Key {
        domain: "example.org".into(),
        selector: "s".into(),
        subdomains: true,
        tenants: Box::default(),
        key: Arc::new(Pen),
    };
    let ring = Arc::new(KeyRing::new(vec![key], || Box::new(Text(Vec::new()))).expect("one key collides with none"));
    for text in [data.to_vec(), [b"From: a@example.org\r\n", data].concat()] {
        let whole = signed(&ring, &[&text]);
        assert_eq!(signed(&ring, &super::pieces(&text)), whole);
        assert_eq!(signed(&ring, &super::crumbs(&text)), whole);
        let Some(field) = whole else { continue };
        let field = str::from_utf8(&field).expect("fields of ours are ASCII");
        assert!(field.is_ascii() && field.starts_with("DKIM-Signature: v=1;") && field.ends_with("\r\n"), "{field}");
        let lines: Vec<&str> = field.trim_end().split("\r\n").collect();
        assert!(lines[1..].iter().all(|line| line.starts_with('\t') && line.len() <= 78), "{field}");
    }
    let naive = naive(data);
    for split in [vec![data], super::pieces(data), super::crumbs(data)] {
        let (mut body, mut out) = (RelaxedBody::default(), Vec::new());
        split.iter().for_each(|piece| body.feed(piece, &mut |text| out.extend_from_slice(text)));
        body.end(&mut |text| out.extend_from_slice(text));
        assert_eq!(out, naive, "{}", data.escape_ascii());
    }
}

fn signed(ring: &Arc<KeyRing>, pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let mut signing = Signing::new(ring.clone(), 0);
    pieces.iter().for_each(|piece| signing.feed(piece));
    let mut prefix = Vec::new();
    signing.end()?.write(&mut prefix, UnixMs(1)).then_some(prefix)
}

/// Line by line (RFC 6376 3.4.4).
fn naive(body: &[u8]) -> Vec<u8> {
    let mut lines = vec![Vec::new()];
    let mut at = 0;
    while at < body.len() {
        let line = lines.last_mut().expect("there is one");
        match body[at] {
            b'\r' if body.get(at + 1) == Some(&b'\n') => {
                lines.push(Vec::new());
                at += 1;
            }
            b' ' | b'\t' if line.last() == Some(&b' ') => {}
            b' ' | b'\t' => line.push(b' '),
            byte => line.push(byte),
        }
        at += 1;
    }
    for line in &mut lines {
        if line.last() == Some(&b' ') {
            line.pop();
        }
    }
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect()
}
