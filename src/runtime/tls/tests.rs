//! Both sides of TLS against each other, over every split of the bytes; and what breaks it.

use super::*;
use crate::config::{self, Machine};
use crate::route::safety::Tlsa;
use proptest::prelude::*;
use rustls::ConfigBuilder;
use rustls::client::WantsClientCert;
use std::sync::OnceLock;

fn settings(dir: &Path, sets: &[String]) -> Settings {
    let machine = Machine { hostname: "relay.example".into(), cores: 1 };
    let mut all = vec![format!("queue.dir={}", dir.display())];
    all.extend_from_slice(sets);
    config::load(None, &all, &machine).unwrap()
}

/// Keys with a certificate of their own, which is its own authority too.
fn fresh_keys() -> Keys {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, _) = own_files(dir.path());
    let sets = ["site.default.tls=verify".to_owned(), format!("tls.roots={}", certificate.display())];
    let settings = settings(dir.path(), &sets);
    let (own, own_key) = own_files(dir.path());
    make_own("relay.example", &own, &own_key).unwrap();
    Keys::load(&settings).unwrap().0
}

/// The keys that tests share: making them takes a while.
fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(fresh_keys)
}

fn begin(keys: &Keys, role: TlsRole) -> Tls {
    keys.begin(role, "127.0.0.1".parse().unwrap()).unwrap()
}

fn client(host: &str, verify: bool) -> Tls {
    let identity = if verify { Identity::Name } else { Identity::Any };
    begin(keys(), TlsRole::Client { host: host.into(), identity })
}

fn server() -> Tls {
    begin(keys(), TlsRole::Server { listener: Role::Relay })
}

/// One end: its TLS, and what it read and learned.
struct End {
    tls: Tls,
    plain: Vec<u8>,
    secured: Option<TlsInfo>,
    ended: bool,
    sent: usize,
}

impl End {
    fn new(tls: Tls) -> End {
        End { tls, plain: Vec::new(), secured: None, ended: false, sent: 0 }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let kept = self.tls.kept();
        let mut buffer = vec![0xa5; kept + bytes.len()];
        buffer[kept..kept + bytes.len()].copy_from_slice(bytes);
        let opened = self.tls.open(&mut buffer, bytes.len(), &mut self.plain)?;
        assert!(opened.secured.is_none() || self.secured.is_none(), "secured once");
        self.secured = self.secured.take().or(opened.secured);
        self.ended |= opened.ended;
        Ok(())
    }

    /// Everything that waits, as a socket would take it: at most `most` bytes at a time.
    fn take(&mut self, most: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !self.tls.outgoing().is_empty() {
            let count = self.tls.outgoing().len().min(most);
            all.extend_from_slice(&self.tls.outgoing()[..count]);
            self.sent += self.tls.took(count);
        }
        all
    }

    fn say(&mut self, text: &[u8]) {
        for part in text.chunks(limits::TLS_SEAL_BYTES) {
            let halves = part.split_at(part.len() / 2);
            self.tls.seal(&[IoSlice::new(halves.0), IoSlice::new(halves.1)], &mut Vec::new()).unwrap();
        }
    }
}

/// Carries bytes both ways, `piece` at a time, until nobody has more to say.
fn carry(a: &mut End, b: &mut End, piece: usize) -> Result<(), Broken> {
    loop {
        let (there, back) = (a.take(piece), b.take(piece));
        if there.is_empty() && back.is_empty() {
            return Ok(());
        }
        there.chunks(piece).try_for_each(|bytes| b.read(bytes))?;
        back.chunks(piece).try_for_each(|bytes| a.read(bytes))?;
    }
}

fn pair() -> (End, End) {
    (End::new(client("relay.example", true)), End::new(server()))
}

