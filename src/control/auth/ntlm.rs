//! NTLM, the second version's proof: what is kept of a password for it, and whether a client knows the password (MS-NLMP 3.3.2).
//!
//! The hash is MD4 of the password without salt: whoever has it can log in, and can often find the password. It is kept only where
//! the operator wants NTLM. The proof is a keyed digest of our nonce under that hash and the names that the client gave; a code over
//! all three messages and a binding to the TLS session are checked where the client gives them. Panics on no input.

use std::fmt;

use aws_lc_rs::constant_time;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::{Digest as _, Md4};
use md5::Md5;
use zeroize::Zeroizing;

use super::scram::random;
use crate::smtp::auth::ChannelBinding;
use crate::smtp::ntlm::{self, Second};

/// How crypt(3) marks this hash.
const MARK: &str = "$3$$";
/// From 1601, where the clock of NTLM begins, to 1970, in seconds.
const FROM_1601_TO_1970_S: u64 = 11_644_473_600;

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct NtHash(Zeroizing<[u8; 16]>);

impl NtHash {
    /// Of a password that is text; there is none of another.
    pub(super) fn of_password(password: &[u8]) -> Option<NtHash> {
        let wide = Zeroizing::new(ntlm::utf16(str::from_utf8(password).ok()?));
        Some(NtHash(Zeroizing::new(Md4::digest(&wide[..]).into())))
    }

    /// The hash of nobody's password.
    pub(super) fn of_nobody() -> NtHash {
        NtHash(Zeroizing::new(random()))
    }

    /// Reads `$3$$` and 32 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<NtHash> {
        let digits = text.strip_prefix(MARK)?.as_bytes();
        let mut hash = Zeroizing::new([0; 16]);
        if digits.len() != 2 * hash.len() {
            return None;
        }
        for (byte, two) in hash.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(two[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        Some(NtHash(hash))
    }

    /// True if this is the password.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        NtHash::of_password(password).is_some_and(|other| same(&other.0[..], &self.0[..]))
    }

    /// The key of a user in a domain as the client names both.
    fn key(&self, user: &str, domain: &str) -> [u8; 16] {
        let upper: String = user.chars().map(upper).collect();
        keyed(&self.0[..], &[&ntlm::utf16(&upper), &ntlm::utf16(domain)])
    }
}

impl fmt::Display for NtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An exchange whose proof is due.
pub(super) struct Pending {
    nonce: [u8; 8],
    first: Vec<u8>,
    challenge: Vec<u8>,
}

/// How an exchange ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The client knows the password.
    Good,
    /// It does not.
    Bad,
    /// It may, but it says that it is in another TLS session than ours.
    ElsewhereBound,
}

impl Pending {
    /// The challenge that answers a first message, and what to remember; `None`: it is no first message. `now_ms` since 1970.
    pub(super) fn begin(first: &[u8], hostname: &str, now_ms: u64) -> Option<(Vec<u8>, Pending)> {
        let abilities = ntlm::negotiate(first)?;
        let nonce = random();
        let time = (FROM_1601_TO_1970_S * 1000 + now_ms) * 10_000;
        let challenge = ntlm::challenge(abilities, nonce, hostname, time);
        Some((challenge.clone(), Pending { nonce, first: first.to_vec(), challenge }))
    }

    /// Judges the third message `last`, in which `user`, `domain` and `response` stand.
    pub(super) fn judge(
        &self,
        last: &[u8],
        (user, domain): (&str, &str),
        response: &Second<'_>,
        hash: &NtHash,
        channel: &ChannelBinding,
    ) -> Proof {
        let key = hash.key(user, domain);
        if !same(&keyed(&key, &[&self.nonce, response.blob]), &response.proof) {
            return Proof::Bad;
        }
        if let Some(integrity) = response.integrity {
            let session_key = keyed(&key, &[&response.proof]);
            let messages = [&self.first[..], &self.challenge, &integrity.without(last)];
            if !same(&keyed(&session_key, &messages), &integrity.code) {
                return Proof::Bad;
            }
        }
        match response.binding {
            Some(digest) if Some(digest) != channel_digest(channel) => Proof::ElsewhereBound,
            _ => Proof::Good,
        }
    }
}

