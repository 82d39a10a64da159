//! The alias table: addresses that stand for others, as an operator writes them in a file (FND-03, FND-04; RFC 5321 3.9).
//!
//! ```text
//! # kind   address                what it stands for
//! alias    sales@example.org      anna@example.org, bert@example.net
//! list     news@example.org       owner=news-owner@example.org by-member
//!          carl@example.com, dora@example.net
//! forward  old@example.org        new@example.net
//! moved    former@example.org     now@example.com
//! gone     nobody@example.org
//! ```
//!
//! A line that begins with a blank goes on with the one before; words stand between blanks and commas; `#` begins a comment. An
//! address that stands for itself among others is where mail goes on to. Everything else that would go in circles, deeper than
//! `limits::ALIAS_DEPTH_MAX` or to more than `limits::EXPANDED_RECIPIENTS_MAX` addresses is an error when the file is read, so that
//! no message ever finds one: what each address stands for in the end is worked out here, once.
//!
//! Made on the main thread, shared by all shards, never changed. Pure; errors name the line, nothing panics.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::address::parse_forward_path;
use super::envelope::Envelope;
use super::parameters::{GroupKind, RecipientParameters, group_bytes, recipient_bytes};
use crate::base::limits::{
    ALIAS_DEPTH_MAX, ALIAS_MEMBERS_MAX, ENVELOPE_PARAMETERS_MAX_BYTES, EXPANDED_RECIPIENTS_MAX, PATH_MAX_BYTES,
    RECIPIENTS_MAX_BYTES,
};

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    /// By address in lower case.
    entries: FxHashMap<Box<[u8]>, Entry>,
    lists: Vec<List>,
    /// Owners, in lower case, behind whom members are named.
    owners: FxHashSet<Box<[u8]>>,
}

/// What the table says of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    kind: Kind,
    address: Arc<[u8]>,
    /// As the table has them: the first one is the new address of who moved.
    members: Box<[Arc<[u8]>]>,
    /// Where mail goes in the end, each address once.
    targets: Box<[Target]>,
    targets_bytes: usize,
    line: usize,
}

/// What an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It stands for others, of whom senders need not know.
    Alias,
    /// A mailing list: failures go to its owner. Its place in `Aliases::lists`.
    List(u16),
    /// Its mail goes to another address, which clients may be told (251).
    Forward,
    /// Its mail is to be sent to another address by whoever has it (551).
    Moved,
    /// Nobody any more (550).
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    owner: Arc<[u8]>,
    by_member: bool,
}

/// One address that mail goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    address: Arc<[u8]>,
    /// The list whose owner is told of failures.
    list: Option<u16>,
}

/// Why the addresses behind a recipient do not fit into a transaction any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Too many addresses.
    Recipients,
    /// Too much was said of them.
    Parameters,
}

impl Entry {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address itself, as the table has it.
    pub fn address(&self) -> &[u8] {
        &self.address
    }

    /// Those that it stands for, as the table has them.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.members.iter().map(|member| &**member)
    }

    /// What it is, in words.
    pub fn described(&self) -> String {
        let to = || String::from_utf8_lossy(self.members().next().unwrap_or_default()).into_owned();
        match (self.kind, self.targets.len()) {
            (Kind::Alias, count) => format!("alias of {count} addresses; they go their own ways"),
            (Kind::List(_), count) => format!("list of {count} addresses; they go their own ways, under its owner"),
            (Kind::Forward, _) => format!("forward to {}; its way counts", to()),
            (Kind::Moved, _) => format!("moved to {}: 551 or 550", to()),
            (Kind::Gone, _) => "gone: 550".to_owned(),
        }
    }

    /// True if it stands for whoever else is to get the message.
    pub fn expands(&self) -> bool {
        !self.targets.is_empty()
    }
}

impl Aliases {
    /// Reads a file's text; the error names the line and the remedy.
    pub fn parse(text: &str) -> Result<Aliases, String> {
        let mut table = Aliases::default();
        let mut members = 0;
        for (line, text) in entries_of(text)? {
            let named = |what: String| format!("line {line}: {what}");
            let entry = table.read_entry(line, &text).map_err(named)?;
            members += entry.members.len();
            if members > ALIAS_MEMBERS_MAX {
                return Err(named(format!("more than {ALIAS_MEMBERS_MAX} addresses in all")));
            }
            let key = entry.address.to_ascii_lowercase().into();
            if let Some(before) = table.entries.insert(key, entry) {
                let address = String::from_utf8_lossy(&before.address);
                return Err(named(format!("{address} stands in line {} already", before.line)));
            }
        }
        table.find_targets()?;
        Ok(table)
    }

