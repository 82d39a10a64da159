//! The text of messages: a few templates per size, made once; a message differs from its template in its header and in
//! two lines of its own around the template, so that no two bodies are equal and none can take another's place unseen.
//!
//! The checksum of a message is joined from that of its own lines and the template's, which needs the template's bytes
//! only once ([`Template::carry`]). Bodies are in wire form (dot-stuffed), 7-bit, lines of at most 75 columns, about one
//! in a dozen beginning with a dot. Shared read-only by all threads. Sizes too small for a header are rounded up.

mod folder;

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::marker::{self, Marker};
use crate::rng::Rng;
use crate::trace::Trace;
use crate::units::SizeMix;

const TEMPLATES_PER_SIZE: usize = 4;
const LINE_COLUMNS: usize = 75;
/// The least a template holds, in bytes.
const TEMPLATE_MIN_BYTES: usize = 2;

const WORDS: &[&str] = &[
    "the", "order", "will", "be", "sent", "with", "your", "next", "letter", "and", "we", "thank", "you", "for",
    "reading", "this", "far", "in", "spring", "prices", "change", "please", "answer", "before", "Friday", "or",
    "write", "to", "us", "about", "anything", "that", "seems", "unclear", "account", "number", "parcel", "delivery",
    "window", "morning",
];

/// How texts are written for their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// For DATA: dots stuffed, and the final dot behind.
    #[default]
    Stuffed,
    /// For BDAT and HTTP: as it is.
    Plain,
    /// As a part of a JSON string.
    Json,
}

/// What does not change between the messages of one template.
pub struct Template {
    /// The text on the wire, in its corpus's form.
    pub wire: Arc<[u8]>,
    /// Its length without the dots that were put in, in bytes.
    pub plain_bytes: u64,
    /// True if it has bytes above 127.
    pub eight_bit: bool,
    sum: u32,
    shift: Box<[[u32; 256]; 4]>,
}

impl Template {
    fn new(plain_bytes: usize, rng: &mut Rng, form: Form) -> Template {
        Template::of(&write_text(plain_bytes, rng), form)
    }

    fn of(plain: &[u8], form: Form) -> Template {
        let wire = match form {
            Form::Stuffed => stuff(plain),
            Form::Plain => plain.to_vec(),
            Form::Json => {
                let mut text = Vec::with_capacity(plain.len() + plain.len() / 16);
                write_json(&mut text, plain);
                text
            }
        };
        // The checksum of A followed by the template is linear in the checksum of A: thirty-two columns tell it all.
        let columns: Vec<u32> = (0..32).map(|bit| crc32c::crc32c_combine(1 << bit, 0, plain.len())).collect();
        let mut shift = Box::new([[0u32; 256]; 4]);
        for (byte, table) in shift.iter_mut().enumerate() {
            for (value, entry) in table.iter_mut().enumerate() {
                *entry = (0..8).filter(|bit| value >> bit & 1 == 1).fold(0, |sum, bit| sum ^ columns[byte * 8 + bit]);
            }
        }
        Template {
            wire: wire.into(),
            plain_bytes: plain.len() as u64,
            eight_bit: !plain.is_ascii(),
            sum: crc32c::crc32c(plain),
            shift,
        }
    }

    /// The checksum of something with checksum `before`, followed by this template.
    pub fn carry(&self, before: u32) -> u32 {
        let bytes = before.to_le_bytes();
        let shifted = self.shift.iter().zip(bytes).fold(0, |sum, (table, byte)| sum ^ table[usize::from(byte)]);
        shifted ^ self.sum
    }
}

/// All templates of a run.
pub struct Corpus {
    sizes: Vec<Size>,
    weight: u64,
    /// Templates are whole messages with headers of their own; only the marker is put before them.
    whole: bool,
    form: Form,
    /// Bytes of a message that are not its template's.
    own_bytes: u64,
    /// Tells the size of each message, in the place of the weights.
    trace: Option<Arc<Trace>>,
}

struct Size {
    below_weight: u64,
    templates: Vec<Template>,
}

/// One message's facts that its text depends on.
#[derive(Clone, Copy, Debug)]
pub struct Letter {
    /// The run.
    pub run: u64,
    /// Its number.
    pub id: u64,
    /// Its recipients.
    pub recipients: u32,
    /// Planned start, nanoseconds since the Unix epoch.
    pub sent_ns: u64,
}