/// What a client that binds says of the channel: MD5 of GSSAPI's structure, in which nothing but the data is filled in
/// (MS-NLMP 2.2.2.1, RFC 4121 4.1.1.2).
fn channel_digest(channel: &ChannelBinding) -> Option<[u8; 16]> {
    let data = channel.end_point_data()?;
    let length = u32::try_from(data.len()).ok()?;
    Some(Md5::new().chain_update([0; 16]).chain_update(length.to_le_bytes()).chain_update(data).finalize().into())
}

/// A letter in upper case, where that is one letter.
fn upper(letter: char) -> char {
    let mut upper = letter.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => letter,
    }
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut digest = Hmac::<Md5>::new_from_slice(key).expect("a key of any length will do");
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize().into_bytes().into()
}

fn same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(digits: &str) -> Vec<u8> {
        let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    /// FND-08: the example that MS-NLMP 4.2.4 prints: user "User", domain "Domain", password "Password".
    #[test]
    fn the_example_of_the_specification_runs() {
        let hash = NtHash::of_password(b"Password").unwrap();
        assert_eq!(hash.to_string(), "$3$$a4f49c406510bdcab6824ee7c30fd852");
        assert_eq!(hash.key("User", "Domain"), bytes("0c868a403bfd7a93a3001ef22ef02e3f")[..]);
        let nonce = *bytes("0123456789abcdef").first_chunk().unwrap();
        let blob = bytes(
            "0101000000000000 0000000000000000 aaaaaaaaaaaaaaaa 00000000
             02000c00 44006f006d00610069006e00 01000c00 530065007200760065007200 00000000 00000000",
        );
        let proof = bytes("68cd0ab851e51c96aabc927bebef6a1c");
        let response = Second { proof: *proof.first_chunk().unwrap(), blob: &blob, integrity: None, binding: None };
        let pending = Pending { nonce, first: Vec::new(), challenge: Vec::new() };
        let judge = |response: &Second<'_>, user, hash: &NtHash| {
            pending.judge(b"", (user, "Domain"), response, hash, &ChannelBinding::default())
        };
        assert_eq!(judge(&response, "USER", &hash), Proof::Good);
        assert_eq!(judge(&response, "User2", &hash), Proof::Bad);
        assert_eq!(judge(&response, "User", &NtHash::of_password(b"password").unwrap()), Proof::Bad);
        assert_eq!(judge(&response, "User", &NtHash::of_nobody()), Proof::Bad);
        for at in 0..blob.len() {
            let mut blob = blob.clone();
            blob[at] ^= 1;
            assert_eq!(judge(&Second { blob: &blob, ..response.clone() }, "User", &hash), Proof::Bad, "at {at}");
        }
        // A binding that is given counts, too, and there is no channel here.
        let bound = Second { binding: Some([1; 16]), ..response.clone() };
        assert_eq!(judge(&bound, "User", &hash), Proof::ElsewhereBound);
    }

    #[test]
    fn a_channel_has_one_digest() {
        let channel = |data: &[u8]| ChannelBinding { exporter: None, end_point: Some(data.into()) };
        let digest = channel_digest(&channel(&[1; 32])).unwrap();
        assert_ne!(Some(digest), channel_digest(&channel(&[2; 32])));
        assert_eq!(channel_digest(&ChannelBinding::default()), None);
    }

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash = NtHash::of_password("schlüssel".as_bytes()).unwrap();
        assert!(NtHash::parse(&hash.to_string()).as_ref() == Some(&hash) && hash.matches("schlüssel".as_bytes()));
        assert!(!hash.matches(b"schluessel") && !hash.matches(b"\xff") && NtHash::of_password(b"\xff").is_none());
        assert!(NtHash::of_nobody() != NtHash::of_nobody());
        for bad in ["", "$3$$", "$3$$a4f49c406510bdcab6824ee7c30fd85", "$3$$a4f49c406510bdcab6824ee7c30fd85g", "$3$a4"]
        {
            assert!(NtHash::parse(bad).is_none(), "{bad}");
        }
        assert_eq!((upper('é'), upper('ß'), upper('a')), ('É', 'ß', 'A'));
    }
}
