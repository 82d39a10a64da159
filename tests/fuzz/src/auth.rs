//! AUTH exchanges: any split gives the same replies, what is kept stays bounded, only who is somebody may send, and the readers of
//! mechanisms' messages neither panic nor read what was not said (AUT-01..AUT-06).

use std::rc::Rc;
use std::sync::Arc;

use ringpost::base::limits::{AUTH_CHALLENGE_MAX_BYTES, AUTH_LINE_MAX_BYTES};
use ringpost::smtp::auth::{AuthAnswer, AuthRequest, ExchangeState, Mechanism, Mechanisms, Senders, User};
use ringpost::smtp::server::{AuthSettings, Peer, Server, ServerEvent, ServerSettings, Waiting};
use ringpost::smtp::{ntlm, sasl};

/// Any bytes are what a client of a submission listener sends.
pub fn run(data: &[u8]) {
    messages(data);
    let mut slow = Session::new();
    data.iter().for_each(|byte| slow.receive(&[*byte]));
    let mut split = Session::new();
    // What comes in one piece with DATA is another matter (DAT-13); there is no DATA without a user and MAIL.
    if !data.to_ascii_uppercase().windows(4).any(|four| four == b"DATA") {
        super::pieces(data).into_iter().for_each(|piece| split.receive(piece));
        assert_eq!(String::from_utf8_lossy(&split.out), String::from_utf8_lossy(&slow.out));
        assert_eq!((split.carry, split.closed, split.asked), (slow.carry, slow.closed, slow.asked));
    }
    let replies = String::from_utf8(slow.out).expect("replies are ASCII");
    assert!(slow.accepted || !replies.contains("250 2.1.0 "), "MAIL without AUTH: {replies}");
    assert!(!replies.contains("secret"), "{replies}");
}

struct Session {
    server: Server,
    carry: Vec<u8>,
    out: Vec<u8>,
    closed: bool,
    asked: usize,
    accepted: bool,
}

impl Session {
    fn new() -> Session {
        let all = Mechanism::ALL.into_iter().fold(Mechanisms::NONE, Mechanisms::with);
        let settings = ServerSettings {
            hostname: "relay.example".into(),
            message_bytes_max: 400,
            recipients_max: 3,
            errors_max: 20,
            received_fields_max: 2,
            command_idle_ms: 300_000,
            data_idle_ms: 180_000,
            tls: false,
            auth: AuthSettings { inside_tls: all, in_clear: all.without(Mechanism::ScramSha256Plus), demanded: true },
            submission: true,
            hold_max_s: 0,
            aliases: None,
            users_ask: false,
            etrn: false,
        };
        let peer = Peer::new([192, 0, 2, 1].into(), false);
        let mut server = Server::new(Rc::new(settings), peer);
        let mut out = Vec::new();
        server.greet(&mut out);
        Session { server, carry: Vec::new(), out, closed: false, asked: 0, accepted: false }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.carry.extend_from_slice(bytes);
        let carry = std::mem::take(&mut self.carry);
        let mut input = carry.as_slice();
        loop {
            match self.server.next(&mut input, &mut self.out) {
                ServerEvent::NeedMore => break,
                ServerEvent::Authenticate => {
                    let answer = judge(*self.server.take_request());
                    self.asked += 1;
                    self.accepted |= matches!(answer, AuthAnswer::Accepted(_));
                    self.server.authenticated(answer, &mut self.out);
                }
                ServerEvent::MessageEnd => self.server.discarded(&mut self.out),
                ServerEvent::Body(_) | ServerEvent::MessageDropped => {}
                ServerEvent::StartTls => unreachable!("TLS is not offered"),
                ServerEvent::Conveyed | ServerEvent::Etrn => unreachable!("nobody is listed"),
                ServerEvent::Close => {
                    self.closed = true;
                    break;
                }
            }
        }
        assert!(input.len() < AUTH_LINE_MAX_BYTES && self.server.waiting() != Waiting::Credentials);
        self.carry = input.to_vec();
    }
}

/// Three steps at most; the first byte of what is said decides.
fn judge(request: AuthRequest) -> AuthAnswer {
    let step = request.state.map_or(0, |state| state.take::<u8>().expect("a number"));
    let more = |text: &[u8]| AuthAnswer::Challenge { text: text.to_vec(), state: ExchangeState::new(step + 1) };
    match request.response.as_ref().and_then(|response| response.first()) {
        None | Some(b'c') if step < 3 => more(b"secret"),
        Some(b'a') => AuthAnswer::Accepted(Arc::new(User { name: "a".into(), senders: Senders::parse("@a.example") })),
        Some(b'm') => AuthAnswer::Malformed,
        Some(b'u') => AuthAnswer::Unavailable,
        Some(b't') => AuthAnswer::TooMany,
        _ => AuthAnswer::Refused,
    }
}

/// What is read of a message is what was said.
fn messages(data: &[u8]) {
    if let Some(read) = sasl::plain(data) {
        let again = [read.authorize.as_bytes(), b"\0", read.user.as_bytes(), b"\0", read.password].concat();
        assert_eq!(again, data);
    }
    if let Some(read) = sasl::gssapi_choice(data) {
        assert_eq!([&data[..4], read.as_bytes()].concat(), data);
    }
    if let Some(abilities) = ntlm::negotiate(data) {
        let challenge = ntlm::challenge(abilities, [7; 8], "relay.example", u64::MAX);
        assert!(challenge.len() < AUTH_CHALLENGE_MAX_BYTES && ntlm::negotiate(&challenge).is_none());
    }
    if let Some(read) = ntlm::authenticate(data) {
        assert!(!read.user.is_empty());
        if let ntlm::Response::Second(response) = read.response {
            let said = [&response.proof[..], response.blob].concat();
            assert!(data.windows(said.len()).any(|part| part == said));
            if let Some(integrity) = response.integrity {
                let zeroed = integrity.without(data);
                let codes = data.iter().zip(&zeroed).filter(|(said, zeroed)| said != zeroed).count();
                assert!(zeroed.len() == data.len() && codes <= 16);
            }
        }
    }
    if let Some(read) = sasl::scram_first(data) {
        assert_eq!([read.header, read.bare].concat().as_bytes(), data);
        assert!(!read.user.is_empty() && !read.nonce.is_empty());
    }
    if let Some(read) = sasl::scram_final(data) {
        assert_eq!([read.without_proof, ",p=", read.proof].concat().as_bytes(), data);
    }
    for read in [sasl::oauth_bearer(data), sasl::xoauth2(data)].into_iter().flatten() {
        assert!(!read.token.is_empty() && data.windows(read.token.len()).any(|part| part == read.token.as_bytes()));
    }
}
