//! The shell as a whole, over real sockets and files: two shards on loopback.

use super::*;
use crate::base::limits::SEGMENT_MIN_BYTES;
use crate::config::{self, Endpoint, Machine, Role, SocketSettings};
use crate::queue::ShardStart;
use crate::shard::{Setup, Shard};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;

/// Counting this process's descriptors and time makes sense for one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Relay {
    crew: Option<Crew>,
    _dir: tempfile::TempDir,
}

fn build(shards: usize) -> Build {
    let machine = Machine { hostname: "relay.example".into(), cores: 1 };
    // The mail goes nowhere: nothing listens on the port for discarding.
    let sets = [
        "route.default=127.0.0.1:9".to_owned(),
        format!("queue.segment_bytes={SEGMENT_MIN_BYTES}"),
        format!("shards={shards}"),
    ];
    let settings = Arc::new(config::load(None, &sets, &machine).unwrap());
    Box::new(move |id, blocks, now| {
        Shard::new(Setup { id, settings, start: ShardStart::empty(id), blocks, seed: 1, now })
    })
}

fn keys(dir: &std::path::Path) -> Keys {
    let machine = Machine { hostname: "relay.example".into(), cores: 1 };
    let settings = config::load(None, &[format!("queue.dir={}", dir.display())], &machine).unwrap();
    Keys::load(&settings).unwrap().0
}

fn sockets(endpoint: &str, shards: usize) -> Result<Sockets, Failure> {
    let endpoint = Endpoint::parse(endpoint).unwrap();
    let listener = Listener { endpoint, role: Role::Relay, proxied: false };
    Sockets::bind(&[listener], shards, &allowed_cores().unwrap(), &SocketSettings::default())
}

impl Relay {
    fn start(shards: usize) -> Relay {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            sockets: sockets("127.0.0.1:0", shards).unwrap(),
            proxies: Vec::new(),
            authenticate: Arc::new(|_, reply| reply(AuthAnswer::Refused)),
            prove: Arc::new(|_, _| {}),
            lend: Arc::new(|_, _, _| {}),
            note_tls: Arc::new(|_| {}),
            keys: keys(dir.path()),
            queue_dir: dir.path().to_owned(),
            segment_bytes: SEGMENT_MIN_BYTES,
            socket: SocketSettings::default(),
            drain_ms: 5000,
        };
        let ask: Ask = Arc::new(|query, _, reply| reply(query, Answer::NullMx { ttl_s: 1 }));
        let builds = (0..shards).map(|_| build(shards)).collect();
        let mut crew = Crew::start(options, builds, &ask, Reporter::start(Level::Warning).unwrap()).unwrap();
        assert!(crew.wait_ready().unwrap());
        Relay { crew: Some(crew), _dir: dir }
    }

    fn address(&self) -> SocketAddr {
        match self.crew.as_ref().unwrap().listeners()[0].endpoint {
            Endpoint::Tcp(address) => address,
            Endpoint::Unix(_) => unreachable!("it listens by TCP"),
        }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut client = Client(BufReader::new(stream));
        assert_eq!(client.code(), 220);
        client
    }

    fn finish(mut self) {
        assert!(self.crew.take().unwrap().finish());
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// The code of the next whole reply.
    fn code(&mut self) -> u16 {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
            }
        }
    }

    fn ask(&mut self, text: &str) -> u16 {
        self.send(text);
        self.code()
    }

    fn deliver(&mut self, body_bytes: usize) {
        self.send("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n");
        assert_eq!((self.code(), self.code(), self.code()), (250, 250, 354));
        let line = format!("{}\r\n", "x".repeat(70));
        let body = line.repeat(body_bytes / line.len() + 1);
        assert_eq!(self.ask(&format!("Subject: t\r\n\r\n{body}.\r\n")), 250);
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// CPU time of the threads of shards so far, in milliseconds.
fn shard_cpu_ms() -> u64 {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        if stat.contains("(shard-") {
            let fields: Vec<&str> = stat[stat.rfind(')').unwrap_or(0)..].split(' ').collect();
            ticks += fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
        }
    }
    // SAFETY: a plain query.
    ticks * 1000 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64
}

