//! A client: a random SMTP session, pipelined in random groups, that counts its replies.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::plan::Plan;

/// What a reply is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Greeting,
    Hello,
    StartTls,
    Mail,
    Rcpt(usize, usize),
    /// RCPT of a list, whose members are the message's recipients.
    List(usize),
    Data,
    Dot(usize),
    /// Must be a 2yz.
    Good,
    /// Must be a 4yz or 5yz.
    Bad,
    /// Anything but a 3yz.
    Any,
    Quit,
}

enum Step {
    Line(String, Tag),
    /// Go on only when nothing is outstanding.
    Wait,
    /// If STARTTLS was answered 220: go on when the handshake is done, with EHLO.
    Secured,
    /// If the DATA before was answered 354: the body of a message and its end.
    Body(usize),
}

/// How a client that breaks off does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    Close,
    Reset,
    Silence,
}

/// What a client wants of the network.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    Close,
    Abort(Abort),
}

pub struct Client {
    script: VecDeque<Step>,
    outstanding: VecDeque<Tag>,
    input: Vec<u8>,
    /// 354 came and the body is not sent.
    may_send: bool,
    /// The last MAIL was refused; what stands behind it may be read when there is room again.
    mail_refused: bool,
    /// When it last had a reply, and the last before that to its MAIL: the relay read all of the transaction since then.
    replied_us: u64,
    begun_us: u64,
    /// Bytes until it breaks off.
    patience: Option<(u64, Abort)>,
    pub over: bool,
    /// Nothing is read from it or said to it any more.
    pub silent: bool,
    /// When it last sent or got something.
    pub last_us: u64,
    /// What it reads was sent by a relay that is gone: a 4yz of that one binds no one.
    stale: bool,
    /// It did not read for a while.
    pub hindered: bool,
    /// STARTTLS was answered 220.
    pub handshaking: bool,
    /// The handshake is done.
    pub secured: bool,
}

/// A body in wire form, its lines numbered so that no two are alike.
fn body(dice: &mut Dice, number: usize, large_bodies: u64) -> (Rc<[u8]>, bool, bool) {
    let size = match dice.below(1000) {
        at if at < large_bodies => dice.range(20_000, 400_000),
        at if at < 300 => dice.range(1_000, 20_000),
        _ => dice.range(20, 1_000),
    } as usize;
    let eight_bit = dice.permille(100);
    let mut text = Vec::with_capacity(size + 1000);
    for _ in 0..dice.below(3) {
        text.extend_from_slice(b"Received: from elsewhere by nowhere\r\n");
    }
    text.extend_from_slice(format!("Subject: message {number}\r\n\r\n").as_bytes());
    let mut line = 0u64;
    while text.len() < size {
        line += 1;
        match dice.below(12) {
            0 => text.extend_from_slice(b"..\r\n"),
            1 => text.extend_from_slice(b"..dots ..\r\n"),
            2 => text.extend_from_slice(b"\r\n"),
            3 => {
                let at = text.len();
                text.resize(at + dice.range(1, 990) as usize, b'a' + (line % 26) as u8);
                text.extend_from_slice(b"\r\n");
            }
            _ => text.extend_from_slice(format!("{number} {line} {:x}\r\n", dice.number()).as_bytes()),
        }
    }
    if eight_bit {
        text.extend_from_slice("K\u{e4}se\r\n".as_bytes());
    }
    let poisoned = dice.permille(15);
    if poisoned {
        text.extend_from_slice(if dice.permille(500) { b"bare\nline feed\r\n" } else { b"bare\rreturn\r\n" });
    }
    (text.into(), eight_bit, poisoned)
}

fn say_message(script: &mut VecDeque<Step>, dice: &mut Dice, number: usize, pipelined: bool) {
    script.push_back(Step::Line("DATA".into(), Tag::Data));
    script.push_back(Step::Wait);
    script.push_back(Step::Body(number));
    if !pipelined || dice.permille(300) {
        script.push_back(Step::Wait);
    }
}

