//! A realm of a test's own: MIT's KDC on a port of 127.0.0.1, with principals, keytabs and Kerberos tickets.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::programs::{Running, need, shown, succeed};
use super::{free_port, wait_until};

const PROGRAM_LONGEST: Duration = Duration::from_secs(90);

/// The realm.
pub(crate) const REALM: &str = "EXAMPLE.TEST";

/// A KDC that runs; it ends when dropped.
pub(crate) struct Kdc {
    dir: tempfile::TempDir,
    _running: Running,
}

impl Kdc {
    /// Makes the realm, with these users and their common password, and the service `smtp/localhost`; starts its KDC.
    pub(crate) fn start(users: &[&str], password: &str) -> Kdc {
        let dir = tempfile::TempDir::with_prefix("ringpost-kdc-").unwrap();
        // Programs that run as other users read the configuration and what they are given.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        let fill =
            |text: &str| text.replace("{dir}", &dir.path().display().to_string()).replace("{port}", &port.to_string());
        fs::write(dir.path().join("krb5.conf"), fill(KRB5_CONF)).unwrap();
        fs::write(dir.path().join("kdc.conf"), fill(KDC_CONF)).unwrap();
        let here = |program: &str, package: &str| {
            let mut command = Command::new(need(program, package));
            command
                .env("KRB5_CONFIG", dir.path().join("krb5.conf"))
                .env("KRB5_KDC_PROFILE", dir.path().join("kdc.conf"));
            command
        };
        succeed(here("kdb5_util", "krb5-kdc").args(["create", "-s", "-W", "-P", "master"]), PROGRAM_LONGEST);
        let keytab = dir.path().join("keytab");
        let mut orders: Vec<String> = users.iter().map(|user| format!("addprinc -pw {password} {user}")).collect();
        orders.push("addprinc -randkey smtp/localhost".to_owned());
        orders.push(format!("ktadd -k {} smtp/localhost", keytab.display()));
        // The key of a service that the relay is not.
        orders.push("addprinc -randkey imap/localhost".to_owned());
        for order in orders {
            succeed(here("kadmin.local", "krb5-admin-server").args(["-q", &order]), PROGRAM_LONGEST);
        }
        let running = Running::start(here("krb5kdc", "krb5-kdc").arg("-n"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let up = wait_until(PROGRAM_LONGEST, || TcpStream::connect(address).is_ok());
        assert!(up, "the KDC does not listen: {}", fs::read_to_string(dir.path().join("kdc.log")).unwrap_or_default());
        Kdc { dir, _running: running }
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The service's keys.
    pub(crate) fn keytab(&self) -> PathBuf {
        self.dir.path().join("keytab")
    }

    /// What clients are configured with.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.dir.path().join("krb5.conf")
    }

    /// Gets a user a ticket by its password: the cache with it.
    pub(crate) fn ticket(&self, user: &str, password: &str) -> PathBuf {
        let cache = self.dir.path().join(format!("cache-{user}"));
        let mut command = Command::new(need("kinit", "krb5-user"));
        command.env("KRB5_CONFIG", self.configuration()).arg("-c").arg(&cache).arg(user);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "kinit {user}: {}", shown(&output.stdout, &output.stderr));
        cache
    }

    /// A program that uses the tickets of a cache in this realm.
    pub(crate) fn command(&self, program: &Path, cache: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("KRB5_CONFIG", self.configuration()).env("KRB5CCNAME", format!("FILE:{}", cache.display()));
        command
    }
}

const KRB5_CONF: &str = "\
[libdefaults]
default_realm = EXAMPLE.TEST
dns_lookup_realm = false
dns_lookup_kdc = false
dns_canonicalize_hostname = false
rdns = false
udp_preference_limit = 1

[realms]
EXAMPLE.TEST = {
    kdc = 127.0.0.1:{port}
}

[domain_realm]
localhost = EXAMPLE.TEST
";

const KDC_CONF: &str = "\
[kdcdefaults]
kdc_listen = 127.0.0.1:{port}
kdc_tcp_listen = 127.0.0.1:{port}

[realms]
EXAMPLE.TEST = {
    database_name = {dir}/principal
    key_stash_file = {dir}/stash
    acl_file = {dir}/acl
    max_life = 1h
}

[logging]
kdc = FILE:{dir}/kdc.log
";
