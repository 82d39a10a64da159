//! A next hop: an SMTP server that answers by the book or, while faults are on, as bad ones do.

use std::collections::VecDeque;
use std::net::IpAddr;

use ringpost::config::TlsPolicy;

use crate::dice::Dice;
use crate::ledger::{Ledger, TakeName};
use crate::plan::{Faults, HopWays, Plan};

/// What a next hop does, in order.
#[derive(Debug)]
pub enum Say {
    /// Says this after so long; with it, what was taken is acknowledged.
    Reply { after_us: u64, text: String, takes: Vec<TakeName> },
    /// Closes in order, or breaks the connection.
    Close { reset: bool },
    /// Never says or reads anything again.
    Silence,
}

/// Longer than any reply line that is kept.
const LONG_LINE: &str = match std::str::from_utf8(&[b'2'; 6000]) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

/// A reply that does not end.
const MANY_LINES: &str = match std::str::from_utf8(&MANY) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};
const MANY: [u8; 3000] = {
    let mut bytes = [0; 3000];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = b"250-a\r\n"[at % 7];
        at += 1;
    }
    bytes
};

pub struct Hop {
    pub site: usize,
    /// Where the connection comes from.
    source: Option<IpAddr>,
    ways: HopWays,
    input: Vec<u8>,
    /// How far `input` was searched for the end of data.
    searched: usize,
    in_data: bool,
    hello: bool,
    pipelining: bool,
    /// It was asked for a handshake; it refused one, or offered none.
    pub start_tls: bool,
    tls_refused: bool,
    inside_tls: bool,
    /// A transaction was begun inside TLS: the handshake was good on both sides.
    pub used_tls: bool,
    sender: Option<String>,
    recipients: Vec<String>,
    /// Replies made and not yet given to the network.
    pub unsaid: u32,
    /// The last command was one that must end its group.
    group_over: bool,
    /// Break off when so many bytes of data came.
    patience: Option<usize>,
    pub dead: bool,
    /// The relay has let go of the connection, or stopped: what still comes was on its way.
    pub orphan: bool,
}

impl Hop {
    pub fn new(site: usize, source: Option<IpAddr>, ways: HopWays) -> Hop {
        Hop {
            site,
            source,
            ways,
            input: Vec::new(),
            searched: 0,
            in_data: false,
            hello: false,
            pipelining: false,
            start_tls: false,
            tls_refused: false,
            inside_tls: false,
            used_tls: false,
            sender: None,
            recipients: Vec::new(),
            unsaid: 0,
            group_over: false,
            patience: None,
            dead: false,
            orphan: false,
        }
    }

    /// The handshake is done: all that was said before is forgotten.
    pub fn secured(&mut self) {
        assert!(self.input.is_empty(), "bytes in clear behind STARTTLS");
        self.inside_tls = true;
        self.hello = false;
        self.group_over = false;
        self.pipelining = false;
        self.forget();
    }

    pub fn greet(&mut self, dice: &mut Dice, faults: &Faults, say: &mut VecDeque<Say>) {
        if self.common_fault(dice, faults, say) {
            return;
        }
        if dice.permille(faults.reply_5xx / 4) {
            return self.last_words("554 no service", say);
        }
        let text = if dice.permille(300) { "220-hop.test\r\n220 at your service" } else { "220 hop.test" };
        self.reply(dice, faults, text, Vec::new(), say);
    }

    fn reply(&mut self, dice: &mut Dice, faults: &Faults, text: &str, takes: Vec<TakeName>, say: &mut VecDeque<Say>) {
        let mut after_us = dice.range(1, self.ways.think_us);
        if dice.fault("slow_reply", faults.slow_reply) {
            after_us += dice.skewed(1_000, 25_000_000);
        }
        self.unsaid += 1;
        say.push_back(Say::Reply { after_us, text: format!("{text}\r\n"), takes });
    }

    fn last_words(&mut self, text: &str, say: &mut VecDeque<Say>) {
        self.dead = true;
        say.push_back(Say::Reply { after_us: self.ways.think_us, text: format!("{text}\r\n"), takes: Vec::new() });
        say.push_back(Say::Close { reset: false });
    }

    /// Faults that may come at any point. True if the session is over by one.
    fn common_fault(&mut self, dice: &mut Dice, faults: &Faults, say: &mut VecDeque<Say>) -> bool {
        if dice.fault("reply_421", faults.reply_421) {
            self.last_words("421 4.3.2 closing", say);
        } else if dice.fault("drop_command", faults.drop_command) {
            self.dead = true;
            say.push_back(Say::Close { reset: dice.permille(500) });
        } else if dice.fault("silence", faults.silence) {
            self.dead = true;
            say.push_back(Say::Silence);
        } else if dice.fault("garbage", faults.garbage) {
            self.last_words(
                dice.pick(&[
                    "120 wait",
                    "250 ok\r\n250 ok\r\n354 go",
                    "354 go",
                    LONG_LINE,
                    MANY_LINES,
                    "hello there",
                    "2",
                    "99 bottles",
                    "250-a\r\n550 b",
                    "xyz ok",
                    "",
                    "250ok?\r\n\u{e4}\u{f6}",
                ]),
                say,
            );
        }
        self.dead
    }

