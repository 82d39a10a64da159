//! Who a client says it is: what an AUTH exchange carries between the session and whoever checks it (RFC 4954).
//!
//! The session (`smtp::server`) knows lines, base64 and the order of things; what the words mean is checked elsewhere, on
//! a thread where hashing may take its time. Between them go an [`AuthRequest`] and, once for each, an [`AuthAnswer`].
//! What an exchange of several steps has to remember travels along, opaque, so that an exchange given up anywhere leaves
//! nothing behind. Pure; secrets are wiped when dropped and never shown (AUT-08).

use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::limits;
use crate::mail::address::domain_of;

/// A way to prove who one is, by its registered name (AUT-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 4616: a password as it is.
    Plain,
    /// The same in two steps; in no RFC (AUT-09).
    Login,
    /// RFC 5802, RFC 7677: proof that one knows the password.
    ScramSha256,
    /// The same, bound to the TLS session (RFC 9266, RFC 5929).
    ScramSha256Plus,
    /// RFC 7628: a bearer token.
    OauthBearer,
    /// The same in the form that Google began with.
    Xoauth2,
    /// RFC 4752: a ticket of Kerberos.
    Gssapi,
    /// The same inside SPNEGO (RFC 4178), as Windows and Cyrus SASL do it; in no RFC of its own.
    GssSpnego,
    /// MS-SMTPNTLM: proof that one knows a hash of the password without salt.
    Ntlm,
}

impl Mechanism {
    /// All of them, in the order in which they are offered: the strongest first.
    pub const ALL: [Mechanism; 9] = [
        Mechanism::ScramSha256Plus,
        Mechanism::Gssapi,
        Mechanism::GssSpnego,
        Mechanism::ScramSha256,
        Mechanism::OauthBearer,
        Mechanism::Xoauth2,
        Mechanism::Plain,
        Mechanism::Login,
        Mechanism::Ntlm,
    ];

    /// The registered name.
    pub const fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::OauthBearer => "OAUTHBEARER",
            Mechanism::Xoauth2 => "XOAUTH2",
            Mechanism::Gssapi => "GSSAPI",
            Mechanism::GssSpnego => "GSS-SPNEGO",
            Mechanism::Ntlm => "NTLM",
        }
    }

    /// The mechanism of a name in any case.
    pub fn of_name(name: &[u8]) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|mechanism| mechanism.name().as_bytes().eq_ignore_ascii_case(name))
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Mechanisms(u16);

impl Mechanisms {
    /// None.
    pub const NONE: Mechanisms = Mechanisms(0);

    /// The set with one more.
    #[must_use]
    pub const fn with(self, mechanism: Mechanism) -> Mechanisms {
        Mechanisms(self.0 | mechanism.bit())
    }

    /// The set without one.
    #[must_use]
    pub const fn without(self, mechanism: Mechanism) -> Mechanisms {
        Mechanisms(self.0 & !mechanism.bit())
    }

    /// True if it is in the set.
    pub const fn contains(self, mechanism: Mechanism) -> bool {
        self.0 & mechanism.bit() != 0
    }

    /// True without any.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in the set, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL.into_iter().filter(move |mechanism| self.contains(*mechanism))
    }
}

/// What binds an exchange to the TLS session it is made in.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ChannelBinding {
    /// `tls-exporter` (RFC 9266), if the session gives one.
    pub exporter: Option<[u8; 32]>,
    /// `tls-server-end-point` (RFC 5929), if our certificate has one.
    pub end_point: Option<Arc<[u8]>>,
}

impl ChannelBinding {
    /// True if mechanisms that bind may be offered: only where there is what every client that binds can bind to. In TLS 1.2 that would
    /// be `tls-unique` (RFC 5802 6.1, RFC 9266 3), which we do not have.
    pub fn suffices(&self) -> bool {
        self.exporter.is_some()
    }

    /// The data of a binding by its registered name; `None` if the session does not have it.
    pub fn data(&self, name: &str) -> Option<&[u8]> {
        match name {
            "tls-exporter" => self.exporter.as_ref().map(|data| &data[..]),
            "tls-server-end-point" => self.end_point.as_deref(),
            _ => None,
        }
    }

    /// What GSSAPI and NTLM bind to: the certificate, with the binding's name in front (RFC 5056 2.1, RFC 5929 4).
    pub fn end_point_data(&self) -> Option<Vec<u8>> {
        let data = self.end_point.as_deref()?;
        Some([b"tls-server-end-point:", data].concat())
    }
}

/// Who was authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, as whoever checked it writes it.
    pub name: Box<str>,
    /// Which reverse-paths it may use.
    pub senders: Senders,
}