#[test]
fn a_handshake_and_text_come_through_every_split() {
    let long: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    for piece in [1, 2, 3, 5, 7, 64, 1000, 16_384, 200_000] {
        let (mut client, mut server) = pair();
        carry(&mut client, &mut server, piece).unwrap();
        let info = client.secured.clone().expect("the handshake is done");
        assert_eq!(server.secured.as_ref().unwrap().cipher, info.cipher);
        assert!(info.cipher.starts_with("TLS_"), "{info:?}");
        let text = if piece < 64 { &long[..40_000] } else { &long[..] };
        for part in text.chunks(limits::TLS_SEAL_BYTES) {
            client.say(part);
            carry(&mut client, &mut server, piece).unwrap();
        }
        server.say(b"250 fine\r\n");
        carry(&mut client, &mut server, piece).unwrap();
        assert!(server.plain == text && client.plain == b"250 fine\r\n");
        assert_eq!((client.sent, server.sent), (text.len(), 10));
        assert!(!server.ended);
        client.tls.say_goodbye();
        carry(&mut client, &mut server, piece).unwrap();
        assert!(server.ended && !client.ended);
        // An idle connection holds no buffer.
        assert_eq!((server.tls.incoming.capacity(), server.tls.kept()), (0, 0));
        assert!(server.tls.outgoing.capacity() <= limits::OUTBOX_KEEP_BYTES);
    }
}

/// A client's first commands may stand right behind its last word of the handshake.
#[test]
fn text_behind_the_handshake_is_not_lost() {
    let (mut client, mut server) = pair();
    server.read(&client.take(usize::MAX)).unwrap();
    client.read(&server.take(usize::MAX)).unwrap();
    assert!(client.secured.is_some() && server.secured.is_none());
    let finished = client.take(usize::MAX);
    client.say(b"EHLO x\r\n");
    server.read(&[finished, client.take(usize::MAX)].concat()).unwrap();
    assert!(server.secured.is_some());
    assert_eq!(server.plain, b"EHLO x\r\n");
}

/// TLS-07: a name is proved by the certificate where that is asked for, and only there.
#[test]
fn names_are_proved_where_asked_for() {
    for (host, verify, good) in [
        ("relay.example", true, true),
        ("other.example", true, false),
        ("127.0.0.1", true, false),
        ("other.example", false, true),
        ("127.0.0.1", false, true),
        ("no name at all", false, true),
    ] {
        let (mut client, mut server) = (End::new(client(host, verify)), End::new(server()));
        let result = carry(&mut client, &mut server, usize::MAX);
        assert_eq!(result.is_ok(), good, "{host} {verify}: {result:?}");
        if let Err(broken) = result {
            assert!(broken.to_string().contains("certificate"), "{broken}");
            // The other side hears of it.
            let alert = client.take(usize::MAX);
            assert!(!alert.is_empty() && server.read(&alert).is_err());
        }
    }
}

/// STS-02: a name that is tested is looked at, in a session that is taken up again, too, and nothing follows from it.
#[test]
fn names_are_tested() {
    let keys = fresh_keys();
    for (host, proves) in
        [("relay.example", true), ("relay.example", true), ("other.example", false), ("127.0.0.1", false)]
    {
        let client = begin(&keys, TlsRole::Client { host: host.into(), identity: Identity::Tested });
        let server = begin(&keys, TlsRole::Server { listener: Role::Relay });
        let (mut client, mut server) = (End::new(client), End::new(server));
        carry(&mut client, &mut server, usize::MAX).unwrap();
        client.say(b"x");
        carry(&mut client, &mut server, usize::MAX).unwrap();
        assert_eq!(client.secured.map(|info| info.certified), Some(proves), "{host}");
    }
}

/// Sessions resume, but one that was made without proof never stands in for a proof.
#[test]
fn sessions_resume() {
    // Its own: tickets serve once, and other tests would take them.
    let keys = fresh_keys();
    let connect = |verify| {
        let identity = if verify { Identity::Name } else { Identity::Any };
        let client = begin(&keys, TlsRole::Client { host: "relay.example".into(), identity });
        let (mut client, mut server) =
            (End::new(client), End::new(begin(&keys, TlsRole::Server { listener: Role::Relay })));
        carry(&mut client, &mut server, usize::MAX).unwrap();
        client.say(b"x");
        carry(&mut client, &mut server, usize::MAX).unwrap();
        let resumed = client.secured.unwrap().resumed;
        assert_eq!(resumed, server.secured.unwrap().resumed);
        resumed
    };
    assert!(!connect(false), "the first session is new");
    assert!(!connect(true), "each kind of trust begins with a session of its own");
    assert!(connect(false) && connect(true));
}