#[test]
fn mail_of_any_size_is_taken_over_both_shards() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let relay = Relay::start(2);
    let mut clients: Vec<_> = (0..20).map(|_| relay.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("EHLO client.example\r\n"), 250);
    }
    for size in [0, 100, 10_000, 400_000] {
        clients.iter_mut().for_each(|client| client.deliver(size));
    }
    for mut client in clients {
        assert_eq!(client.ask("QUIT\r\n"), 221);
        assert_eq!(client.0.read(&mut [0; 10]).unwrap(), 0, "closed in order behind the last reply");
    }
    relay.finish();
}

/// A client that asks for much and reads late gets everything, in order, through the writer task (QUE-09).
#[test]
fn a_slow_reader_gets_everything() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let relay = Relay::start(1);
    let mut slow = relay.connect();
    slow.send("EHLO client.example\r\n");
    assert_eq!(slow.code(), 250);
    let noops = 20_000;
    let mut writer = slow.0.get_ref().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        writer.write_all("NOOP\r\n".repeat(noops).as_bytes()).unwrap();
    });
    std::thread::sleep(Duration::from_millis(200));
    let mut other = relay.connect();
    assert_eq!(other.ask("EHLO client.example\r\n"), 250);
    for _ in 0..noops {
        assert_eq!(slow.code(), 250);
    }
    sender.join().unwrap();
    relay.finish();
}

#[test]
fn an_address_in_use_is_a_clear_failure() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let failure = sockets(&taken.local_addr().unwrap().to_string(), 1).err().unwrap();
    assert!(failure.to_string().contains("cannot listen on 127.0.0.1:"), "{failure}");
}

/// Runs an ignored test in a process of its own, for what limits or forbids things for a whole process.
pub(super) fn in_own_process(test: &str) {
    let own = std::env::current_exe().unwrap();
    let output = std::process::Command::new(own).args(["--exact", "--ignored", test]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// Out of descriptors: accepting pauses, what stands goes on, and it recovers; no spin, no crash (QUE-09).
#[test]
fn running_out_of_descriptors_is_survived() {
    in_own_process("runtime::tests::out_of_descriptors");
}

#[test]
#[ignore = "limits its process; run by another test in one of its own"]
fn out_of_descriptors() {
    let relay = Relay::start(1);
    let mut first = relay.connect();
    let address = relay.address();
    // Clients' sockets made before the limit, so that only the relay runs out.
    let sockets: Vec<_> =
        (0..20).map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap()).collect();
    let limit = |descriptors: u64| {
        let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: 1 << 14 };
        // SAFETY: a plain call with a local struct.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    };
    // The number of the last descriptor in use bounds the next.
    let cpu = shard_cpu_ms();
    limit(descriptors() as u64);
    sockets.iter().for_each(|socket| socket.connect(&address.into()).unwrap());
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(first.ask("NOOP\r\n"), 250, "what stands goes on");
    limit(1 << 14);
    assert!(shard_cpu_ms() - cpu < 200, "it must not spin");
    for socket in sockets {
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(Client(BufReader::new(stream)).code(), 220);
    }
    relay.finish();
}

/// A container's seccomp filter: the message says what is missing and how to allow it.
#[test]
fn a_forbidden_io_uring_is_explained() {
    in_own_process("runtime::tests::io_uring_forbidden");
}

#[test]
#[ignore = "forbids io_uring to its process; run by another test in one of its own"]
fn io_uring_forbidden() {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut program = [
        // The system call's number stands first in `seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, errno, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter outlives the call; it binds this thread and its children only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
    let text = probe::io_uring().unwrap_err();
    assert!(text.contains("io_uring cannot be used") && text.contains("seccomp"), "{text}");
}