    /// True without any address.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is said of a mailbox, without regard to case. An owner is meant also where a member is named behind it (`by_member`).
    pub fn find(&self, mailbox: &[u8]) -> Option<&Entry> {
        let mut lower = [0; PATH_MAX_BYTES];
        let lower = lower.get_mut(..mailbox.len())?;
        lower.copy_from_slice(mailbox);
        lower.make_ascii_lowercase();
        self.entries.get(&*lower).or_else(|| self.find_owner(lower))
    }

    fn find_owner(&self, lower: &[u8]) -> Option<&Entry> {
        let (plus, at) = (memchr::memchr(b'+', lower)?, memchr::memrchr(b'@', lower)?);
        if self.owners.is_empty() || at < plus {
            return None;
        }
        let owner = [&lower[..plus], &lower[at..]].concat();
        self.owners.contains(&owner[..]).then(|| self.entries.get(&owner[..])).flatten()
    }

    fn read_entry(&mut self, line: usize, text: &str) -> Result<Entry, String> {
        let mut words = text.split(|c: char| c == ',' || c.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let kind = words.next().unwrap_or_default();
        let address = mailbox(words.next().ok_or("want a kind and an address")?)?;
        let mut words = words.peekable();
        let kind = match kind {
            "alias" => Kind::Alias,
            "list" => {
                let owner = words.next().and_then(|word| word.strip_prefix("owner="));
                let owner = mailbox(owner.ok_or("a list needs owner=ADDRESS behind its address: failures go there")?)?;
                let by_member = words.next_if_eq(&"by-member").is_some();
                if by_member {
                    self.owners.insert(owner.to_ascii_lowercase().into());
                }
                self.lists.push(List { owner, by_member });
                Kind::List(u16::try_from(self.lists.len() - 1).map_err(|_| "more than 65536 lists")?)
            }
            "forward" => Kind::Forward,
            "moved" => Kind::Moved,
            "gone" => Kind::Gone,
            other => return Err(format!("{other:?} is none of alias, list, forward, moved and gone")),
        };
        let members: Box<[Arc<[u8]>]> = words.map(mailbox).collect::<Result<_, _>>()?;
        match (kind, members.len()) {
            (Kind::Alias | Kind::List(_), 0) => return Err("want at least one address that it stands for".to_owned()),
            (Kind::Forward | Kind::Moved, count) if count != 1 => return Err("want exactly one new address".to_owned()),
            (Kind::Gone, 1..) => return Err("who is gone stands for nobody".to_owned()),
            _ => {}
        }
        Ok(Entry { kind, address, members, targets: Box::default(), targets_bytes: 0, line })
    }

    /// Works out where mail for each address goes in the end.
    fn find_targets(&mut self) -> Result<(), String> {
        let mut all = 0;
        let mut found: Vec<(Box<[u8]>, Vec<Target>)> = Vec::new();
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.line);
        for (key, entry) in entries {
            if matches!(entry.kind, Kind::Moved | Kind::Gone) {
                continue;
            }
            let mut expansion = Expansion::of(self);
            expansion.enter(entry, None).map_err(|what| format!("line {}: {what}", entry.line))?;
            all += expansion.targets.len();
            if all > ALIAS_MEMBERS_MAX {
                let what = "stand for more than so many addresses, lists inside lists counted each time";
                return Err(format!("all entries together {what}: {ALIAS_MEMBERS_MAX}"));
            }
            found.push((key.clone(), expansion.targets));
        }
        for (key, targets) in found {
            let entry = self.entries.get_mut(&key).expect("it was just looked at");
            entry.targets_bytes = targets.iter().map(|target| recipient_size(&target.address)).sum();
            entry.targets = targets.into();
        }
        Ok(())
    }

