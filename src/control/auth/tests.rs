//! Whole exchanges against the thread, step by step.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;

use super::*;
use crate::config::{AuthSettings, Settings};
use zeroize::Zeroizing;

struct World {
    authenticator: Authenticator,
    reports: Arc<Mutex<String>>,
    _dir: tempfile::TempDir,
}

fn world(change: impl FnOnce(&mut AuthSettings)) -> World {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let scram = make_line("alice", Keep::Scram(b"geheim"), "alice@example.org").unwrap();
    let argon2 = make_line("bob", Keep::Argon2(b"geheim"), "").unwrap();
    std::fs::write(&path, format!("{scram}\n{argon2}\n")).unwrap();
    let mut settings = AuthSettings { users: Some(path), failure_delay_ms: 50, ..Settings::defaults().auth };
    change(&mut settings);
    let reports = Arc::new(Mutex::new(String::new()));
    let kept = reports.clone();
    let report: Report = Arc::new(move |_, text| kept.lock().unwrap().push_str(&text));
    World { authenticator: Authenticator::start(&settings, "relay.example.org", report).unwrap(), reports, _dir: dir }
}

impl World {
    fn step(&self, mechanism: Mechanism, response: Option<&[u8]>, state: Option<ExchangeState>) -> AuthAnswer {
        let (sender, answer) = mpsc::channel();
        let request = AuthRequest {
            mechanism,
            response: response.map(|response| Zeroizing::new(response.to_vec())),
            state,
            peer: "192.0.2.1".parse().unwrap(),
            binding: Default::default(),
            plus_offered: false,
        };
        self.authenticator.ask(Box::new(request), Box::new(move |answer| drop(sender.send(answer))));
        answer.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    fn plain(&self, message: &[u8]) -> AuthAnswer {
        self.step(Mechanism::Plain, Some(message), None)
    }
}

fn name(answer: &AuthAnswer) -> Option<&str> {
    match answer {
        AuthAnswer::Accepted(user) => Some(&user.name),
        _ => None,
    }
}

#[test]
fn passwords_are_checked_against_both_kinds_of_verifiers() {
    // AUT-02, AUT-04
    let world = world(|_| ());
    for user in ["alice", "bob"] {
        let good = world.plain(format!("\0{user}\0geheim").as_bytes());
        assert_eq!(name(&good), Some(user));
        assert_eq!(name(&world.plain(format!("{user}\0{user}\0geheim").as_bytes())), Some(user));
        for bad in [format!("\0{user}\0falsch"), format!("eve\0{user}\0geheim"), "\0eve\0geheim".to_owned()] {
            let begun = Instant::now();
            assert!(matches!(world.plain(bad.as_bytes()), AuthAnswer::Refused), "{bad:?}");
            assert!(begun.elapsed() >= Duration::from_millis(50), "the delay is kept");
        }
    }
    assert!(matches!(world.plain(b"\0alice"), AuthAnswer::Malformed));
    // AUT-08
    let reports = world.reports.lock().unwrap().clone();
    assert!(reports.contains("192.0.2.1") && !reports.contains("geheim") && !reports.contains("eve"), "{reports}");
}

#[test]
fn login_asks_twice() {
    // AUT-09
    let world = world(|_| ());
    let AuthAnswer::Challenge { text, state } = world.step(Mechanism::Login, None, None) else { panic!() };
    assert_eq!(text, b"Username:");
    let AuthAnswer::Challenge { text, state } = world.step(Mechanism::Login, Some(b"bob"), Some(state)) else {
        panic!()
    };
    assert_eq!(text, b"Password:");
    assert_eq!(name(&world.step(Mechanism::Login, Some(b"geheim"), Some(state))), Some("bob"));
    // The name may come with the command.
    let AuthAnswer::Challenge { state, .. } = world.step(Mechanism::Login, Some(b"eve"), None) else { panic!() };
    assert!(matches!(world.step(Mechanism::Login, Some(b"geheim"), Some(state)), AuthAnswer::Refused));
}

#[test]
fn nobody_and_a_wrong_proof_look_the_same() {
    // AUT-08
    let world = world(|_| ());
    for user in ["alice", "eve", "bob"] {
        let first = format!("n,,n={user},r=abc");
        let answer = world.step(Mechanism::ScramSha256, Some(first.as_bytes()), None);
        let AuthAnswer::Challenge { text, state } = answer else { panic!("{user}") };
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("r=abc") && text.ends_with(",i=16384"), "{text}");
        let nonce = text.split(',').next().unwrap();
        let last = format!("c=biws,{nonce},p={}=", "A".repeat(43));
        let answer = world.step(Mechanism::ScramSha256, Some(last.as_bytes()), Some(state));
        assert!(matches!(answer, AuthAnswer::Refused), "{user}: {answer:?}");
    }
}