/// A client of rustls that takes any certificate, but for what it shows of itself.
fn trusting(
    provider: Arc<CryptoProvider>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    builder.dangerous().with_custom_certificate_verifier(verifier)
}

/// What rustls has to say goes to our end, and our answer back.
fn exchange(client: &mut rustls::ClientConnection, ours: &mut End) {
    let mut said = Vec::new();
    client.write_tls(&mut said).unwrap();
    if !said.is_empty() {
        ours.read(&said).unwrap();
    }
    let answer = ours.take(usize::MAX);
    client.read_tls(&mut &answer[..]).unwrap();
    client.process_new_packets().unwrap();
}

/// TLS-11: what resumes at one role of listener is a stranger at every other, in both versions.
#[test]
fn sessions_resume_within_a_role() {
    let keys = fresh_keys();
    for version in VERSIONS {
        let config = Arc::new(trusting(provider(), &[version]).with_no_client_auth());
        let connect = |listener| {
            let name = ServerName::try_from("relay.example").unwrap();
            let mut client = rustls::ClientConnection::new(config.clone(), name).unwrap();
            let mut ours = End::new(begin(&keys, TlsRole::Server { listener }));
            // Once more behind the handshake, for tickets that come late.
            let mut more = 1;
            while more > 0 {
                more -= usize::from(!client.is_handshaking() && ours.secured.is_some());
                exchange(&mut client, &mut ours);
            }
            ours.secured.unwrap().resumed
        };
        for role in Role::ALL {
            assert!(!connect(role), "{version:?} {role:?}: new, whatever others gave it");
            assert!(connect(role), "{version:?} {role:?}");
        }
    }
}

/// TLS-02, TLS-04: what is no TLS is an error at once, whatever it is.
#[test]
fn plain_text_is_no_handshake() {
    for text in
        [&b"EHLO x\r\nMAIL FROM:<a@b>\r\n"[..], &[0; 100], &[0xff; 100], b"\x16\x03\x01\x00\x02\x01\xff\xff\xff"]
    {
        let mut server = End::new(server());
        let broken = (0..3).try_for_each(|_| server.read(text));
        assert!(broken.is_err(), "{text:?}");
    }
}

/// A message of the handshake in the smallest pieces holds no more memory than it may.
#[test]
fn an_endless_handshake_is_bounded() {
    let mut server = End::new(server());
    // The start of a long ClientHello, a byte to each record.
    let hello = [&[1, 0, 0xff, 0xff][..], &[3; 70_000]].concat();
    let broken = hello.iter().try_for_each(|byte| {
        let result = server.read(&[22, 3, 1, 0, 1, *byte]);
        assert!(server.tls.kept() <= limits::TLS_KEPT_MAX_BYTES);
        result
    });
    assert!(broken.is_err());
}

#[test]
fn a_certificate_is_made_once_and_its_key_is_ours() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), &[]);
    let (keys, note) = Keys::load(&settings).unwrap();
    assert!(keys.server.is_some());
    assert!(note.unwrap().contains("self-signed certificate for relay.example"));
    let (certificate, key) = own_files(dir.path());
    assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    let first = std::fs::read(&certificate).unwrap();
    assert_eq!(Keys::load(&settings).unwrap().1, None);
    assert_eq!(std::fs::read(&certificate).unwrap(), first);
}

#[test]
fn wrong_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pem");
    std::fs::write(&path, "nothing").unwrap();
    let pair = [format!("tls.certificate={}", path.display()), format!("tls.key={}", path.display())];
    let roots =
        ["site.default.tls=verify".to_owned(), format!("tls.roots={}", path.display()), "tls.offer=false".into()];
    for sets in [&pair[..], &roots[..]] {
        let settings = settings(dir.path(), sets);
        for failure in [Keys::load(&settings).err().unwrap(), Keys::check(&settings).unwrap_err()] {
            assert!(failure.to_string().contains("x.pem"), "{failure}");
        }
    }
}

