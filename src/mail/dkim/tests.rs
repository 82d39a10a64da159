//! The pure part of DKIM against naive twins; keys and hashes of these tests are none.

use proptest::prelude::*;

use super::*;

/// A digest that is its text's length and sum, enough to tell texts of a test apart.
#[derive(Default)]
struct Sum(Vec<u8>);

impl Digest for Sum {
    fn update(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn finish(self: Box<Self>) -> [u8; 32] {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(self.0.len() as u64).to_be_bytes());
        for (number, byte) in self.0.iter().enumerate() {
            let sum = &mut hash[8 + number % 24];
            *sum = sum.wrapping_mul(31).wrapping_add(*byte);
        }
        hash
    }
}

fn sum() -> Box<dyn Digest> {
    Box::<Sum>::default()
}

/// A key whose signature is as long as it is told, and which keeps what it signed.
#[derive(Debug)]
struct Pen {
    algorithm: Algorithm,
    bytes: usize,
    signed: std::sync::Mutex<Vec<u8>>,
}

impl SigningKey for Pen {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
    fn public_key(&self) -> &[u8] {
        b"public"
    }
    fn sign(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
        *self.signed.lock().unwrap() = text.to_vec();
        out.extend(std::iter::repeat_n(b'~', self.bytes));
        true
    }
}

fn pen(algorithm: Algorithm, bytes: usize) -> Arc<Pen> {
    Arc::new(Pen { algorithm, bytes, signed: Default::default() })
}

fn key(domain: &str, selector: &str, key: Arc<Pen>) -> Key {
    Key { domain: domain.into(), selector: selector.into(), subdomains: false, tenants: Box::default(), key }
}

fn ring(keys: Vec<Key>) -> Arc<KeyRing> {
    Arc::new(KeyRing::new(keys, sum).unwrap())
}

/// A body's canonical form by RFC 6376 3.4.4, line by line.
fn naive_body(body: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let mut rest = body;
    loop {
        let end = (0..rest.len()).find(|&at| rest[at..].starts_with(b"\r\n"));
        let line = &rest[..end.unwrap_or(rest.len())];
        let mut made = Vec::new();
        for &byte in line {
            match byte {
                b' ' | b'\t' if made.last() == Some(&b' ') => {}
                b' ' | b'\t' => made.push(b' '),
                _ => made.push(byte),
            }
        }
        if made.last() == Some(&b' ') {
            made.pop();
        }
        lines.push(made);
        match end {
            Some(end) => rest = &rest[end + 2..],
            None => break,
        }
    }
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect()
}

fn relaxed(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut body, mut out) = (RelaxedBody::default(), Vec::new());
    for piece in pieces {
        body.feed(piece, &mut |text| out.extend_from_slice(text));
    }
    body.end(&mut |text| out.extend_from_slice(text));
    out
}

