//! One outbound transaction: its envelope as commands, and which recipients still wait for their verdict.
//!
//! Keeps its buffers from message to message. Panics if a recipient would get a second verdict.

use std::io::Write;

use super::{ClientHandler, ClientVerdict, Features, Needs, Offer, Outcome, Passed, Phase};
use crate::mail::parameters::{Late, MessageParameters, RecipientParameters, push_ascii_unitext};

/// Where one recipient stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// No reply to its RCPT yet.
    Unanswered,
    /// 2yz to its RCPT.
    Accepted,
    /// Its verdict was given.
    Settled,
}

/// Which recipients a verdict is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// Those whose RCPT was accepted.
    Accepted,
    /// All without a verdict.
    Open,
    /// One of them.
    One(usize),
}

/// A transaction on its way, or an empty place for one.
#[derive(Default, Debug)]
pub(super) struct Transaction {
    handle: u32,
    standing: Vec<Standing>,
    /// Recipients without a verdict.
    open: usize,
    /// Recipients whose RCPT was accepted, settled since or not.
    pub(super) accepted: usize,
    /// In use: offered, and its last reply not yet read.
    pub(super) active: bool,
    /// The next hop answered at least its MAIL.
    pub(super) answered: bool,
    /// Its MAIL was refused.
    pub(super) refused: bool,
    /// The body goes as one BDAT chunk.
    pub(super) chunked: bool,
    /// Octets of that chunk.
    pub(super) size_bytes: u64,
    /// What the next hop is told of the message's parameters.
    passed: Passed,
    /// MAIL, RCPT... and DATA unless chunked, CRLF-ended, and how much of them was sent.
    commands: Vec<u8>,
    sent: usize,
}

impl Transaction {
    /// Takes an offer and renders its commands (EXT-02, EXT-04; RFC 1870 3, RFC 6152 3). Recipients beyond what the next hop
    /// takes at a time are given back untried (EXT-09).
    pub(super) fn begin(
        &mut self,
        offer: Offer<'_, '_>,
        features: &Features,
        needs: Needs,
        handler: &mut dyn ClientHandler,
    ) {
        assert!(!self.active, "the place is taken");
        self.standing.clear();
        self.commands.clear();
        self.chunked = features.by_chunk(&offer);
        self.size_bytes = offer.size_bytes;
        let out = &mut self.commands;
        push_path(out, b"MAIL FROM:<", offer.sender);
        if features.size.is_some() {
            // The wire form ends its last line (DAT-07).
            let ending_bytes = if offer.text.open_end && !self.chunked { 2 } else { 0 };
            write!(out, " SIZE={}", offer.size_bytes + ending_bytes).expect("a vector takes all");
        }
        if offer.text.binary {
            out.extend_from_slice(b" BODY=BINARYMIME");
        } else if offer.text.eight_bit {
            out.extend_from_slice(b" BODY=8BITMIME");
        }
        if needs.utf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        let said = offer.parameters != MessageParameters::default();
        if said {
            push_mail_parameters(out, &offer, features, needs);
        }
        self.passed = Passed { dsn: features.dsn, deliver_by: features.deliver_by };
        out.extend_from_slice(b"\r\n");
        let most = features.rcpt_max.map_or(usize::MAX, |most| most as usize);
        for recipient in (&mut *offer.recipients).take(most) {
            push_path(out, b"RCPT TO:<", recipient.address);
            if features.dsn && recipient.said != RecipientParameters::default() {
                push_rcpt_parameters(out, &recipient.said, needs);
            }
            out.extend_from_slice(b"\r\n");
            self.standing.push(Standing::Unanswered);
        }
        for recipient in self.standing.len()..self.standing.len() + offer.recipients.len() {
            let text = b"4.5.3 the next hop takes fewer recipients at a time";
            let verdict = ClientVerdict { outcome: Outcome::NotTried, code: 0, text, phase: Phase::Rcpt };
            handler.verdict(offer.handle, recipient, verdict);
        }
        if !self.chunked {
            out.extend_from_slice(b"DATA\r\n");
        }
        self.open = self.standing.len();
        assert!(self.open > 0, "a transaction has a recipient");
        self.handle = offer.handle;
        self.active = true;
        self.accepted = 0;
        self.answered = false;
        self.refused = false;
        self.sent = 0;
    }

    /// The caller's name for it.
    pub(super) fn handle(&self) -> u32 {
        self.handle
    }

    /// Recipients in all.
    pub(super) fn recipients(&self) -> usize {
        self.standing.len()
    }

    /// True if none of its commands was given out to send.
    pub(super) fn unsent(&self) -> bool {
        self.sent == 0
    }

