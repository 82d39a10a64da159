//! A Postfix of a test's own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::programs::{is_root, need, succeed};
use super::{free_port, wait_until};

const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);
const PROGRAM_LONGEST: Duration = Duration::from_secs(90);

/// A Postfix with its own configuration, queue and data, which never touches the system's.
pub(crate) struct Postfix {
    /// Where it takes mail, on 127.0.0.1.
    pub(crate) port: u16,
    dir: tempfile::TempDir,
}

impl Postfix {
    /// Starts it with everything relayed to `next_port`, and more lines in its main.cf and master.cf; None, with the reason printed,
    /// if we are not root.
    pub(crate) fn start(next_port: u16, main: &str, master: &str) -> Option<Postfix> {
        need("postfix", "postfix");
        if !is_root() {
            eprintln!("skipped: a Postfix of our own can only be started by root");
            return None;
        }
        let dir = tempfile::TempDir::with_prefix("ringpost-postfix-").unwrap();
        let (base, port) = (dir.path().to_owned(), free_port());
        // Its processes run as other users and must reach it.
        fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["etc", "queue", "data", "log"] {
            fs::create_dir(base.join(name)).unwrap();
        }
        succeed(Command::new("chown").arg("postfix").arg(base.join("data")), PROGRAM_LONGEST);
        let fill = |text: &str| {
            let text = text.replace("{dir}", &base.display().to_string());
            text.replace("{port}", &port.to_string()).replace("{next}", &next_port.to_string())
        };
        fs::write(base.join("etc/main.cf"), fill(MAIN_CF) + main).unwrap();
        fs::write(base.join("etc/master.cf"), fill(MASTER_CF) + master).unwrap();
        let postfix = Postfix { port, dir };
        postfix.command("start");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let up = wait_until(ARRIVAL_LONGEST, || TcpStream::connect(address).is_ok());
        let log = fs::read_to_string(postfix.dir.path().join("log/mail.log")).unwrap_or_default();
        assert!(up, "Postfix does not listen: {log}");
        Some(postfix)
    }

    /// Where it takes mail.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its directory, with `etc`, `queue`, `data` and `log`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, word: &str) {
        let mut command = Command::new(need("postfix", "postfix"));
        // Its children keep the output open, so nothing waits for its end.
        command.arg("-c").arg(self.dir.path().join("etc")).arg(word);
        let log = fs::File::create(self.dir.path().join("log/command.out")).unwrap();
        let status = command.stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).status();
        let text = fs::read_to_string(self.dir.path().join("log/command.out")).unwrap_or_default();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking(), "postfix {word}: {text}");
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.dir.path().join("log/mail.log")).unwrap_or_default());
        }
        self.command("stop");
    }
}

const MAIN_CF: &str = "\
compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {dir}/log/mail.log
maillog_file_prefixes = {dir}/log
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.example.com
mydestination =
local_transport = error:none
local_recipient_maps =
alias_maps =
mynetworks = 127.0.0.0/8
local_header_rewrite_clients =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
smtpd_tls_security_level = none
smtp_dns_support_level = disabled
smtp_host_lookup = native
relayhost = [127.0.0.1]:{next}
in_flow_delay = 0
";

const MASTER_CF: &str = "\
127.0.0.1:{port} inet n - n - 20 smtpd
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - 20 smtp
relay     unix - - n - 20 smtp
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
tlsmgr    unix - - n 1000? 1 tlsmgr
showq     unix n - n - - showq
postlog   unix-dgram n - n - 1 postlogd
";
