//! Defaults, overrides, messages, and the pages of the manual that follow from the code.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::base::limits;
use crate::queue::CommitSettings;

fn machine() -> Machine {
    Machine { hostname: "build.example.net".to_owned(), cores: 4 }
}

fn with(file: &str, sets: &[&str]) -> Result<Settings, String> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    load(Some(file), &sets, &machine()).map_err(|error| error.to_string())
}

#[test]
fn it_works_without_a_file() {
    let settings = load(None, &[], &machine()).expect("defaults are right");
    assert_eq!(&*settings.hostname, "build.example.net");
    assert_eq!(settings.shards, 4);
    assert_eq!(
        settings.listen,
        [Listener { endpoint: Endpoint::Tcp("127.0.0.1:2525".parse().unwrap()), role: Role::Relay, proxied: false }]
    );
    assert_eq!(settings.http.listen, Some("127.0.0.1:8025".parse().unwrap()));
    assert_eq!(settings.queue.dir, Path::new("ringpost-queue"));
    assert_eq!(settings.route.default, None);
    assert_eq!(settings.site.connections, limits::SITE_CONNECTIONS);
    assert_eq!(settings.timeout.data_end_ms, limits::DATA_END_TIMEOUT_MS);
    for (peer, may) in [("127.1.2.3", true), ("::1", true), ("::ffff:127.0.0.1", true), ("192.0.2.1", false)] {
        assert_eq!(settings.relay.may_relay(peer.parse().unwrap()), may, "{peer}");
    }
}

#[test]
fn listeners_have_roles_and_submission_has_users() {
    let sets = [
        "listen.relay=unix:/run/ringpost/smtp,[::1]:25,127.0.0.1:26 proxy",
        "listen.submission=127.0.0.1:587",
        "listen.submissions=127.0.0.1:465",
        "listen.null=127.0.0.1:0,127.0.0.1:0",
        "auth.users=/etc/ringpost/users",
    ];
    let settings = with("", &sets).unwrap();
    let shown: Vec<String> = settings
        .listen
        .iter()
        .map(|l| format!("{} {}{}", l.role.name(), l.endpoint, if l.proxied { " proxied" } else { "" }))
        .collect();
    assert_eq!(
        shown,
        [
            "relay unix:/run/ringpost/smtp",
            "relay [::1]:25",
            "relay 127.0.0.1:26 proxied",
            "submission 127.0.0.1:587",
            "submissions 127.0.0.1:465",
            "null 127.0.0.1:0",
            "null 127.0.0.1:0"
        ]
    );
    let names = |settings: &Settings| settings.auth.mechanisms.iter().map(|m| m.name()).collect::<Vec<_>>();
    assert_eq!(names(&settings), ["SCRAM-SHA-256", "PLAIN", "LOGIN"]);
    assert!(settings.auth.offered().in_clear.is_empty());
    let offered = with("", &["auth.url=http://127.0.0.1/", "auth.jwt_key=k", "auth.allow_clear=true"]).unwrap();
    assert_eq!(names(&offered), ["OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN"]);
    assert_eq!(offered.auth.offered().in_clear, offered.auth.mechanisms);
    for (sets, words) in [
        (&["listen.submission=127.0.0.1:587"][..], &["listen.submission", "auth.users"][..]),
        (
            &["listen.submissions=127.0.0.1:465", "auth.users=u", "tls.offer=false"],
            &["listen.submissions", "tls.offer"],
        ),
        (&["listen.relay=127.0.0.1:25", "listen.null=127.0.0.1:25"], &["listen.null", "twice"]),
        (&["listen.relay=unix:smtp"], &["listen.relay", "from the root"]),
        (&["auth.mechanisms=CRAM-MD5"], &["auth.mechanisms", "SCRAM-SHA-256"]),
        (&["auth.url=ftp://x"], &["auth.url", "http://"]),
        (&["auth.introspection_url=http://x"], &["auth.introspection_secret"]),
    ] {
        let error = with("", sets).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{sets:?}: {error}");
    }
}

#[test]
fn machines_without_a_full_name_or_cores() {
    for hostname in ["", "build", "bad name.example", "-x.example"] {
        let settings = load(None, &[], &Machine { hostname: hostname.to_owned(), cores: 0 }).unwrap();
        assert_eq!((&*settings.hostname, settings.shards), ("localhost.localdomain", 1));
    }
    assert_eq!(load(None, &[], &Machine { cores: 100_000, ..machine() }).unwrap().shards, limits::SHARDS_MAX);
}

