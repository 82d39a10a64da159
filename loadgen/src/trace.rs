//! A trace: starts as they once were, to be replayed.
//!
//! One start a line: its time in seconds from the beginning, and if wanted the size of its message and the number of its
//! recipients, between blanks or commas. Lines that are empty or begin with `#` say nothing. Times may stand in any
//! order and are sorted; the first need not be 0. Read once and shared by all threads; a wrong line is an error that names
//! it. Sixteen bytes a start, at most [`STARTS_MAX`] of them.

use std::io;
use std::path::Path;

use crate::clock::SECOND_NS;
use crate::send::RECIPIENTS_MAX;
use crate::units::parse_size;

/// The most starts of a trace.
pub const STARTS_MAX: usize = 1 << 24;
/// Sizes are rounded up to a sixteenth of the power of two below them, so that few texts serve millions of starts.
const STEPS_PER_DOUBLING: u64 = 16;
/// The most bytes of the texts that a trace's sizes need.
const TEXT_MAX_BYTES: u64 = 512 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Start {
    at_ns: u64,
    size: u16,
    recipients: u16,
}

/// Planned starts, sorted by time.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    name: String,
    starts: Vec<Start>,
    sizes_bytes: Vec<u64>,
    recipients_most: u32,
}

impl Trace {
    /// Reads a file; what a line does not tell is as given here.
    pub fn load(path: &Path, size_bytes: u64, recipients: u32) -> io::Result<Trace> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Trace::parse(&name, &text, size_bytes, recipients)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {error}", path.display())))
    }

    /// Reads the text of a file.
    pub fn parse(name: &str, text: &str, size_bytes: u64, recipients: u32) -> Result<Trace, String> {
        let mut trace = Trace { name: name.into(), starts: Vec::new(), sizes_bytes: Vec::new(), recipients_most: 1 };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                trace.add(line, size_bytes, recipients).map_err(|error| format!("line {}: {error}", number + 1))?;
            }
        }
        trace.starts.sort_by_key(|start| start.at_ns);
        if trace.starts.is_empty() {
            return Err("holds no start".into());
        }
        if trace.sizes_bytes.iter().sum::<u64>() > TEXT_MAX_BYTES {
            return Err("its sizes need more than 512 MiB of text".into());
        }
        Ok(trace)
    }

    fn add(&mut self, line: &str, size_bytes: u64, recipients: u32) -> Result<(), String> {
        let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        let time = words.next().unwrap_or_default();
        let at_s = time.parse::<f64>().ok().filter(|s| (0.0..=1e6).contains(s));
        let at_s = at_s.ok_or_else(|| format!("`{time}` is no time; write seconds from the beginning, as 1.25"))?;
        let size_bytes = words.next().map_or(Ok(size_bytes), parse_size)?;
        let count = words.next().map_or(Ok(recipients), |word| {
            let count = word.parse::<u32>().ok().filter(|count| (1..=RECIPIENTS_MAX).contains(count));
            count.ok_or_else(|| format!("`{word}` is no number of recipients (1 to {RECIPIENTS_MAX})"))
        })?;
        if let Some(more) = words.next() {
            return Err(format!("`{more}` is more than a time, a size and a number of recipients"));
        }
        if self.starts.len() == STARTS_MAX {
            return Err(format!("a trace holds at most {STARTS_MAX} starts"));
        }
        let size_bytes = rounded(size_bytes);
        let known = self.sizes_bytes.iter().position(|size| *size == size_bytes);
        let size = known.unwrap_or_else(|| {
            self.sizes_bytes.push(size_bytes);
            self.sizes_bytes.len() - 1
        });
        self.recipients_most = self.recipients_most.max(count);
        let at_ns = (at_s * SECOND_NS as f64) as u64;
        self.starts.push(Start { at_ns, size: size as u16, recipients: count as u16 });
        Ok(())
    }

    /// Forgets all starts behind the first few.
    pub fn truncate(&mut self, starts: u64) {
        self.starts.truncate(usize::try_from(starts).unwrap_or(usize::MAX));
    }

    /// Its file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many starts it has.
    pub fn len(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Never: a trace without starts is an error.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The time of a start, in nanoseconds from the beginning; None behind the last.
    pub fn at_ns(&self, place: u64) -> Option<u64> {
        self.starts.get(usize::try_from(place).ok()?).map(|start| start.at_ns)
    }

    /// Recipients of a start.
    pub fn recipients(&self, place: u64) -> u32 {
        self.starts.get(place as usize).map_or(1, |start| u32::from(start.recipients))
    }

    /// The most recipients of any.
    pub fn recipients_most(&self) -> u32 {
        self.recipients_most
    }

    /// All sizes.
    pub fn sizes_bytes(&self) -> &[u64] {
        &self.sizes_bytes
    }

    /// Which of its sizes a start has.
    pub fn size_index(&self, place: u64) -> usize {
        self.starts.get(place as usize).map_or(0, |start| usize::from(start.size))
    }
}

fn rounded(size_bytes: u64) -> u64 {
    let step = (size_bytes.checked_ilog2().map_or(1, |power| 1 << power) / STEPS_PER_DOUBLING).max(1);
    size_bytes.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_starts_in_order() {
        let text = "# a morning\n0.5 10KiB 3\n\n0.25\n2,1000,50\n0.5\t20KiB\n";
        let trace = Trace::parse("x", text, 2048, 2).unwrap();
        assert_eq!(
            (0..5).map(|place| trace.at_ns(place)).collect::<Vec<_>>()[..],
            [Some(250_000_000), Some(500_000_000), Some(500_000_000), Some(2 * SECOND_NS), None]
        );
        assert_eq!((0..4).map(|place| trace.recipients(place)).collect::<Vec<_>>(), [2, 3, 2, 50]);
        let sizes: Vec<u64> = (0..4).map(|place| trace.sizes_bytes()[trace.size_index(place)]).collect();
        assert_eq!(sizes, [2048, 10240, 20480, 1024]);
        assert_eq!((trace.recipients_most(), trace.len()), (50, 4));
    }

    #[test]
    fn sizes_are_few() {
        let text: String = (1..20_000).map(|n| format!("0 {n}\n")).collect();
        let trace = Trace::parse("x", &text, 1, 1).unwrap();
        assert!(trace.sizes_bytes().len() < 260, "{}", trace.sizes_bytes().len());
        for place in 0..trace.len() {
            let (asked, given) = (place + 1, trace.sizes_bytes()[trace.size_index(place)]);
            assert!(given >= asked && given - asked <= asked / 16, "{asked} {given}");
        }
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, told) in [
            ("0\nsoon\n", "line 2"),
            ("1 x\n", "size"),
            ("1 1KiB 0\n", "recipients"),
            ("1 1KiB 1 1\n", "more than"),
            ("-1\n", "time"),
            ("# nothing\n", "no start"),
            ("0 256MiB\n0 240MiB\n0 200MiB\n", "512 MiB"),
        ] {
            let error = Trace::parse("x", text, 1, 1).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