/// Which reverse-paths a user may use (AUT-06; RFC 6409 6.1). The null one is everybody's (SES-18).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Senders {
    /// Any.
    #[default]
    Any,
    /// Whole mailboxes, domains as `@example.org`, and with `@.example.org` all domains below; in lower case.
    Of(Box<[Box<str>]>),
}

impl Senders {
    /// Reads a list with commas; empty or `*`: any.
    pub fn parse(text: &str) -> Senders {
        let list: Box<[Box<str>]> = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|s| s.to_ascii_lowercase().into())
            .collect();
        if list.is_empty() || list.iter().any(|part| &**part == "*") { Senders::Any } else { Senders::Of(list) }
    }

    /// One mailbox, whatever stands in it; a whole domain is none.
    pub fn only(mailbox: &str) -> Senders {
        let mailbox = Some(mailbox).filter(|mailbox| !mailbox.starts_with('@'));
        Senders::Of(mailbox.into_iter().map(|mailbox| mailbox.to_ascii_lowercase().into()).collect())
    }

    /// True if the mailbox may be the reverse-path. Without case in the local part: who owns `a@b` owns `A@b`.
    pub fn allow(&self, mailbox: &[u8]) -> bool {
        let Senders::Of(list) = self else { return true };
        let domain = domain_of(mailbox);
        let allowed = |part: &str| match part.strip_prefix('@') {
            None => part.as_bytes().eq_ignore_ascii_case(mailbox),
            Some(below) if below.starts_with('.') => {
                domain.len() > below.len()
                    && domain[domain.len() - below.len()..].eq_ignore_ascii_case(below.as_bytes())
            }
            Some(whole) => whole.as_bytes().eq_ignore_ascii_case(domain),
        };
        mailbox.is_empty() || list.iter().any(|part| allowed(part))
    }
}

/// What an exchange remembers between two steps; only who checks knows what it is.
pub struct ExchangeState(Box<dyn Any + Send + Sync>);

impl ExchangeState {
    /// Keeps a value.
    pub fn new(value: impl Any + Send + Sync) -> ExchangeState {
        ExchangeState(Box::new(value))
    }

    /// Gives the value back, if it is of that type.
    pub fn take<T: Any>(self) -> Option<T> {
        let whole: Box<dyn Any + Send> = self.0;
        whole.downcast().ok().map(|value| *value)
    }
}

impl fmt::Debug for ExchangeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExchangeState")
    }
}

/// One step of an exchange, to be answered once.
pub struct AuthRequest {
    /// How.
    pub mechanism: Mechanism,
    /// What the client said, decoded; `None` if it said nothing yet.
    pub response: Option<Zeroizing<Vec<u8>>>,
    /// What the step before left; `None` for the first.
    pub state: Option<ExchangeState>,
    /// The client's address.
    pub peer: IpAddr,
    /// Of the TLS session; empty outside of one.
    pub binding: ChannelBinding,
    /// Mechanisms with a channel binding are offered too (RFC 5802 6).
    pub plus_offered: bool,
}

impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthRequest({} from {})", self.mechanism.name(), self.peer)
    }
}

/// What became of a step.
#[derive(Debug)]
pub enum AuthAnswer {
    /// The client has to say more.
    Challenge {
        /// What it is asked, at most `limits::AUTH_CHALLENGE_MAX_BYTES`.
        text: Vec<u8>,
        /// For the next step.
        state: ExchangeState,
    },
    /// It is who it says.
    Accepted(Arc<User>),
    /// It is not, or is nobody we know: which of them is not told (AUT-08).
    Refused,
    /// What it said does not fit the mechanism.
    Malformed,
    /// It cannot be checked now (AUT-04).
    Unavailable,
    /// Too many failures lately; it was not looked at.
    TooMany,
}

/// One step of an exchange in which we prove who we are to a next hop, to be answered once (AUT-10).
pub struct ProofRequest {
    /// The file with the credentials.
    pub credentials: Arc<Path>,
    /// How.
    pub mechanism: Mechanism,
    /// What the next hop said, decoded; `None` if it said nothing yet.
    pub challenge: Option<Vec<u8>>,
    /// What the step before left; `None` for the first.
    pub state: Option<ExchangeState>,
}

impl fmt::Debug for ProofRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProofRequest({} by {})", self.mechanism.name(), self.credentials.display())
    }
}

/// What there is to say to the next hop.
#[derive(Debug)]
pub enum ProofAnswer {
    /// This.
    Say(Said),
    /// Nothing: the credentials cannot be read, or what the next hop said does not fit. Why, with an enhanced code, for the log.
    Impossible(Box<str>),
}

