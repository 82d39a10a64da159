//! NTLM's three messages: the client's two taken apart, ours made (MS-NLMP 2.2; in SMTP as MS-SMTPNTLM has them).
//!
//! Only the grammar; whether the proof is one is for `control/auth` to find out. Of the responses only the second version's is
//! read: the older ones can be computed back to the password. Nothing to sign or seal with is agreed on, since AUTH has no use for
//! it. Borrows from the message where it can. Pure; panics on no input.

use crate::smtp::sasl;

/// What every message begins with.
const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
/// Length of NEGOTIATE with its flags, of CHALLENGE and of AUTHENTICATE with all that has a fixed place.
const NEGOTIATE_BYTES: usize = 16;
const CHALLENGE_BYTES: usize = 56;
const AUTHENTICATE_BYTES: usize = 64;
/// Where AUTHENTICATE has the code that protects all three messages, if it has one: behind the version, which some clients leave out.
const INTEGRITY_AT: [usize; 2] = [72, 64];
const INTEGRITY_BYTES: usize = 16;
/// Length of the second version's response before its pairs, without the proof.
const BLOB_HEAD_BYTES: usize = 28;
/// The longest name in our challenge: NetBIOS allows no longer ones.
const NETBIOS_NAME_MAX: usize = 15;
/// The longest domain of a client, in UTF-8.
const DOMAIN_MAX_BYTES: usize = 255;

const UNICODE: u32 = 1;
const OEM: u32 = 1 << 1;
const REQUEST_TARGET: u32 = 1 << 2;
const NTLM: u32 = 1 << 9;
const ALWAYS_SIGN: u32 = 1 << 15;
const TARGET_IS_SERVER: u32 = 1 << 17;
const EXTENDED_SECURITY: u32 = 1 << 19;
const TARGET_INFO: u32 = 1 << 23;
const VERSION: u32 = 1 << 25;
const KEYS_OF_128_BITS: u32 = 1 << 29;
const KEYS_OF_56_BITS: u32 = 1 << 31;

/// Kinds of pairs in a challenge and in its response (MS-NLMP 2.2.2.1).
const PAIRS_END: u16 = 0;
const PAIR_COMPUTER: u16 = 1;
const PAIR_DOMAIN: u16 = 2;
const PAIR_DNS_COMPUTER: u16 = 3;
const PAIR_FLAGS: u16 = 6;
const PAIR_TIME: u16 = 7;
const PAIR_BINDING: u16 = 10;

/// In `PAIR_FLAGS`: the message carries an integrity code.
const HAS_INTEGRITY: u32 = 2;

/// What a client can do, from its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities(u32);

/// Reads the first message, NEGOTIATE.
pub fn negotiate(message: &[u8]) -> Option<Abilities> {
    (message.len() >= NEGOTIATE_BYTES && is_kind(message, 1))
        .then(|| Abilities(number(message, 12)))
        .filter(|abilities| abilities.0 & (UNICODE | OEM) != 0)
}

/// Makes the second message, CHALLENGE. `time`: now, in units of 100 ns since 1601.
pub fn challenge(abilities: Abilities, nonce: [u8; 8], hostname: &str, time: u64) -> Vec<u8> {
    let wide = abilities.0 & UNICODE != 0;
    let echoed = REQUEST_TARGET | ALWAYS_SIGN | EXTENDED_SECURITY | VERSION | KEYS_OF_128_BITS | KEYS_OF_56_BITS;
    let charset = if wide { UNICODE } else { OEM };
    let flags = charset | NTLM | TARGET_IS_SERVER | TARGET_INFO | abilities.0 & echoed;
    let computer: String = hostname
        .chars()
        .take_while(|c| *c != '.')
        .filter(char::is_ascii)
        .take(NETBIOS_NAME_MAX)
        .map(|c| c.to_ascii_uppercase())
        .collect();
    let target = if wide { utf16(&computer) } else { computer.clone().into_bytes() };

    let mut pairs = Vec::new();
    for (kind, value) in [
        (PAIR_DOMAIN, utf16(&computer)),
        (PAIR_COMPUTER, utf16(&computer)),
        (PAIR_DNS_COMPUTER, utf16(hostname)),
        (PAIR_TIME, time.to_le_bytes().to_vec()),
        (PAIRS_END, Vec::new()),
    ] {
        pairs.extend_from_slice(&kind.to_le_bytes());
        pairs.extend_from_slice(&short(value.len()).to_le_bytes());
        pairs.extend_from_slice(&value);
    }

    let mut message = Vec::with_capacity(CHALLENGE_BYTES + target.len() + pairs.len());
    message.extend_from_slice(SIGNATURE);
    message.extend_from_slice(&2u32.to_le_bytes());
    push_field(&mut message, target.len(), CHALLENGE_BYTES);
    message.extend_from_slice(&flags.to_le_bytes());
    message.extend_from_slice(&nonce);
    message.extend_from_slice(&[0; 8]);
    push_field(&mut message, pairs.len(), CHALLENGE_BYTES + target.len());
    // Of the version only what is the same for all: the messages are those of revision 15.
    message.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 15]);
    debug_assert_eq!(message.len(), CHALLENGE_BYTES);
    message.extend_from_slice(&target);
    message.extend_from_slice(&pairs);
    message
}

