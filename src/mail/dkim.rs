//! DKIM signatures (BLK-01..BLK-05; RFC 6376, 8301, 8463): what is signed of a message, and the field that says so.
//!
//! A [`Signing`] is fed a message in plain form, in any pieces, as it comes: it keeps the header, within a bound, chooses the
//! keys by the domain of From when the header is whole, and hashes the body from then on; nothing is read twice. At its end it
//! is a [`Signed`], which writes the fields once everything that we add ourselves is known (BLK-03).
//!
//! Both canonicalizations are *relaxed* (RFC 6376 3.4.2, 3.4.4), the only ones that survive what relays do to white space.
//! What hashes and signs is behind two traits, so that nothing here knows a cipher; the naive twins are in the tests. Pure,
//! shard-local; the ring of keys is shared by all shards and never changes. Whatever a message holds is no panic and no error:
//! one that cannot be signed soundly goes without a signature.

mod canonical;
mod fields;

use std::fmt::Debug;
use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use rustc_hash::FxHashMap;

use crate::base::limits::{DKIM_FIELD_MAX_BYTES, DKIM_HEADER_MAX_BYTES};
use crate::base::time::UnixMs;

pub use canonical::{RelaxedBody, relax_field};
pub use fields::{Selection, author_domain, offers_one_click};

/// Hashes with SHA-256.
pub trait Digest {
    /// Takes the next bytes.
    fn update(&mut self, bytes: &[u8]);
    /// The hash of all of them.
    fn finish(self: Box<Self>) -> [u8; 32];
}

/// A private key.
pub trait SigningKey: Debug + Send + Sync {
    /// What kind it is.
    fn algorithm(&self) -> Algorithm;
    /// The public key as `p=` of its record has it, before base64 (RFC 6376 3.6.1, RFC 8463 4).
    fn public_key(&self) -> &[u8];
    /// Appends the signature of a text as `b=` has it, before base64. False if that does not work, which is a fault of the machine.
    fn sign(&self, text: &[u8], out: &mut Vec<u8>) -> bool;
}

/// The kinds of signatures (RFC 8301 3.1, RFC 8463 3): none uses SHA-1 (BLK-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA, PKCS #1 1.5.
    RsaSha256,
    /// Ed25519.
    Ed25519Sha256,
}

impl Algorithm {
    /// As `a=` has it.
    pub const fn tag(self) -> &'static str {
        match self {
            Algorithm::RsaSha256 => "rsa-sha256",
            Algorithm::Ed25519Sha256 => "ed25519-sha256",
        }
    }

    /// As `k=` of the key's record has it.
    pub const fn key_type(self) -> &'static str {
        match self {
            Algorithm::RsaSha256 => "rsa",
            Algorithm::Ed25519Sha256 => "ed25519",
        }
    }
}

/// A key with its name in DNS, and whose mail it is for.
#[derive(Clone, Debug)]
pub struct Key {
    /// `d=`, in lower case.
    pub domain: Box<str>,
    /// `s=`.
    pub selector: Box<str>,
    /// It signs for authors below its domain, too.
    pub subdomains: bool,
    /// For these tenants alone, by number; none: for everybody.
    pub tenants: Box<[u16]>,
    /// The key itself.
    pub key: Arc<dyn SigningKey>,
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        let known = |key: &Key| (key.domain.clone(), key.selector.clone(), key.subdomains, key.tenants.clone());
        known(self) == known(other) && self.key.public_key() == other.key.public_key()
    }
}

impl Eq for Key {}

impl Key {
    /// Where its record is in DNS.
    pub fn record_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// What its record says (RFC 6376 3.6.1).
    pub fn record(&self) -> String {
        let public = STANDARD.encode(self.key.public_key());
        format!("v=DKIM1; k={}; p={public}", self.key.algorithm().key_type())
    }

    /// Both sign for the same mail with the same kind of signature.
    fn collides(&self, other: &Key) -> bool {
        let same = self.tenants.is_empty() && other.tenants.is_empty()
            || self.tenants.iter().any(|tenant| other.tenants.contains(tenant));
        same && self.domain == other.domain && self.key.algorithm() == other.key.algorithm()
    }
}

/// All keys, by domain.
#[derive(Clone)]
pub struct KeyRing {
    keys: FxHashMap<Box<str>, Vec<Arc<Key>>>,
    digest: fn() -> Box<dyn Digest>,
}

