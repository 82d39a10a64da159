//! Every moment at which the power may go: a relay runs under load in user-mode Linux (a kernel as a process), its file
//! system on dm-log-writes, which keeps each write and flush of the block device in order. The log is then played back
//! flush by flush; at each the file system is mounted as after a start, and what the queue holds is held against what had
//! been acknowledged by then. There is no race here: the log says what the device knew.
//!
//! Inside, this program is the first process: it makes the file system, starts the relay, sends mail, and puts marks into
//! the log that tell how much was acknowledged before. Every message has a recipient that is delivered and one that waits,
//! so that segments fill, are copied forward and used again.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loadgen::rng::Rng;
use serde_json::Value;

use crate::clock::compile;
use crate::stage::{Told, program};
use crate::volume::{Kind, Volume};
use crate::{Campaign, SKIPPED, scratch};

/// The first word of this program's arguments when it is the first process inside.
pub(crate) const INSIDE: &str = "inside-user-mode-linux";
const MESSAGES: usize = 400;
const SENDERS: usize = 4;
/// Acknowledgements between two marks.
const MARK_EVERY: usize = 4;
const START_LONGEST: Duration = Duration::from_secs(60);
const INSIDE_LONGEST: Duration = Duration::from_secs(600);
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2525);
const SINK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2526);
const DEVICE: &str = "/dev/mapper/written";