/// What the third message, AUTHENTICATE, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticate<'a> {
    /// Who the client says it is.
    pub user: String,
    /// The domain that it thinks the user is in; may be empty.
    pub domain: String,
    /// What it proves it with.
    pub response: Response<'a>,
}

/// A proof, by version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// The second version's.
    Second(Second<'a>),
    /// One of the older ones.
    Older,
}

/// A response of the second version (MS-NLMP 2.2.2.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Second<'a> {
    /// The proof.
    pub proof: [u8; 16],
    /// What it proves beside our nonce.
    pub blob: &'a [u8],
    /// Protects all three messages, if the client says that it does.
    pub integrity: Option<Integrity>,
    /// Digest of the channel that the client says it is in; `None`: it does not say.
    pub binding: Option<[u8; 16]>,
}

/// A code over all three messages, and where in the third it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integrity {
    at: usize,
    /// The code.
    pub code: [u8; INTEGRITY_BYTES],
}

impl Integrity {
    /// It stands behind what has a fixed place and before all else.
    fn of(message: &[u8]) -> Option<Integrity> {
        let fields = (12..60).step_by(8).filter(|at| field(message, *at).is_some_and(|field| !field.is_empty()));
        let first = fields.map(|at| number(message, at + 4) as usize).min()?;
        let at = INTEGRITY_AT.into_iter().find(|at| at + INTEGRITY_BYTES <= first)?;
        Some(Integrity { at, code: *message.get(at..)?.first_chunk()? })
    }

    /// The third message as the code sees it: with zeros in the code's own place.
    pub fn without(&self, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        if let Some(code) = message.get_mut(self.at..self.at + INTEGRITY_BYTES) {
            code.fill(0);
        }
        message
    }
}

/// Reads the third message. `None`: it does not fit the grammar, or nobody is named.
pub fn authenticate(message: &[u8]) -> Option<Authenticate<'_>> {
    if message.len() < AUTHENTICATE_BYTES || !is_kind(message, 3) {
        return None;
    }
    let wide = number(message, 60) & UNICODE != 0;
    let text = |at| decoded(field(message, at)?, wide);
    let domain = text(28).filter(|domain| domain.len() <= DOMAIN_MAX_BYTES)?;
    let user = text(36).filter(|user| sasl::name(user.as_bytes()).is_some())?;
    let response = field(message, 20)?;
    let response = match response.split_first_chunk() {
        Some((proof, blob)) if response.len() > 24 => Response::Second(second(message, *proof, blob)?),
        _ => Response::Older,
    };
    Some(Authenticate { user, domain, response })
}

