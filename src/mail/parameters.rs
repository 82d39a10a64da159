//! What MAIL and RCPT said beside the addresses, as far as it is kept with the message (QUE-02).
//!
//! In the accepting record it is one block of tagged entries, empty for a message that used no extension, so that
//! such mail pays nothing. What a next hop is to get octet for octet is kept as it came (DSN-09). Entries of an unknown tag
//! are skipped, so that a later relay may add some. Pure; reading any bytes is fine.
//!
//! ```text
//! entry = tag u8, length u16, value          (little endian)
//!   1 RET as given        5 priority i8                     16 number u32 of the recipient, length of NOTIFY u8,
//!   2 ENVID as given      6 held until, ms u64                 NOTIFY as given, ORCPT as given; in order of numbers
//!   3 SMTPUTF8: u8, 1 if the header needs it too
//!   4 REQUIRETLS          7 deliver by, ms u64; mode u8: 1 return, 2 notify; +4 traced
//!   9 AUTH was said      10 the header says TLS-Required: No
//!   8 group: number u32 of its first recipient, count u32, kind u8, reverse-path; before all of tag 16
//! ```

use crate::base::limits::LOCAL_PART_MAX_BYTES;
use crate::base::time::UnixMs;

const RET: u8 = 1;
const ENVID: u8 = 2;
const UTF8: u8 = 3;
const REQUIRE_TLS: u8 = 4;
const PRIORITY: u8 = 5;
const HELD: u8 = 6;
const DELIVER_BY: u8 = 7;
const GROUP: u8 = 8;
const AUTH: u8 = 9;
const TLS_OPTIONAL: u8 = 10;
const RECIPIENT: u8 = 16;

/// Length of an entry before its value.
const ENTRY_HEAD_BYTES: usize = 3;
/// Length of a recipient's entry without its texts.
const RECIPIENT_FIXED_BYTES: usize = ENTRY_HEAD_BYTES + 5;
/// Length of a group's entry without its reverse-path.
const GROUP_FIXED_BYTES: usize = ENTRY_HEAD_BYTES + 9;

/// Longest ENVID value (DSN-10, SIZ-03; RFC 3461 5.4).
pub const ENVID_MAX_BYTES: usize = 100;
/// Longest ORCPT value (DSN-10, SIZ-03; RFC 3461 5.4).
pub const ORCPT_MAX_BYTES: usize = 500;

/// What MAIL said of the whole message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageParameters<'a> {
    /// `RET=`, as given: what a report of failure holds of the message (RFC 3461 4.3).
    pub ret: Option<&'a [u8]>,
    /// `ENVID=`, as given, in xtext: the sender's name for the transaction (RFC 3461 4.4).
    pub envid: Option<&'a [u8]>,
    /// `SMTPUTF8` was said (RFC 6531 3.4).
    pub utf8: bool,
    /// The header holds octets over 127, so that only a next hop with SMTPUTF8 can take it (EXT-06).
    pub utf8_header: bool,
    /// `REQUIRETLS` was said (RFC 8689 2).
    pub require_tls: bool,
    /// The header says `TLS-Required: No` (RFC 8689 3).
    pub tls_optional: bool,
    /// `MT-PRIORITY=`, -9 to 9 (RFC 6710).
    pub priority: Option<i8>,
    /// Not sent before this moment (RFC 4865).
    pub held_until: Option<UnixMs>,
    /// `BY=` (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
    /// `AUTH=` was given. Nobody's word is taken for who sent it first: it goes on as `AUTH=<>` (AUT-07; RFC 4954 5).
    pub auth: bool,
}

/// Until when a message is to be delivered, and what if not (RFC 2852).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverBy {
    /// The moment.
    pub by: UnixMs,
    /// What happens then.
    pub late: Late,
    /// Each relay is to report that it passed the message on.
    pub traced: bool,
}

/// What becomes of a message that comes too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It is given back, undelivered.
    Return,
    /// Its sender is told, and it is delivered all the same.
    Notify,
}