    /// Adds to an envelope, in place of an address, what it stands for (RFC 5321 3.9). Nothing is added if it does not fit.
    ///
    /// What RCPT said goes along to the one address of an alias or forward. Of several each has it, but for success: that the
    /// message was expanded is what its sender is told then. Members of a list have it not: to them it is the list's message,
    /// and that the list got it is what the sender is told (RFC 3461 5.2.7). A null reverse-path stays null, so that nothing
    /// that is automatic ever comes back to a list.
    pub fn expand(&self, entry: &Entry, said: &RecipientParameters<'_>, envelope: &mut Envelope) -> Result<(), Full> {
        let way = Way::of(entry, said, envelope.sender().is_empty());
        self.find_room(entry, said, &way, envelope)?;
        for target in &entry.targets {
            match target.list.filter(|_| !way.automatic).map(|list| &self.lists[usize::from(list)]) {
                None => {
                    envelope.push_expanded(&target.address, None);
                    envelope.set_recipient_parameters(&way.remaining);
                }
                Some(List { owner, by_member }) => {
                    let kind = if *by_member { GroupKind::ListByMember } else { GroupKind::List };
                    envelope.push_expanded(&target.address, Some((kind, owner)));
                }
            }
        }
        if let Some(kind) = way.told {
            envelope.push_expanded(&entry.address, Some((kind, b"")));
            envelope.set_recipient_parameters(said);
        }
        envelope.note_given();
        Ok(())
    }

    /// Whether all that an address stands for fits into an envelope.
    fn find_room(
        &self,
        entry: &Entry,
        said: &RecipientParameters<'_>,
        way: &Way<'_>,
        envelope: &Envelope,
    ) -> Result<(), Full> {
        let (told, told_size, told_bytes) = match way.told {
            None => (0, 0, 0),
            Some(_) => (1, recipient_size(&entry.address), group_bytes(b"") + recipient_bytes(said)),
        };
        if envelope.len() + entry.targets.len() + told > EXPANDED_RECIPIENTS_MAX
            || envelope.recipients_bytes() + entry.targets_bytes + told_size > RECIPIENTS_MAX_BYTES
        {
            return Err(Full::Recipients);
        }
        let lists: FxHashSet<u16> = entry.targets.iter().filter_map(|target| target.list).collect();
        let groups_bytes: usize = lists.iter().map(|list| group_bytes(&self.lists[usize::from(*list)].owner)).sum();
        let unsaid = way.remaining == RecipientParameters::default();
        let said_bytes = if unsaid { 0 } else { way.own * recipient_bytes(&way.remaining) };
        if envelope.parameters_bytes() + groups_bytes + said_bytes + told_bytes > ENVELOPE_PARAMETERS_MAX_BYTES {
            return Err(Full::Parameters);
        }
        Ok(())
    }
}

/// How a message goes on from an address to those that it stands for.
struct Way<'s> {
    /// It has the null reverse-path, and keeps it.
    automatic: bool,
    /// Those that keep its reverse-path.
    own: usize,
    /// What RCPT said, as far as it goes along to these.
    remaining: RecipientParameters<'s>,
    /// What its sender is told of the address itself.
    told: Option<GroupKind>,
}

impl<'s> Way<'s> {
    fn of(entry: &Entry, said: &RecipientParameters<'s>, automatic: bool) -> Way<'s> {
        assert!(entry.expands(), "it stands for somebody");
        let single = matches!(&*entry.targets, [Target { list: None, .. }]);
        let success = said.wants().success && !single;
        let told = (success && !automatic).then_some(match entry.kind {
            Kind::List(_) => GroupKind::ToldDelivered,
            _ => GroupKind::ToldExpanded,
        });
        let own = entry.targets.iter().filter(|target| target.list.is_none() || automatic).count();
        let notify = if success { said.wants().without_success() } else { said.notify };
        // So many that ORCPT beside each would fill the record: it is left out.
        let crowded = own * recipient_bytes(said) > ENVELOPE_PARAMETERS_MAX_BYTES / 2;
        let remaining = RecipientParameters { notify, orcpt: if crowded { b"" } else { said.orcpt } };
        Way { automatic, own, remaining, told }
    }
}

/// How much of a record a recipient takes at most.
const RECIPIENT_MAX_BYTES: usize = Envelope::RECIPIENT_BYTES + PATH_MAX_BYTES;

/// How much of a record a recipient takes.
fn recipient_size(address: &[u8]) -> usize {
    Envelope::RECIPIENT_BYTES + address.len()
}

/// The walk from one address to all that it stands for.
struct Expansion<'t> {
    table: &'t Aliases,
    /// The addresses that led here.
    path: Vec<&'t Entry>,
    /// Entries by their lines, whose targets are found.
    done: FxHashSet<usize>,
    targets: Vec<Target>,
    targets_bytes: usize,
    /// With domains in lower case.
    seen: FxHashSet<Vec<u8>>,
}

