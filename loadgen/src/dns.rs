//! A DNS answerer for tests of delivery by MX: a few names from a file, over UDP.
//!
//! A thread of its own on one socket; answers that are to be late wait in a heap. It answers with authority for what it
//! knows, and NXDOMAIN for everything else, so that no question leaves the machine. There is no TCP: an answer that
//! does not fit is cut and says so. Outside bytes never panic; what is no question is dropped.
//!
//! ```toml
//! [[dns.zone]]
//! name = "*.loadgen.test"
//! mx = ["10 mx1.loadgen.test", "20 mx2.loadgen.test"]
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{MX, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::marker::DOMAIN;
use crate::rng::Rng;
use crate::sink::faults::Span;
use crate::units::parse_span;

/// The most names of a file.
pub const ZONES_MAX: usize = 10_000;
/// Answers that wait at one time; further ones are dropped, as networks do.
const WAITING_MAX: usize = 1 << 16;
const DATAGRAM_BYTES: usize = 4096;
const TURN: Duration = Duration::from_millis(20);

/// The part of a sink's file that is about names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneFile {
    #[serde(default)]
    zone: Vec<ZoneText>,
}

impl ZoneFile {
    /// True if it names nothing.
    pub fn is_empty(&self) -> bool {
        self.zone.is_empty()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneText {
    name: String,
    #[serde(default)]
    mx: Vec<String>,
    #[serde(default)]
    null_mx: bool,
    #[serde(default)]
    a: Vec<Ipv4Addr>,
    /// A network, of which each name that the zone stands for has one address.
    a_of: Option<String>,
    #[serde(default)]
    aaaa: Vec<Ipv6Addr>,
    #[serde(default)]
    answer: Answer,
    delay: Option<String>,
    #[serde(default = "minute")]
    ttl_s: u32,
}

fn minute() -> u32 {
    60
}

/// How a name is answered for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    #[default]
    Records,
    Nxdomain,
    Servfail,
    Refused,
    Silence,
}

#[derive(Clone, Debug)]
struct Zone {
    records: Vec<RData>,
    /// The network that has an address for each name.
    a_of: Option<Ipv4Net>,
    answer: Answer,
    delay: Option<Span>,
    ttl_s: u32,
}

/// All names that are known.
#[derive(Clone, Debug)]
pub struct Zones {
    /// In lower case, without the last dot; `*.` before a name stands for all below it.
    names: HashMap<String, Zone>,
}

impl Zones {
    /// Those of a file; without any, all names below the domain of made-up addresses lead to `address`.
    pub fn new(file: &ZoneFile, address: IpAddr) -> Result<Zones, String> {
        if file.is_empty() {
            return Ok(Zones::all_to(address));
        }
        if file.zone.len() > ZONES_MAX {
            return Err(format!("a file has at most {ZONES_MAX} zones"));
        }
        let mut names = HashMap::new();
        for text in &file.zone {
            let zone = text.zone().map_err(|error| format!("zone `{}`: {error}", text.name))?;
            names.insert(text.name.trim_end_matches('.').to_ascii_lowercase(), zone);
        }
        Ok(Zones { names })
    }

    fn all_to(address: IpAddr) -> Zones {
        let exchange = Name::from_ascii(format!("mx.{DOMAIN}.")).expect("a constant name is sound");
        let zone = |records| Zone { records, a_of: None, answer: Answer::Records, delay: None, ttl_s: minute() };
        let mx = zone(vec![RData::MX(MX::new(10, exchange))]);
        let host = zone(vec![address_record(address)]);
        let named = [(DOMAIN.to_string(), mx.clone()), (format!("*.{DOMAIN}"), mx), (format!("mx.{DOMAIN}"), host)];
        Zones { names: HashMap::from(named) }
    }

    fn find(&self, name: &str) -> Option<&Zone> {
        self.names.get(name).or_else(|| {
            let mut rest = name;
            loop {
                rest = rest.split_once('.')?.1;
                if let Some(zone) = self.names.get(&format!("*.{rest}")) {
                    return Some(zone);
                }
            }
        })
    }