/// A response to a challenge, or an initial one.
pub struct Said {
    /// Before base64, at most `limits::AUTH_CHALLENGE_MAX_BYTES`.
    pub text: Zeroizing<Vec<u8>>,
    /// For the next step.
    pub state: Option<ExchangeState>,
    /// Success may follow: the next hop owes no proof of its own any more.
    pub complete: bool,
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Said")
    }
}

/// Decodes a line of base64; `=` alone is the empty text (AUT-02, AUT-03; RFC 4954 4). `None`: it is no base64.
pub fn decode(line: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    use base64::Engine as _;
    if line == b"=" {
        return Some(Zeroizing::new(Vec::new()));
    }
    // Room for all of it: a vector that grows leaves its old self behind, unwiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(line.len() / 4 * 3 + 3));
    base64::engine::general_purpose::STANDARD.decode_vec(line, &mut bytes).ok()?;
    Some(bytes)
}

/// Encodes a challenge.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    use base64::Engine as _;
    assert!(text.len() <= limits::AUTH_CHALLENGE_MAX_BYTES, "a challenge of {} bytes", text.len());
    let mut line = [0; limits::AUTH_CHALLENGE_MAX_BYTES.div_ceil(3) * 4];
    let length = base64::engine::general_purpose::STANDARD.encode_slice(text, &mut line).expect("there is room");
    out.extend_from_slice(&line[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::parameters::is_xtext;
    use proptest::prelude::*;

    #[test]
    fn base64_is_strict() {
        // AUT-03
        assert_eq!(decode(b"AGEAYg==").unwrap().as_slice(), b"\0a\0b");
        assert_eq!(decode(b"=").unwrap().as_slice(), b"");
        assert_eq!(decode(b"").unwrap().as_slice(), b"");
        for bad in ["AGEAYg", "AGEAYg=", "AGEAYh==", "A=EAYg==", "AGEA Yg==", "AGE*", "==", "AGEAYg==\0", "A"] {
            assert!(decode(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn mechanisms_are_named_and_ordered() {
        let both = Mechanisms::NONE.with(Mechanism::Login).with(Mechanism::ScramSha256).with(Mechanism::Plain);
        let names: Vec<_> = both.without(Mechanism::Plain).iter().map(Mechanism::name).collect();
        assert_eq!(names, ["SCRAM-SHA-256", "LOGIN"]);
        assert_eq!(Mechanism::of_name(b"scram-sha-256-plus"), Some(Mechanism::ScramSha256Plus));
        assert_eq!(Mechanism::of_name(b"PLAINX"), None);
    }

    #[test]
    fn senders_own_what_they_were_given() {
        // AUT-06
        let senders = Senders::parse("Alice@example.org, @lists.example.org,@.sub.example.org");
        for mine in ["alice@EXAMPLE.org", "ALICE@example.org", "x@lists.example.org", "y@a.sub.example.org", ""] {
            assert!(senders.allow(mine.as_bytes()), "{mine}");
        }
        for others in ["bob@example.org", "x@a.lists.example.org", "y@sub.example.org", "y@xsub.example.org", "alice"] {
            assert!(!senders.allow(others.as_bytes()), "{others}");
        }
        assert_eq!((Senders::parse(""), Senders::parse("a@b,*")), (Senders::Any, Senders::Any));
    }

    #[test]
    fn nothing_secret_is_shown() {
        // AUT-08
        let request = AuthRequest {
            mechanism: Mechanism::Plain,
            response: Some(Zeroizing::new(b"\0u\0geheim".to_vec())),
            state: Some(ExchangeState::new("geheim")),
            peer: "192.0.2.1".parse().unwrap(),
            binding: ChannelBinding::default(),
            plus_offered: false,
        };
        assert!(!format!("{request:?}").contains("geheim"));
        assert_eq!(request.state.unwrap().take::<&str>(), Some("geheim"));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..500)) {
            let mut line = Vec::new();
            encode(&text, &mut line);
            let decoded = decode(&line).unwrap();
            prop_assert_eq!(&decoded[..], &text[..]);
        }

        #[test]
        fn xtext_is_what_its_grammar_says(text in "[!-~ ]{0,12}") {
            // AUT-07: a naive twin, by leaving out one well-formed part after the other.
            let mut rest = text.clone();
            while let Some(at) = rest.match_indices('+').map(|(at, _)| at).find(|at| {
                rest.as_bytes().get(at + 1..at + 3).is_some_and(|two| two.iter().all(|b| b"0123456789ABCDEF".contains(b)))
            }) {
                rest.replace_range(at..at + 3, "");
                // What is left must not join to a new part.
                rest.insert(at, '.');
            }
            prop_assert_eq!(is_xtext(text.as_bytes()), !rest.contains(['+', '=', ' ']));
        }
    }
}