impl<'t> Expansion<'t> {
    fn of(table: &'t Aliases) -> Expansion<'t> {
        Expansion {
            table,
            path: Vec::new(),
            done: FxHashSet::default(),
            targets: Vec::new(),
            targets_bytes: 0,
            seen: FxHashSet::default(),
        }
    }

    fn enter(&mut self, entry: &'t Entry, list: Option<u16>) -> Result<(), String> {
        let list = if let Kind::List(number) = entry.kind { Some(number) } else { list };
        self.path.push(entry);
        if self.path.len() > ALIAS_DEPTH_MAX {
            return Err(format!("{} goes deeper than {ALIAS_DEPTH_MAX} addresses", self.told()));
        }
        for member in &entry.members {
            match self.table.find(member) {
                // Itself among others: where its mail goes on to.
                Some(known) if std::ptr::eq(known, entry) => self.add(member, list)?,
                Some(known) if self.path.iter().any(|above| std::ptr::eq(*above, known)) => {
                    return Err(format!("{} goes in a circle", self.told()));
                }
                Some(known) if matches!(known.kind, Kind::Moved | Kind::Gone) => {
                    let address = String::from_utf8_lossy(member);
                    return Err(format!("{} leads to {address}, who has moved or is gone", self.told()));
                }
                // All that it stands for is there already.
                Some(known) if self.done.contains(&known.line) => {}
                Some(known) => self.enter(known, list)?,
                None => self.add(member, list)?,
            }
        }
        self.path.pop();
        self.done.insert(entry.line);
        Ok(())
    }

    fn add(&mut self, address: &Arc<[u8]>, list: Option<u16>) -> Result<(), String> {
        if !self.seen.insert(canonical(address)) {
            return Ok(());
        }
        self.targets.push(Target { address: address.clone(), list });
        self.targets_bytes += recipient_size(address);
        // With room for the address itself, of which the sender may have to be told.
        if self.targets.len() >= EXPANDED_RECIPIENTS_MAX
            || self.targets_bytes + RECIPIENT_MAX_BYTES > RECIPIENTS_MAX_BYTES
        {
            let bounds = format!("{EXPANDED_RECIPIENTS_MAX} addresses, or {RECIPIENTS_MAX_BYTES} bytes of them");
            return Err(format!("{} stands for {bounds}, or more; make it several", self.told()));
        }
        Ok(())
    }

    fn told(&self) -> String {
        let path: Vec<_> = self.path.iter().map(|entry| String::from_utf8_lossy(&entry.address)).collect();
        path.join(" > ")
    }
}

/// An address as it is compared: the domain without regard to case.
fn canonical(address: &[u8]) -> Vec<u8> {
    let mut canonical = address.to_vec();
    if let Some(at) = memchr::memrchr(b'@', address) {
        canonical[at..].make_ascii_lowercase();
    }
    canonical
}

/// A word that is an address in ASCII.
fn mailbox(word: &str) -> Result<Arc<[u8]>, String> {
    let bracketed = format!("<{word}>");
    match parse_forward_path(bracketed.as_bytes()) {
        Ok((path, b"")) if path.mailbox.len() == word.len() && word.contains('@') && word.is_ascii() => {
            Ok(word.as_bytes().into())
        }
        _ => Err(format!("{word:?} is no address in ASCII, such as name@example.org")),
    }
}

/// The entries of a file, each with the number of its first line, without comments.
fn entries_of(text: &str) -> Result<Vec<(usize, String)>, String> {
    let mut entries: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // A comment begins where a word would; inside of one the sign is a letter of an address.
        let comment =
            line.match_indices('#').find(|(at, _)| !line[..*at].ends_with(|c: char| !c.is_ascii_whitespace()));
        let content = comment.map_or(line, |(at, _)| &line[..at]);
        match entries.last_mut() {
            _ if content.trim().is_empty() => {}
            Some((_, entry)) if content.starts_with([' ', '\t']) => {
                entry.push(' ');
                entry.push_str(content);
            }
            None if content.starts_with([' ', '\t']) => {
                return Err(format!("line {}: begins with a blank, and there is no entry to go on with", number + 1));
            }
            _ => entries.push((number + 1, content.to_owned())),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