    /// Reads what the relay sent.
    #[expect(clippy::too_many_arguments)]
    pub fn receive(
        &mut self,
        dice: &mut Dice,
        plan: &Plan,
        faults: &Faults,
        ledger: &mut Ledger,
        now_us: u64,
        bytes: &[u8],
        say: &mut VecDeque<Say>,
    ) {
        if self.dead {
            return;
        }
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while !self.dead {
            if self.in_data {
                let from = at.max(self.searched.saturating_sub(4));
                // The CRLF of the 354's command line counts for an empty body.
                let lone = input[at..].starts_with(b".\r\n").then_some(at);
                let end =
                    lone.or_else(|| memchr::memmem::find(&input[from..], b"\r\n.\r\n").map(|found| from + found + 2));
                if self.patience.is_some_and(|left| input.len() - at >= left) {
                    self.dead = true;
                    say.push_back(Say::Close { reset: dice.permille(500) });
                    break;
                }
                let Some(end) = end else {
                    self.searched = input.len() - at;
                    break;
                };
                let data = &input[at..end];
                at = end + 3;
                self.in_data = false;
                self.end_of_data(dice, plan, faults, ledger, now_us, data, say);
            } else {
                let Some(end) = memchr::memmem::find(&input[at..], b"\r\n") else { break };
                let line = std::str::from_utf8(&input[at..at + end]).expect("commands are text").to_string();
                at += end + 2;
                self.command(dice, plan, faults, ledger, &line, say);
            }
        }
        if !self.dead {
            self.input = input[at..].to_vec();
        }
    }

    fn command(
        &mut self,
        dice: &mut Dice,
        plan: &Plan,
        faults: &Faults,
        ledger: &mut Ledger,
        line: &str,
        say: &mut VecDeque<Say>,
    ) {
        assert!(!self.group_over || self.unsaid == 0, "{line:?} behind a command that ends its group (PIP-05)");
        assert!(self.pipelining || self.unsaid == 0, "{line:?} before the last reply, without PIPELINING (PIP-04)");
        let verb = line.get(..4).unwrap_or("").to_ascii_uppercase();
        self.group_over = matches!(&*verb, "EHLO" | "HELO" | "DATA" | "QUIT" | "NOOP" | "STAR");
        self.start_tls |= verb == "STAR";
        if verb != "QUIT" && self.common_fault(dice, faults, say) {
            return;
        }
        let chance_4xx = if verb == "RSET" { 0 } else { faults.reply_4xx };
        let chance_5xx = if verb == "RSET" { 0 } else { faults.reply_5xx };
        let temporary = dice.permille(chance_4xx);
        let permanent = !temporary && dice.permille(chance_5xx);
        let ok = dice.pick(&[
            "250 2.0.0 ok",
            "251 2.1.5 will forward",
            "299 ok",
            "250",
            "250 ok",
            "250-one\r\n250-two\r\n250 three",
            "250 ",
        ]);
        let no =
            dice.pick(&["550 5.1.1 no", "554 no", "551 5.7.1 not here", "550-many\r\n550 lines", "553 5.1.3 what"]);
        let later = dice.pick(&["450 4.2.1 later", "451 4.3.0 trouble", "452 4.3.1 full", "450-a\r\n450 b"]);
        match &*verb {
            "EHLO" | "HELO" => {
                self.forget();
                if temporary || permanent {
                    self.reply(dice, faults, if temporary { "451 later" } else { "502 what" }, Vec::new(), say);
                    return;
                }
                self.hello = true;
                let mut text = String::from("250-hop.test\r\n");
                let extended = verb == "EHLO";
                self.tls_refused |= !extended;
                self.pipelining = extended && self.ways.pipelining;
                for (keyword, has) in [
                    ("PIPELINING", self.ways.pipelining),
                    ("8BITMIME", self.ways.eight_bit),
                    ("SIZE", self.ways.size),
                    ("STARTTLS", self.ways.tls && !self.inside_tls),
                ] {
                    if extended && has {
                        text += &format!("250-{keyword}\r\n");
                    }
                }
                self.reply(dice, faults, &(text + "250 HELP"), Vec::new(), say);
            }
            "STAR" => {
                assert!(self.hello && self.ways.tls && !self.inside_tls, "STARTTLS where it was not offered");
                assert_eq!(line, "STARTTLS");
                if temporary || permanent {
                    self.tls_refused = true;
                    let text = if temporary { "454 4.7.0 not now" } else { "501 5.5.4 no" };
                    return self.reply(dice, faults, text, Vec::new(), say);
                }
                let injected = dice.fault("tls_fail", faults.tls_fail) && dice.permille(300);
                let text = if injected { "220 go\r\n250 injected" } else { "220 2.0.0 go" };
                self.reply(dice, faults, text, Vec::new(), say);
            }
            "MAIL" => {
                assert!(self.hello, "MAIL before EHLO was answered well");
                self.used_tls = self.inside_tls;
                let fallback = self.tls_refused || !self.ways.tls || ledger.tls_failed.contains(&self.site);
                match plan.settings.tls.policies.default {
                    TlsPolicy::None => assert!(!self.inside_tls, "inside TLS against the policy"),
                    TlsPolicy::May | TlsPolicy::Dane | TlsPolicy::Published => {
                        assert!(self.inside_tls || fallback, "in clear though TLS was offered (TLS-06)")
                    }
                    TlsPolicy::Encrypt | TlsPolicy::Verify => assert!(self.inside_tls, "in clear (TLS-07)"),
                }
                assert!(self.sender.is_none(), "MAIL inside a transaction");
                let sender = path(line);
                if temporary {
                    self.reply(dice, faults, later, Vec::new(), say);
                } else if permanent {
                    ledger.excuse_sender(&sender, self.site);
                    self.reply(dice, faults, no, Vec::new(), say);
                } else {
                    self.sender = Some(sender);
                    self.reply(dice, faults, ok, Vec::new(), say);
                }
            }
            "RCPT" => {
                let recipient = path(line);
                if self.sender.is_none() {
                    self.reply(dice, faults, "503 MAIL first", Vec::new(), say);
                } else if temporary {
                    self.reply(dice, faults, later, Vec::new(), say);
                } else if permanent {
                    ledger.excuse(&recipient);
                    self.reply(dice, faults, no, Vec::new(), say);
                } else {
                    assert!(!self.recipients.contains(&recipient), "{recipient} twice in a transaction");
                    self.recipients.push(recipient);
                    self.reply(dice, faults, ok, Vec::new(), say);
                }
            }
            "DATA" => {
                let empty = self.recipients.is_empty();
                if self.sender.is_none() || (empty && !self.ways.always_354) {
                    self.reply(dice, faults, "503 5.5.1 no", Vec::new(), say);
                } else if !empty && (temporary || permanent) {
                    if permanent {
                        self.recipients.iter().for_each(|recipient| ledger.excuse(recipient));
                    }
                    self.reply(dice, faults, if temporary { later } else { no }, Vec::new(), say);
                } else {
                    self.in_data = true;
                    self.searched = 0;
                    self.patience =
                        dice.fault("drop_before_dot", faults.drop_before_dot).then(|| dice.skewed(0, 50_000) as usize);
                    self.reply(dice, faults, "354 go", Vec::new(), say);
                }
            }
            "RSET" => {
                self.forget();
                self.reply(dice, faults, ok, Vec::new(), say);
            }
            "NOOP" => self.reply(dice, faults, ok, Vec::new(), say),
            "QUIT" if self.ways.deaf_to_quit => self.dead = true,
            "QUIT" => self.last_words("221 bye", say),
            _ => panic!("the relay sent as a command: {line:?}"),
        }
    }

