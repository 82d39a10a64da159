//! What clients say inside AUTH exchanges, taken apart: one function for each mechanism's message (AUT-02).
//!
//! Only the grammar; whether it is true is for `control/auth` to find out. Strict: what a mechanism's RFC does not
//! allow is `None`, and the session answers 501. Borrows from the message, copies nothing secret. Pure; panics on no input.

use crate::base::limits::USER_NAME_MAX_BYTES;

/// A name and a password (RFC 4616 2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Plain<'a> {
    /// Whom the client wants to act for; empty: itself.
    pub authorize: &'a str,
    /// Who it is.
    pub user: &'a str,
    /// Its proof.
    pub password: &'a [u8],
}

/// Reads PLAIN's one message: exactly two NULs, and nothing empty but the first part.
pub fn plain(message: &[u8]) -> Option<Plain<'_>> {
    let mut parts = message.split(|&b| b == 0);
    let (authorize, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || password.is_empty() {
        return None;
    }
    let authorize = if authorize.is_empty() { "" } else { name(authorize)? };
    Some(Plain { authorize, user: name(user)?, password })
}

/// Reads the name of a user, as LOGIN gives it: UTF-8 without controls.
pub fn name(text: &[u8]) -> Option<&str> {
    let name = str::from_utf8(text).ok()?;
    (!name.is_empty() && name.len() <= USER_NAME_MAX_BYTES && !name.contains(char::is_control)).then_some(name)
}

/// A token, and perhaps who is meant to be its owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bearer<'a> {
    /// The name given beside the token.
    pub user: Option<&'a str>,
    /// The token.
    pub token: &'a str,
}

/// Reads OAUTHBEARER's first message (RFC 7628 3.1): `n,a=user,^Akey=value^A...^A^A`, of whose keys one is `auth`.
pub fn oauth_bearer(message: &[u8]) -> Option<Bearer<'_>> {
    let text = str::from_utf8(message).ok()?;
    let (header, pairs) = text.split_once('\x01')?;
    // There is no channel binding in this mechanism: `y` and `n` mean the same.
    let user = match header.strip_prefix("n,").or(header.strip_prefix("y,"))?.strip_suffix(',')? {
        "" => None,
        given => Some(name(given.strip_prefix("a=")?.as_bytes())?),
    };
    let mut token = None;
    for pair in pairs.strip_suffix("\x01\x01")?.split('\x01') {
        let (key, value) = pair.split_once('=')?;
        if key == "auth" {
            token = Some(bearer_token(value)?);
        }
    }
    Some(Bearer { user, token: token? })
}

/// Reads XOAUTH2's first message: `user=name^Aauth=Bearer token^A^A`.
pub fn xoauth2(message: &[u8]) -> Option<Bearer<'_>> {
    let text = str::from_utf8(message).ok()?;
    let (user, auth) = text.strip_suffix("\x01\x01")?.strip_prefix("user=")?.split_once('\x01')?;
    Some(Bearer { user: Some(name(user.as_bytes())?), token: bearer_token(auth.strip_prefix("auth=")?)? })
}

/// RFC 6750 2.1.
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.bytes().all(good)).then_some(token)
}

/// What a SCRAM client says of channel binding (RFC 5802 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding<'a> {
    /// It does not know how.
    No,
    /// It knows how, and thinks that we do not.
    ServerLacks,
    /// It binds to this.
    To(&'a str),
}

/// SCRAM's first message (RFC 5802 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScramFirst<'a> {
    /// Channel binding.
    pub binding: Binding<'a>,
    /// Whom the client wants to act for.
    pub authorize: Option<String>,
    /// Who it is.
    pub user: String,
    /// Its nonce.
    pub nonce: &'a str,
    /// The message's first part, `n,a=authorize,`.
    pub header: &'a str,
    /// The rest.
    pub bare: &'a str,
}

/// The longest nonce of a client.
const NONCE_MAX_BYTES: usize = 1024;

/// Reads SCRAM's first message. Extensions that must be understood are not.
pub fn scram_first(message: &[u8]) -> Option<ScramFirst<'_>> {
    let text = str::from_utf8(message).ok()?;
    let (flag, rest) = text.split_once(',')?;
    let binding = match flag {
        "n" => Binding::No,
        "y" => Binding::ServerLacks,
        to => Binding::To(to.strip_prefix("p=").filter(|name| !name.is_empty())?),
    };
    let (authorize, bare) = rest.split_once(',')?;
    let authorize = if authorize.is_empty() { None } else { Some(scram_name(authorize.strip_prefix("a=")?)?) };
    let mut attributes = bare.split(',');
    let user = scram_name(attributes.next()?.strip_prefix("n=")?)?;
    let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| is_nonce(nonce))?;
    let header = &text[..text.len() - bare.len()];
    Some(ScramFirst { binding, authorize, user, nonce, header, bare })
}

fn is_nonce(nonce: &str) -> bool {
    (1..=NONCE_MAX_BYTES).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_graphic())
}

/// A name in which `=2C` stands for a comma and `=3D` for an equals sign.
fn scram_name(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        plain.push(match code {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        plain.push_str(rest);
    }
    name(plain.as_bytes()).map(str::to_owned)
}

/// SCRAM's second message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScramFinal<'a> {
    /// The channel binding in base64.
    pub binding: &'a str,
    /// Both nonces.
    pub nonce: &'a str,
    /// The proof in base64.
    pub proof: &'a str,
    /// All before the proof.
    pub without_proof: &'a str,
}

/// Reads SCRAM's second message.
pub fn scram_final(message: &[u8]) -> Option<ScramFinal<'_>> {
    let text = str::from_utf8(message).ok()?;
    let (without_proof, proof) = text.rsplit_once(",p=")?;
    let mut attributes = without_proof.split(',');
    let binding = attributes.next()?.strip_prefix("c=")?;
    let nonce = attributes.next()?.strip_prefix("r=")?;
    Some(ScramFinal { binding, nonce, proof, without_proof })
}