    /// The answer to a question and how long it is to wait; None for none at all.
    fn answer(&self, question: &[u8], rng: &mut Rng) -> Option<(Vec<u8>, Duration)> {
        let question = Message::from_vec(question).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.authoritative = true;
        answer.add_queries(question.queries.iter().cloned());
        let mut delay = Duration::ZERO;
        match (question.metadata.op_code, &question.queries[..]) {
            (OpCode::Query, [query]) => {
                let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
                let zone = self.find(&name);
                answer.metadata.response_code = match zone.map_or(Answer::Nxdomain, |zone| zone.answer) {
                    Answer::Records => ResponseCode::NoError,
                    Answer::Nxdomain => ResponseCode::NXDomain,
                    Answer::Servfail => ResponseCode::ServFail,
                    Answer::Refused => ResponseCode::Refused,
                    Answer::Silence => return None,
                };
                if let Some((from, to)) = zone.and_then(|zone| zone.delay) {
                    delay = from + Duration::from_nanos(rng.below(crate::clock::nanos(to - from) + 1));
                }
                let ttl_s = zone.map_or(minute(), |zone| zone.ttl_s);
                let records = zone.filter(|zone| zone.answer == Answer::Records).into_iter().flat_map(|z| &z.records);
                for record in records.filter(|record| record.record_type() == query.query_type()) {
                    answer.add_answer(Record::from_rdata(query.name().clone(), ttl_s, record.clone()));
                }
                if let Some(network) = zone.and_then(|zone| zone.a_of).filter(|_| query.query_type() == RecordType::A) {
                    let address = address_record(host_of(network, &name).into());
                    answer.add_answer(Record::from_rdata(query.name().clone(), ttl_s, address));
                }
                if answer.answers.is_empty() {
                    answer.add_authority(start_of_authority(query.name(), ttl_s));
                }
            }
            _ => answer.metadata.response_code = ResponseCode::NotImp,
        }
        let room = usize::from(question.edns.as_ref().map_or(512, |edns| edns.max_payload())).min(DATAGRAM_BYTES);
        let whole = answer.to_vec().ok()?;
        let bytes = if whole.len() <= room { whole } else { answer.truncate().to_vec().ok()? };
        Some((bytes, delay))
    }
}

impl ZoneText {
    fn zone(&self) -> Result<Zone, String> {
        let mut records = Vec::new();
        for text in &self.mx {
            let wrong = || format!("`{text}` is no MX; write \"10 mx.example.test\"");
            let (preference, host) = text.trim().split_once(' ').ok_or_else(wrong)?;
            let host = Name::from_str(&format!("{}.", host.trim().trim_end_matches('.'))).map_err(|_| wrong())?;
            records.push(RData::MX(MX::new(preference.parse().map_err(|_| wrong())?, host)));
        }
        if self.null_mx {
            // RFC 7505: this domain takes no mail.
            records.push(RData::MX(MX::new(0, Name::root())));
        }
        records.extend(self.a.iter().map(|address| address_record(IpAddr::V4(*address))));
        records.extend(self.aaaa.iter().map(|address| address_record(IpAddr::V6(*address))));
        let network = |text: &str| {
            let network = Ipv4Net::from_str(text).ok().filter(|network| network.prefix_len() <= 30);
            network.ok_or_else(|| format!("`{text}` is no network; write \"127.1.0.0/16\""))
        };
        let a_of = self.a_of.as_deref().map(network).transpose()?;
        let delay = self.delay.as_deref().map(parse_span).transpose()?;
        Ok(Zone { records, a_of, answer: self.answer, delay, ttl_s: self.ttl_s })
    }
}

fn address_record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::from(address),
        IpAddr::V6(address) => RData::from(address),
    }
}

/// The address of a network that a name has: always the same, and not the first or last one.
fn host_of(network: Ipv4Net, name: &str) -> Ipv4Addr {
    let hosts = u64::from(u32::from(network.broadcast()) - u32::from(network.network())) - 1;
    let drawn = (u64::from(crc32c::crc32c(name.as_bytes())) * hosts) >> 32;
    Ipv4Addr::from(u32::from(network.network()) + 1 + drawn as u32)
}

