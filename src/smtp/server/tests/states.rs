//! Every verb in every state: the code of its reply, and the state after it (SES-04, SES-06, SES-07, SES-09, SES-13, SES-27,
//! BDT-02..04, DAT-12, TLS-01).

use super::*;

/// The state of a session, as far as a client can tell states apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Greeted.
    New,
    /// HELO was said.
    Plain,
    /// EHLO was said.
    Extended,
    /// MAIL was taken.
    Mail,
    /// RCPT was taken.
    Rcpt,
    /// A BDAT chunk was taken.
    Chunk,
    /// DATA was answered with 354.
    Data,
    /// The TLS handshake is due.
    Handshake,
    /// The session is over.
    Over,
}

use State::*;

/// Columns of the table.
const FROM: [State; 6] = [New, Plain, Extended, Mail, Rcpt, Chunk];

/// What leads there.
fn reach(state: State, peer: Peer, tls: bool) -> Session {
    let mut session = Session::of(ServerSettings { tls, errors_max: 1000, ..settings() }, peer);
    session.say(match state {
        New => "",
        Plain => "HELO c.example\r\n",
        Extended => "EHLO c.example\r\n",
        Mail => "EHLO c.example\r\nMAIL FROM:<a@b>\r\n",
        Rcpt => "EHLO c.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n",
        Chunk => "EHLO c.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1\r\nx",
        other => unreachable!("{other:?} is no column"),
    });
    session
}

fn state_of(session: &Session) -> State {
    let server = &session.server;
    match server.waiting() {
        Waiting::Over => Over,
        Waiting::Handshake => Handshake,
        Waiting::Data => Data,
        Waiting::Verdict | Waiting::Credentials | Waiting::Orders => unreachable!("nothing is asked that takes time"),
        Waiting::Command if server.chunked => Chunk,
        Waiting::Command if server.transaction.as_ref().is_some_and(|held| !held.envelope.is_empty()) => Rcpt,
        Waiting::Command if server.in_transaction => Mail,
        Waiting::Command if server.hello().is_empty() => New,
        Waiting::Command if server.protocol() == Protocol::Smtp => Plain,
        Waiting::Command => Extended,
    }
}

/// A command, and for each column its code and the state after it.
type Row<'a> = (&'a str, [(u16, State); 6]);

/// The same code everywhere, and nothing changes.
const fn unmoved(code: u16) -> [(u16, State); 6] {
    [(code, New), (code, Plain), (code, Extended), (code, Mail), (code, Rcpt), (code, Chunk)]
}

const fn always(code: u16, state: State) -> [(u16, State); 6] {
    [(code, state); 6]
}