#[test]
fn who_fails_too_often_is_not_looked_at() {
    let world = world(|settings| (settings.failures_per_user, settings.failures_per_address) = (2, 4));
    for _ in 0..2 {
        assert!(matches!(world.plain(b"\0alice\0falsch"), AuthAnswer::Refused));
    }
    assert!(matches!(world.plain(b"\0alice\0geheim"), AuthAnswer::TooMany));
    assert_eq!(name(&world.plain(b"\0bob\0geheim")), Some("bob"));
    for _ in 0..2 {
        assert!(matches!(world.plain(b"\0eve\0falsch"), AuthAnswer::Refused));
    }
    assert!(matches!(world.plain(b"\0bob\0geheim"), AuthAnswer::TooMany));
}

/// Answers every question with the same status and text, and keeps what it was asked.
fn service(status: &'static str, text: &'static str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ask", listener.local_addr().unwrap());
    let (sender, asked) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut question, mut piece) = (Vec::new(), [0; 4096]);
            // Question and body may come apart.
            while let Ok(length @ 1..) = stream.read(&mut piece) {
                question.extend_from_slice(&piece[..length]);
                let text = String::from_utf8_lossy(&question);
                let length = text
                    .to_ascii_lowercase()
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.len());
                if body.is_some() && body >= length {
                    break;
                }
            }
            let _ = sender.send(String::from_utf8_lossy(&question).into_owned());
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
            let _ = stream.write_all(format!("{head}{text}").as_bytes());
        }
    });
    (url, asked)
}