/// A start that could not write its own pair leaves nothing that keeps the next one from making it.
#[test]
fn an_unfinished_pair_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), &[]);
    let (certificate, key) = own_files(&settings.queue.dir);
    std::fs::create_dir_all(certificate.parent().unwrap()).unwrap();
    // Where the unfinished certificate would go a directory stands in the way.
    let obstacle = certificate.with_extension("new");
    std::fs::create_dir(&obstacle).unwrap();
    let failure = Keys::load(&settings).err().unwrap();
    assert!(failure.to_string().contains(OWN_CERTIFICATE), "{failure}");
    assert!(key.exists() && !certificate.exists());
    std::fs::remove_dir(&obstacle).unwrap();
    Keys::load(&settings).unwrap();
    // A certificate whose key is gone is replaced with it.
    std::fs::remove_file(&key).unwrap();
    Keys::load(&settings).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Bytes changed on their way are never read as something else; whatever comes, nothing panics.
    #[test]
    fn changed_bytes_are_never_read(at in any::<prop::sample::Index>(), flip in 1u8.., piece in 1usize..300) {
        let (mut client, mut server) = pair();
        carry(&mut client, &mut server, usize::MAX).unwrap();
        client.say(&[b'x'; 500]);
        let mut records = client.take(usize::MAX);
        let at = at.index(records.len());
        records[at] ^= flip;
        let result = records.chunks(piece).try_for_each(|bytes| server.read(bytes));
        // The version in a record's head is the one thing that TLS 1.3 ignores (RFC 8446 5.1).
        prop_assert!(server.plain.is_empty() || (result.is_ok() && server.plain == [b'x'; 500]), "{result:?}");
    }

    #[test]
    fn garbage_never_panics(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 1..20)) {
        let mut ends = [End::new(server()), End::new(client("relay.example", true))];
        for end in &mut ends {
            let _ = pieces.iter().try_for_each(|piece| end.read(piece));
        }
    }
}

/// AUT-01: the channel binding is what another's stack makes of the same session (RFC 9266), in both hashes, and in TLS 1.2 too that
/// of the certificate (RFC 5929).
#[test]
fn sessions_are_bound_to_what_both_ends_export() {
    use rustls::crypto::aws_lc_rs::cipher_suite as suites;
    let cases = [
        (suites::TLS13_AES_128_GCM_SHA256, true),
        (suites::TLS13_AES_256_GCM_SHA384, true),
        (suites::TLS13_CHACHA20_POLY1305_SHA256, true),
        (suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false),
    ];
    for (suite, bound) in cases {
        let provider = Arc::new(CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() });
        let version = if bound { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
        let config = trusting(provider, &[version]).with_no_client_auth();
        let name = ServerName::try_from("relay.example").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut ours = End::new(server());
        while client.is_handshaking() || ours.secured.is_none() {
            exchange(&mut client, &mut ours);
        }
        let exported = client.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).unwrap();
        let binding = ours.secured.unwrap().binding;
        assert_eq!(binding.exporter, bound.then_some(exported), "{suite:?}");
        // Our own certificates are signed with SHA-256.
        let certificate = &client.peer_certificates().unwrap()[0];
        let hash = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, certificate);
        assert_eq!(binding.end_point.as_deref(), Some(hash.as_ref()), "{suite:?}");
    }
}

/// A client's certificate lets it relay if it is from an authority for clients; who has none is let in without.
#[test]
fn clients_are_known_by_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, made.cert.pem()).unwrap();
        (path, made.cert.der().clone(), PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap())
    };
    let (roots, known, known_key) = write("client.example");
    let (_, stranger, stranger_key) = write("stranger.example");
    let keys = Keys::load(&settings(dir.path(), &[format!("tls.client_roots={}", roots.display())])).unwrap().0;
    let config = || trusting(provider(), &VERSIONS);
    for (config, certified) in [
        (config().with_no_client_auth(), Some(false)),
        (config().with_client_auth_cert(vec![known], known_key).unwrap(), Some(true)),
        (config().with_client_auth_cert(vec![stranger], stranger_key).unwrap(), None),
    ] {
        let name = ServerName::try_from("relay.example").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut ours = End::new(begin(&keys, TlsRole::Server { listener: Role::Relay }));
        let mut broken = false;
        while !broken && ours.secured.is_none() {
            let mut said = Vec::new();
            client.write_tls(&mut said).unwrap();
            broken = !said.is_empty() && ours.read(&said).is_err();
            let answer = ours.take(usize::MAX);
            client.read_tls(&mut &answer[..]).unwrap();
            let _ = client.process_new_packets();
        }
        assert_eq!(ours.secured.map(|info| info.certified), certified);
    }
}