fn check(rows: &[Row<'_>], tls: bool) {
    check_as(peer(true), rows, tls);
}

fn check_as(peer: Peer, rows: &[Row<'_>], tls: bool) {
    for (command, outcomes) in rows {
        for (from, (code, after)) in FROM.into_iter().zip(outcomes) {
            let mut session = reach(from, peer, tls);
            assert_eq!(state_of(&session), from);
            let replies = session.say(&format!("{command}\r\n"));
            // What a BDAT announced is the rest of its command.
            let octets = command.strip_prefix("BDAT 1").map_or("", |_| "x");
            let replies = replies + &session.say(octets);
            let codes = reply::assert_replies(replies.as_bytes());
            assert_eq!((&codes[..], state_of(&session)), (&[*code][..], *after), "{command:?} in {from:?}: {replies}");
        }
    }
}

#[test]
fn every_verb_in_every_state() {
    let long = format!("NOOP {}", "x".repeat(5000));
    let quiet = unmoved;
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        ("EHLO c.example", always(250, Extended)),
        ("HELO c.example", always(250, Plain)),
        ("EHLO", quiet(501)),
        ("HELO a b", quiet(501)),
        ("MAIL FROM:<a@b>", [(503, New), (250, Mail), (250, Mail), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("MAIL FROM:<a@b> SIZE=1", [(503, New), (555, Plain), (250, Mail), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("MAIL FROM:<a@b> SIZE=x", [(503, New), (555, Plain), (501, Extended), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("MAIL FROM:<a@b> SIZE=99999999", [(503, New), (555, Plain), (552, Extended), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("MAIL FROM:<a@b> X=1", [(503, New), (555, Plain), (555, Extended), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("MAIL FROM:a@b", quiet(501)),
        ("MAIL", quiet(501)),
        ("RCPT TO:<c@d>", [(503, New), (503, Plain), (503, Extended), (250, Rcpt), (250, Rcpt), (503, Chunk)]),
        ("RCPT TO:<c@d> X=1", [(503, New), (503, Plain), (503, Extended), (555, Mail), (555, Rcpt), (503, Chunk)]),
        ("RCPT TO:<c@d> NOTIFY=x", [(503, New), (503, Plain), (503, Extended), (501, Mail), (501, Rcpt), (503, Chunk)]),
        ("RCPT TO:<>", quiet(501)),
        ("DATA", [(503, New), (503, Plain), (503, Extended), (554, Mail), (354, Data), (503, Chunk)]),
        ("DATA now", quiet(501)),
        // A refused chunk ends the transaction.
        ("BDAT 1", [(503, New), (503, Plain), (503, Extended), (554, Extended), (250, Chunk), (250, Chunk)]),
        ("BDAT 1 LAST", [(503, New), (503, Plain), (503, Extended), (554, Extended), (250, Extended), (250, Extended)]),
        ("BDAT 1 NOW", [(501, New), (501, Plain), (501, Extended), (501, Extended), (501, Extended), (501, Extended)]),
        ("BDAT one", always(501, Over)),
        ("RSET", [(250, New), (250, Plain), (250, Extended), (250, Extended), (250, Extended), (250, Extended)]),
        ("RSET now", quiet(501)),
        ("NOOP", quiet(250)),
        ("NOOP x", quiet(250)),
        ("HELP", quiet(214)),
        ("HELP MAIL", quiet(214)),
        ("VRFY a@b", quiet(252)),
        ("VRFY", quiet(501)),
        ("EXPN list", quiet(502)),
        ("ETRN d.example", quiet(502)),
        ("TURN", quiet(502)),
        ("AUTH PLAIN AGFsaWNlAHNlY3JldA==", quiet(502)),
        ("AUTH", quiet(501)),
        ("XCLIENT ADDR=192.0.2.1", quiet(550)),
        ("XCLIENT", quiet(550)),
        ("XFORWARD ADDR=192.0.2.1", quiet(550)),
        ("XFORWARD", quiet(550)),
        ("STARTTLS", quiet(454)),
        ("STARTTLS x", quiet(501)),
        ("QUIT", always(221, Over)),
        ("QUIT now", quiet(501)),
        ("FROB", quiet(500)),
        ("", quiet(500)),
        ("NOOP\nNOOP", quiet(500)),
        (&long, quiet(500)),
    ];
    check(rows, false);
    check(&[("STARTTLS", always(220, Handshake)), ("STARTTLS x", quiet(501))], true);
}

/// XCL-01, XCL-02: what a listed client may say of another, it may say between transactions.
#[test]
fn who_is_listed_speaks_for_others_between_transactions() {
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        ("XCLIENT ADDR=192.0.2.1", [(220, New), (220, New), (220, New), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("XCLIENT ADDR=192.0.2.99", [(421, Over), (421, Over), (421, Over), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("XCLIENT ADDR=nowhere", [(501, New), (501, Plain), (501, Extended), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("XCLIENT", [(501, New), (501, Plain), (501, Extended), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("XFORWARD ADDR=192.0.2.1", [(250, New), (250, Plain), (250, Extended), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("XFORWARD ADDR=nowhere", [(501, New), (501, Plain), (501, Extended), (503, Mail), (503, Rcpt), (503, Chunk)]),
        ("XFORWARD", [(501, New), (501, Plain), (501, Extended), (503, Mail), (503, Rcpt), (503, Chunk)]),
    ];
    check_as(Peer { may_convey: true, may_forward: true, ..peer(true) }, rows, false);
}

/// SES-02: who was turned away is told so until QUIT.
#[test]
fn every_verb_to_who_was_turned_away() {
    for verb in
        ["EHLO c", "HELO c", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", "BDAT 0", "RSET", "NOOP", "HELP", "VRFY a"]
    {
        let mut session = Session::new(settings(), true);
        session.replies();
        session.server.turn_away(&mut session.out);
        session.replies();
        let replies = session.say(&format!("{verb}\r\n"));
        assert!(replies.starts_with("503 5.3.2"), "{verb}: {replies}");
        assert_eq!(state_of(&session), New);
        assert!(session.say("QUIT\r\n").starts_with("221"));
        assert_eq!(state_of(&session), Over);
    }
}

/// AUT-05: where AUTH is offered and not demanded, a transaction has room for none, and goes on.
#[test]
fn nobody_logs_in_inside_a_transaction() {
    let in_clear = Mechanisms::NONE.with(Mechanism::Plain);
    let auth = AuthSettings { inside_tls: in_clear, in_clear, demanded: false };
    let mut session = Session::new(ServerSettings { auth, ..settings() }, true);
    session.say("EHLO c.example\r\nMAIL FROM:<u@a.example>\r\n");
    assert_eq!(session.say("AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"), "503 5.5.1 Not in a transaction\r\n");
    assert_eq!(state_of(&session), Mail);
    let replies = session.say("RSET\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n");
    assert!(replies.ends_with("\r\n235 2.7.0 Authentication succeeded\r\n"), "{replies}");
}