#[test]
fn a_service_knows_users_that_the_file_does_not() {
    let (url, asked) = service("200 OK", r#"{"senders":["@example.net"]}"#);
    let world = world(|settings| settings.url = Some(url.into()));
    let AuthAnswer::Accepted(user) = world.plain(b"\0carol\0x\"y") else { panic!() };
    assert!(user.senders.allow(b"a@example.net") && !user.senders.allow(b"a@example.org"));
    let question = asked.recv().unwrap();
    assert!(question.contains(r#""user":"carol""#) && question.contains(r#""password":"x\"y""#), "{question}");
    assert!(question.contains(r#""mechanism":"PLAIN""#) && question.contains(r#""address":"192.0.2.1""#), "{question}");
    assert!(matches!(world.plain(b"\0alice\0falsch"), AuthAnswer::Refused), "the file knows her");
}

#[test]
fn a_service_that_says_no_or_nothing_is_told_apart() {
    // AUT-04
    for (status, refused) in
        [("401 Unauthorized", true), ("403 Forbidden", true), ("500 Oops", false), ("302 Found", false)]
    {
        let (url, _asked) = service(status, "{}");
        let world = world(|settings| settings.url = Some(url.into()));
        let answer = world.plain(b"\0carol\0x");
        assert_eq!(matches!(answer, AuthAnswer::Refused), refused, "{status}: {answer:?}");
        assert!(refused || matches!(answer, AuthAnswer::Unavailable), "{status}: {answer:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = world(|settings| settings.url = Some(format!("http://{nobody}/").into()));
    assert!(matches!(world.plain(b"\0carol\0x"), AuthAnswer::Unavailable));
}

#[test]
fn tokens_are_asked_about() {
    // RFC 7628, RFC 7662
    use crate::config::IntrospectionSettings;
    let (url, asked) = service("200 OK", r#"{"active":true,"sub":"carol@example.org"}"#);
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "ringpost:hush\n").unwrap();
    let introspection = |url: String| IntrospectionSettings { url: url.into(), secret: secret.path().to_owned() };
    let known = world(|settings| settings.introspection = Some(introspection(url)));
    let good = b"n,a=carol@example.org,\x01auth=Bearer to+ken\x01\x01";
    assert_eq!(name(&known.step(Mechanism::OauthBearer, Some(good), None)), Some("carol@example.org"));
    let question = asked.recv().unwrap();
    assert!(question.contains("token=to%2Bken&") && question.contains("cmluZ3Bvc3Q6aHVzaA=="), "{question}");
    let other = b"user=dave@example.org\x01auth=Bearer token\x01\x01";
    let AuthAnswer::Challenge { text, state } = known.step(Mechanism::Xoauth2, Some(other), None) else { panic!() };
    assert_eq!(text, br#"{"status":"invalid_token"}"#);
    assert!(matches!(known.step(Mechanism::Xoauth2, Some(b""), Some(state)), AuthAnswer::Refused));

    let (url, _asked) = service("200 OK", r#"{"active":false}"#);
    let unknown = world(|settings| settings.introspection = Some(introspection(url)));
    let answer = unknown.step(Mechanism::OauthBearer, Some(good), None);
    assert!(matches!(answer, AuthAnswer::Challenge { .. }), "{answer:?}");
}

/// FND-08: what is no message of NTLM is none, the first version proves nothing, and who has no hash is nobody.
#[test]
fn ntlm_takes_its_own_messages_only() {
    let world = world(|_| ());
    let first = [&b"NTLMSSP\0\x01\0\0\0\x07\x82\x08\xa2"[..], &[0; 16]].concat();
    for bad in [&b""[..], b"NTLMSSP\0", &first[..15], &[first.as_slice(), &[0; 9000]].concat()[1..]] {
        assert!(matches!(world.step(Mechanism::Ntlm, Some(bad), None), AuthAnswer::Malformed), "{bad:?}");
    }
    let begin = || match world.step(Mechanism::Ntlm, Some(&first), None) {
        AuthAnswer::Challenge { text, state } => (text, state),
        other => panic!("{other:?}"),
    };
    let ((one, state), (other, _)) = (begin(), begin());
    assert!(one.starts_with(b"NTLMSSP\0\x02\0\0\0") && one[24..32] != other[24..32], "no nonce comes twice");
    assert!(matches!(world.step(Mechanism::Ntlm, Some(&first), Some(state)), AuthAnswer::Malformed));
    // Nothing but a user's name, in ASCII, and a response of 24 bytes.
    for (name, length) in [("alice", 24u8), ("nobody", 24), ("alice", 0)] {
        let field = |length: u8, offset: u8| [length, 0, length, 0, offset, 0, 0, 0];
        let end = 64 + length;
        let fields =
            [field(0, 64), field(length, 64), field(0, 64), field(name.len() as u8, end), field(0, 64), field(0, 64)];
        let response = vec![1; length.into()];
        let last = [&b"NTLMSSP\0\x03\0\0\0"[..], &fields.concat(), &[2, 2, 0, 0], &response, name.as_bytes()].concat();
        let (_, state) = begin();
        assert!(matches!(world.step(Mechanism::Ntlm, Some(&last), Some(state)), AuthAnswer::Refused), "{name}");
    }
    assert!(world.reports.lock().unwrap().contains("the client knows no version 2"));
    assert!(!world.reports.lock().unwrap().contains("nobody"));
}

/// FND-08: without a keytab there is nobody to judge Kerberos tickets.
#[test]
fn kerberos_needs_a_keytab() {
    let world = world(|_| ());
    for mechanism in [Mechanism::Gssapi, Mechanism::GssSpnego] {
        assert!(matches!(world.step(mechanism, Some(b"token"), None), AuthAnswer::Malformed));
    }
    let missing = crate::config::KerberosSettings {
        keytab: "/nonexistent/keytab".into(),
        service: None,
        realm: None,
        replays: "/nonexistent/replays".into(),
    };
    let settings = AuthSettings { kerberos: Some(missing), ..Settings::defaults().auth };
    let error = Authenticator::start(&settings, "relay.example.org", Arc::new(|_, _| ())).err().unwrap();
    assert!(error.starts_with("auth.kerberos_keytab /nonexistent/keytab: "), "{error}");
}