    #[expect(clippy::too_many_arguments)]
    fn end_of_data(
        &mut self,
        dice: &mut Dice,
        plan: &Plan,
        faults: &Faults,
        ledger: &mut Ledger,
        now_us: u64,
        data: &[u8],
        say: &mut VecDeque<Say>,
    ) {
        self.patience = None;
        self.group_over = false;
        let sender = self.sender.clone().expect("data is inside a transaction");
        let recipients = std::mem::take(&mut self.recipients);
        self.forget();
        if recipients.is_empty() {
            assert!(data.is_empty(), "a body was sent though every recipient was refused (PIP-07)");
            return self.reply(dice, faults, "554 5.5.1 no recipients", Vec::new(), say);
        }
        if dice.fault("reply_4xx", faults.reply_4xx) {
            return self.reply(dice, faults, "451 4.3.0 not now", Vec::new(), say);
        }
        if dice.fault("reply_5xx", faults.reply_5xx) {
            recipients.iter().for_each(|recipient| ledger.excuse(recipient));
            return self.reply(dice, faults, "554 5.6.0 not this", Vec::new(), say);
        }
        if dice.fault("reply_421", faults.reply_421) {
            return self.last_words("421 4.3.2 not now", say);
        }
        ledger.take_from(plan, self.site, self.source, recipients.len());
        let takes = ledger.take(plan, now_us, (self.site, self.orphan), &sender, &recipients, data);
        if dice.fault("drop_after_dot", faults.drop_after_dot) {
            self.dead = true;
            say.push_back(if dice.permille(300) { Say::Silence } else { Say::Close { reset: dice.permille(500) } });
            return;
        }
        let text = dice.pick(&["250 2.0.0 taken", "250 2.0.0 taken", "250", "200 taken", "250-taken\r\n250 indeed"]);
        self.reply(dice, faults, text, takes, say);
    }

    fn forget(&mut self) {
        self.sender = None;
        self.recipients.clear();
    }
}

/// The path of a MAIL or RCPT line.
fn path(line: &str) -> String {
    let (_, rest) = line.split_once('<').unwrap_or_else(|| panic!("no path in {line:?}"));
    rest.split_once('>').unwrap_or_else(|| panic!("no path in {line:?}")).0.to_string()
}
