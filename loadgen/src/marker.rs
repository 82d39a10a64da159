//! The header field by which a message is known again, and the addresses that carry its name.
//!
//! `X-Loadgen: run=R id=I size=S rcpts=N sent=T sum=C`, fixed width, the last field of the header. `sum` is the CRC-32C of
//! the field's own text from `run=` to before ` sum=`, followed by all bytes behind the field's line end, unstuffed, to
//! the end of the message; `size` counts those bytes. A relay may put fields before the marker, but whatever it changes
//! from the marker on shows. Recipients are `ID.INDEX@dN.loadgen.test`, senders `bID@loadgen.test`, so that an envelope that
//! came to the wrong message shows too, and a bounce names what bounced. Pure; outside bytes never panic.

use std::io::Write;

/// The domain below which all made-up addresses live (RFC 2606: never a real one).
pub const DOMAIN: &str = "loadgen.test";

/// What the marker field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The run that sent the message.
    pub run: u64,
    /// The number of the message in its run, from 0.
    pub id: u64,
    /// Bytes behind the marker's line end, unstuffed.
    pub size_bytes: u64,
    /// Recipients per message in this run.
    pub recipients: u32,
    /// Planned start, nanoseconds since the Unix epoch.
    pub sent_ns: u64,
    /// CRC-32C as described above.
    pub sum: u32,
}

const NAME: &[u8] = b"X-Loadgen:";

/// Writes the field without ` sum=` and returns the checksum of its text so far, to be carried on over the body.
pub fn write_start(out: &mut Vec<u8>, marker: &Marker) -> u32 {
    out.extend_from_slice(b"X-Loadgen: ");
    let from = out.len();
    out.extend_from_slice(b"run=");
    write_hex(out, marker.run, 16);
    out.extend_from_slice(b" id=");
    write_decimal(out, marker.id, 12);
    out.extend_from_slice(b" size=");
    write_decimal(out, marker.size_bytes, 9);
    out.extend_from_slice(b" rcpts=");
    write_decimal(out, u64::from(marker.recipients), 4);
    out.extend_from_slice(b" sent=");
    write_decimal(out, marker.sent_ns, 19);
    crc32c::crc32c(&out[from..])
}

/// Ends the field that [`write_start`] began.
pub fn write_end(out: &mut Vec<u8>, sum: u32) {
    out.extend_from_slice(b" sum=");
    write_hex(out, u64::from(sum), 8);
    out.extend_from_slice(b"\r\n");
}

/// Reads a header line (with or without its line end). None if it is no marker, or a damaged one. The second part is the
/// checksum of the field's text, from which the body's is carried on.
pub fn parse(line: &[u8]) -> Option<(Marker, u32)> {
    if !is_marker(line) {
        return None;
    }
    let text = line[NAME.len()..].trim_ascii();
    let sum_at = memchr::memmem::find(text, b" sum=")?;
    let mut marker = Marker { run: 0, id: 0, size_bytes: 0, recipients: 0, sent_ns: 0, sum: 0 };
    let mut seen = 0u32;
    for word in text.split(|b| *b == b' ').filter(|word| !word.is_empty()) {
        let equals = memchr::memchr(b'=', word)?;
        let (key, value) = (&word[..equals], &word[equals + 1..]);
        match key {
            b"run" => marker.run = read_hex(value)?,
            b"id" => marker.id = read_decimal(value)?,
            b"size" => marker.size_bytes = read_decimal(value)?,
            b"rcpts" => marker.recipients = u32::try_from(read_decimal(value)?).ok()?,
            b"sent" => marker.sent_ns = read_decimal(value)?,
            b"sum" => marker.sum = u32::try_from(read_hex(value)?).ok()?,
            _ => return None,
        }
        seen += 1;
    }
    let whole = seen == 6 && marker.recipients > 0;
    whole.then(|| (marker, crc32c::crc32c(&text[..sum_at])))
}

/// True for a line that is named as the marker, damaged or not.
pub fn is_marker(line: &[u8]) -> bool {
    line.len() >= NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME)
}

/// Writes the address of a message's recipient, without brackets.
pub fn write_recipient(out: &mut Vec<u8>, id: u64, index: u32, domain: u32) {
    write_decimal(out, id, 12);
    // Writing to a vector cannot fail.
    let _ = write!(out, ".{index}@d{domain}.{DOMAIN}");
}

/// Reads `ID.INDEX@...`; None if it is not one of ours.
pub fn parse_recipient(address: &[u8]) -> Option<(u64, u32)> {
    let local = &address[..memchr::memchr(b'@', address)?];
    let dot = memchr::memchr(b'.', local)?;
    Some((read_decimal(&local[..dot])?, u32::try_from(read_decimal(&local[dot + 1..])?).ok()?))
}

/// Writes the address a message is sent from, without brackets.
pub fn write_sender(out: &mut Vec<u8>, id: u64) {
    out.push(b'b');
    write_decimal(out, id, 12);
    out.push(b'@');
    out.extend_from_slice(DOMAIN.as_bytes());
}

/// Reads `bID@...`, the address a bounce comes back to; None if it is not one of ours.
pub fn parse_sender(address: &[u8]) -> Option<u64> {
    let local = &address[..memchr::memchr(b'@', address)?];
    read_decimal(local.strip_prefix(b"b")?)
}

/// Writes a number with leading zeros; wider ones are written whole.
pub fn write_decimal(out: &mut Vec<u8>, value: u64, width: usize) {
    write_digits(out, value, width, 10);
}

fn write_hex(out: &mut Vec<u8>, value: u64, width: usize) {
    write_digits(out, value, width, 16);
}

fn write_digits(out: &mut Vec<u8>, mut value: u64, width: usize, base: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while value > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(value % base) as usize];
        value /= base;
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width)..]);
}

fn read_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0u64, |n, b| {
        let digit = b.wrapping_sub(b'0');
        if digit < 10 { n.checked_mul(10)?.checked_add(u64::from(digit)) } else { None }
    })
}

fn read_hex(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    text.iter().try_fold(0u64, |n, b| Some((n << 4) | u64::from((*b as char).to_digit(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Marker {
        Marker {
            run: 0xabc,
            id: 77,
            size_bytes: 9000,
            recipients: 3,
            sent_ns: 1_700_000_000_123_456_789,
            sum: 0xdead_beef,
        }
    }

    #[test]
    fn written_and_read_again() {
        let mut line = Vec::new();
        let begun = write_start(&mut line, &sample());
        write_end(&mut line, 0xdead_beef);
        assert_eq!(parse(&line), Some((sample(), begun)));
        let length = line.len();
        // A flipped bit anywhere in the values never goes unseen: it fails to parse or changes marker or checksum.
        for at in NAME.len() + 1..length - 2 {
            let mut damaged = line.clone();
            damaged[at] ^= 1;
            assert_ne!(parse(&damaged), Some((sample(), begun)), "at {at}");
        }
        for cut in 0..length - 2 {
            let _ = parse(&line[..cut]);
        }
    }

    #[test]
    fn addresses() {
        let mut address = Vec::new();
        write_recipient(&mut address, 42, 7, 3);
        assert_eq!(address, b"000000000042.7@d3.loadgen.test");
        assert_eq!(parse_recipient(&address), Some((42, 7)));
        address.clear();
        write_sender(&mut address, 42);
        assert_eq!(parse_sender(&address), Some(42));
        assert_eq!(parse_recipient(b"x@y"), None);
        assert_eq!(parse_recipient(b"99999999999999999999999.1@y"), None);
        assert_eq!(parse_sender(b"postmaster@y"), None);
    }
}