fn second<'a>(message: &[u8], proof: [u8; 16], blob: &'a [u8]) -> Option<Second<'a>> {
    let mut pairs = blob.get(BLOB_HEAD_BYTES..)?;
    if blob[..2] != [1, 1] {
        return None;
    }
    let (mut integrity, mut binding) = (None, None);
    while let Some((kind, rest)) = pairs.split_first_chunk() {
        let kind = u16::from_le_bytes(*kind);
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        match kind {
            PAIRS_END => break,
            PAIR_FLAGS if u32::from_le_bytes(value.try_into().ok()?) & HAS_INTEGRITY != 0 => {
                integrity = Some(Integrity::of(message)?);
            }
            // All zeros: there is none.
            PAIR_BINDING => binding = Some(<[u8; 16]>::try_from(value).ok()?).filter(|digest| *digest != [0; 16]),
            _ => {}
        }
        pairs = rest;
    }
    Some(Second { proof, blob, integrity, binding })
}

/// A text in UTF-16, little end first.
pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn is_kind(message: &[u8], kind: u32) -> bool {
    message.starts_with(SIGNATURE) && number(message, 8) == kind
}

/// The number at a place that the message has.
fn number(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*message[at..].first_chunk().expect("the length was looked at"))
}

/// What the field at a place that the message has points to.
fn field(message: &[u8], at: usize) -> Option<&[u8]> {
    let length = u16::from_le_bytes(*message[at..].first_chunk().expect("the length was looked at"));
    let offset = usize::try_from(number(message, at + 4)).ok()?;
    // An empty field may point anywhere.
    if length == 0 { Some(&[]) } else { message.get(offset..)?.get(..length.into()) }
}

fn push_field(message: &mut Vec<u8>, length: usize, offset: usize) {
    let length = short(length).to_le_bytes();
    message.extend_from_slice(&length);
    message.extend_from_slice(&length);
    message.extend_from_slice(&u32::try_from(offset).expect("a message is short").to_le_bytes());
}

fn short(length: usize) -> u16 {
    u16::try_from(length).expect("our own name is short")
}