/// What RCPT said of one recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecipientParameters<'a> {
    /// `NOTIFY=`, as given; empty: not given.
    pub notify: &'a [u8],
    /// `ORCPT=`, as given; empty: not given.
    pub orcpt: &'a [u8],
}

/// Recipients that stand together because an address of the alias table stood for them (FND-04; RFC 5321 3.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// What is special about them.
    pub kind: GroupKind,
    /// The list's owner; empty where the message's own reverse-path holds.
    pub reverse_path: &'a [u8],
}

/// What is special about a group of recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GroupKind {
    /// Members of a list: its owner is the reverse-path.
    List = 0,
    /// The same, and each member is named in it: `owner+local=domain@domain-of-the-owner`.
    ListByMember = 1,
    /// Addresses that were lists, and whose sender is to be told that they got the message: nothing is sent to them.
    ToldDelivered = 2,
    /// The same with aliases of several addresses: that they were expanded.
    ToldExpanded = 3,
}

impl GroupKind {
    /// True if nothing is to be sent to its recipients, only to the sender about them.
    pub const fn is_told(self) -> bool {
        matches!(self, GroupKind::ToldDelivered | GroupKind::ToldExpanded)
    }

    fn of(number: u8) -> Option<GroupKind> {
        [GroupKind::List, GroupKind::ListByMember, GroupKind::ToldDelivered, GroupKind::ToldExpanded]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// Recipients, one behind the other, that share what is special about a group, or are in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch<'a> {
    /// The number behind its last one.
    pub end: usize,
    /// `None`: they are as RCPT gave them.
    pub group: Option<Group<'a>>,
}

impl<'a> Stretch<'a> {
    /// The reverse-path of its recipients, as far as it is the same for all of them.
    pub fn sender(&self, own: &'a [u8]) -> &'a [u8] {
        self.group.filter(|group| !group.kind.is_told()).map_or(own, |group| group.reverse_path)
    }

    /// Each recipient has a reverse-path, and so a transaction, of its own.
    pub fn is_by_member(&self) -> bool {
        self.group.is_some_and(|group| group.kind == GroupKind::ListByMember)
    }

    /// Nothing is sent to its recipients.
    pub fn is_told(&self) -> bool {
        self.group.is_some_and(|group| group.kind.is_told())
    }

    /// True for the members of a list: to them the message is another one than the one that was sent to the list, and what its
    /// sender wanted to be told is not theirs (RFC 3461 5.2.7).
    pub fn is_list(&self) -> bool {
        self.group.is_some_and(|group| !group.kind.is_told())
    }
}

/// The reverse-path that names a recipient, `owner+local=domain@domain-of-the-owner`; `None` if there is none that mail hosts
/// must take (RFC 5321 4.5.3.1.1), or if the recipient's local part is quoted.
pub fn by_member(owner: &[u8], recipient: &[u8]) -> Option<Vec<u8>> {
    let at = |mailbox: &[u8]| memchr::memrchr(b'@', mailbox);
    let (owner_at, at) = (at(owner)?, at(recipient)?);
    let fits = owner_at + 1 + recipient.len() <= LOCAL_PART_MAX_BYTES;
    let plain = !owner.starts_with(b"\"") && !recipient.starts_with(b"\"") && !recipient[at + 1..].starts_with(b"[");
    (fits && plain).then(|| {
        let (owner_local, owner_domain) = owner.split_at(owner_at);
        [owner_local, b"+", &recipient[..at], b"=", &recipient[at + 1..], owner_domain].concat()
    })
}

/// What a recipient's sender wants to be told (DSN-07; RFC 3461 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify {
    /// That it was delivered, or passed on to who does not report.
    pub success: bool,
    /// That it failed.
    pub failure: bool,
    /// That it takes long.
    pub delay: bool,
}

impl Notify {
    /// Without NOTIFY: failures only. The RFC would let us report delays too; who did not ask is not bothered.
    pub const DEFAULT: Notify = Notify { success: false, failure: true, delay: false };

