//! A DNS test bed on loopback: nsd serves zones, signed, unsigned, or signed with a key that nobody trusts; unbound
//! resolves and validates in front of it. One zone per rule.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::programs::{Running, need, succeed};
use super::{free_port, wait_until};

const PROGRAM_LONGEST: Duration = Duration::from_secs(60);

/// How a zone is signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signing {
    /// With a key that the resolver trusts.
    Good,
    /// Not at all, and the resolver expects none.
    None,
    /// Not at all, though the resolver trusts a key of it: every answer is bogus.
    Missing,
    /// With signatures that have expired.
    Expired,
}

/// One zone: its name, how it is signed, and its records but for SOA and NS, as `name type value`.
pub(crate) struct Zone<'a> {
    pub(crate) name: &'a str,
    pub(crate) signing: Signing,
    pub(crate) records: &'a [&'a str],
    /// What the server says in place of what was signed.
    pub(crate) lies: &'a [(&'a str, &'a str)],
}

/// The servers; ended when dropped.
pub(crate) struct Bed {
    dir: PathBuf,
    servers: [Running; 2],
    /// The validating resolver.
    pub(crate) resolver: SocketAddr,
    /// What serves the zones, and answers with no more than what is in them.
    pub(crate) server: SocketAddr,
}

impl Bed {
    /// Serves these zones.
    pub(crate) fn start(dir: &Path, zones: &[Zone<'_>]) -> Bed {
        let dir = dir.join("dns");
        fs::create_dir(&dir).unwrap();
        let (server_port, resolver_port) = (free_port(), free_port());
        let mut nsd = format!(
            "server:\n  ip-address: 127.0.0.1@{server_port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{0}\"\n  database: \"\"\n  \
             pidfile: \"\"\n  xfrdfile: \"{0}/xfrd\"\n  zonelistfile: \"{0}/list\"\n  xfrdir: \"{0}\"\n  server-count: 1\n  \
             logfile: \"{0}/nsd.log\"\nremote-control:\n  control-enable: no\n",
            dir.display()
        );
        let mut anchors = String::new();
        let mut stubs = String::new();
        for zone in zones {
            let name = zone.name;
            let (file, anchor) = write_zone(&dir, zone);
            nsd += &format!("zone:\n  name: \"{name}\"\n  zonefile: \"{}\"\n", file.display());
            stubs += &format!("stub-zone:\n  name: \"{name}.\"\n  stub-addr: 127.0.0.1@{server_port}\n");
            if let Some(anchor) = anchor {
                anchors += &format!("  trust-anchor-file: \"{}\"\n", anchor.display());
            }
        }
        let unbound = format!(
            "server:\n  interface: 127.0.0.1@{resolver_port}\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n  \
             pidfile: \"\"\n  use-syslog: no\n  access-control: 127.0.0.0/8 allow\n  do-not-query-localhost: no\n  \
             module-config: \"validator iterator\"\n  local-zone: \"test.\" nodefault\n  qname-minimisation: no\n  \
             target-fetch-policy: \"0 0 0 0 0\"\n  outbound-msg-retry: 1\n{anchors}{stubs}",
            dir.display()
        );
        fs::write(dir.join("nsd.conf"), nsd).unwrap();
        fs::write(dir.join("unbound.conf"), unbound).unwrap();
        let servers = [
            Running::start(Command::new(need("nsd", "nsd")).arg("-d").arg("-c").arg(dir.join("nsd.conf"))),
            Running::start(Command::new(need("unbound", "unbound")).arg("-d").arg("-c").arg(dir.join("unbound.conf"))),
        ];
        let [server, resolver] = [server_port, resolver_port].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        for address in [server, resolver] {
            let name =
                zones.iter().find(|zone| matches!(zone.signing, Signing::Good | Signing::None)).expect("a zone").name;
            assert!(wait_until(PROGRAM_LONGEST, || answers(address, name)), "no DNS at {address}");
        }
        Bed { dir, servers, resolver, server }
    }

    /// Serves another zone of the same name, which is not signed, in place of one that was not either.
    pub(crate) fn change(&self, zone: &Zone<'_>) {
        assert!(zone.signing == Signing::None, "what is signed stays");
        write_zone(&self.dir, zone);
        self.servers[0].signal(libc::SIGHUP);
    }
}

/// True if a server says something of a zone's SOA.
fn answers(address: SocketAddr, zone: &str) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in zone.split('.') {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(b"\x00\x00\x06\x00\x01");
    let mut answer = [0; 4096];
    socket.send_to(&question, address).is_ok()
        && socket.recv(&mut answer).is_ok_and(|length| length > 12 && answer[3] & 15 == 0 && answer[7] > 0)
}

/// Writes a zone's file, signed or not; gives it, and the key that the resolver is to trust.
fn write_zone(dir: &Path, zone: &Zone<'_>) -> (PathBuf, Option<PathBuf>) {
    let name = zone.name;
    let file = dir.join(format!("{name}.zone"));
    let mut text = format!(
        "$ORIGIN {name}.\n$TTL 60\n@ SOA ns.{name}. admin.{name}. 1 3600 600 86400 60\n@ NS ns.{name}.\nns A 127.0.0.1\n"
    );
    zone.records.iter().for_each(|record| text += &format!("{record}\n"));
    fs::write(&file, text).unwrap();
    if zone.signing == Signing::None {
        return (file, None);
    }
    let mut keygen = Command::new(need("ldns-keygen", "ldnsutils"));
    let key = succeed(
        keygen.current_dir(dir).args(["-a", "ECDSAP256SHA256", "-k", "-r", "/dev/urandom", name]),
        PROGRAM_LONGEST,
    );
    let key = dir.join(key.trim());
    let anchor = PathBuf::from(format!("{}.key", key.display()));
    if zone.signing == Signing::Missing {
        return (file, Some(anchor));
    }
    let mut sign = Command::new(need("ldns-signzone", "ldnsutils"));
    sign.current_dir(dir);
    if zone.signing == Signing::Expired {
        sign.args(["-i", "20200101000000", "-e", "20200201000000"]);
    }
    succeed(sign.arg(&file).arg(&key), PROGRAM_LONGEST);
    let signed = PathBuf::from(format!("{}.signed", file.display()));
    let mut text = fs::read_to_string(&signed).unwrap();
    for (truth, lie) in zone.lies {
        assert!(text.contains(truth), "nothing of the zone is {truth}");
        text = text.replace(truth, lie);
    }
    fs::write(&signed, text).unwrap();
    (signed, Some(anchor))
}