impl Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(&self.keys).finish()
    }
}

impl PartialEq for KeyRing {
    fn eq(&self, other: &KeyRing) -> bool {
        self.keys == other.keys
    }
}

impl Eq for KeyRing {}

impl KeyRing {
    /// A ring of these keys, which hashes so. The error names two of them of which only one could sign: same domain, same kind,
    /// same tenant.
    pub fn new(keys: Vec<Key>, digest: fn() -> Box<dyn Digest>) -> Result<KeyRing, Box<[Key; 2]>> {
        let mut ring = KeyRing { keys: FxHashMap::default(), digest };
        for key in keys {
            let of_domain = ring.keys.entry(key.domain.clone()).or_default();
            if let Some(other) = of_domain.iter().find(|other| other.collides(&key)) {
                return Err(Box::new([(**other).clone(), key]));
            }
            of_domain.push(Arc::new(key));
        }
        Ok(ring)
    }

    /// The keys for mail of a tenant with this domain in From, so that the two are aligned (BLK-04; RFC 9989): those of the
    /// domain itself, else of the nearest one above it that signs for what is below. A tenant's own go before those for everybody. Two at most,
    /// of different kinds.
    pub fn find(&self, domain: &str, tenant: u16) -> Vec<Arc<Key>> {
        let mut name = domain;
        loop {
            let of_domain = self.keys.get(name).map_or(&[][..], Vec::as_slice);
            let fit = |key: &&Arc<Key>| key.subdomains || name.len() == domain.len();
            let own = of_domain.iter().filter(fit).filter(|key| key.tenants.contains(&tenant));
            let own: Vec<_> = own.cloned().collect();
            if !own.is_empty() {
                return own;
            }
            let all = of_domain.iter().filter(fit).filter(|key| key.tenants.is_empty());
            let all: Vec<_> = all.cloned().collect();
            if !all.is_empty() {
                return all;
            }
            match name.split_once('.') {
                Some((_, above)) => name = above,
                None => return all,
            }
        }
    }

    /// All keys, by domain and selector.
    pub fn keys(&self) -> Vec<&Key> {
        let mut keys: Vec<&Key> = self.keys.values().flatten().map(|key| &**key).collect();
        keys.sort_by_key(|key| (key.domain.clone(), key.selector.clone()));
        keys
    }
}

/// How far a message has come.
enum Stage {
    Header,
    Body {
        keys: Vec<Arc<Key>>,
        digest: Box<dyn Digest>,
    },
    /// It will not be signed; what else comes of it is not looked at.
    Unsigned,
}

/// A message that comes, in plain form.
pub struct Signing {
    ring: Arc<KeyRing>,
    tenant: u16,
    stage: Stage,
    header: Vec<u8>,
    body: RelaxedBody,
    /// Of the body, what is not hashed yet.
    canonical: Vec<u8>,
}

/// What is looked at in one go: of a header, for its end; of a body, before it is hashed.
const STRIDE_BYTES: usize = 4096;

