//! Kerberos tickets and NTLM over the real program: a KDC and clients that nobody here wrote.

#![cfg(feature = "runtime")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::client::Client;
use common::kdc::{Kdc, REALM};
use common::mail::plain;
use common::office::{Office, PASSWORD};
use common::postfix::Postfix;
use common::programs::{need, python, run, script, shown, succeed};
use common::relay::Setup;
use common::sink::{Mail, Sink};

const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);
const PROGRAM_LONGEST: Duration = Duration::from_secs(90);

/// The texts behind `start` in mails, in order.
fn lines(mails: &[Mail], start: &str) -> Vec<String> {
    let line = |mail: &Mail| {
        let text = String::from_utf8_lossy(&mail.wire).into_owned();
        text.split_once(start).map_or_else(String::new, |(_, rest)| rest.lines().next().unwrap().to_owned())
    };
    let mut all: Vec<String> = mails.iter().map(line).collect();
    all.sort();
    all
}

fn with_kerberos(kdc: &Kdc, setup: Setup) -> Setup {
    setup.set("auth.kerberos_keytab", kdc.keytab().display()).set("auth.kerberos_realm", REALM)
}

/// A message in a file for curl, from `sender`; its subject is `curl`.
fn message(office: &Office, sender: &str) -> String {
    let path = office.setup.dir().join("mail.txt");
    std::fs::write(&path, format!("From: {sender}\r\nSubject: curl\r\n\r\ntext\r\n")).unwrap();
    path.display().to_string()
}

fn curl(mut command: Command, office: &Office, mechanism: &str, user: &str, sender: &str) -> Command {
    command.args(["--silent", "--show-error", "--insecure", "--ssl-reqd", "--login-options"]);
    command.args([
        &format!("AUTH={mechanism}"),
        "--user",
        user,
        "--mail-from",
        sender,
        "--mail-rcpt",
        "to@example.org",
    ]);
    command.args(["--upload-file", &message(office, sender)]);
    command.arg(format!("smtp://localhost:{}/curl.example.com", office.submission.port()));
    command
}

/// FND-08, AUT-06: GSSAPI by GNU SASL, curl and python-gssapi, GSS-SPNEGO by the last, all with MIT's tickets, bound to the TLS session or
/// not; who has a ticket and is not listed is nobody.
#[test]
fn kerberos_tickets_prove_users() {
    let kdc = Kdc::start(&["alice", "dave", "eve"], PASSWORD);
    let sink = Sink::start();
    let office = Office::open(&sink, |setup| with_kerberos(&kdc, setup));
    let [alice, dave, eve] = ["alice", "dave", "eve"].map(|user| kdc.ticket(user, PASSWORD));

    let mut command = kdc.command(&need("gsasl", "gsasl"), &alice);
    command.args(["--smtp", "--starttls", "--x509-ca-file=", "--mechanism=GSSAPI", "--authentication-id=alice"]);
    command.args([
        "--service=smtp",
        "--hostname=localhost",
        &format!("--connect=localhost:{}", office.submission.port()),
    ]);
    let said = succeed(&mut command, PROGRAM_LONGEST);
    assert!(said.contains("\nAUTH GSSAPI"), "{said}");

    let with = |cache| kdc.command(&need("curl", "curl"), cache);
    succeed(&mut curl(with(&dave), &office, "GSSAPI", "dave@EXAMPLE.TEST:", "dave@example.com"), PROGRAM_LONGEST);
    let refused =
        run(&mut curl(with(&eve), &office, "GSSAPI", "eve@EXAMPLE.TEST:", "eve@example.com"), PROGRAM_LONGEST);
    assert!(!refused.status.success(), "{}", shown(&refused.stdout, &refused.stderr));
    let errors = office.relay.errors();
    assert!(errors.contains("\"eve@EXAMPLE.TEST\" is not in auth.users"), "{errors}");

    // Debian's, to which its packages belong.
    let mut command = kdc.command(Path::new("/usr/bin/python3"), &alice);
    command.arg(script("gssapi_submit.py")).arg(office.submissions.port().to_string());
    succeed(&mut command, PROGRAM_LONGEST);

    let mut wanted = vec!["curl".to_owned()];
    for mechanism in ["GSSAPI", "GSS-SPNEGO"] {
        wanted.extend(
            ["False", "True"]
                .into_iter()
                .flat_map(|bound| ["False", "True"].map(|mutual| format!("{mechanism} bound={bound} mutual={mutual}"))),
        );
    }
    wanted.sort();
    let mails = sink.wait_for(wanted.len(), ARRIVAL_LONGEST);
    assert_eq!(lines(&mails, "Subject: "), wanted);
    assert!(mails.iter().all(|mail| String::from_utf8_lossy(&mail.wire).contains(" with ESMTPSA tls TLS_")));
    let errors = office.relay.errors();
    assert!(errors.contains("AUTH GSS-SPNEGO of 127.0.0.1: "), "the operator learns why: {errors}");
    office.close();
}