impl Corpus {
    /// Makes the templates for a mix, to be sent by DATA; the same seed makes the same text.
    pub fn new(mix: &SizeMix, seed: u64) -> Corpus {
        Corpus::in_form(mix, seed, Form::Stuffed)
    }

    /// Makes the templates for a mix.
    pub fn in_form(mix: &SizeMix, seed: u64, form: Form) -> Corpus {
        let shares = mix.shares().iter().filter(|share| share.weight > 0);
        let sizes = shares.map(|share| (share.size_bytes, u64::from(share.weight), TEMPLATES_PER_SIZE));
        Corpus::made_up(sizes, seed, form)
    }

    /// Makes a template for each size of a trace.
    pub fn for_trace(trace: &Arc<Trace>, seed: u64, form: Form) -> Corpus {
        let sizes = trace.sizes_bytes().iter().map(|size_bytes| (*size_bytes, 1, 1));
        Corpus { trace: Some(Arc::clone(trace)), ..Corpus::made_up(sizes, seed, form) }
    }

    fn made_up(shares: impl Iterator<Item = (u64, u64, usize)>, seed: u64, form: Form) -> Corpus {
        let mut rng = Rng::new(seed);
        let mut sizes = Vec::new();
        let mut weight = 0;
        for (size_bytes, share, count) in shares {
            weight += share;
            let text = (size_bytes as usize).saturating_sub(own_bytes()).max(TEMPLATE_MIN_BYTES);
            let templates = (0..count).map(|_| Template::new(text, &mut rng, form)).collect();
            sizes.push(Size { below_weight: weight, templates });
        }
        assert!(weight > 0, "a mix has a size");
        Corpus { sizes, weight, whole: false, form, own_bytes: own_bytes() as u64, trace: None }
    }

    /// Takes the messages of a folder, one per file, in the order of their names. An error if there is none that can be
    /// sent: see the page on benchmarking.
    pub fn from_folder(path: &Path, form: Form) -> io::Result<Corpus> {
        let messages = folder::load(path, form == Form::Json)?;
        let templates = messages.iter().map(|plain| Template::of(plain, form)).collect();
        let sizes = vec![Size { below_weight: 1, templates }];
        Ok(Corpus { sizes, weight: 1, whole: true, form, own_bytes: marker_bytes() as u64, trace: None })
    }