    /// Reads a value of NOTIFY; `None` if it is none, or contradicts itself (DSN-10).
    pub fn parse(text: &[u8]) -> Option<Notify> {
        let mut notify = Notify { success: false, failure: false, delay: false };
        if text.eq_ignore_ascii_case(b"NEVER") {
            return Some(notify);
        }
        for word in text.split(|&b| b == b',') {
            let place = match word {
                _ if word.eq_ignore_ascii_case(b"SUCCESS") => &mut notify.success,
                _ if word.eq_ignore_ascii_case(b"FAILURE") => &mut notify.failure,
                _ if word.eq_ignore_ascii_case(b"DELAY") => &mut notify.delay,
                _ => return None,
            };
            if std::mem::replace(place, true) {
                return None;
            }
        }
        Some(notify)
    }

    /// The same wishes but for success, as NOTIFY has them (RFC 3461 5.2.7).
    pub const fn without_success(self) -> &'static [u8] {
        match (self.failure, self.delay) {
            (true, true) => b"FAILURE,DELAY",
            (true, false) => b"FAILURE",
            (false, true) => b"DELAY",
            (false, false) => b"NEVER",
        }
    }
}

impl RecipientParameters<'_> {
    /// What the sender wants to be told.
    pub fn wants(&self) -> Notify {
        if self.notify.is_empty() { Notify::DEFAULT } else { Notify::parse(self.notify).unwrap_or(Notify::DEFAULT) }
    }
}

/// True for xtext (RFC 3461 4): printable ASCII in which `+` stands only before two hexadecimal digits in capitals, and `=`
/// not at all.
pub fn is_xtext(text: &[u8]) -> bool {
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return true,
            [b'+', high, low, rest @ ..] if hex_digit(*high).is_some() && hex_digit(*low).is_some() => rest,
            [b'!'..=b'*' | b','..=b'<' | b'>'..=b'~', rest @ ..] => rest,
            _ => return false,
        }
    }
}

/// What xtext stands for. What is no xtext is taken as it is.
pub fn decode_xtext(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        match (first, behind) {
            (b'+', [high, low, behind @ ..]) if hex_digit(*high).is_some() && hex_digit(*low).is_some() => {
                decoded.push(hex_digit(*high).unwrap_or(0) << 4 | hex_digit(*low).unwrap_or(0));
                rest = behind;
            }
            _ => decoded.push(first),
        }
    }
    decoded
}

/// RFC 3461 4 wants capitals.
const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// True for a value of ORCPT: address type, semicolon, and an address in xtext (DSN-10; RFC 3461 4.2), or in UTF-8 with the
/// type `utf-8` (DSN-12; RFC 6533 3).
pub fn is_orcpt(text: &[u8]) -> bool {
    let Some((kind, address)) = split_orcpt(text) else { return false };
    let kind_good = !kind.is_empty() && kind.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    let address_good = if kind.eq_ignore_ascii_case(b"utf-8") { is_unitext(address) } else { is_xtext(address) };
    kind_good && address_good && !address.is_empty() && text.len() <= ORCPT_MAX_BYTES
}

/// Type and address of an ORCPT value.
pub fn split_orcpt(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let semicolon = memchr::memchr(b';', text)?;
    Some((&text[..semicolon], &text[semicolon + 1..]))
}

/// UTF-8 in which `\` stands only in `\x{...}` (RFC 6533 3), without controls, blanks, `+` and `=`.
fn is_unitext(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '\\' => match rest.strip_prefix("\\x{").and_then(|inside| inside.split_once('}')) {
                Some((digits, behind)) if is_code_point(digits) => behind,
                _ => return false,
            },
            '+' | '=' | ' ' => return false,
            _ if first.is_control() => return false,
            _ => &rest[first.len_utf8()..],
        };
    }
    true
}