/// FND-08: Cyrus SASL inside Postfix, as the mail systems of most sites have it.
#[test]
fn cyrus_sasl_submits_with_kerberos_tickets() {
    let kdc = Kdc::start(&["dave"], PASSWORD);
    let sink = Sink::start();
    // Confined, too: keytab and replays are where they may be read and written.
    let office = Office::open(&sink, |setup| {
        let setup = with_kerberos(&kdc, setup).set("landlock", true);
        setup.set("auth.kerberos_service", format!("smtp/localhost@{REALM}"))
    });
    let cache = kdc.ticket("dave", PASSWORD);
    for (count, mechanism) in ["gssapi", "gss-spnego"].into_iter().enumerate() {
        let port = office.submission.port();
        let more = format!(
            "relayhost = [localhost]:{port}\nsmtp_tls_security_level = encrypt\nsmtp_sasl_auth_enable = yes\n\
             smtp_sasl_security_options = noanonymous\nsmtp_sasl_tls_security_options = noanonymous\n\
             smtp_sasl_mechanism_filter = {mechanism}\n\
             smtp_sasl_password_maps = inline:{{ {{ [localhost]:{port} = dave:none }} }}\n\
             import_environment = MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LANG=C KRB5_CONFIG={} KRB5CCNAME=FILE:{}\n",
            kdc.configuration().display(),
            cache.display()
        );
        let Some(postfix) = Postfix::start(port, &more, "") else { return };
        succeed(Command::new("chown").arg("postfix").arg(&cache), PROGRAM_LONGEST);
        let reply =
            Client::connect(postfix.address()).deliver("dave@example.com", &["to@example.org"], &plain(mechanism));
        assert_eq!(reply.code, 250, "{reply:?}");
        let mails = sink.wait_for(count + 1, ARRIVAL_LONGEST);
        assert!(String::from_utf8_lossy(&mails[count].wire).contains(" with ESMTPSA tls TLS_"));
    }
    let replays = office.setup.queue().join("kerberos-replays");
    assert!(std::fs::metadata(&replays).is_ok_and(|file| file.len() > 0), "{} remembers", replays.display());
    office.close();
}

/// FND-08: NTLM by curl and by pyspnego, in one step more or less, with a binding and without; not by clients that know its first version
/// alone, and not where nobody asked for it.
#[test]
fn ntlm_proves_users_where_it_is_wanted() {
    let sink = Sink::start();
    let office = Office::open(&sink, |setup| setup.set("auth.mechanisms", "NTLM,PLAIN,LOGIN"));
    let with = || Command::new(need("curl", "curl"));
    succeed(&mut curl(with(), &office, "NTLM", &format!("carol:{PASSWORD}"), "carol@example.com"), PROGRAM_LONGEST);
    for mechanism in ["PLAIN", "LOGIN"] {
        succeed(
            &mut curl(with(), &office, mechanism, &format!("carol:{PASSWORD}"), "carol@example.com"),
            PROGRAM_LONGEST,
        );
    }
    for user in ["carol:guess", "dave:", &format!("alice:{PASSWORD}")] {
        let refused = run(&mut curl(with(), &office, "NTLM", user, "carol@example.com"), PROGRAM_LONGEST);
        assert!(!refused.status.success(), "{user}: {}", shown(&refused.stdout, &refused.stderr));
    }

    let mut command = Command::new(python());
    command.arg(script("ntlm_submit.py")).args([&office.submissions.port().to_string(), PASSWORD]);
    succeed(&mut command, PROGRAM_LONGEST);

    // libntlm, in GNU SASL, knows the first version.
    let mut command = Command::new(need("gsasl", "gsasl"));
    command.args(["--smtp", "--starttls", "--x509-ca-file=", "--mechanism=NTLM", "--authentication-id=carol"]);
    command.args([&format!("--password={PASSWORD}"), &format!("--connect=127.0.0.1:{}", office.submission.port())]);
    let refused = run(&mut command, PROGRAM_LONGEST);
    assert!(!refused.status.success(), "{}", shown(&refused.stdout, &refused.stderr));

    let mails = sink.wait_for(6, ARRIVAL_LONGEST);
    assert_eq!(lines(&mails, "Subject: ").iter().filter(|subject| subject.starts_with("pyspnego ")).count(), 3);
    let errors = office.relay.errors();
    assert!(errors.contains("AUTH NTLM of 127.0.0.1: the client knows no version 2"), "{errors}");
    assert!(errors.contains("AUTH NTLM of 127.0.0.1: it is bound to another TLS session"), "{errors}");
    let hash = std::fs::read_to_string(office.setup.dir().join("users")).unwrap();
    let hash = hash.split_once("$3$$").unwrap().1[..32].to_owned();
    assert!(!errors.contains(&hash), "AUT-08");
    let mut client = Client::connect(office.submission);
    assert!(!client.say("EHLO c.example.com").text.contains("NTLM"), "not for all to hear");
    office.close();

    let office = Office::open(&sink, |setup| setup.set("auth.allow_clear", true));
    let offered = Client::connect(office.submission).say("EHLO c.example.com").text;
    assert!(offered.contains("AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n"), "neither NTLM nor GSSAPI: {offered}");
    office.close();
}

/// FND-08: a keytab that cannot be used ends the start, with its name and the reason.
#[test]
fn a_keytab_must_hold_keys() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("listen.submission", common::free_address());
    let users = common::office::users_file(&setup);
    let setup = setup.set("auth.users", users.display());
    let keytab = setup.dir().join("keytab");
    for content in [None, Some(&b"\x05\x02"[..]), Some(b"no keytab")] {
        if let Some(content) = content {
            std::fs::write(&keytab, content).unwrap();
        }
        let mut command = Command::new(common::relay::program());
        command.args(setup.arguments()).args(["--set", &format!("auth.kerberos_keytab={}", keytab.display())]);
        let output = run(command.current_dir(setup.dir()), PROGRAM_LONGEST);
        let text = shown(&output.stdout, &output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains(&format!("auth.kerberos_keytab {}: ", keytab.display())) && text.contains("Keytab FILE:"),
            "{text}"
        );
    }
}
