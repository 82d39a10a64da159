//! RCPT, and the commands that ask who is known here: VRFY, EXPN, ETRN (FND-03..FND-06; RFC 5321 3.4, 3.5, RFC 1985).
//!
//! An address of the alias table is taken from everybody, and what it stands for enters the envelope in its place. Where mail for
//! it goes is told only to who may know (RFC 5321 7.3, 7.4): to all others it is an address like any other.
//!
//! What is known to be in vain is refused here, and not reported later (DSN-14); what only DNS or a next hop knows is not asked for
//! before a 250.

use super::{Server, ServerEvent, Waiting, parameter_reply, refuse_utf8};
use crate::base::limits::{
    DOMAIN_MAX_BYTES, ENVELOPE_PARAMETERS_MAX_BYTES, EXPANDED_RECIPIENTS_MAX, EXPANSION_SHOWN_MAX, RECIPIENTS_MAX_BYTES,
};
use crate::mail::address::{POSTMASTER, Path, domain_of, is_domain, parse_forward_path};
use crate::mail::aliases::{Aliases, Entry, Full, Kind};
use crate::mail::envelope::Envelope;
use crate::mail::parameters::recipient_bytes;
use crate::mail::trace::Protocol;
use crate::smtp::command::{self, Parameters};
use crate::smtp::reply::{self, Reply};

/// What a client may do besides sending; by its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asking {
    /// VRFY and EXPN are answered (FND-05).
    pub may_ask: bool,
    /// It is told new addresses (FND-03).
    pub is_told: bool,
    /// ETRN is obeyed (FND-06).
    pub may_etrn: bool,
}

/// What ETRN asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The domain, in lower case.
    pub domain: Box<str>,
    /// Those below it, too.
    pub with_subdomains: bool,
}

/// The words of a reply that depend on the table.
enum Words<'a> {
    Fixed(Reply),
    /// An address behind some text: `250 2.1.5 <address>`.
    Address(&'static str, &'a [u8]),
}

impl Server {
    pub(super) fn rcpt(&mut self, recipient: Path<'_>, parameters: Parameters<'_>, out: &mut Vec<u8>) {
        if let Err(refusal) = self.take_recipient(recipient, parameters, out) {
            self.answer(refusal, out);
        }
    }