fn is_code_point(digits: &str) -> bool {
    (2..=6).contains(&digits.len())
        && u32::from_str_radix(digits, 16).is_ok_and(|number| char::from_u32(number).is_some())
}

/// What a `utf-8` address of ORCPT stands for.
pub fn decode_unitext(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut decoded = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some((before, behind)) = rest.split_once("\\x{") {
        decoded.push_str(before);
        let Some((digits, behind)) = behind.split_once('}') else { break };
        decoded.extend(u32::from_str_radix(digits, 16).ok().and_then(char::from_u32));
        rest = behind;
    }
    decoded.push_str(rest);
    decoded
}

/// Appends a `utf-8` address in the form that ASCII carries: what is not ASCII as `\x{...}` (RFC 6533 3).
pub fn push_ascii_unitext(out: &mut Vec<u8>, text: &[u8]) {
    use std::io::Write;
    for c in String::from_utf8_lossy(text).chars() {
        if c.is_ascii() {
            out.push(c as u8);
        } else {
            write!(out, "\\x{{{:X}}}", u32::from(c)).expect("a vector takes all");
        }
    }
}

// ---- the block ----

/// Appends what MAIL said, if it said anything.
pub fn write_message(out: &mut Vec<u8>, parameters: &MessageParameters<'_>) {
    if let Some(ret) = parameters.ret {
        write_entry(out, RET, &[ret]);
    }
    if let Some(envid) = parameters.envid {
        write_entry(out, ENVID, &[envid]);
    }
    if parameters.utf8 {
        write_entry(out, UTF8, &[&[u8::from(parameters.utf8_header)]]);
    }
    if parameters.require_tls {
        write_entry(out, REQUIRE_TLS, &[]);
    }
    if parameters.tls_optional {
        write_entry(out, TLS_OPTIONAL, &[]);
    }
    if let Some(priority) = parameters.priority {
        write_entry(out, PRIORITY, &[&priority.to_le_bytes()]);
    }
    if let Some(moment) = parameters.held_until {
        write_entry(out, HELD, &[&moment.0.to_le_bytes()]);
    }
    if let Some(DeliverBy { by, late, traced }) = parameters.deliver_by {
        let mode = (if late == Late::Return { 1 } else { 2 }) | u8::from(traced) << 2;
        write_entry(out, DELIVER_BY, &[&by.0.to_le_bytes(), &[mode]]);
    }
    if parameters.auth {
        write_entry(out, AUTH, &[]);
    }
}

/// Appends a group: `count` recipients from `first` on. Behind what MAIL said, before what RCPT said; groups do not overlap.
pub fn write_group(out: &mut Vec<u8>, first: u32, count: u32, group: Group<'_>) {
    write_entry(out, GROUP, &[&first.to_le_bytes(), &count.to_le_bytes(), &[group.kind as u8], group.reverse_path]);
}

/// Length of the entry that [`write_group`] appends.
pub fn group_bytes(reverse_path: &[u8]) -> usize {
    GROUP_FIXED_BYTES + reverse_path.len()
}

/// Appends what RCPT said of the recipient of that number, if it said anything. Numbers only grow.
pub fn write_recipient(out: &mut Vec<u8>, number: u32, parameters: &RecipientParameters<'_>) {
    if *parameters != RecipientParameters::default() {
        let RecipientParameters { notify, orcpt } = parameters;
        let notify_bytes = u8::try_from(notify.len()).expect("NOTIFY is 28 octets at most");
        write_entry(out, RECIPIENT, &[&number.to_le_bytes(), &[notify_bytes], notify, orcpt]);
    }
}

/// Length of the entry that [`write_recipient`] appends.
pub fn recipient_bytes(parameters: &RecipientParameters<'_>) -> usize {
    RECIPIENT_FIXED_BYTES + parameters.notify.len() + parameters.orcpt.len()
}