pub(crate) fn run(campaign: &Campaign, kind: Kind) -> Told<Vec<String>> {
    let kernel = Kernel::find()?;
    let dir = scratch()?;
    let size_bytes: u64 = match kind {
        Kind::Ext4 => 64 << 20,
        // It makes none smaller.
        Kind::Xfs => 320 << 20,
    };
    let (disk, log) = (dir.path().join("disk"), dir.path().join("log"));
    for (path, size_bytes) in [(&disk, size_bytes), (&log, 8 << 30)] {
        let made = File::create(path).and_then(|file| file.set_len(size_bytes));
        made.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let begun = Instant::now();
    kernel.boot(dir.path(), &disk, &log, kind, campaign.seed)?;
    let said =
        fs::read_to_string(dir.path().join("said")).map_err(|error| format!("nothing was said inside: {error}"))?;
    let said: Value = serde_json::from_str(&said).map_err(|error| format!("what was said inside: {error}"))?;
    let told = Inside::read(&said);
    println!(
        "{} messages acknowledged and {} recipients delivered inside, {} marks, {:.0} s",
        told.acknowledged.len(),
        told.delivered.len(),
        told.marks.len(),
        begun.elapsed().as_secs_f64()
    );
    if told.acknowledged.len() < MESSAGES / 2 || told.delivered.len() < MESSAGES / 2 {
        return Err("too little mail went through inside".into());
    }
    Playback::open(&log, dir.path(), size_bytes)?.play(kind, &told, campaign.rounds)
}

/// What was noted inside.
struct Inside {
    /// In order.
    acknowledged: Vec<String>,
    /// In order: messages of which the recipient that is delivered was.
    delivered: Vec<String>,
    /// By mark: how many were acknowledged before it, and delivered before it ended.
    marks: Vec<(usize, usize)>,
}

impl Inside {
    fn read(value: &Value) -> Inside {
        let texts = |name: &str| -> Vec<String> {
            value[name].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect()
        };
        let pair = |mark: &Value| (mark[0].as_u64().unwrap_or(0) as usize, mark[1].as_u64().unwrap_or(0) as usize);
        Inside {
            acknowledged: texts("acknowledged"),
            delivered: texts("delivered"),
            marks: value["marks"].as_array().into_iter().flatten().map(pair).collect(),
        }
    }
}

// ---- outside: the kernel ----

struct Kernel {
    program: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// The reason begins with [`SKIPPED`] where there is none.
    fn find() -> Told<Kernel> {
        let program = PathBuf::from("/usr/bin/linux.uml");
        let modules = fs::read_dir("/usr/lib/uml/modules").ok().and_then(|mut entries| entries.next()?.ok());
        match modules {
            Some(modules) if program.exists() => Ok(Kernel { program, modules: modules.path().join("kernel") }),
            _ => Err(format!("{SKIPPED}no user-mode Linux: install Debian's package user-mode-linux")),
        }
    }

    fn boot(&self, dir: &Path, disk: &Path, log: &Path, kind: Kind, seed: u64) -> Told<()> {
        let shim = dir.join("uml.so");
        compile(Path::new("tests/faults/shims/uml.c"), &shim)?;
        let me = std::env::current_exe().map_err(|error| error.to_string())?;
        let words = File::create(dir.join("kernel.log")).map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.program);
        command
            .env("LD_PRELOAD", &shim)
            .args([
                "mem=768M",
                "root=/dev/root",
                "rootfstype=hostfs",
                "rootflags=/",
                "rw",
                "con=null",
                "con0=null,fd:1",
            ])
            .arg(format!("ubd0={}", disk.display()))
            .arg(format!("ubd1={}", log.display()))
            .arg(format!("init={}", me.display()))
            .arg("--")
            .args([INSIDE, &dir.to_string_lossy(), kind.name(), &program().to_string_lossy()])
            .args([&self.modules.to_string_lossy().into_owned(), &seed.to_string()])
            .stdin(Stdio::null())
            .stderr(words.try_clone().map_err(|error| error.to_string())?)
            .stdout(words);
        let mut child = command.spawn().map_err(|error| format!("user-mode Linux: {error}"))?;
        let begun = Instant::now();
        while child.try_wait().map_err(|error| error.to_string())?.is_none() {
            if begun.elapsed() > INSIDE_LONGEST {
                // Its processes are traced by it and end with it.
                drop(child.kill());
                drop(child.wait());
                return Err(format!("user-mode Linux did not end; its last words: {}", last_words(dir)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if dir.join("said").exists() { Ok(()) } else { Err(format!("inside user-mode Linux: {}", last_words(dir))) }
    }
}

fn last_words(dir: &Path) -> String {
    let text = |name: &str| fs::read(dir.join(name)).unwrap_or_default();
    let mut words = String::from_utf8_lossy(&text("kernel.log")).into_owned();
    words.push_str(&String::from_utf8_lossy(&text("relay.log")));
    words[words.ceil_char_boundary(words.len().saturating_sub(3000))..].to_owned()
}

// ---- outside: playing back ----

/// The log of dm-log-writes: a sector that says how many entries there are, then each entry's sector and its data.
struct Playback {
    log: File,
    entries: u64,
    sector_bytes: u64,
    image: PathBuf,
    file: File,
}

const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

impl Playback {
    fn open(log: &Path, dir: &Path, size_bytes: u64) -> Told<Playback> {
        let failed = |error: std::io::Error| format!("the log of writes: {error}");
        let log = File::open(log).map_err(failed)?;
        let mut head = [0; 28];
        log.read_exact_at(&mut head, 0).map_err(failed)?;
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        if word(0) != MAGIC {
            return Err("what dm-log-writes left is no log of it".into());
        }
        let sector_bytes = u32::from_le_bytes(head[24..28].try_into().expect("four bytes")).into();
        let image = dir.join("image");
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&image).map_err(failed)?;
        file.set_len(size_bytes).map_err(failed)?;
        Ok(Playback { log, entries: word(16), sector_bytes, image, file })
    }

    /// Plays all; looks at the queue behind each flush once mail went through, or at `points` of them evenly.
    fn play(&self, kind: Kind, told: &Inside, points: Option<u64>) -> Told<Vec<String>> {
        let failed = |error: std::io::Error| format!("the log of writes: {error}");
        let flushes = self.walk(&mut |_, _| Ok(()))?;
        let step = points.map_or(1, |points| (flushes / points.max(1)).max(1));
        let (mut broken, mut looked, mut flush, mut marks) = (Vec::new(), 0u64, 0u64, 0usize);
        let (mut fewest, mut most) = (usize::MAX, 0);
        self.walk(&mut |entry, data| {
            if entry.flags & DISCARD == 0 {
                self.file.write_all_at(data, entry.sector * self.sector_bytes).map_err(failed)?;
            }
            marks += usize::from(entry.flags & MARK != 0);
            if entry.flags & (FLUSH | FUA) == 0 {
                return Ok(());
            }
            flush += 1;
            if marks == 0 || flush % step != 0 {
                return Ok(());
            }
            looked += 1;
            let held = self.look(kind).map_err(|text| format!("flush {flush}: {text}"))?;
            (fewest, most) = (fewest.min(held.len()), most.max(held.len()));
            let (acknowledged, _) = told.marks[marks - 1];
            let delivered = told.marks.get(marks).map_or(told.delivered.len(), |mark| mark.1);
            let delivered: HashSet<&String> = told.delivered[..delivered].iter().collect();
            let lost =
                told.acknowledged[..acknowledged].iter().filter(|id| !held.contains(*id) && !delivered.contains(id));
            let lost: Vec<_> = lost.take(5).collect();
            if !lost.is_empty() {
                broken.push(format!("flush {flush} of {flushes}: of {acknowledged} acknowledged are lost {lost:?}"));
            }
            Ok(())
        })?;
        println!(
            "{} entries, {flushes} flushes, {looked} of them looked at; {fewest} to {most} messages in the queue",
            self.entries
        );
        Ok(broken)
    }

    /// Goes through all entries; tells how many were flushes.
    fn walk(&self, look: &mut dyn FnMut(&Entry, &[u8]) -> Told<()>) -> Told<u64> {
        let failed = |error: std::io::Error| format!("the log of writes: {error}");
        let (mut at, mut flushes, mut data) = (self.sector_bytes, 0, Vec::new());
        for _ in 0..self.entries {
            let mut head = [0; 32];
            self.log.read_exact_at(&mut head, at).map_err(failed)?;
            let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
            let entry = Entry { sector: word(0), sectors: word(8), flags: word(16) };
            at += self.sector_bytes;
            data.clear();
            if entry.flags & DISCARD == 0 {
                data.resize((entry.sectors * self.sector_bytes) as usize, 0);
                self.log.read_exact_at(&mut data, at).map_err(failed)?;
                at += data.len() as u64;
            }
            flushes += u64::from(entry.flags & (FLUSH | FUA) != 0);
            look(&entry, &data)?;
        }
        Ok(flushes)
    }

    /// The names of the messages in the queue as a start would find it, each with a recipient that waits.
    fn look(&self, kind: Kind) -> Told<HashSet<String>> {
        let volume = Volume::of_copy(kind, &self.image)?;
        let queue = volume.path().join("queue");
        let output = Command::new(program()).args(["queue", "ls", "--json", "--dir"]).arg(&queue).output();
        let output = output.map_err(|error| format!("queue ls: {error}"))?;
        let list: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("queue ls: {error}: {}", String::from_utf8_lossy(&output.stderr)))?;
        let report = crate::stage::spool_report(&queue)?;
        if report.damaged > 0 {
            return Err(format!("a loss of power is called damage, {} times", report.damaged));
        }
        Ok(list.as_array().into_iter().flatten().filter_map(|m| m["id"].as_str().map(str::to_owned)).collect())
    }
}

struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
}

// ---- inside ----

/// The first process: does its work, says what came of it, and turns the machine off.
pub(crate) fn inside(words: &[String]) -> ! {
    let result = match words {
        // The kernel puts words of its own behind.
        [dir, kind, program, modules, seed, ..] => work(Path::new(dir), kind, program, Path::new(modules), seed),
        _ => Err(format!("told {words:?}")),
    };
    if let Err(text) = result {
        println!("{text}");
    }
    // SAFETY: plain calls; this process is the first of its kernel.
    unsafe {
        libc::reboot(libc::RB_POWER_OFF);
    }
    unreachable!("the machine is off")
}

fn work(dir: &Path, kind: &str, program: &str, modules: &Path, seed: &str) -> Told<()> {
    mount("proc", "/proc", "proc")?;
    mount("sysfs", "/sys", "sysfs")?;
    for module in ["drivers/md/dm-mod.ko", "drivers/md/dm-log-writes.ko"] {
        insert(&modules.join(module))?;
    }
    let sectors = command("blockdev", &["--getsz", "/dev/ubda"])?;
    let table = format!("0 {} log-writes /dev/ubda /dev/ubdb", sectors.trim());
    command("dmsetup", &["create", "written", "--noudevsync", "--table", &table])?;
    command("dmsetup", &["mknodes"])?;
    command("ip", &["link", "set", "lo", "up"])?;
    match kind {
        "ext4" => command("mkfs.ext4", &["-q", "-F", DEVICE])?,
        _ => command("mkfs.xfs", &["-q", "-f", DEVICE])?,
    };
    // On a file system of its own, so that the host's stays as it is.
    mount("tmpfs", "/mnt", "tmpfs")?;
    fs::create_dir("/mnt/at").map_err(|error| error.to_string())?;
    mount(DEVICE, "/mnt/at", kind)?;
    // This kernel does not say which package and core its processor is, and who asks wants a number.
    fs::write("/mnt/number", "0\n").map_err(|error| error.to_string())?;
    for name in ["physical_package_id", "core_id"] {
        command("mount", &["--bind", "/mnt/number", &format!("/sys/devices/system/cpu/cpu0/topology/{name}")])?;
    }
    let noted = Arc::new(Mutex::new(Noted::default()));
    let mut relay = start(dir, program)?;
    sink(Arc::clone(&noted))?;
    let seed: u64 = seed.parse().unwrap_or(1);
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let noted = Arc::clone(&noted);
            std::thread::spawn(move || send(sender, seed, &noted))
        })
        .collect();
    let mut marks = Vec::new();
    while senders.iter().any(|sender| !sender.is_finished()) {
        let acknowledged = noted.lock().expect("no holder panics").acknowledged.len();
        if acknowledged >= marks.last().map_or(1, |&(last, _)| last + MARK_EVERY) {
            mark(acknowledged, &noted, &mut marks)?;
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    for sender in senders {
        sender.join().map_err(|_| "a sender panicked")??;
    }
    std::thread::sleep(Duration::from_secs(1));
    let acknowledged = noted.lock().expect("no holder panics").acknowledged.len();
    mark(acknowledged, &noted, &mut marks)?;
    drop(relay.kill());
    let noted = noted.lock().expect("no holder panics");
    let said = serde_json::json!({ "acknowledged": noted.acknowledged, "delivered": noted.delivered, "marks": marks });
    // The last entries of the log are written as the device goes.
    drop(command("umount", &["/mnt/at"]));
    drop(command("dmsetup", &["remove", "written"]));
    fs::write(dir.join("said"), said.to_string()).map_err(|error| error.to_string())
}

#[derive(Default)]
struct Noted {
    acknowledged: Vec<String>,
    delivered: Vec<String>,
}

fn mark(acknowledged: usize, noted: &Mutex<Noted>, marks: &mut Vec<(usize, usize)>) -> Told<()> {
    command("dmsetup", &["message", "written", "0", "mark", &format!("m{}", marks.len())])?;
    marks.push((acknowledged, noted.lock().expect("no holder panics").delivered.len()));
    Ok(())
}

fn start(dir: &Path, program: &str) -> Told<Child> {
    let words = File::create(dir.join("relay.log")).map_err(|error| error.to_string())?;
    let sets = [
        format!("listen.relay={LISTEN}"),
        "listen.http=".into(),
        "relay.hostname=relay.example.com".into(),
        format!("route.default={SINK}"),
        // Nobody listens there: what goes there waits.
        "route.domains={\"waits.example\"=\"127.0.0.1:1\"}".into(),
        "queue.dir=/mnt/at/queue".into(),
        "queue.segment_bytes=4194304".into(),
        "queue.segments=7".into(),
        "queue.memory_bytes=1048576".into(),
        "shards=1".into(),
        "tls.offer=false".into(),
    ];
    let mut relay = Command::new(program);
    relay.arg("run").args(sets.iter().flat_map(|set| ["--set", set])).stdin(Stdio::null());
    let relay = relay.stderr(words.try_clone().map_err(|error| error.to_string())?).stdout(words).spawn();
    let relay = relay.map_err(|error| format!("the relay: {error}"))?;
    Ok(relay)
}

/// A connection to the relay, as soon as it takes one.
fn connect() -> Told<TcpStream> {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(LISTEN) {
            Ok(stream) => return Ok(stream),
            Err(error) if begun.elapsed() > START_LONGEST => return Err(format!("the relay does not listen: {error}")),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Sends messages one by one, and notes each 250. A refusal for now is an answer, too.
fn send(sender: usize, seed: u64, noted: &Mutex<Noted>) -> Told<()> {
    let failed = |error: std::io::Error| format!("a sender: {error}");
    let mut rng = Rng::new(seed ^ sender as u64);
    let mut stream = connect()?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut replies = BufReader::new(stream.try_clone().map_err(failed)?);
    let reply = |replies: &mut BufReader<TcpStream>| -> Told<String> {
        loop {
            let mut line = String::new();
            if replies.read_line(&mut line).map_err(failed)? == 0 {
                return Err("the relay closed".into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    };
    reply(&mut replies)?;
    stream.write_all(b"EHLO client.example\r\n").map_err(failed)?;
    reply(&mut replies)?;
    for _ in 0..MESSAGES / SENDERS {
        let line = format!("{}\r\n", "x".repeat(70));
        let lines = [10, 100, 1000, 6000][rng.below(4) as usize];
        let waits = if rng.below(8) == 0 { "RCPT TO:<to@waits.example>\r\n" } else { "" };
        let text = format!("MAIL FROM:<from@client.example>\r\nRCPT TO:<to@goes.example>\r\n{waits}DATA\r\n");
        stream.write_all(text.as_bytes()).map_err(failed)?;
        for _ in 0..text.matches("\r\n").count() {
            reply(&mut replies)?;
        }
        stream.write_all(format!("Subject: x\r\n\r\n{}.\r\n", line.repeat(lines)).as_bytes()).map_err(failed)?;
        let line = reply(&mut replies)?;
        if line.starts_with("250") {
            let id = line.split_whitespace().find(|word| is_id(word)).ok_or(format!("a 250 without a name: {line}"))?;
            noted.lock().expect("no holder panics").acknowledged.push(id.to_owned());
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

fn is_id(word: &str) -> bool {
    let parts: Vec<&str> = word.split('-').collect();
    parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Takes everything, and notes the names that the relay's own trace field has.
fn sink(noted: Arc<Mutex<Noted>>) -> Told<()> {
    let listener = TcpListener::bind(SINK).map_err(|error| format!("the sink: {error}"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let noted = Arc::clone(&noted);
            // A connection that fails is one that ends.
            std::thread::spawn(move || drop(take(stream, &noted)));
        }
    });
    Ok(())
}

fn take(mut stream: TcpStream, noted: &Mutex<Noted>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    stream.write_all(b"220 sink.example\r\n")?;
    let (mut line, mut id) = (String::new(), None);
    let mut in_text = false;
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if in_text {
            if id.is_none() {
                let mut words = line.split_whitespace();
                id = words
                    .find(|word| *word == "id")
                    .and_then(|_| words.next())
                    .map(|id| id.trim_end_matches(';').to_owned());
            }
            if line == ".\r\n" {
                in_text = false;
                noted.lock().expect("no holder panics").delivered.extend(id.take());
                stream.write_all(b"250 taken\r\n")?;
            }
            continue;
        }
        let verb = line.split(' ').next().unwrap_or("").trim_end().to_ascii_uppercase();
        in_text = verb == "DATA";
        stream.write_all(match &*verb {
            "EHLO" => b"250-sink.example\r\n250 PIPELINING\r\n",
            "DATA" => b"354 go\r\n",
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        })?;
    }
}

fn mount(source: &str, target: &str, kind: &str) -> Told<()> {
    let text = |text: &str| CString::new(text).expect("no zeros in names");
    let (source, at, kind) = (text(source), text(target), text(kind));
    // SAFETY: three strings that live during the call, and no data.
    let result = unsafe { libc::mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(format!("mount {target}: {}", std::io::Error::last_os_error())) }
}

fn insert(module: &Path) -> Told<()> {
    let file = File::open(module).map_err(|error| format!("{}: {error}", module.display()))?;
    // SAFETY: a descriptor that is open, and an empty string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result == 0 { Ok(()) } else { Err(format!("{}: {}", module.display(), std::io::Error::last_os_error())) }
}

fn command(name: &str, arguments: &[&str]) -> Told<String> {
    let output = crate::volume::command(name, arguments).output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let mut text = String::new();
    // Not text: nothing that is asked for here.
    (&output.stdout[..]).read_to_string(&mut text).map_err(|error| format!("{name}: {error}"))?;
    Ok(text)
}