    /// Takes a recipient and says so, or tells why not.
    fn take_recipient(
        &mut self,
        recipient: Path<'_>,
        parameters: Parameters<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Reply> {
        if !self.in_transaction {
            return Err(reply::MAIL_FIRST);
        }
        if self.chunked {
            return Err(reply::CHUNKS_BEGUN);
        }
        let said = command::rcpt_parameters(parameters, self.protocol != Protocol::Smtp).map_err(parameter_reply)?;
        if let Some(refusal) = refuse_utf8(recipient, self.envelope().utf8, reply::RECIPIENT_SYNTAX) {
            return Err(refusal);
        }
        if let Some(table) = self.settings.aliases.clone()
            && let Some(entry) = self.known(&table, recipient)
        {
            if self.envelope().given() >= self.settings.recipients_max {
                return Err(reply::TOO_MANY_RECIPIENTS);
            }
            let reply = self.words_of(entry, reply::RECIPIENT_OK);
            if entry.expands() {
                table.expand(entry, &said, &mut self.transaction_mut().envelope).map_err(full_reply)?;
            }
            self.say(&reply, out);
            return Ok(());
        }
        if !self.may_relay() && !self.is_own_postmaster(recipient) {
            return Err(reply::RELAY_DENIED);
        }
        if self.envelope().given() >= self.settings.recipients_max || !has_room(self.envelope(), recipient) {
            return Err(reply::TOO_MANY_RECIPIENTS);
        }
        if self.envelope().parameters_bytes() + recipient_bytes(&said) > ENVELOPE_PARAMETERS_MAX_BYTES {
            return Err(reply::TOO_MANY_PARAMETERS);
        }
        let envelope = &mut self.transaction.get_or_insert_default().envelope;
        if recipient.is_bare_postmaster() {
            envelope.push_recipient_parts(&[POSTMASTER, b"@", self.settings.hostname.as_bytes()]);
        } else {
            envelope.push_recipient(recipient.mailbox);
        }
        envelope.set_recipient_parameters(&said);
        reply::RECIPIENT_OK.write(out);
        Ok(())
    }

    /// What the table says of a path.
    fn known<'t>(&self, table: &'t Aliases, path: Path<'_>) -> Option<&'t Entry> {
        if path.is_bare_postmaster() {
            return table.find(&[POSTMASTER, b"@", self.settings.hostname.as_bytes()].concat());
        }
        table.find(path.mailbox)
    }

    /// `<Postmaster>` or postmaster at our own name, in any case (SES-16).
    fn is_own_postmaster(&self, recipient: Path<'_>) -> bool {
        let domain = domain_of(recipient.mailbox);
        let local = &recipient.mailbox[..recipient.mailbox.len().saturating_sub(domain.len() + 1)];
        recipient.is_bare_postmaster()
            || local.eq_ignore_ascii_case(POSTMASTER) && domain.eq_ignore_ascii_case(self.settings.hostname.as_bytes())
    }

    /// What is said of an address of the table to this client, if it is good: `taken`, or as much as the client may know.
    fn words_of<'e>(&self, entry: &'e Entry, taken: Reply) -> Words<'e> {
        let new_address = || entry.members().next().expect("who moved has a new address");
        match (entry.kind(), self.peer.asking.is_told) {
            (Kind::Forward, true) => Words::Address(reply::WILL_FORWARD, new_address()),
            (Kind::Alias | Kind::List(_) | Kind::Forward, _) => Words::Fixed(taken),
            (Kind::Moved, true) => Words::Address(reply::PLEASE_TRY, new_address()),
            (Kind::Moved, false) => Words::Fixed(reply::HAS_MOVED),
            (Kind::Gone, _) => Words::Fixed(reply::NOBODY),
        }
    }

    fn say(&mut self, words: &Words<'_>, out: &mut Vec<u8>) {
        match words {
            Words::Fixed(reply) => self.answer(*reply, out),
            Words::Address(text, address) => {
                self.answer_with(text.starts_with('5'), out, |out| reply::write_address(out, text, b' ', address));
            }
        }
    }

    /// VRFY and EXPN are answered.
    fn may_ask(&self) -> bool {
        let by_user = self.settings.users_ask && self.user.is_some();
        by_user || (self.peer.asking.may_ask && !self.settings.auth.demanded)
    }

    /// EXPN works for this client, and is offered (SES-14).
    pub(super) fn may_expand(&self) -> bool {
        self.may_ask() && self.settings.aliases.is_some()
    }

    /// ETRN works for this client, and is offered.
    pub(super) fn may_etrn(&self) -> bool {
        self.peer.asking.may_etrn && !self.settings.auth.demanded
    }

    /// VRFY: what is known of an address, for who may ask; a good word only for what is known (SES-14, FND-05).
    pub(super) fn verify(&mut self, name: &[u8], out: &mut Vec<u8>) {
        if !self.may_ask() {
            return self.answer(reply::CANNOT_VERIFY, out);
        }
        let Some(mailbox) = self.mailbox_asked(name) else { return self.answer(reply::BAD_ARGUMENT, out) };
        let table = self.settings.aliases.clone();
        let path = Path { mailbox: &mailbox };
        match table.as_ref().and_then(|table| self.known(table, path)) {
            Some(entry) => {
                let words = match self.words_of(entry, reply::RECIPIENT_OK) {
                    Words::Fixed(reply::RECIPIENT_OK) => Words::Address(reply::KNOWN, entry.address()),
                    words => words,
                };
                self.say(&words, out);
            }
            None if self.is_own_postmaster(path) => self.say(&Words::Address(reply::KNOWN, &mailbox), out),
            None => self.answer(reply::CANNOT_VERIFY, out),
        }
    }

    /// EXPN: the members of a list or alias, for who may ask (FND-05).
    pub(super) fn show_expansion(&mut self, name: &[u8], out: &mut Vec<u8>) {
        if !self.may_expand() {
            return self.answer(reply::NOT_IMPLEMENTED, out);
        }
        let Some(mailbox) = self.mailbox_asked(name) else { return self.answer(reply::BAD_ARGUMENT, out) };
        let table = self.settings.aliases.clone();
        let Some(entry) = table.as_ref().and_then(|table| self.known(table, Path { mailbox: &mailbox })) else {
            return self.answer(reply::NO_LIST, out);
        };
        if !entry.expands() {
            let words = self.words_of(entry, reply::RECIPIENT_OK);
            return self.say(&words, out);
        }
        if entry.members().len() > EXPANSION_SHOWN_MAX {
            return self.answer(reply::LONG_LIST, out);
        }
        let last = entry.members().len() - 1;
        for (number, member) in entry.members().enumerate() {
            let mark = if number == last { b' ' } else { b'-' };
            reply::write_address(out, reply::KNOWN, mark, member);
        }
    }

    /// The mailbox that VRFY or EXPN asks for, with or without brackets; a name alone is one of our own domain.
    fn mailbox_asked(&self, name: &[u8]) -> Option<Vec<u8>> {
        // RFC 6531 3.7.4.2: the answer may be in UTF-8; none of ours is.
        let space = memchr::memrchr(b' ', name).filter(|at| name[at + 1..].eq_ignore_ascii_case(b"SMTPUTF8"));
        let name = space.map_or(name, |at| &name[..at]);
        let name = name.strip_prefix(b"<").and_then(|name| name.strip_suffix(b">")).unwrap_or(name);
        let whole = if memchr::memchr(b'@', name).is_some() {
            [b"<", name, b">"].concat()
        } else {
            [b"<", name, b"@", self.settings.hostname.as_bytes(), b">"].concat()
        };
        match parse_forward_path(&whole) {
            Ok((path, b"")) => Some(path.mailbox.to_vec()),
            _ => None,
        }
    }

    /// Takes an ETRN command (RFC 1985 5): an event that asks for what is to be started, or the answer.
    pub(super) fn begin_etrn(&mut self, node: &[u8], out: &mut Vec<u8>) -> Option<ServerEvent<'static>> {
        let (with_subdomains, domain) = node.strip_prefix(b"@").map_or((false, node), |domain| (true, domain));
        let refusal = if !self.settings.etrn {
            Some(reply::NOT_IMPLEMENTED)
        } else if !self.may_etrn() {
            Some(reply::NODE_NOT_ALLOWED)
        } else if self.in_transaction {
            Some(reply::CONVEYED_IN_TRANSACTION)
        } else if !is_domain(domain) {
            Some(reply::BAD_ARGUMENT)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.answer(refusal, out);
            return None;
        }
        let domain = String::from_utf8_lossy(domain).to_ascii_lowercase().into();
        self.node = Some(Box::new(Node { domain, with_subdomains }));
        self.waiting = Waiting::Orders;
        Some(ServerEvent::Etrn)
    }

    /// What `ServerEvent::Etrn` asks for.
    pub fn node(&self) -> &Node {
        self.node.as_deref().expect("a node follows Etrn")
    }

    /// What ETRN asked for was begun: for so many messages; `None` if it could not be.
    pub fn node_started(&mut self, messages: Option<u64>, out: &mut Vec<u8>) {
        assert_eq!(self.waiting, Waiting::Orders, "an answer follows Etrn");
        self.waiting = Waiting::Command;
        let node = self.node.take().expect("a node follows Etrn");
        reply::write_node_started(out, &node.domain, node.with_subdomains, messages);
        if self.ends_after_verdict {
            self.end_session(reply::SHUTTING_DOWN, out);
        }
    }

    /// What the client may do besides sending: `peer` has another address now.
    pub fn set_asking(&mut self, asking: Asking) {
        self.peer.asking = asking;
    }
}