impl Client {
    pub fn new(dice: &mut Dice, plan: &Plan, ledger: &mut Ledger, now_us: u64, calm: bool) -> Client {
        let pipelined = dice.permille(650);
        let group = if pipelined { dice.pick(&[0, 200, 600]) } else { 1000 };
        let mut script = VecDeque::new();
        let line = |script: &mut VecDeque<Step>, dice: &mut Dice, text: String, tag: Tag| {
            script.push_back(Step::Line(text, tag));
            if dice.permille(group) {
                script.push_back(Step::Wait);
            }
        };
        script.push_back(Step::Wait);
        let hello = if dice.permille(850) { "EHLO client.test" } else { "HELO client.test" };
        script.push_back(Step::Line(hello.into(), Tag::Hello));
        script.push_back(Step::Wait);
        if hello.starts_with("EHLO") && plan.settings.tls.offer && dice.permille(250) {
            // What is sent in clear behind it must be forgotten, or break the handshake; never be obeyed.
            let injected = if dice.fault("tls_fail", plan.faults.tls_fail) { "\r\nVRFY injected" } else { "" };
            script.push_back(Step::Line(format!("STARTTLS{injected}"), Tag::StartTls));
            script.push_back(Step::Wait);
            script.push_back(Step::Secured);
            script.push_back(Step::Wait);
        }
        if pipelined && dice.permille(30) {
            // Many commands whose replies are long: reading from it must stop, and go on.
            for _ in 0..1200 {
                script.push_back(Step::Line("EHLO client.test".into(), Tag::Hello));
            }
        }
        for _ in 0..dice.skewed(1, 12) {
            match dice.below(30) {
                0 => line(&mut script, dice, "NOOP".into(), Tag::Good),
                1 => line(&mut script, dice, "RSET".into(), Tag::Good),
                2 => line(&mut script, dice, "FOO bar".into(), Tag::Bad),
                3 => line(&mut script, dice, "VRFY someone".into(), Tag::Any),
                4 => line(&mut script, dice, "RCPT TO:<early@d0.test>".into(), Tag::Bad),
                5 => {
                    line(&mut script, dice, "MAIL FROM:<x@d0.test>".into(), Tag::Any);
                    line(&mut script, dice, "RSET".into(), Tag::Good);
                }
                _ => {}
            }
            let null_sender = dice.permille(80);
            let sender_domain = dice.below(plan.domains as u64) as usize;
            let count = if dice.permille(plan.many_recipients) { dice.range(10, 300) } else { dice.skewed(1, 9) };
            let recipients: Vec<usize> = (0..count).map(|_| dice.below(plan.domains as u64) as usize).collect();
            let (text, eight_bit, mut poisoned) = body(dice, ledger.messages.len(), plan.large_bodies);
            poisoned |= text.len() as u64 > plan.settings.relay.message_bytes_max + text.len() as u64 / 4;
            let number =
                ledger.offer(plan, now_us, null_sender, sender_domain, &recipients, (text, eight_bit, poisoned));
            let message = &ledger.messages[number];
            let sender = message.sender.clone().unwrap_or_default();
            if !null_sender && dice.permille(60) {
                // By a list, whose owner the sender is then (FND-04).
                dice.drawn("list");
                let members: Vec<&str> = message.recipients.iter().map(|recipient| &*recipient.address).collect();
                ledger.table += &format!("list l{number}@lists.test owner={sender} {}\n", members.join(" "));
                line(&mut script, dice, "MAIL FROM:<x@d0.test>".into(), Tag::Mail);
                line(&mut script, dice, format!("RCPT TO:<l{number}@lists.test>"), Tag::List(number));
                say_message(&mut script, dice, number, pipelined);
                continue;
            }
            line(&mut script, dice, format!("MAIL FROM:<{sender}>"), Tag::Mail);
            for (index, recipient) in message.recipients.iter().enumerate() {
                if dice.permille(20) {
                    line(&mut script, dice, "RCPT TO:<no brackets".into(), Tag::Bad);
                }
                line(&mut script, dice, format!("RCPT TO:<{}>", recipient.address), Tag::Rcpt(number, index));
            }
            say_message(&mut script, dice, number, pipelined);
        }
        script.push_back(Step::Line("QUIT".into(), Tag::Quit));
        let patience = (!calm && dice.fault("client_abort", plan.faults.client_abort))
            .then(|| (dice.skewed(1, 60_000), dice.pick(&[Abort::Close, Abort::Reset, Abort::Silence])));
        Client {
            script,
            outstanding: VecDeque::from([Tag::Greeting]),
            input: Vec::new(),
            may_send: false,
            mail_refused: false,
            replied_us: 0,
            begun_us: 0,
            patience,
            over: false,
            silent: false,
            last_us: now_us,
            stale: false,
            hindered: false,
            handshaking: false,
            secured: false,
        }
    }

    /// True while the relay owes it a reply.
    pub fn waits(&self) -> bool {
        !self.over && !self.silent && !self.outstanding.is_empty()
    }