fn write_entry(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(tag);
    out.extend_from_slice(&u16::try_from(length).expect("parameters are shorter than a command line").to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// A block of parameters, read in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParameterBlock<'a>(pub &'a [u8]);

impl<'a> ParameterBlock<'a> {
    /// True if nothing was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What MAIL said.
    pub fn message(&self) -> MessageParameters<'a> {
        let mut message = MessageParameters::default();
        for (tag, value) in self.entries() {
            match (tag, value) {
                (RET, text) => message.ret = Some(text),
                (ENVID, text) => message.envid = Some(text),
                (UTF8, [header]) => (message.utf8, message.utf8_header) = (true, *header != 0),
                (REQUIRE_TLS, []) => message.require_tls = true,
                (TLS_OPTIONAL, []) => message.tls_optional = true,
                (PRIORITY, [priority]) => message.priority = Some(i8::from_le_bytes([*priority])),
                (HELD, value) => message.held_until = read_moment(value).map(|(moment, _)| moment),
                (DELIVER_BY, value) => message.deliver_by = read_deliver_by(value),
                (AUTH, []) => message.auth = true,
                _ => {}
            }
        }
        message
    }

    /// The recipient of that number and those behind it that are in the same group, or in none. Only what stands before the
    /// first recipient's entry is looked at.
    pub fn stretch(&self, number: usize) -> Stretch<'a> {
        let mut end = usize::MAX;
        for (tag, value) in self.entries().take_while(|(tag, _)| *tag != RECIPIENT) {
            let Some((first, count, group)) = read_group(value).filter(|_| tag == GROUP) else { continue };
            if (first..first.saturating_add(count)).contains(&number) {
                return Stretch { end: first.saturating_add(count), group: Some(group) };
            }
            if first > number {
                end = end.min(first);
            }
        }
        Stretch { end, group: None }
    }

    /// What RCPT said of each recipient of which it said anything, in order.
    pub fn recipients(&self) -> impl Iterator<Item = (u32, RecipientParameters<'a>)> + use<'a> {
        self.entries().filter_map(|(tag, value)| {
            let (number, value) = value.split_first_chunk().filter(|_| tag == RECIPIENT)?;
            let (&notify_bytes, texts) = value.split_first()?;
            let (notify, orcpt) = texts.split_at_checked(notify_bytes.into())?;
            Some((u32::from_le_bytes(*number), RecipientParameters { notify, orcpt }))
        })
    }

    /// What RCPT said of one recipient.
    pub fn recipient(&self, number: usize) -> RecipientParameters<'a> {
        let mut found = self.recipients().filter(|(other, _)| *other as usize == number);
        found.next().map_or(RecipientParameters::default(), |(_, parameters)| parameters)
    }

    /// Tags and values; ends early where it is malformed.
    fn entries(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let ([tag, low, high], behind) = rest.split_first_chunk()?;
            let (value, behind) = behind.split_at_checked(u16::from_le_bytes([*low, *high]).into())?;
            rest = behind;
            Some((*tag, value))
        })
    }
}

fn read_moment(value: &[u8]) -> Option<(UnixMs, &[u8])> {
    let (moment, rest) = value.split_first_chunk()?;
    Some((UnixMs(u64::from_le_bytes(*moment)), rest))
}

fn read_group(value: &[u8]) -> Option<(usize, usize, Group<'_>)> {
    let (first, value) = value.split_first_chunk()?;
    let (count, value) = value.split_first_chunk()?;
    let (&kind, reverse_path) = value.split_first()?;
    let group = Group { kind: GroupKind::of(kind)?, reverse_path };
    Some((u32::from_le_bytes(*first) as usize, u32::from_le_bytes(*count) as usize, group))
}