/// Puts what the recipients of an envelope stand for in their place, for messages that do not come by SMTP. `None`: they stand for
/// themselves. The error is what a client would be told.
pub(crate) fn expanded(table: &Aliases, envelope: &Envelope) -> Result<Option<Envelope>, Reply> {
    if !envelope.recipients().any(|recipient| table.find(recipient).is_some()) {
        return Ok(None);
    }
    let mut whole = envelope.without_recipients();
    for (number, recipient) in envelope.recipients().enumerate() {
        let said = envelope.said_of(number);
        match table.find(recipient) {
            Some(entry) if entry.expands() => table.expand(entry, &said, &mut whole).map_err(full_reply)?,
            Some(entry) if entry.kind() == Kind::Moved => return Err(reply::HAS_MOVED),
            Some(_) => return Err(reply::NOBODY),
            None if !has_room(&whole, Path { mailbox: recipient }) => return Err(reply::TOO_MANY_RECIPIENTS),
            None => {
                whole.push_recipient(recipient);
                whole.set_recipient_parameters(&said);
            }
        }
    }
    Ok(Some(whole))
}

fn has_room(envelope: &Envelope, recipient: Path<'_>) -> bool {
    // The bare postmaster gets our own domain.
    let longest = recipient.mailbox.len() + DOMAIN_MAX_BYTES + 1;
    envelope.len() < EXPANDED_RECIPIENTS_MAX
        && envelope.recipients_bytes() + Envelope::RECIPIENT_BYTES + longest <= RECIPIENTS_MAX_BYTES
}

fn full_reply(full: Full) -> Reply {
    match full {
        Full::Recipients => reply::TOO_MANY_EXPANDED,
        Full::Parameters => reply::TOO_MANY_PARAMETERS,
    }
}