#[test]
fn a_file_and_overrides_add_up() {
    let file = "
        shards = 2
        drain_ms = 5_000
        [listen]
        relay = ['0.0.0.0:25', '[::]:25']
        [relay]
        networks = '10.1.2.3/8, 192.0.2.7'
        [route]
        default = 'Smart.Example.org:2525'
        [route.domains]
        'a.example' = '[2001:db8::1]:25'
        b.example = '192.0.2.1:26'
        '.Example' = 'c.example:27'
        [site.default]
        connections = 7";
    let sets = ["shards=1", "listen.relay=127.0.0.1:2601", "route.domains.b.example=127.0.0.1:28", "log.level=debug"];
    let settings = with(file, &sets).unwrap();
    assert_eq!((settings.shards, settings.drain_ms, settings.site.connections), (1, 5000, 7));
    assert_eq!(settings.listen.len(), 1);
    assert_eq!(settings.log_level, LogLevel::Debug);
    assert_eq!(settings.route.default.unwrap().to_string(), "smart.example.org:2525");
    let domains: Vec<String> =
        settings.route.domains.iter().map(|(name, next)| format!("{name} {}", next.as_ref().unwrap())).collect();
    assert_eq!(domains, [".example c.example:27", "a.example [2001:db8::1]:25", "b.example 127.0.0.1:28"]);
    let networks: Vec<String> = settings.relay.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32"]);
}

/// Where few files may be open, connections leave the log what it needs (QUE-09).
#[test]
fn connections_fit_the_limit_on_open_files() {
    let of = |files: u64, sets: &[&str]| {
        let mut settings = with("", sets).unwrap();
        let note = settings.fit(files);
        (settings.relay.connections_max, settings.route.connections, note)
    };
    let sets = ["shards=2", "queue.segments=100", "listen.connections=3000", "route.connections=1000"];
    let enough = 2 * (3000 + 1000 + 100 + limits::FILES_KEPT as u64);
    assert_eq!(of(enough, &sets), (3000, 1000, None));
    assert_eq!(of(u64::MAX, &sets), (3000, 1000, None));
    let (clients, out, note) = of(enough - 2, &sets);
    assert_eq!((clients, out), (2999, 999));
    assert!(note.unwrap().contains(&format!("raise the limit on open files to {enough}")));
    let (clients, out, _) = of(1024, &sets);
    assert_eq!((clients, out), (288, 96), "a quarter is kept at most");
    for files in 0..100 {
        let (clients, out, note) = of(files, &sets);
        assert!(clients >= 1 && out >= 1 && note.is_some());
    }
}

#[test]
fn overrides_take_plain_text_and_toml() {
    for (sets, expected) in [
        (&["route.default=[::1]:26"][..], "[::1]:26"),
        (&["route.default='127.0.0.1:26'"], "127.0.0.1:26"),
        (&["route.default = \"a.example:26\" "], "a.example:26"),
        (&["route.default=127.0.0.1:26", "route.default="], "none"),
    ] {
        let default = with("", sets).unwrap().route.default;
        assert_eq!(default.map_or("none".to_owned(), |next| next.to_string()), expected);
    }
    for list in ["127.0.0.1:1,127.0.0.1:2", "['127.0.0.1:1', '127.0.0.1:2']", "'127.0.0.1:1, 127.0.0.1:2'"] {
        assert_eq!(with("", &[&format!("listen.relay={list}")]).unwrap().listen.len(), 2, "{list}");
    }
    // A directory that looks like a number is still a directory.
    assert_eq!(with("", &["queue.dir=7"]).unwrap().queue.dir, Path::new("7"));
}

#[test]
fn cores_are_counted_for_shards_and_kept_in_order() {
    let settings = with("cores = '8, 0-2'", &[]).unwrap();
    assert_eq!((settings.cores, settings.shards), (vec![8, 0, 1, 2], 4));
    let settings =
        with("cores = '8,0-2'", &["shards=2", "queue.batch_bytes=32768", "queue.writes_in_flight=1"]).unwrap();
    assert_eq!((settings.cores.len(), settings.shards), (4, 2));
    assert_eq!(settings.queue.commit, CommitSettings { batch_bytes: 32 << 10, writes_in_flight: 1 });
    assert_eq!((parse_cores(""), parse_cores("9000").is_err()), (Ok(vec![]), true));
    assert_eq!(with("", &[]).unwrap().socket, SocketSettings::default());
}