    /// All commands not yet sent, for a pipelined group, and how many they are (PIP-05: DATA is the last, if it is there).
    pub(super) fn take_group(&mut self) -> (&[u8], u32) {
        assert!(self.unsent(), "a group is sent whole");
        self.sent = self.commands.len();
        (&self.commands, self.standing.len() as u32 + if self.chunked { 1 } else { 2 })
    }

    /// The next command, in lock step.
    pub(super) fn take_command(&mut self) -> &[u8] {
        let start = self.sent;
        let length = memchr::memchr(b'\n', &self.commands[start..]).expect("commands are left to send") + 1;
        self.sent += length;
        &self.commands[start..self.sent]
    }

    /// Notes a 2yz to a RCPT. After a refused MAIL the recipient has its verdict already and keeps it.
    pub(super) fn accept(&mut self, recipient: usize) {
        self.accepted += 1;
        if self.standing[recipient] == Standing::Unanswered {
            self.standing[recipient] = Standing::Accepted;
        }
    }

    /// The first recipient whose RCPT was accepted and who has no verdict yet.
    pub(super) fn next_accepted(&self) -> Option<usize> {
        self.standing.iter().position(|standing| *standing == Standing::Accepted)
    }

    /// Gives the same verdict to some recipients, each at most once, and says when all have theirs.
    pub(super) fn settle(&mut self, whom: Whom, verdict: ClientVerdict<'_>, handler: &mut dyn ClientHandler) {
        if self.open == 0 {
            return;
        }
        let range = match whom {
            Whom::One(recipient) => recipient..recipient + 1,
            Whom::Accepted | Whom::Open => 0..self.standing.len(),
        };
        for recipient in range {
            let due = match self.standing[recipient] {
                Standing::Settled => false,
                Standing::Accepted => true,
                Standing::Unanswered => whom != Whom::Accepted,
            };
            if due {
                self.standing[recipient] = Standing::Settled;
                self.open -= 1;
                handler.verdict(self.handle, recipient, verdict);
            }
        }
        if self.open == 0 {
            handler.finished(self.handle, self.passed);
        }
    }

    /// Memory of its buffers.
    #[cfg(test)]
    pub(super) fn capacity_bytes(&self) -> usize {
        self.commands.capacity() + self.standing.capacity()
    }

    /// The last reply was read: the place is free.
    pub(super) fn end(&mut self) {
        assert!(self.open == 0, "a recipient was left without a verdict");
        self.active = false;
    }
}

/// What the message's MAIL said, as far as the next hop knows of it (DSN-09, EXT-11, RTL-02).
fn push_mail_parameters(out: &mut Vec<u8>, offer: &Offer<'_, '_>, features: &Features, needs: Needs) {
    let said = &offer.parameters;
    for (name, value) in [(" RET=", said.ret), (" ENVID=", said.envid)] {
        if let Some(value) = value.filter(|_| features.dsn) {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value);
        }
    }
    if needs.require_tls {
        out.extend_from_slice(b" REQUIRETLS");
    }
    if let Some(priority) = said.priority.filter(|_| features.priority) {
        write!(out, " MT-PRIORITY={priority}").expect("a vector takes all");
    }
    if let Some(deliver) = said.deliver_by.filter(|_| features.deliver_by) {
        let mode = if deliver.late == Late::Return { "R" } else { "N" };
        let traced = if deliver.traced { "T" } else { "" };
        let seconds = offer.by_seconds.clamp(-999_999_999, 999_999_999);
        write!(out, " BY={seconds};{mode}{traced}").expect("a vector takes all");
    }
    if said.auth && features.logged_in {
        // Whatever it said (AUT-07; RFC 4954 5).
        out.extend_from_slice(b" AUTH=<>");
    }
}

/// What the recipient's RCPT said (DSN-09). An address that came in UTF-8 goes in ASCII to who may not know it (RFC 6533 3).
fn push_rcpt_parameters(out: &mut Vec<u8>, said: &RecipientParameters<'_>, needs: Needs) {
    if !said.notify.is_empty() {
        out.extend_from_slice(b" NOTIFY=");
        out.extend_from_slice(said.notify);
    }
    if !said.orcpt.is_empty() {
        out.extend_from_slice(b" ORCPT=");
        if needs.utf8 || said.orcpt.is_ascii() {
            out.extend_from_slice(said.orcpt);
        } else {
            push_ascii_unitext(out, said.orcpt);
        }
    }
}

/// `MAIL FROM:<` or `RCPT TO:<`, the path, and `>`. Panics if a path could end the command line (DAT-04).
fn push_path(out: &mut Vec<u8>, before: &[u8], mailbox: &[u8]) {
    assert!(memchr::memchr2(b'\r', b'\n', mailbox).is_none(), "a mailbox holds no line end");
    out.extend_from_slice(before);
    out.extend_from_slice(mailbox);
    out.push(b'>');
}
