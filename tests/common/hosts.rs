//! Mail hosts that take mail inside TLS only (aiosmtpd), an authority for their certificates, and a web server with policies.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::programs::{Running, need, python, script, succeed};
use super::wait_until;

const PROGRAM_LONGEST: Duration = Duration::from_secs(60);

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Makes a certificate for names, signed by `authority`, or by itself; an authority's own if there are no names.
pub(crate) fn certificate(dir: &Path, file: &str, names: &[&str], authority: Option<&Pair>) -> Pair {
    certificate_for(9, dir, file, names, authority)
}

/// The same, for so many days.
pub(crate) fn certificate_for(days: u32, dir: &Path, file: &str, names: &[&str], authority: Option<&Pair>) -> Pair {
    let pair = Pair { certificate: dir.join(format!("{file}.crt")), key: dir.join(format!("{file}.key")) };
    let mut command = Command::new(need("openssl", "openssl"));
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", &format!("/CN={file}")]);
    command.args(["-days", &days.to_string()]);
    if names.is_empty() {
        command.args(["-addext", "basicConstraints=critical,CA:TRUE"]);
    } else {
        let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        command.args(["-addext", &format!("subjectAltName={}", names.join(","))]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    if let Some(authority) = authority {
        command.arg("-CA").arg(&authority.certificate).arg("-CAkey").arg(&authority.key);
    }
    command.arg("-keyout").arg(&pair.key).arg("-out").arg(&pair.certificate);
    succeed(&mut command, PROGRAM_LONGEST);
    pair
}

impl Pair {
    /// The key's SHA-256, as TLSA has it.
    pub(crate) fn key_digest(&self) -> String {
        let text = format!(
            "openssl x509 -in {} -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum",
            self.certificate.display()
        );
        let digest = succeed(Command::new("sh").arg("-c").arg(text), PROGRAM_LONGEST);
        digest.split(' ').next().unwrap().to_owned()
    }
}

/// aiosmtpd at 127.0.0.`number`, which takes mail inside TLS only, and offers REQUIRETLS there.
pub(crate) struct Host {
    dir: PathBuf,
    _server: Running,
}

impl Host {
    pub(crate) fn start(dir: &Path, number: u8, port: u16, pair: &Pair) -> Host {
        let dir = dir.join(format!("host{number}"));
        fs::create_dir(&dir).unwrap();
        let address = format!("127.0.0.{number}");
        let mut command = Command::new(python());
        command.arg(script("aiosmtpd_sink.py")).arg(port.to_string()).arg(&dir);
        command.arg(&pair.certificate).arg(&pair.key).arg(&address);
        let server = Running::start(&mut command);
        wait_for(SocketAddr::new(address.parse().unwrap(), port));
        Host { dir, _server: server }
    }

    /// What is known of the messages that came.
    pub(crate) fn facts(&self) -> Vec<String> {
        let files = fs::read_dir(&self.dir).unwrap().flatten().map(|file| file.path());
        let facts = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        facts.map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    /// Messages that came.
    pub(crate) fn count(&self) -> usize {
        self.facts().len()
    }
}

/// A web server on 127.0.0.1 that has MTA-STS policies.
pub(crate) struct PolicyServer {
    dir: PathBuf,
    _server: Running,
}

impl PolicyServer {
    pub(crate) fn start(dir: &Path, port: u16, pair: &Pair) -> PolicyServer {
        let dir = dir.join("policies");
        fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new(python());
        command.arg(script("policy_server.py")).arg(port.to_string()).arg(&dir);
        let server = Running::start(command.arg(&pair.certificate).arg(&pair.key));
        wait_for(SocketAddr::from(([127, 0, 0, 1], port)));
        PolicyServer { dir, _server: server }
    }

    /// What it says for a domain: the status, the media type or where to go, and the text.
    pub(crate) fn answer(&self, domain: &str, status: u16, kind: &str, text: &str) {
        let unfinished = self.dir.join("unfinished");
        fs::write(&unfinished, format!("{status} {kind}\n{text}")).unwrap();
        fs::rename(unfinished, self.dir.join(format!("mta-sts.{domain}"))).unwrap();
    }

    /// What was posted, each in a file of its own.
    pub(crate) fn posts(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.dir).unwrap().flatten().map(|file| file.path());
        files.filter(|path| path.extension().is_some_and(|ending| ending == "post")).collect()
    }

    /// Its log, a line for each request.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// What it says to who posts to a host: a status, and where a redirect leads; or 503 to the next one.
    pub(crate) fn answer_posts(&self, host: &str, head: &str) {
        let file = if head == "503" { format!("{host}.busy") } else { host.to_owned() };
        fs::write(self.dir.join(file), head).unwrap();
    }

    /// How often it was asked for a domain's policy.
    pub(crate) fn asked(&self, domain: &str) -> usize {
        self.log().lines().filter(|line| *line == format!("mta-sts.{domain} /.well-known/mta-sts.txt")).count()
    }
}

fn wait_for(address: SocketAddr) {
    assert!(wait_until(PROGRAM_LONGEST, || TcpStream::connect(address).is_ok()), "nobody listens at {address}");
}