/// GSSAPI's choice to protect nothing behind the exchange (RFC 4752 3.3).
pub const NO_LAYER: u8 = 1;

/// Reads GSSAPI's last message, once unwrapped: the layer, which can be only the empty one, three bytes that mean nothing without
/// one, and whom the client wants to act for; nobody named: itself.
pub fn gssapi_choice(message: &[u8]) -> Option<&str> {
    let ([NO_LAYER, _, _, _], authorize) = message.split_first_chunk()? else { return None };
    if authorize.is_empty() { Some("") } else { name(authorize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_has_exactly_two_nuls() {
        // AUT-02
        let read = plain(b"\0alice\0pass word").unwrap();
        assert_eq!((read.authorize, read.user, read.password), ("", "alice", b"pass word".as_slice()));
        assert_eq!(plain("bob\0alice\0\u{e9}".as_bytes()).unwrap().authorize, "bob");
        for bad in
            ["", "\0", "\0alice", "\0alice\0", "\0\0pass", "a\0b\0c\0", "a\0b\0c\0d", "alice\0pass", "\0al\nice\0p"]
        {
            assert!(plain(bad.as_bytes()).is_none(), "{bad:?}");
        }
        assert!(plain(b"\0\xff\0p").is_none());
    }

    #[test]
    fn tokens_come_in_two_forms() {
        // The examples of RFC 7628 4.1 and of Google's page.
        let first = b"n,a=user@example.com,\x01host=server.example.com\x01port=587\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01";
        let read = oauth_bearer(first).unwrap();
        assert_eq!((read.user, read.token), (Some("user@example.com"), "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="));
        assert_eq!(oauth_bearer(b"n,,\x01auth=bearer t\x01\x01").unwrap().user, None);
        for bad in [
            "",
            "n,,\x01\x01",
            "n,,\x01auth=Bearer \x01\x01",
            "n,,\x01auth=Basic t\x01\x01",
            "n,,\x01auth=Bearer t\x01",
            "p=x,,\x01auth=Bearer t\x01\x01",
        ] {
            assert!(oauth_bearer(bad.as_bytes()).is_none(), "{bad:?}");
        }
        let read = xoauth2(b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3\x01\x01").unwrap();
        assert_eq!((read.user, read.token), (Some("someuser@example.com"), "ya29.vF9dft4qmTc2Nvb3"));
        assert!(xoauth2(b"user=\x01auth=Bearer t\x01\x01").is_none());
    }

    #[test]
    fn scram_messages_are_taken_apart() {
        // RFC 7677 3, RFC 5802 7
        let first = scram_first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!((first.binding, first.user.as_str(), first.header), (Binding::No, "user", "n,,"));
        assert_eq!(first.bare, "n=user,r=rOprNGfwEbeRWgbNEkqO");
        let first = scram_first(b"p=tls-exporter,a=b=3Dc,n=a=2Cb,r=x,ext=1").unwrap();
        assert_eq!((first.binding, first.user.as_str()), (Binding::To("tls-exporter"), "a,b"));
        assert_eq!((first.authorize.as_deref(), first.header), (Some("b=c"), "p=tls-exporter,a=b=3Dc,"));
        for bad in [
            "",
            "n,,",
            "n,,n=,r=x",
            "n,,n=a=2c,r=x",
            "n,,n=a=,r=x",
            "x,,n=a,r=x",
            "n,n=a,r=x",
            "n,,m=1,n=a,r=x",
            "n,,n=a,r=",
        ] {
            assert!(scram_first(bad.as_bytes()).is_none(), "{bad:?}");
        }
        let last = scram_final(b"c=biws,r=ab,x=1,p=dHzb").unwrap();
        assert_eq!(
            (last.binding, last.nonce, last.proof, last.without_proof),
            ("biws", "ab", "dHzb", "c=biws,r=ab,x=1")
        );
        assert!(scram_final(b"c=biws,p=x").is_none() && scram_final(b"r=ab,c=biws,p=x").is_none());
    }

    #[test]
    fn only_the_empty_layer_can_be_chosen() {
        // RFC 4752 3.1, 3.3
        assert_eq!(gssapi_choice(b"\x01\0\0\0"), Some(""));
        assert_eq!(gssapi_choice(b"\x01\0\x10\0alice"), Some("alice"));
        for bad in [&b""[..], b"\x01\0\0", b"\x02\0\0\0alice", b"\x03\0\0\0", b"\x01\0\0\0al\0ice", b"\x01\0\0\0\xff"] {
            assert_eq!(gssapi_choice(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_read_was_said(
            message in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b','), Just(b'='), any::<u8>()], 0..80),
            head in "(n,,|n,a=x,|user=a|p=t,,n=|n,,n=a,r=|c=b,r=|)",
        ) {
            let message = [head.as_bytes(), &message].concat();
            if let Some(read) = plain(&message) {
                let again = [read.authorize.as_bytes(), b"\0", read.user.as_bytes(), b"\0", read.password].concat();
                prop_assert_eq!(&again, &message);
            }
            if let Some(read) = scram_first(&message) {
                let again = format!("{}{}", read.header, read.bare);
                prop_assert_eq!(again.as_bytes(), &message[..]);
            }
            if let Some(read) = scram_final(&message) {
                let again = format!("{},p={}", read.without_proof, read.proof);
                prop_assert_eq!(again.as_bytes(), &message[..]);
            }
            let _ = (oauth_bearer(&message).is_some(), xoauth2(&message).is_some(), gssapi_choice(&message).is_some());
        }
    }
}