/// An authority, and the chain and the key of a host below it.
struct Chain {
    authority: CertificateDer<'static>,
    keys: Keys,
    leaf: CertificateDer<'static>,
}

/// `expired`: the host's certificate is no longer good.
fn chain(name: &str, expired: bool) -> Chain {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    }
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key_file) = own_files(dir.path());
    std::fs::write(&certificate, leaf.pem() + &authority.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let keys = Keys::load(&settings(dir.path(), &[])).unwrap().0;
    Chain { authority: authority.der().clone(), keys, leaf: leaf.der().clone() }
}

/// The record that means a certificate.
fn tlsa(usage: u8, selector: u8, matching: u8, certificate: &CertificateDer<'_>) -> Tlsa {
    use ::aws_lc_rs::digest;
    let key = rustls::server::ParsedCertificate::try_from(certificate).unwrap().subject_public_key_info();
    let meant: &[u8] = if selector == 0 { certificate } else { &key };
    let data: Box<[u8]> = match matching {
        0 => meant.into(),
        1 => digest::digest(&digest::SHA256, meant).as_ref().into(),
        _ => digest::digest(&digest::SHA512, meant).as_ref().into(),
    };
    Tlsa { usage, selector, matching, data }
}

/// True if a host with this chain proves itself by these records.
fn proves(chain: &Chain, records: &[Tlsa], host: &str, domain: Option<&str>) -> bool {
    let dane = Dane { base: host.into(), records: records.into(), domain: domain.map(Into::into) };
    let role = TlsRole::Client { host: "alias.test".into(), identity: Identity::Dane(Arc::new(dane)) };
    let client = begin(&chain.keys, role);
    let (mut client, mut server) =
        (End::new(client), End::new(begin(&chain.keys, TlsRole::Server { listener: Role::Relay })));
    carry(&mut client, &mut server, usize::MAX).is_ok() && client.secured.is_some()
}

/// DAN-02, DAN-03: usage 3 means one certificate or key, whatever its name and dates; usage 2 an authority, with names and dates.
#[test]
fn tlsa_records_prove_a_host() {
    let good = chain("mx.test", false);
    let old = chain("mx.test", true);
    for selector in 0..2 {
        for matching in 0..3 {
            let case = format!("selector {selector} matching {matching}");
            let leaf = tlsa(3, selector, matching, &good.leaf);
            assert!(proves(&good, std::slice::from_ref(&leaf), "mx.test", None), "3 {case}");
            assert!(proves(&good, std::slice::from_ref(&leaf), "other.test", None), "3 {case}: names do not matter");
            assert!(proves(&old, &[tlsa(3, selector, matching, &old.leaf)], "mx.test", None), "3 {case}: nor dates");
            assert!(!proves(&old, std::slice::from_ref(&leaf), "mx.test", None), "3 {case}: another's certificate");
            let wrong = tlsa(3, selector, matching, &old.leaf);
            assert!(proves(&good, &[wrong.clone(), leaf], "mx.test", None), "3 {case}: one is enough");
            assert!(!proves(&good, &[wrong], "mx.test", None), "3 {case}");
            let authority = tlsa(2, selector, matching, &good.authority);
            assert!(proves(&good, std::slice::from_ref(&authority), "mx.test", None), "2 {case}");
            assert!(!proves(&good, std::slice::from_ref(&authority), "other.test", None), "2 {case}: names matter");
            assert!(
                proves(&good, std::slice::from_ref(&authority), "other.test", Some("mx.test")),
                "2 {case}: the domain's, too"
            );
            assert!(
                !proves(&old, &[tlsa(2, selector, matching, &old.authority)], "mx.test", None),
                "2 {case}: and dates"
            );
            assert!(!proves(&old, &[authority], "mx.test", None), "2 {case}: another authority");
        }
    }
    let as_host = tlsa(3, 1, 1, &good.authority);
    assert!(!proves(&good, &[as_host], "mx.test", None), "the authority is not the host");
}