    /// Sends what may be sent now into `out`.
    pub fn advance(&mut self, ledger: &mut Ledger, out: &mut Vec<u8>) -> Wish {
        while let Some(step) = self.script.front() {
            match step {
                Step::Wait if !self.outstanding.is_empty() => return Wish::Nothing,
                Step::Wait => {
                    self.script.pop_front();
                }
                Step::Secured if self.handshaking && !self.secured => return Wish::Nothing,
                Step::Secured => {
                    self.script.pop_front();
                    if self.handshaking {
                        self.script.push_front(Step::Line("EHLO client.test".into(), Tag::Hello));
                    }
                }
                Step::Line(..) => {
                    let Some(Step::Line(text, tag)) = self.script.pop_front() else { unreachable!() };
                    if let Some(wish) = self.send(out, &[text.as_bytes(), b"\r\n"]) {
                        return wish;
                    }
                    self.outstanding.push_back(tag);
                }
                &Step::Body(number) => {
                    self.script.pop_front();
                    if !std::mem::take(&mut self.may_send) {
                        continue;
                    }
                    let body = ledger.messages[number].body.clone();
                    if let Some(wish) = self.send(out, &[&body[..], b".\r\n"]) {
                        return wish;
                    }
                    ledger.messages[number].complete = true;
                    self.outstanding.push_back(Tag::Dot(number));
                }
            }
        }
        Wish::Nothing
    }

    /// Sends, or breaks off in the middle.
    fn send(&mut self, out: &mut Vec<u8>, parts: &[&[u8]]) -> Option<Wish> {
        for part in parts {
            if let Some((left, how)) = &mut self.patience {
                if *left < part.len() as u64 {
                    out.extend_from_slice(&part[..*left as usize]);
                    self.over = *how != Abort::Silence;
                    self.silent = true;
                    self.script.clear();
                    return Some(Wish::Abort(*how));
                }
                *left -= part.len() as u64;
            }
            out.extend_from_slice(part);
        }
        None
    }

    /// Reads what the relay said. `trouble_us`: when the log was last seen unable to take mail, now or before.
    pub fn receive(&mut self, plan: &Plan, ledger: &mut Ledger, bytes: &[u8], trouble_us: u64, stale: bool) -> Wish {
        self.stale = stale;
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        let mut wish = Wish::Nothing;
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let line = std::str::from_utf8(&rest[..end]).expect("replies are text");
            rest = &rest[end + 2..];
            let code: u16 =
                line.get(..3).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no reply: {line}"));
            if line.as_bytes().get(3) != Some(&b'-') {
                assert!(wish == Wish::Nothing, "a reply behind the last: {line}");
                wish = self.reply(plan, ledger, code, line, trouble_us);
            }
        }
        self.input = rest.to_vec();
        wish
    }

    fn reply(&mut self, plan: &Plan, ledger: &mut Ledger, code: u16, line: &str, trouble_us: u64) -> Wish {
        if code == 421 {
            assert!(
                self.hindered || self.outstanding.is_empty() || !line.contains("4.4.2"),
                "the relay was silent itself: {line} where {:?} is due",
                self.outstanding.front()
            );
            self.over = true;
            return Wish::Close;
        }
        let tag = self.outstanding.pop_front().unwrap_or_else(|| panic!("a reply to nothing: {line}"));
        // A relay that stopped since may have meant trouble that is over.
        let trouble_since = |since_us| trouble_us >= since_us || self.stale;
        // Replies take a while to come, a body that found no room is answered at its end, and a next MAIL together with that: by
        // then there may be room again.
        let had_trouble = trouble_since(self.begun_us) && matches!(code, 451 | 452);
        let replied_us = std::mem::replace(&mut self.replied_us, self.last_us);
        let fine = match tag {
            Tag::Greeting => code == 220,
            Tag::Hello | Tag::Good => code == 250,
            Tag::StartTls => {
                self.handshaking = true;
                code == 220
            }
            Tag::Mail => {
                self.mail_refused = code != 250;
                self.begun_us = replied_us;
                code == 250 || had_trouble
            }
            Tag::Rcpt(number, index) => {
                ledger.messages[number].recipients[index].refused = code != 250;
                let too_many = code == 452 && index >= plan.settings.relay.recipients_max;
                code == 250 || too_many || (self.mail_refused && code == 503)
            }
            Tag::List(number) => {
                let recipients = &mut ledger.messages[number].recipients;
                recipients.iter_mut().for_each(|recipient| recipient.refused = code != 250);
                code == 250 || (self.mail_refused && code == 503)
            }
            Tag::Data => {
                self.may_send = code == 354;
                code == 354 || (self.mail_refused && code == 503)
            }
            Tag::Dot(number) => {
                let message = &mut ledger.messages[number];
                message.refused = code != 250 && !self.stale;
                let large = message.body.len() as u64 > plan.settings.relay.message_bytes_max;
                match code {
                    250 => !message.poisoned,
                    552 => large,
                    550 | 554 => message.poisoned,
                    _ => had_trouble,
                }
            }
            Tag::Bad => code >= 400,
            Tag::Any => !(300..400).contains(&code),
            Tag::Quit => code == 221,
        };
        assert!(fine, "the reply to {tag:?} is {line}");
        if tag == Tag::Quit {
            self.over = true;
            return Wish::Close;
        }
        Wish::Nothing
    }
}