/// Lets a resolver remember that there is nothing (RFC 2308).
fn start_of_authority(name: &Name, ttl_s: u32) -> Record {
    let owner = if name.num_labels() > 1 { name.base_name() } else { name.clone() };
    let soa = SOA::new(owner.clone(), owner.clone(), 1, 3600, 600, 86_400, ttl_s);
    Record::from_rdata(owner, ttl_s, RData::SOA(soa))
}

/// A running answerer.
pub struct Answerer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    /// Answers at this address; port 0 for any.
    pub fn start(listen: SocketAddr, zones: Zones, seed: u64) -> io::Result<Answerer> {
        let socket = UdpSocket::bind(listen)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot answer DNS at {listen}: {error}")))?;
        let address = socket.local_addr()?;
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&asked));
        let thread = std::thread::Builder::new().name("dns".into()).spawn(move || {
            serve(&socket, &zones, &mut Rng::new(seed), &stopped, &count);
        })?;
        Ok(Answerer { address, stop, asked, thread: Some(thread) })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Questions so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends within a turn; a panic of its own is told by its message.
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, zones: &Zones, rng: &mut Rng, stop: &AtomicBool, asked: &AtomicU64) {
    let mut waiting: BinaryHeap<Reverse<(Instant, Vec<u8>, SocketAddr)>> = BinaryHeap::new();
    let mut question = [0; DATAGRAM_BYTES];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while let Some(Reverse((_, answer, peer))) =
            waiting.peek().is_some_and(|next| next.0.0 <= now).then(|| waiting.pop()).flatten()
        {
            // Who asks and does not listen asks again.
            let _ = socket.send_to(&answer, peer);
        }
        let turn = waiting.peek().map_or(TURN, |next| next.0.0.saturating_duration_since(now).min(TURN));
        // A wait of nothing would be one without end.
        let timeout = socket.set_read_timeout(Some(turn.max(Duration::from_micros(100))));
        let Ok((count, peer)) = timeout.and_then(|()| socket.recv_from(&mut question)) else { continue };
        asked.fetch_add(1, Ordering::Relaxed);
        match zones.answer(&question[..count], rng) {
            Some((answer, delay)) if delay.is_zero() => drop(socket.send_to(&answer, peer)),
            Some((answer, delay)) if waiting.len() < WAITING_MAX => {
                waiting.push(Reverse((Instant::now() + delay, answer, peer)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    use hickory_proto::op::Query;

    const FILE: &str = "
        [[zone]]
        name = \"a.test\"
        mx = [\"10 mx1.a.test\", \"20 mx2.a.test.\"]
        [[zone]]
        name = \"*.a.test\"
        a = [\"127.0.0.3\"]
        aaaa = [\"::1\"]
        ttl_s = 5
        [[zone]]
        name = \"none.test\"
        null_mx = true
        [[zone]]
        name = \"broken.test\"
        answer = \"servfail\"
        [[zone]]
        name = \"quiet.test\"
        answer = \"silence\"
        [[zone]]
        name = \"slow.test\"
        a = [\"127.0.0.4\"]
        delay = \"30ms\"
        [[zone]]
        name = \"*.many.test\"
        a_of = \"127.1.0.0/16\"
    ";

    fn zones() -> Zones {
        Zones::new(&toml::from_str(FILE).unwrap(), IpAddr::from([127, 0, 0, 1])).unwrap()
    }

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn ask(zones: &Zones, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let (bytes, _) = zones.answer(&question(name, kind), &mut Rng::new(1)).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(answer.metadata.authoritative && answer.answers.is_empty() != answer.authorities.is_empty());
        (answer.metadata.response_code, answer.answers.iter().map(|record| record.data.to_string()).collect())
    }

    #[test]
    fn names_are_answered_for() {
        let zones = zones();
        let (ok, none) = (ResponseCode::NoError, Vec::<String>::new());
        assert_eq!(
            ask(&zones, "A.test.", RecordType::MX),
            (ok, vec!["10 mx1.a.test.".into(), "20 mx2.a.test.".into()])
        );
        assert_eq!(ask(&zones, "x.y.a.test.", RecordType::A), (ok, vec!["127.0.0.3".into()]));
        assert_eq!(ask(&zones, "mx1.a.test.", RecordType::AAAA), (ok, vec!["::1".into()]));
        assert_eq!(ask(&zones, "a.test.", RecordType::A), (ok, none.clone()));
        assert_eq!(ask(&zones, "none.test.", RecordType::MX), (ok, vec!["0 .".into()]));
        assert_eq!(ask(&zones, "broken.test.", RecordType::MX).0, ResponseCode::ServFail);
        assert_eq!(ask(&zones, "else.test.", RecordType::MX), (ResponseCode::NXDomain, none));
        let made_up = Zones::new(&ZoneFile::default(), IpAddr::from([127, 0, 0, 9])).unwrap();
        assert_eq!(ask(&made_up, "d7.loadgen.test.", RecordType::MX), (ok, vec!["10 mx.loadgen.test.".into()]));
        assert_eq!(ask(&made_up, "mx.loadgen.test.", RecordType::A), (ok, vec!["127.0.0.9".into()]));
    }

    #[test]
    fn each_name_has_an_address_of_a_network() {
        let zones = zones();
        let address = |name: &str| {
            let (_, found) = ask(&zones, name, RecordType::A);
            let [address] = &found[..] else { panic!("{found:?}") };
            assert!(address.starts_with("127.1.") && ask(&zones, name, RecordType::AAAA).1.is_empty());
            address.clone()
        };
        assert_eq!(address("D1.many.test."), address("d1.many.test."));
        let all: HashSet<String> = (0..1000).map(|number| address(&format!("d{number}.many.test."))).collect();
        assert!(all.len() > 950, "{} addresses of 1000 names", all.len());
        let smallest = "192.0.2.4/30".parse().unwrap();
        for number in 0..100 {
            let host = host_of(smallest, &format!("d{number}.test"));
            assert!([5, 6].contains(&host.octets()[3]), "{host}");
        }
    }

    #[test]
    fn what_is_no_question_has_no_answer() {
        let (zones, mut rng) = (zones(), Rng::new(1));
        let mut answer = question("a.test.", RecordType::MX);
        assert!(zones.answer(&question("quiet.test.", RecordType::A), &mut rng).is_none());
        answer[2] |= 0x80;
        assert!(zones.answer(&answer, &mut rng).is_none() && zones.answer(b"", &mut rng).is_none());
        for cut in 0..answer.len() {
            let _ = zones.answer(&question("a.test.", RecordType::MX)[..cut], &mut rng);
        }
        for wrong in [
            "name = 1",
            "name = \"x\"\nmx = [\"ten x\"]",
            "name = \"x\"\nspeed = 1",
            "name = \"x\"\na_of = \"127.0.0.1/32\"",
            "name = \"x\"\ndelay = \"soon\"",
        ] {
            let file = toml::from_str::<ZoneFile>(&format!("[[zone]]\n{wrong}\n")).map_err(|error| error.to_string());
            assert!(file.and_then(|file| Zones::new(&file, IpAddr::from([0, 0, 0, 0]))).is_err(), "{wrong}");
        }
    }

    #[test]
    fn it_answers_over_a_socket_late_if_so_told() {
        let answerer = Answerer::start(SocketAddr::from(([127, 0, 0, 1], 0)), zones(), 1).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let begun = Instant::now();
        for name in ["slow.test.", "a.test."] {
            socket.send_to(&question(name, RecordType::A), answerer.address()).unwrap();
        }
        let mut bytes = [0; 512];
        let mut names = Vec::new();
        for _ in 0..2 {
            let (count, _) = socket.recv_from(&mut bytes).unwrap();
            names.push(Message::from_vec(&bytes[..count]).unwrap().queries[0].name().to_string());
        }
        // On a machine that stands still for long both may be due; the slow one is never early.
        assert!(names.contains(&"slow.test.".to_string()) && begun.elapsed() >= Duration::from_millis(30));
        assert_eq!(answerer.asked(), 2);
    }
}