    /// The template of a message: depends on its number alone, and follows the trace, or the weights evenly.
    pub fn template(&self, id: u64) -> &Template {
        if let Some(trace) = &self.trace {
            return &self.sizes[trace.size_index(id)].templates[0];
        }
        // Steps by the golden ratio spread any run of numbers evenly over the weights.
        let draw = ((u128::from(id.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * u128::from(self.weight)) >> 64) as u64;
        let size = self.sizes.iter().find(|size| draw < size.below_weight).expect("a draw is below the whole weight");
        &size.templates[id as usize % size.templates.len()]
    }

    /// The size of a whole message, unstuffed, as SIZE= declares it (RFC 1870), in bytes.
    pub fn message_bytes(&self, id: u64) -> u64 {
        self.own_bytes + self.template(id).plain_bytes
    }

    /// Writes what comes before the template, and puts what comes behind it into `tail`: for DATA with the final dot.
    pub fn write(&self, letter: &Letter, head: &mut Vec<u8>, tail: &mut Vec<u8>) {
        let template = self.template(letter.id);
        let end: &[u8] = if self.form == Form::Stuffed { b".\r\n" } else { b"" };
        if self.whole {
            write_whole(template, letter, head);
            return tail.extend_from_slice(end);
        }
        write_header(head, letter);
        let size_bytes = (BLANK_LINE.len() + first_line_bytes() + last_line_bytes()) as u64 + template.plain_bytes;
        let marker = Marker {
            run: letter.run,
            id: letter.id,
            size_bytes,
            recipients: letter.recipients,
            sent_ns: letter.sent_ns,
            sum: 0,
        };
        let begun = marker::write_start(head, &marker);
        let (mut first, mut last) = ([0u8; 64], [0u8; 64]);
        let first = write_line(&mut first, FIRST_LINE, letter.id);
        let last = write_line(&mut last, LAST_LINE, letter.id);
        let sum = crc32c::crc32c_append(crc32c::crc32c_append(begun, BLANK_LINE), first);
        marker::write_end(head, crc32c::crc32c_append(template.carry(sum), last));
        head.extend_from_slice(BLANK_LINE);
        head.extend_from_slice(first);
        tail.extend_from_slice(last);
        tail.extend_from_slice(end);
    }
}

/// The marker before a message that has a header of its own.
fn write_whole(template: &Template, letter: &Letter, head: &mut Vec<u8>) {
    let marker = Marker {
        run: letter.run,
        id: letter.id,
        size_bytes: template.plain_bytes,
        recipients: letter.recipients,
        sent_ns: letter.sent_ns,
        sum: 0,
    };
    let begun = marker::write_start(head, &marker);
    marker::write_end(head, template.carry(begun));
}

const BLANK_LINE: &[u8] = b"\r\n";
const FIRST_LINE: &[u8] = b"This is message ";
const LAST_LINE: &[u8] = b"So ends message ";

fn first_line_bytes() -> usize {
    FIRST_LINE.len() + 12 + 3
}

fn last_line_bytes() -> usize {
    LAST_LINE.len() + 12 + 3
}

/// Text, twelve digits, a full stop, line end.
fn write_line<'a>(buffer: &'a mut [u8; 64], text: &[u8], mut id: u64) -> &'a [u8] {
    let length = text.len() + 15;
    buffer[..text.len()].copy_from_slice(text);
    for digit in buffer[text.len()..text.len() + 12].iter_mut().rev() {
        *digit = b'0' + (id % 10) as u8;
        id /= 10;
    }
    buffer[length - 3..length].copy_from_slice(b".\r\n");
    &buffer[..length]
}

fn write_header(out: &mut Vec<u8>, letter: &Letter) {
    out.extend_from_slice(b"From: Load <");
    marker::write_sender(out, letter.id);
    out.extend_from_slice(b">\r\nTo: undisclosed-recipients:;\r\nSubject: Load message ");
    marker::write_decimal(out, letter.id, 12);
    // A fixed date: the marker holds the true time, and relays must not care.
    out.extend_from_slice(b"\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <");
    marker::write_decimal(out, letter.id, 12);
    out.push(b'.');
    marker::write_decimal(out, letter.run, 20);
    out.extend_from_slice(b"@loadgen.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n");
}

fn marker_bytes() -> usize {
    let mut head = Vec::new();
    let marker = Marker { run: 0, id: 0, size_bytes: 0, recipients: 1, sent_ns: 0, sum: 0 };
    marker::write_start(&mut head, &marker);
    marker::write_end(&mut head, 0);
    head.len()
}

/// Bytes of a made-up message that are not its template's.
fn own_bytes() -> usize {
    let letter = Letter { run: 0, id: 0, recipients: 1, sent_ns: 0 };
    let mut head = Vec::new();
    write_header(&mut head, &letter);
    head.len() + marker_bytes() + BLANK_LINE.len() + first_line_bytes() + last_line_bytes()
}

/// Lines of text of exactly `length` bytes altogether, each with its line end.
fn write_text(length: usize, rng: &mut Rng) -> Vec<u8> {
    let mut text = Vec::with_capacity(length);
    while text.len() < length {
        let left = length - text.len();
        let wanted = 55 + rng.below(21) as usize;
        let columns = if left <= LINE_COLUMNS + 2 {
            left.saturating_sub(2)
        } else if left <= 2 * LINE_COLUMNS {
            left / 2 - 2
        } else {
            wanted.min(LINE_COLUMNS)
        };
        write_text_line(&mut text, columns, rng);
    }
    text.truncate(length);
    text
}

fn write_text_line(text: &mut Vec<u8>, columns: usize, rng: &mut Rng) {
    let end = text.len() + columns;
    if rng.below(12) == 0 {
        // One or several dots, alone at times: what a careless relay trips over.
        text.extend_from_slice(&b"..."[..1 + rng.below(3) as usize]);
    }
    while text.len() < end {
        text.extend_from_slice(WORDS[rng.below(WORDS.len() as u64) as usize].as_bytes());
        text.push(if rng.below(9) == 0 { b'.' } else { b' ' });
    }
    text.truncate(end);
    text.extend_from_slice(b"\r\n");
}

