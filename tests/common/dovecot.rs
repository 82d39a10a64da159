//! A whole Dovecot beside the test: it knows users, for a Postfix and for itself, and takes their mail by LMTP.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::programs::{self, Running, need};
use super::{free_port, wait_until};

const START_LONGEST: Duration = Duration::from_secs(60);

/// Every user's password.
pub(crate) const PASSWORD: &str = "corr3ct, h=rse";

/// Ended when dropped.
pub(crate) struct Dovecot {
    dir: TempDir,
    port: u16,
    _server: Running,
}

impl Dovecot {
    /// Starts it with the users `one`, `two`, and `full`, whose mailbox takes nothing; None, with the reason printed, if we are
    /// not root. It opens its socket for Postfix at `auth_socket`.
    pub(crate) fn start(auth_socket: &Path) -> Option<Dovecot> {
        let dovecot = need("dovecot", "dovecot-core dovecot-lmtpd");
        if !programs::is_root() {
            eprintln!("skipped: a Dovecot of our own can only be started by root");
            return None;
        }
        let dir = TempDir::with_prefix("ringpost-dovecot-").unwrap();
        let (base, port) = (dir.path().to_owned(), free_port());
        fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(base.join("mail")).unwrap();
        fs::set_permissions(base.join("mail"), fs::Permissions::from_mode(0o777)).unwrap();
        let user = |name: &str, more: &str| {
            format!("{name}:{{PLAIN}}{PASSWORD}:65534:65534::{}/mail/{name}::{more}\n", base.display())
        };
        let users = user("one", "") + &user("two", "") + &user("full", "userdb_quota_rule=*:storage=1B");
        fs::write(base.join("users"), users).unwrap();
        let text = CONFIGURATION.replace("{dir}", &base.display().to_string()).replace("{port}", &port.to_string());
        fs::write(base.join("dovecot.conf"), text.replace("{auth}", &auth_socket.display().to_string())).unwrap();
        let server = Running::start(Command::new(dovecot).arg("-F").arg("-c").arg(base.join("dovecot.conf")));
        let dovecot = Dovecot { dir, port, _server: server };
        let up = wait_until(START_LONGEST, || {
            TcpStream::connect(dovecot.lmtp()).is_ok() && dovecot.lmtp_socket().exists() && auth_socket.exists()
        });
        assert!(up, "Dovecot does not listen: {}", dovecot.log());
        Some(dovecot)
    }

    /// Where it speaks LMTP by TCP.
    pub(crate) fn lmtp(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where it speaks LMTP by a socket in the file system.
    pub(crate) fn lmtp_socket(&self) -> PathBuf {
        self.dir.path().join("lmtp")
    }

    /// The messages that a user has.
    pub(crate) fn mails(&self, user: &str) -> Vec<String> {
        let folder = fs::read_dir(self.dir.path().join("mail").join(user).join("new"));
        folder.into_iter().flatten().flatten().map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }

    /// What it wrote down.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- Dovecot ----\n{}", self.log());
        }
        // Its processes go with their master only if that ends in order.
        let _ = Command::new("doveadm").arg("-c").arg(self.dir.path().join("dovecot.conf")).arg("stop").output();
    }
}

const CONFIGURATION: &str = "\
protocols = lmtp
base_dir = {dir}/run
log_path = {dir}/log
auth_verbose = yes
ssl = no
first_valid_uid = 1
auth_mechanisms = plain login scram-sha-256
auth_username_format = %Ln
passdb {
  driver = passwd-file
  args = {dir}/users
}
userdb {
  driver = passwd-file
  args = {dir}/users
}
mail_location = maildir:{dir}/mail/%n
mail_plugins = quota
plugin {
  quota = count:User quota
  quota_vsizes = yes
}
protocol lmtp {
  postmaster_address = postmaster@example.org
}
service lmtp {
  unix_listener {dir}/lmtp {
    mode = 0666
  }
  inet_listener lmtp {
    address = 127.0.0.1
    port = {port}
  }
}
service auth {
  unix_listener {auth} {
    mode = 0666
  }
}
";