/// A text in the charset that was agreed on; of the old ones only what all of them have in common.
fn decoded(text: &[u8], wide: bool) -> Option<String> {
    if !wide {
        return str::from_utf8(text).ok().filter(|text| text.is_ascii()).map(str::to_owned);
    }
    let (units, rest) = text.as_chunks::<2>();
    let text: Result<String, _> = char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit))).collect();
    text.ok().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A third message with a version and a code.
    fn third(domain: &[u8], user: &[u8], response: &[u8], flags: u32, integrity: [u8; 16]) -> Vec<u8> {
        third_with(domain, user, response, flags, &[&[0; 8][..], &integrity].concat())
    }

    /// A third message with this before the response, domain and user.
    fn third_with(domain: &[u8], user: &[u8], response: &[u8], flags: u32, before: &[u8]) -> Vec<u8> {
        let mut message = [SIGNATURE.as_slice(), &3u32.to_le_bytes()].concat();
        let mut at = AUTHENTICATE_BYTES + before.len();
        let mut push = |message: &mut Vec<u8>, length: usize| {
            push_field(message, length, at);
            at += length;
        };
        push(&mut message, 0);
        push(&mut message, response.len());
        push(&mut message, domain.len());
        push(&mut message, user.len());
        push(&mut message, 0);
        push(&mut message, 0);
        message.extend_from_slice(&flags.to_le_bytes());
        [message.as_slice(), before, response, domain, user].concat()
    }

    fn response(pairs: &[u8]) -> Vec<u8> {
        [&[7; 16][..], &[1, 1], &[0; BLOB_HEAD_BYTES - 2], pairs].concat()
    }

    /// FND-08: what a client says is read as it said it.
    #[test]
    fn the_third_message_is_taken_apart() {
        let pairs = [&[6, 0, 4, 0, 2, 0, 0, 0, 10, 0, 16, 0][..], &[9; 16], &[0; 8]].concat();
        let response = response(&pairs);
        let message = third(&utf16("EXAMPLE"), &utf16("älice"), &response, UNICODE, [5; 16]);
        let read = authenticate(&message).unwrap();
        assert_eq!((read.user.as_str(), read.domain.as_str()), ("älice", "EXAMPLE"));
        let Response::Second(second) = read.response else { panic!() };
        assert_eq!((second.proof, second.blob), ([7; 16], &response[16..]));
        let integrity = second.integrity.unwrap();
        assert_eq!((integrity.code, second.binding), ([5; 16], Some([9; 16])));
        let zeroed = third(&utf16("EXAMPLE"), &utf16("älice"), &response, UNICODE, [0; 16]);
        assert_eq!(integrity.without(&message), zeroed);
        // Some leave the version out; without room for a code there is none.
        let message = third_with(b"", b"alice", &response, OEM, &[5; 16]);
        let Response::Second(second) = authenticate(&message).unwrap().response else { panic!() };
        assert_eq!(second.integrity, Some(Integrity { at: 64, code: [5; 16] }));
        assert_eq!(authenticate(&third_with(b"", b"alice", &response, OEM, &[5; 15])), None);
        // Without pairs that say so there is neither code nor binding.
        let plain = self::response(&[10, 0, 16, 0].iter().chain(&[0; 20]).copied().collect::<Vec<_>>());
        let message = third(b"", b"alice", &plain, OEM, [5; 16]);
        let Response::Second(second) = authenticate(&message).unwrap().response else { panic!() };
        assert_eq!((second.integrity, second.binding), (None, None));
        // The older versions' responses are 24 bytes, or none for somebody without a name.
        let older = third(b"", b"alice", &[1; 24], OEM, [0; 16]);
        assert_eq!(authenticate(&older).unwrap().response, Response::Older);
        assert_eq!(authenticate(&third(b"", b"alice", b"", OEM, [0; 16])).unwrap().response, Response::Older);
        assert_eq!(authenticate(&third(b"", b"", b"", OEM, [0; 16])), None);
        for (user, flags) in [("al\nice".as_bytes(), OEM), (&[0x00, 0xd8], UNICODE), (b"ali", UNICODE), (b"\xe4", OEM)]
        {
            assert_eq!(authenticate(&third(b"", user, &plain, flags, [0; 16])), None, "{user:?}");
        }
    }

    #[test]
    fn the_challenge_says_what_the_client_can_do() {
        let first = |flags: u32| [SIGNATURE.as_slice(), &1u32.to_le_bytes(), &flags.to_le_bytes()].concat();
        let abilities = negotiate(&first(0xa208_8207)).unwrap();
        let message = challenge(abilities, [3; 8], "relay.example.org", 0x0102_0304);
        assert!(message.starts_with(b"NTLMSSP\0\x02\0\0\0") && message[24..32] == [3; 8]);
        assert_eq!(number(&message, 20), 0xa28a_8205, "of the two charsets the wide one");
        assert_eq!(field(&message, 12).unwrap(), utf16("RELAY"));
        let pairs = field(&message, 40).unwrap();
        assert!(pairs.starts_with(&[2, 0, 10, 0, b'R', 0]) && pairs.ends_with(&[4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
        let old = challenge(negotiate(&first(OEM)).unwrap(), [3; 8], "a-name-of-more-than-fifteen", 1);
        assert_eq!(field(&old, 12).unwrap(), b"A-NAME-OF-MORE-");
        for bad in
            [first(0), first(UNICODE)[..15].to_vec(), b"NTLMSSP\0\x03\0\0\0\x01\0\0\0".to_vec(), b"NTLM".to_vec()]
        {
            assert_eq!(negotiate(&bad), None, "{bad:?}");
        }
    }

    proptest! {
        /// FND-08: no bytes do any harm, and a well-formed message with a byte or a length off neither.
        #[test]
        fn nothing_panics(
            tail in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0usize..200, byte in any::<u8>(), cut in 0usize..250,
        ) {
            for kind in 1u8..4 {
                let message = [b"NTLMSSP\0".as_slice(), &[kind, 0, 0, 0], &tail].concat();
                let _ = (negotiate(&message), authenticate(&message));
            }
            let mut message = third(&utf16("D"), &utf16("user"), &response(&tail), UNICODE, [1; 16]);
            let place = at % message.len();
            message[place] = byte;
            message.truncate(cut.max(1));
            if let Some(read) = authenticate(&message) {
                prop_assert!(sasl::name(read.user.as_bytes()).is_some());
                if let Response::Second(Second { integrity: Some(integrity), .. }) = read.response {
                    prop_assert_eq!(integrity.without(&message).len(), message.len());
                }
            }
        }
    }
}