fn read_deliver_by(value: &[u8]) -> Option<DeliverBy> {
    let (by, rest) = read_moment(value)?;
    let [mode] = rest else { return None };
    let late = if mode & 3 == 1 { Late::Return } else { Late::Notify };
    Some(DeliverBy { by, late, traced: mode & 4 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_of_notify() {
        // DSN-07, DSN-10
        let notify = |success, failure, delay| Some(Notify { success, failure, delay });
        assert_eq!(Notify::parse(b"never"), notify(false, false, false));
        assert_eq!(Notify::parse(b"Success"), notify(true, false, false));
        assert_eq!(Notify::parse(b"DELAY,FAILURE"), notify(false, true, true));
        assert_eq!(Notify::parse(b"SUCCESS,FAILURE,DELAY"), notify(true, true, true));
        for bad in
            ["", "NEVER,SUCCESS", "SUCCESS,NEVER", "SUCCESS,SUCCESS", "SUCCESS,", ",DELAY", "MAYBE", "DELAY FAILURE"]
        {
            assert_eq!(Notify::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(RecipientParameters::default().wants(), Notify::DEFAULT);
    }

    #[test]
    fn xtext_and_addresses() {
        // DSN-04, DSN-10, DSN-12
        for (good, decoded) in [("", ""), ("a+2Bb", "a+b"), ("QQ314159", "QQ314159"), ("+3D+0A", "=\n"), ("<>", "<>")] {
            assert!(is_xtext(good.as_bytes()), "{good}");
            assert_eq!(decode_xtext(good.as_bytes()), decoded.as_bytes(), "{good}");
        }
        for bad in ["+", "a+2", "+2b", "+GG", "a=b", "a b", "\u{fc}", "a\x7f"] {
            assert!(!is_xtext(bad.as_bytes()), "{bad}");
        }
        for good in ["rfc822;a@b", "utf-8;\u{fc}@\u{fc}.example", "utf-8;\\x{FC}@b", "rfc822;a+2B@b", "x-400;/c+3Dus"] {
            assert!(is_orcpt(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ";",
            "rfc822",
            "rfc822;",
            ";a@b",
            "rf c;a",
            "rfc822;a=b",
            "rfc822;\u{fc}@b",
            "utf-8;\\y",
            "utf-8;\\x{D800}",
            "utf-8;a+b",
        ] {
            assert!(!is_orcpt(bad.as_bytes()), "{bad}");
        }
        assert!(!is_orcpt(format!("rfc822;{}", "a".repeat(ORCPT_MAX_BYTES)).as_bytes()));
        assert_eq!(decode_unitext(b"\\x{FC}@b"), "\u{fc}@b");
        let mut ascii = Vec::new();
        push_ascii_unitext(&mut ascii, "\u{fc}\\x{FC}@b".as_bytes());
        assert_eq!(ascii, b"\\x{FC}\\x{FC}@b");
    }

    #[test]
    fn a_member_is_named_in_the_reverse_path_where_there_is_room() {
        // FND-04
        let named = |owner: &str, member: &str| {
            by_member(owner.as_bytes(), member.as_bytes()).map(|path| String::from_utf8(path).unwrap())
        };
        let found = named("news-owner@lists.example", "a.b@example.org");
        assert_eq!(found.as_deref(), Some("news-owner+a.b=example.org@lists.example"));
        let domain = "d".repeat(54);
        assert_eq!(named("owner@x", &format!("ab@{domain}")).unwrap().find('@'), Some(63));
        assert!(named("owner@x", &format!("abc@{domain}")).is_some());
        for (owner, member) in [
            ("owner@x", &*format!("abcd@{domain}")),
            ("o@x", "\"a b\"@c"),
            ("\"o\"@x", "a@b"),
            ("o@x", "a@[192.0.2.1]"),
        ] {
            assert_eq!(named(owner, member), None, "{owner} {member}");
        }
    }

    #[test]
    fn success_is_taken_out_of_notify() {
        for (before, after) in [
            ("SUCCESS", "NEVER"),
            ("NEVER", "NEVER"),
            ("SUCCESS,FAILURE", "FAILURE"),
            ("delay,success", "DELAY"),
            ("SUCCESS,FAILURE,DELAY", "FAILURE,DELAY"),
        ] {
            assert_eq!(Notify::parse(before.as_bytes()).unwrap().without_success(), after.as_bytes());
        }
    }

    fn texts() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40))
    }

    proptest! {
        #[test]
        fn what_was_said_comes_back(
            (ret, envid) in (texts(), texts()),
            (utf8, utf8_header, require_tls, tls_optional, traced, returns) in any::<(bool, bool, bool, bool, bool, bool)>(),
            auth in any::<bool>(),
            priority in proptest::option::of(-9i8..=9),
            (held, by) in any::<(Option<u64>, Option<u64>)>(),
            recipients in proptest::collection::btree_map(any::<u32>(), (texts(), texts()), 0..5),
        ) {
            // QUE-02
            let message = MessageParameters {
                ret: ret.as_deref(),
                envid: envid.as_deref(),
                utf8,
                utf8_header: utf8 && utf8_header,
                require_tls,
                tls_optional,
                priority,
                held_until: held.map(UnixMs),
                deliver_by: by.map(|by| DeliverBy {
                    by: UnixMs(by),
                    late: if returns { Late::Return } else { Late::Notify },
                    traced,
                }),
                auth,
            };
            let mut block = Vec::new();
            write_message(&mut block, &message);
            prop_assert_eq!(block.is_empty(), message == MessageParameters::default());
            let mut said = Vec::new();
            for (number, (notify, orcpt)) in &recipients {
                let parameters = RecipientParameters {
                    notify: notify.as_deref().unwrap_or_default(),
                    orcpt: orcpt.as_deref().unwrap_or_default(),
                };
                let before = block.len();
                write_recipient(&mut block, *number, &parameters);
                if parameters != RecipientParameters::default() {
                    prop_assert_eq!(block.len() - before, recipient_bytes(&parameters));
                    said.push((*number, parameters));
                }
            }
            // An entry that a later relay added.
            write_entry(&mut block, 200, &[b"later"]);
            let block = ParameterBlock(&block);
            prop_assert_eq!(block.message(), message);
            prop_assert_eq!(block.recipients().collect::<Vec<_>>(), said.clone());
            for (number, parameters) in said {
                prop_assert_eq!(block.recipient(number as usize), parameters);
            }
        }

        #[test]
        fn groups_come_back(
            parts in proptest::collection::vec((0u32..3, 1u32..5, 0u8..4, texts()), 0..6),
            said in any::<bool>(),
        ) {
            // FND-04: every recipient is found in its group, or in none, and a stretch ends where the next begins.
            let mut block = Vec::new();
            write_message(&mut block, &MessageParameters { ret: Some(b"HDRS"), ..Default::default() });
            let (mut next, mut twin) = (0u32, Vec::new());
            for (gap, count, kind, path) in &parts {
                let group = Group { kind: GroupKind::of(*kind).unwrap(), reverse_path: path.as_deref().unwrap_or_default() };
                let before = block.len();
                write_group(&mut block, next + gap, *count, group);
                prop_assert_eq!(block.len() - before, group_bytes(group.reverse_path));
                twin.extend((0..*gap).map(|_| None));
                twin.extend((0..*count).map(|_| Some((next + gap, group))));
                next += gap + count;
            }
            if said {
                write_recipient(&mut block, 0, &RecipientParameters { notify: b"NEVER", orcpt: b"" });
            }
            let block = ParameterBlock(&block);
            for (number, expected) in twin.iter().enumerate() {
                let stretch = block.stretch(number);
                prop_assert_eq!(stretch.group, expected.map(|(_, group)| group));
                let length = twin[number..].iter().take_while(|other| *other == expected).count();
                prop_assert_eq!(stretch.end, number + length);
            }
            prop_assert_eq!(block.stretch(next as usize), Stretch { end: usize::MAX, group: None });
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let block = ParameterBlock(&bytes);
            block.message();
            block.stretch(0);
            block.recipients().for_each(drop);
            is_orcpt(&bytes);
            is_xtext(&bytes);
            prop_assert!(decode_xtext(&bytes).len() <= bytes.len());
            decode_unitext(&bytes);
        }
    }
}