impl Signing {
    /// Before the first byte of a message of this tenant.
    pub fn new(ring: Arc<KeyRing>, tenant: u16) -> Signing {
        Signing {
            ring,
            tenant,
            stage: Stage::Header,
            header: Vec::new(),
            body: RelaxedBody::default(),
            canonical: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, piece: &[u8]) {
        for part in piece.chunks(STRIDE_BYTES) {
            let mut part = part;
            if matches!(self.stage, Stage::Header) {
                let before = self.header.len();
                self.header.extend_from_slice(part);
                match header_end(&self.header, before) {
                    Some(end) => {
                        self.header.truncate(end);
                        part = &part[end - before..];
                        self.choose();
                    }
                    None if self.header.len() > DKIM_HEADER_MAX_BYTES => self.give_up(),
                    None => continue,
                }
            }
            if let Stage::Body { digest, .. } = &mut self.stage {
                self.body.feed(part, &mut |text| hash(digest, &mut self.canonical, text));
            }
        }
    }

    /// The message is whole. `None` if it goes without a signature.
    pub fn end(mut self) -> Option<Signed> {
        if matches!(self.stage, Stage::Header) {
            self.choose();
        }
        let Stage::Body { keys, mut digest } = self.stage else { return None };
        self.body.end(&mut |text| hash(&mut digest, &mut self.canonical, text));
        digest.update(&self.canonical);
        Some(Signed { keys, header: self.header, body_hash: digest.finish() })
    }

    /// The header is whole: whose keys are there for?
    fn choose(&mut self) {
        let domain = (self.header.len() <= DKIM_HEADER_MAX_BYTES).then(|| author_domain(&self.header)).flatten();
        let keys = domain.map_or_else(Vec::new, |domain| self.ring.find(&domain, self.tenant));
        if keys.is_empty() {
            self.give_up();
        } else {
            self.stage = Stage::Body { keys, digest: (self.ring.digest)() };
        }
    }

    fn give_up(&mut self) {
        self.stage = Stage::Unsigned;
        self.header = Vec::new();
    }
}

/// Hashes what is gathered, once it is worth it.
fn hash(digest: &mut Box<dyn Digest>, gathered: &mut Vec<u8>, text: &[u8]) {
    gathered.extend_from_slice(text);
    if gathered.len() >= STRIDE_BYTES {
        digest.update(gathered);
        gathered.clear();
    }
}

/// Behind the empty line that ends a header, of which all before `seen` was looked at and has none.
fn header_end(text: &[u8], seen: usize) -> Option<usize> {
    if text.starts_with(b"\r\n") {
        return Some(2);
    }
    let from = seen.saturating_sub(3);
    memmem::find(&text[from..], b"\r\n\r\n").map(|at| from + at + 4)
}

/// A whole message that is to be signed.
pub struct Signed {
    keys: Vec<Arc<Key>>,
    header: Vec<u8>,
    body_hash: [u8; 32],
}

impl Signed {
    /// True if receivers can offer to unsubscribe from it with one click; the fields for that are among those signed (BLK-05).
    pub fn offers_one_click(&self) -> bool {
        offers_one_click(&self.header)
    }

    /// Puts a field for each key on top of `prefix`, which is what else we put on top of the message (BLK-02, BLK-03). False, with
    /// nothing put there, if the header holds more than can be signed, or if a signature could not be made.
    pub fn write(&self, prefix: &mut Vec<u8>, when: UnixMs) -> bool {
        let Some(selection) = Selection::of(&[prefix, &self.header]) else { return false };
        let mut fields = Vec::with_capacity(2 * STRIDE_BYTES);
        for key in &self.keys {
            let start = fields.len();
            let made = write_field(&mut fields, key, &selection, &self.body_hash, when);
            if !made || fields.len() - start > DKIM_FIELD_MAX_BYTES {
                return false;
            }
        }
        prefix.splice(0..0, fields);
        true
    }
}

/// Lines are folded before they grow beyond this; a name of a field or a domain is never cut.
const LINE_BYTES: usize = 76;

/// Appends the field of one key (RFC 6376 3.5): `b=` is its last tag, and empty in what is signed.
fn write_field(out: &mut Vec<u8>, key: &Key, selection: &Selection<'_>, body_hash: &[u8; 32], when: UnixMs) -> bool {
    let start = out.len();
    let algorithm = key.key.algorithm().tag();
    write!(out, "DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed; t={};\r\n", when.0 / 1000)
        .and_then(|()| write!(out, "\td={};\r\n\ts={};\r\n\th=", key.domain, key.selector))
        .expect("a vector takes everything");
    let mut line = 3;
    for (number, name) in selection.names().iter().enumerate() {
        if number > 0 {
            out.push(b':');
            line += 1;
        }
        if line + name.len() >= LINE_BYTES {
            out.extend_from_slice(b"\r\n\t");
            line = 1;
        }
        out.extend_from_slice(name.as_bytes());
        line += name.len();
    }
    write!(out, ";\r\n\tbh={};\r\n\tb=", STANDARD.encode(body_hash)).expect("a vector takes everything");
    let mut text = selection.canonical().to_vec();
    relax_field(&out[start..], &mut text);
    text.truncate(text.len() - 2);
    let mut signature = Vec::new();
    if !key.key.sign(&text, &mut signature) {
        return false;
    }
    for (number, part) in STANDARD.encode(&signature).as_bytes().chunks(LINE_BYTES - 4).enumerate() {
        if number > 0 {
            out.extend_from_slice(b"\r\n\t");
        }
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
    true
}

#[cfg(test)]
mod tests;