/// Every message names the key, the value and what to write instead.
#[test]
fn messages_say_what_to_do() {
    for (file, set, message) in [
        ("", "shard=1", "shard: no such key; did you mean shards?"),
        (
            "[site]\nconnections = 3",
            "shards=1",
            "site.connections: no such key; did you mean site.default.connections?",
        ),
        ("[relay]\nhostnam = 'a'", "shards=1", "relay.hostnam: no such key; did you mean relay.hostname?"),
        ("", "shards", "shards: not KEY=VALUE, for instance shards=1"),
        ("", "shards=many", r#"shards = "many": must be a whole number from 0 to 256"#),
        ("", "shards=-1", r#"shards = "-1": must be a whole number from 0 to 256"#),
        ("shards = '2'", "drain_ms=1", r#"shards = "2": must be a whole number from 0 to 256"#),
        ("", "drain_ms=0", r#"drain_ms = "0": must be a whole number from 1 to 31536000000"#),
        ("", "route.allow_private=maybe", r#"route.allow_private = "maybe": must be true or false"#),
        (
            "",
            "route.default=127.0.0.1",
            r#"route.default = "127.0.0.1": must be host:port, for instance 127.0.0.1:2602, [2001:db8::1]:25 or mail.example.org:25"#,
        ),
        (
            "",
            "route.default=2001:db8::1:25",
            r#"route.default = "2001:db8::1:25": a v6 address stands in brackets, for instance [2001:db8::1]:25"#,
        ),
        (
            "",
            "listen.relay=localhost:25",
            r#"listen.relay = "localhost:25": must be address:port, for instance 127.0.0.1:2525 or [::1]:2525, or unix:/path"#,
        ),
        ("", "listen.relay=", r#"listen.relay = "": a relay needs at least one address to listen on"#),
        (
            "",
            "listen.submissions=127.0.0.1:465",
            r#"listen.submissions = "127.0.0.1:465": nobody could authenticate there; set auth.users, auth.url, auth.jwt_key or auth.introspection_url"#,
        ),
        (
            "",
            "route.domains.bad domain=a.example:25",
            r#"route.domains.bad domain = "a.example:25": must be a domain name, for instance example.org or .example.org"#,
        ),
        (
            "[route]\ndomains = 'x'",
            "shards=1",
            r#"route.domains = "x": must be a table, for instance { "example.org" = "127.0.0.1:2602" }"#,
        ),
        ("[route.domains]\na = 1", "shards=1", r#"route.domains.a = "1": must be a text in quotes"#),
        (
            "",
            "retry.longest_ms=1000",
            r#"retry.longest_ms = "1000": must not be less than retry.first_ms, which is 60000"#,
        ),
        ("", "queue.segment_bytes=5000000", r#"queue.segment_bytes = "5000000": must be a multiple of 4096"#),
        ("", "cores=0-1,1", r#"cores = "0-1,1": names a core twice; a core has one shard"#),
        ("", "cores=3-1", r#"cores = "3-1": must be a list of cores, for instance 0-3,8"#),
        ("", "log.level=trace", r#"log.level = "trace": must be one of error, warning, info and debug"#),
        ("relay = 1", "shards=1", "relay: no such key; docs/configuration.md lists them all"),
        (
            "[source.a]\nwarm_up.messages = [5]",
            "source.a.address=192.0.2.1",
            r#"source.a.warm_up.messages = "[5]": must be a table of lists, for instance { default = [50, 100, 500] }"#,
        ),
        (
            "",
            "source.a.warm_up.messages.default=5,0",
            r#"source.a.warm_up.messages.default = "5,0": must be a list of whole numbers from 1 to 4294967295, at least one"#,
        ),
    ] {
        assert_eq!(with(file, &[set]), Err(message.to_owned()), "{file} {set}");
    }
    let broken = with("shards = 1\nrelay = = 2", &[]).unwrap_err();
    assert!(broken.starts_with("the configuration file is no valid TOML") && broken.contains("line 2"), "{broken}");
    let twice = with("[route.domains]\n'A.example' = 'x:1'\n'a.example' = 'x:2'", &[]).unwrap_err();
    assert!(twice.contains("is there twice"), "{twice}");
}

/// Sources that are warmed up: lists by rule, from a file and by overrides, and what is missing or makes no sense.
#[test]
fn sources_may_be_warmed_up() {
    let file = "[source.new]\naddress = '192.0.2.1'\n[source.new.warm_up]\nbegan = '2026-11-28'\noverflow = 'Old'\n\
                [source.new.warm_up.messages]\ndefault = [5, 10]\nGoogle = '2, 4'\n[source.old]\naddress = '192.0.2.2'";
    let settings =
        with(file, &["source.new.warm_up.messages.default=7", "source.new.warm_up.messages.yahoo=[1]"]).unwrap();
    let [None, Some(new), None] = &settings.warm_ups[..] else { panic!("{:?}", settings.warm_ups) };
    assert_eq!((new.began.to_string(), &new.overflow[..]), ("2026-11-28".to_owned(), &[2][..]));
    let lists: Vec<(&str, &[u32])> = new.lists.iter().map(|(name, list)| (&**name, &list[..])).collect();
    assert_eq!(lists, [("default", &[7][..]), ("google", &[2, 4]), ("yahoo", &[1])]);
    for (sets, message) in [
        (&["began=2026-11-28"][..], r#"source.new.warm_up.began = "2026-11-28": needs messages a day beside it"#),
        (&["overflow=new"], r#"source.new.warm_up.overflow = "new": needs source.NAME.warm_up.began"#),
        (&["messages.default=5"], r#"source.new.warm_up.began = "": must be the first day of the warm-up"#),
        (
            &["messages.default=5", "began=28.11.2026"],
            r#"source.new.warm_up.began = "28.11.2026": must be the first day"#,
        ),
        (
            &["messages.nobody=5", "began=2026-11-28"],
            "source.new.warm_up.messages.nobody: is for no rule; name default",
        ),
        (
            &["messages.default=5", "began=2026-11-28", "overflow=new"],
            r#"source.new.warm_up.overflow = "new": is this source itself"#,
        ),
        (
            &["messages.default=5", "began=2026-11-28", "overflow=else"],
            r#"source.new.warm_up.overflow = "else": is no source"#,
        ),
    ] {
        let sets: Vec<String> = sets.iter().map(|set| format!("source.new.warm_up.{set}")).collect();
        let sets: Vec<&str> = sets.iter().map(String::as_str).chain(["source.new.address=192.0.2.1"]).collect();
        let wrong = with("", &sets).unwrap_err();
        assert!(wrong.starts_with(message), "{wrong}");
    }
    let many = format!("source.new.warm_up.messages.default={}", vec!["1"; 367].join(","));
    let wrong = with(file, &[&many]).unwrap_err();
    assert_eq!(wrong, "source.new.warm_up.messages.default: lists 367 days; 366 are possible");
}

/// Rules of sites: named in any part of the configuration, and built in for providers.
#[test]
fn sites_may_have_limits_of_their_own() {
    let file = "[site.default]\nconnections = 9\n[site.'Example.net']\nconnections = 3\n[site.google]\nrecipients = 10\n\
                [site.other]\nmail_hosts = '.other.test, mx.test'\nage_ms = 5\n[site.a.b.test]\nidle_ms = 7";
    let settings = with(file, &["site.10.0.0.1:25.messages_per_second=4"]).unwrap();
    let rule = |name: &str| settings.sites.iter().find(|rule| &*rule.name == name).expect(name);
    assert_eq!(rule("example.net").of, SiteMatch::Domain("example.net".into()));
    assert_eq!((rule("example.net").settings.connections, rule("a.b.test").settings.connections), (3, 9));
    assert_eq!(rule("a.b.test").settings.idle_ms, 7);
    assert_eq!(rule("other").of, SiteMatch::MailHosts(vec![".other.test".into(), "mx.test".into()]));
    assert_eq!(rule("10.0.0.1:25").settings.messages_per_second, 4);
    assert!(matches!(&rule("google").of, SiteMatch::MailHosts(hosts) if hosts.contains(&".google.com".into())));
    assert_eq!(rule("google").settings.recipients, 10);
    let wrong = with("", &["site.nobody.connections=1"]).unwrap_err();
    assert!(wrong.starts_with("site.nobody: is neither a domain"), "{wrong}");
    let wrong = with("", &["site.x.test.connections=0"]).unwrap_err();
    assert_eq!(wrong, "site.x.test.connections = \"0\": must be a whole number from 1 to 1000000");
}

/// The default of every key, written out in full, changes nothing.
#[test]
fn defaults_written_out_are_the_defaults() {
    let (head, table) =
        reference().split_once("|---|---|---|---|\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let sets: Vec<String> = table
        .lines()
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            format!("{}={}", cells[1], cells[2])
        })
        .collect();
    assert_eq!(sets.len(), file::keys().count());
    // What the operator names has no default.
    let sets: Vec<String> = sets.into_iter().filter(|set| !set.contains("NAME")).collect();
    assert_eq!(load(None, &sets, &machine()), load(None, &[], &machine()));
    // The manual's example is right, too.
    let example = head.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(&*with(example, &[]).unwrap().hostname, "relay.example.org");
}

proptest! {
    #[test]
    fn no_input_is_a_panic(file in "[ -~\n]{0,200}", name in 0..file::keys().count(), value in ".{0,40}") {
        let _ = load(Some(&file), &[], &machine());
        let _ = load(None, &[format!("{}={value}", file::keys().nth(name).unwrap().name)], &machine());
        let _ = load(None, &[value], &machine());
    }
}

/// `docs/configuration.md` is what the keys say.
#[test]
fn configuration_page_is_current() {
    compare_page("docs/configuration.md", &reference());
}

/// Compares a generated page with what it should be; with `RINGPOST_REGENERATE=1` it is written instead.
fn compare_page(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("RINGPOST_REGENERATE").is_some() {
        std::fs::write(&path, expected).expect("docs can be written");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == expected, "{name} is not current; RINGPOST_REGENERATE=1 cargo test writes it anew");
}

/// FND-08: Kerberos is offered where there is a keytab, NTLM where it is named.
#[test]
fn mechanisms_are_offered_where_they_can_be_checked() {
    let names = |sets: &[&str]| -> Vec<&str> {
        let settings = with("", &[&["listen.submission=127.0.0.1:587", "auth.users=/u"], sets].concat()).unwrap();
        settings.auth.offered().inside_tls.iter().map(|mechanism| mechanism.name()).collect()
    };
    assert_eq!(names(&[]), ["SCRAM-SHA-256", "PLAIN", "LOGIN"]);
    let keytab = "auth.kerberos_keytab=/k";
    assert_eq!(names(&[keytab]), ["GSSAPI", "GSS-SPNEGO", "SCRAM-SHA-256", "PLAIN", "LOGIN"]);
    assert_eq!(names(&[keytab, "auth.mechanisms=ntlm,gss-spnego"]), ["GSS-SPNEGO", "NTLM"]);
    let settings = with("", &["auth.users=/u", keytab, "auth.kerberos_realm=R", "queue.dir=/q"]).unwrap();
    let kerberos = settings.auth.kerberos.unwrap();
    assert_eq!((kerberos.realm.as_deref(), &*kerberos.replays), (Some("R"), Path::new("/q/kerberos-replays")));
    assert!(with("", &[keytab]).unwrap_err().contains("needs auth.users"));
    let error = with("", &["auth.users=/u", "auth.mechanisms=GSSAPI"]).unwrap_err();
    assert!(error.contains("auth.kerberos_keytab can check"), "{error}");
}

/// RPT-01: all of it or nothing, and signed.
#[test]
fn tls_reports_are_configured_whole() {
    let key = ["dkim.a.domain=example.org", "dkim.a.selector=s", "dkim.a.key=k"];
    let three = [
        "tls.report_organization=Example \"Ltd.\"",
        "tls.report_contact=postmaster@Mail.Example.ORG",
        "tls.report_from=noreply@mail.example.org",
    ];
    assert_eq!(with("", &key).unwrap().tls.reports, None);
    let below = [&key[..], &three, &["dkim.a.subdomains=true", "tls.report_delay_ms=0"]].concat();
    let reports = with("", &below).unwrap().tls.reports.unwrap();
    assert_eq!((&*reports.contact, reports.submitter()), ("postmaster@mail.example.org", "mail.example.org"));
    assert_eq!((&*reports.organization, reports.delay_ms), ("Example \"Ltd.\"", 0));
    for (sets, words) in [
        (&[&key[..], &three].concat()[..], &["tls.report_from", "dkim.NAME.domain"][..]),
        (&three[..], &["tls.report_from", "DKIM"]),
        (
            &[&below[..], &["tenant.t.networks=192.0.2.0/24", "dkim.a.tenants=t"]].concat(),
            &["tls.report_from", "for everybody"],
        ),
        (&[&below[..], &["tls.report_contact="]].concat(), &["tls.report_contact", "beside"]),
        (&[&below[..], &["tls.report_organization=a\nb"]].concat(), &["tls.report_organization", "one line"]),
        (&[&below[..], &["tls.report_from=noreply@example.org"]].concat(), &["tls.report_from", "of the domain"]),
        (&[&below[..], &["tls.report_contact=<a@b.test>"]].concat(), &["tls.report_contact", "mailbox"]),
        (&[&below[..], &["tls.report_contact=postmaster"]].concat(), &["tls.report_contact", "mailbox"]),
        (&[&below[..], &["tls.report_from=\u{fc}@mail.example.org"]].concat(), &["tls.report_from", "mailbox"]),
        (&[&below[..], &["tls.report_delay_ms=86400001"]].concat(), &["tls.report_delay_ms", "86400000"]),
    ] {
        let error = with("", sets).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{sets:?}: {error}");
    }
}