/// BLK-03: the examples of RFC 6376 3.4.5, and what bodies end with.
#[test]
fn bodies_in_canonical_form() {
    for (body, canonical) in [
        (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
        ("", ""),
        ("\r\n\r\n", ""),
        (" \t\r\n \r\n", ""),
        (" ", ""),
        ("x", "x\r\n"),
        ("x \t", "x\r\n"),
        ("\r\n\r\nx\r\n\r\ny\r\n \r\n", "\r\n\r\nx\r\n\r\ny\r\n"),
        ("a\rb\nc\r", "a\rb\nc\r\r\n"),
        ("a\r\r\nb", "a\r\r\nb\r\n"),
        ("a \rb \n c", "a \rb \n c\r\n"),
    ] {
        assert_eq!(String::from_utf8(relaxed(&[body.as_bytes()])).unwrap(), canonical, "{body:?}");
        assert_eq!(String::from_utf8(naive_body(body.as_bytes())).unwrap(), canonical, "{body:?}");
    }
    let many = "\r\n".repeat(1000) + "x";
    assert_eq!(relaxed(&[many.as_bytes()]), (many + "\r\n").as_bytes());
}

/// BLK-03: RFC 6376 3.4.5 again, and folds.
#[test]
fn fields_in_canonical_form() {
    for (field, canonical) in [
        ("A: X\r\n", "a:X\r\n"),
        ("B : Y\t\r\n\tZ  \r\n", "b:Y Z\r\n"),
        ("Subject:\r\n", "subject:\r\n"),
        ("Subject: \r\n \r\n\t\r\n", "subject:\r\n"),
        ("SUBJect:  a:  b\t \tc", "subject:a: b c\r\n"),
        ("X:\r\n y", "x:y\r\n"),
    ] {
        let mut out = Vec::new();
        relax_field(field.as_bytes(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), canonical, "{field:?}");
    }
}

/// BLK-04: whose message it is.
#[test]
fn the_author_decides() {
    for (from, domain) in [
        ("From: a@example.org", Some("example.org")),
        ("from: A <a@EXAMPLE.org>\r\n", Some("example.org")),
        ("From : a@example.org", None),
        ("From: \"x@y.org, <z@y.org>\" <a@example.org> (c@d.org (nested \\) >))\r\n", Some("example.org")),
        ("From: =?utf-8?q?a=40b?= <a@sub.example.org>", Some("sub.example.org")),
        ("From:\r\n a\r\n <a@example.org>", Some("example.org")),
        ("From: \"quoted\"@example.org", Some("example.org")),
        ("From: a@example.org, B <b@Example.org>", Some("example.org")),
        ("From: j@b\u{fc}cher.example", Some("xn--bcher-kva.example")),
        ("From: a@example.org, b@example.net", None),
        ("From: a@example.org\r\nFrom: a@example.org", None),
        ("From: group: a@example.org;", None),
        ("From: <@route.org:a@example.org>", None),
        ("From: a@[192.0.2.1]", None),
        ("From: <>", None),
        ("From: a", None),
        ("From: a@b@example.org", None),
        ("From: <a@example.org> <b@example.net>", None),
        ("From: \"a@example.org", None),
        ("From: (a@example.org", None),
        ("From: a@example.org)", None),
        ("From: @example.org", None),
        ("From: a@-example.org", None),
        ("From:", None),
        ("Subject: x", None),
        (" From: a@example.org", None),
        ("no colon\r\nFrom: a@example.org", None),
        ("From: a@example.org\r\n: x", None),
        ("From: a@example.org\r\nX\u{fc}: x", None),
        ("X: a\nFrom: a@example.org", None),
        ("X: a\rb\r\nFrom: a@example.org", None),
        ("", None),
    ] {
        assert_eq!(author_domain(from.as_bytes()).as_deref(), domain, "{from:?}");
        let more = format!("Received: x\r\n\ty\r\n{}\r\n\r\n", from.trim_end());
        let is_field = !from.starts_with(' ') && !from.is_empty();
        assert!(!is_field || author_domain(more.as_bytes()).as_deref() == domain, "{more:?}");
    }
}

/// BLK-04: the domain's own keys, else those above it that may; a tenant's before those for all.
#[test]
fn keys_are_found() {
    let rsa = |domain, selector| key(domain, selector, pen(Algorithm::RsaSha256, 1));
    let own = Key { tenants: [3].into(), ..rsa("example.org", "tenant") };
    let below = Key { subdomains: true, ..rsa("example.org", "below") };
    let second = key("example.org", "second", pen(Algorithm::Ed25519Sha256, 1));
    let keys = ring(vec![own, below, second, rsa("a.example.org", "a"), rsa("example.net", "net")]);
    let found = |domain: &str, tenant| -> Vec<String> {
        keys.find(domain, tenant).iter().map(|key| key.selector.to_string()).collect()
    };
    assert_eq!(found("example.org", 0), ["below", "second"]);
    assert_eq!(found("example.org", 3), ["tenant"]);
    assert_eq!(found("a.example.org", 3), ["a"]);
    assert_eq!(found("x.a.example.org", 0), ["below"]);
    assert_eq!(found("b.example.org", 3), ["below"]);
    assert_eq!(found("a.example.net", 0), [""; 0]);
    assert_eq!(found("org", 0), [""; 0]);
    let twice = vec![rsa("example.org", "a"), rsa("example.org", "b")];
    assert_eq!(KeyRing::new(twice, sum).unwrap_err()[1].selector.as_ref(), "b");
}

const MESSAGE: &str = "Received: from elsewhere\r\nFrom: A <a@example.org>\r\nTo: b@example.net\r\nTo: c@example.net\r\n\
    Subject: folded\r\n\there\r\nList-Unsubscribe: <https://example.org/u?1>,\r\n <mailto:u@example.org>\r\n\
    List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nX-Other: x\r\n\r\n text \r\n\r\n";

fn signed(ring: &Arc<KeyRing>, pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let mut signing = Signing::new(ring.clone(), 0);
    pieces.iter().for_each(|piece| signing.feed(piece));
    let mut prefix = b"Received: by us\r\nDate: today\r\n".to_vec();
    signing.end()?.write(&mut prefix, UnixMs(1_795_483_328_999)).then_some(prefix)
}

/// BLK-02, BLK-03, BLK-05: on top of all, what we added is covered, From has one place more than it is there, the fields for
/// unsubscribing are in, and none of `l=`, Received and what nobody knows.
#[test]
fn the_field_says_what_it_covers() {
    let hand = pen(Algorithm::Ed25519Sha256, 64);
    let ring = ring(vec![key("example.org", "s1", hand.clone())]);
    let prefix = String::from_utf8(signed(&ring, &[MESSAGE.as_bytes()]).unwrap()).unwrap();
    let field = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; t=1795483328;\r\n\
        \td=example.org;\r\n\ts=s1;\r\n\
        \th=From:From:Reply-To:To:To:To:Cc:Subject:Subject:Date:Date:Message-ID:\r\n\
        \tContent-Type:List-Unsubscribe:List-Unsubscribe-Post;\r\n\
        \tbh=AAAAAAAAAAcAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=;\r\n\tb=";
    let hash = |prefix: &str| {
        let (before, behind) = prefix.split_once("bh=").unwrap();
        format!("{before}bh=AAAAAAAAAAcAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA={}", &behind[44..])
    };
    assert!(hash(&prefix).starts_with(field), "{prefix}");
    assert!(prefix.ends_with("\r\nReceived: by us\r\nDate: today\r\n"), "{prefix}");
    let text = String::from_utf8(hand.signed.lock().unwrap().clone()).unwrap();
    let (covered, own) = text.split_once("dkim-signature:").unwrap();
    assert_eq!(
        covered,
        "from:A <a@example.org>\r\nto:c@example.net\r\nto:b@example.net\r\nsubject:folded here\r\ndate:today\r\n\
         list-unsubscribe:<https://example.org/u?1>, <mailto:u@example.org>\r\n\
         list-unsubscribe-post:List-Unsubscribe=One-Click\r\n"
    );
    assert!(own.starts_with("v=1; a=ed25519-sha256; c=relaxed/relaxed;") && own.ends_with("; b="), "{own}");
    let whole = sum_of(b" text\r\n");
    assert!(prefix.contains(&format!("bh={};", STANDARD.encode(whole))), "{prefix}");
}

fn sum_of(text: &[u8]) -> [u8; 32] {
    let mut digest = sum();
    digest.update(text);
    digest.finish()
}

/// BLK-01: a field for each of two keys, in lines that fit, also at the bounds.
#[test]
fn the_largest_fields_fit() {
    let label = "l".repeat(40);
    let domain = [&*label; 4].join(".") + ".org";
    let selector = "s".repeat(60);
    let pens = [pen(Algorithm::RsaSha256, 512), pen(Algorithm::Ed25519Sha256, 64)];
    let ring = ring(pens.iter().map(|pen| key(&domain, &selector, pen.clone())).collect());
    let from = format!("From: a@{domain}\r\n");
    let of = |count: usize| from.clone() + &"Content-Transfer-Encoding: x\r\n".repeat(count) + "\r\nx\r\n";
    // From is there twice, Date three times, and six others are only kept away.
    let most = crate::base::limits::DKIM_FIELDS_MAX - 10;
    let prefix = String::from_utf8(signed(&ring, &[of(most).as_bytes()]).unwrap()).unwrap();
    assert_eq!(prefix.matches("DKIM-Signature: ").count(), 2);
    assert!(prefix.split("\r\n").all(|line| line.len() <= 998), "{prefix}");
    assert!(prefix.split("\r\n").filter(|line| !line.starts_with("\td=")).all(|line| line.len() <= 78), "{prefix}");
    assert!(signed(&ring, &[of(most + 1).as_bytes()]).is_none());
}

/// A message that cannot be signed soundly goes without: no key, no header, a header too long.
#[test]
fn what_goes_unsigned() {
    let ring = ring(vec![key("example.org", "s", pen(Algorithm::RsaSha256, 256))]);
    let from = "From: a@example.org\r\n";
    let long = format!("{from}X: {}\r\n\r\nx", "x".repeat(DKIM_HEADER_MAX_BYTES));
    for text in ["", "\r\n", "x", "From: a@example.net\r\n\r\n", &long, &long[..long.len() - 5]] {
        assert!(signed(&ring, &[text.as_bytes()]).is_none());
    }
    let fits = format!("{from}X: {}\r\n\r\nx", "x".repeat(DKIM_HEADER_MAX_BYTES - from.len() - 7));
    for text in [from, "From: a@example.org", "From: a@example.org\r\n\r\n", &fits] {
        assert!(signed(&ring, &[text.as_bytes()]).is_some());
    }
}

proptest! {
    /// BLK-03: however a body is cut, its canonical form is the one of the naive twin.
    #[test]
    fn bodies_in_pieces(body in "[ \t\r\nab]{0,60}", cuts in proptest::collection::vec(0..60_usize, 0..6)) {
        let body = body.as_bytes();
        prop_assert_eq!(relaxed(&pieces(body, &cuts)), naive_body(body));
    }

    /// Whatever comes, in whatever pieces: the same field or none, and no panic.
    #[test]
    fn messages_in_pieces(
        header in "(From: a@example.org\r\n)?([A-C]:[ a-c\r\n\t]{0,20}\r\n){0,4}(\r\n)?",
        body in "[ \t\r\nab]{0,40}",
        cuts in proptest::collection::vec(0..150_usize, 0..6),
    ) {
        let ring = ring(vec![key("example.org", "s", pen(Algorithm::RsaSha256, 256))]);
        let text = header + &body;
        let whole = signed(&ring, &[text.as_bytes()]);
        prop_assert_eq!(signed(&ring, &pieces(text.as_bytes(), &cuts)), whole);
    }
}

fn pieces<'a>(text: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|&cut| cut.min(text.len())).chain([0, text.len()]).collect();
    cuts.sort();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// BLK-05.
#[test]
fn what_can_be_unsubscribed_from() {
    let post = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
    for (uris, post, offers) in [
        ("List-Unsubscribe: <https://a.test/u,1>\r\n", post, true),
        ("LIST-UNSUBSCRIBE:\r\n <mailto:u@a.test>,\r\n\t< HTTPS://a.test/u >\r\n", post, true),
        (
            "List-Unsubscribe: <https://a.test/u>\r\n",
            "list-unsubscribe-post:\r\n list-unsubscribe=one-click \r\n",
            true,
        ),
        ("List-Unsubscribe: <https://a.test/u>\r\n", "", false),
        ("List-Unsubscribe: <https://a.test/u>\r\n", "List-Unsubscribe-Post: yes\r\n", false),
        ("List-Unsubscribe: <mailto:u@a.test>\r\n", post, false),
        ("List-Unsubscribe: <http://a.test/u>\r\n", post, false),
        ("List-Unsubscribe: <https://>\r\n", post, false),
        ("List-Unsubscribe: <https://a.test/u\r\n", post, false),
        ("List-Unsubscribe: https://a.test/u\r\n", post, false),
        ("List-Unsubscribe: <https://a.test/u>\r\nList-Unsubscribe: <https://b.test/u>\r\n", post, false),
        ("List-Unsubscribe: <https://a.test/u>\r\n", &post.repeat(2), false),
        ("", post, false),
    ] {
        for header in [format!("From: a@a.test\r\n{uris}{post}"), format!("{post}{uris}\r\n")] {
            assert_eq!(offers_one_click(header.as_bytes()), offers, "{header}");
        }
    }
}