fn stuff(plain: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(plain.len() + plain.len() / 256);
    for line in plain.split_inclusive(|b| *b == b'\n') {
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire
}

/// Writes text as it stands inside of a JSON string (RFC 8259 7); what is not ASCII stays as it is.
pub(crate) fn write_json(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            // Writing to a vector cannot fail.
            control if *control < 0x20 => drop(io::Write::write_fmt(out, format_args!("\\u{control:04x}"))),
            other => out.push(*other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_size_and_checksum_they_tell() {
        for size in [1, 500, 600, 1024, 1025, 1100, 1101, 1177, 10240, 102_400] {
            let corpus = Corpus::new(&SizeMix::fixed(size), 1);
            for id in 0..5 {
                let letter = Letter { run: 5, id, recipients: 2, sent_ns: 1_700_000_000_000_000_000 };
                let (mut head, mut tail) = (Vec::new(), Vec::new());
                corpus.write(&letter, &mut head, &mut tail);
                let template = corpus.template(id);
                let mut whole = head.clone();
                for line in template.wire.split_inclusive(|b| *b == b'\n') {
                    assert!(line.ends_with(b"\r\n") && line.len() <= 78 && line != b".\r\n", "size {size}");
                    whole.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
                }
                whole.extend_from_slice(tail.strip_suffix(b".\r\n").unwrap());
                assert_eq!(whole.len() as u64, corpus.message_bytes(id));
                if size >= 1024 {
                    assert_eq!(whole.len() as u64, size);
                }
                let field = memchr::memmem::find(&whole, b"X-Loadgen").unwrap();
                let behind = field + memchr::memchr(b'\n', &whole[field..]).unwrap() + 1;
                let (marker, begun) = marker::parse(&whole[field..behind]).unwrap();
                assert_eq!(marker.sum, crc32c::crc32c_append(begun, &whole[behind..]));
                assert_eq!(marker.size_bytes, (whole.len() - behind) as u64);
                assert_eq!((marker.id, marker.recipients, marker.sent_ns), (id, 2, letter.sent_ns));
            }
        }
    }

    #[test]
    fn a_mix_keeps_its_weights() {
        let corpus = Corpus::new(&"1KiB:70,10KiB:25,100KiB:5".parse().unwrap(), 1);
        let small = (0..10_000).filter(|id| corpus.message_bytes(*id) == 1024).count();
        assert!((6900..7100).contains(&small), "{small}");
    }

    #[test]
    fn some_lines_begin_with_dots() {
        let corpus = Corpus::new(&SizeMix::fixed(10240), 3);
        assert!(corpus.template(0).wire.windows(4).any(|four| four == b"\r\n.."));
    }

    #[test]
    fn text_in_json_reads_back() {
        let text = "a \"b\" \\ c\r\n\t\u{1}h\u{e9}";
        let mut json = b"\"".to_vec();
        write_json(&mut json, text.as_bytes());
        json.push(b'"');
        assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
    }

    #[test]
    fn other_forms_carry_the_same_message() {
        let mix = SizeMix::fixed(5000);
        let whole = |form| {
            let corpus = Corpus::in_form(&mix, 3, form);
            let (mut text, mut tail) = (Vec::new(), Vec::new());
            corpus.write(&Letter { run: 5, id: 1, recipients: 1, sent_ns: 9 }, &mut text, &mut tail);
            text.extend_from_slice(&corpus.template(1).wire);
            text.extend_from_slice(&tail);
            text
        };
        let (stuffed, plain) = (whole(Form::Stuffed), whole(Form::Plain));
        assert_eq!(plain.len(), 5000);
        assert_eq!(stuff(&plain), stuffed.strip_suffix(b".\r\n").unwrap());
        let trace = Arc::new(Trace::parse("x", "0 2000\n1 3000\n", 1, 1).unwrap());
        let corpus = Corpus::for_trace(&trace, 1, Form::Plain);
        assert_eq!([0, 1].map(|id| corpus.message_bytes(id)), [2048, 3072]);
    }
}
