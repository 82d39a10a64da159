//! The keys of delivery: routes, sources, sites, retries and tenants. One table with those of [`file`](super::file).

use super::file::{Key, Kind, YEAR_MS, named_number, number, text, texts, time};
use crate::base::limits;

/// In the order of the manual, behind the relay's own.
pub(super) static KEYS: &[Key] = &[
    // ---- routing ----
    text(
        "route.default",
        "",
        "Next hop for every domain that `route.domains` does not name: `host:port`, `[v6 address]:port`, or the name of a \
         `next_hop`. Empty, or `mx`: the mail hosts (MX) of the domain.",
    ),
    Key {
        name: "route.domains",
        kind: Kind::Names,
        manual: "Next hops of single domains: `\"example.org\" = \"host:port\"`, or as for `route.default`; a leading dot, \
                 `\".example.org\"`, stands for every domain below.",
    },
    Key {
        name: "route.senders",
        kind: Kind::Names,
        manual: "Next hops of mail from single senders: `\"news@example.org\" = \"host:port\"`, or as for `route.default`; \
                 `\"@example.org\"` stands for all of a domain's, `\"@.example.org\"` for all below. `route.domains` goes first.",
    },
    text(
        "next_hop.*.address",
        "",
        "Makes NAME a next hop for routes to name, at `host:port`, `[v6 address]:port`, or `unix:/path` for a socket in the file \
         system.",
    ),
    text("next_hop.*.protocol", "", "What it speaks: `smtp` or `lmtp`. Not set: `smtp`."),
    text(
        "next_hop.*.tls",
        "",
        "Whether mail goes to it inside TLS, in place of `tls.domains` and `site.default.tls`. Not set: `verify` with \
         credentials, else as for the domain.",
    ),
    text(
        "next_hop.*.credentials",
        "",
        "File whose first line is `user:password`: what we prove ourselves with by AUTH, by SCRAM-SHA-256, PLAIN or LOGIN. Read \
         anew for every connection. Not set: no AUTH.",
    ),
    Key {
        name: "next_hop.*.allow_clear",
        kind: Kind::Flag { default: false },
        manual: "Say the password also to a next hop that did not prove its name (`verify`), and AUTH outside TLS. Whoever \
                 listens or answers in its place then learns the password.",
    },
    Key {
        name: "route.allow_private",
        kind: Kind::Flag { default: false },
        manual: "Deliver to mail hosts (MX) with loopback, private or link-local addresses, and ask web servers there for \
                 MTA-STS policies, which is decided at the start. Next hops named here are never checked.",
    },
    number(
        "route.connections",
        limits::CONNECTIONS_OUT_MAX as u64,
        1,
        1_000_000,
        "Outbound connections of one shard; fewer where the limit on open files has no room for them. While it has so many, sites without one wait for their turn.",
    ),
    number("route.mx_port", 25, 1, 65_535, "Port of mail hosts found by MX; another than 25 is for tests."),
    number(
        "route.sts_port",
        443,
        1,
        65_535,
        "Port of the web servers that have MTA-STS policies; another than 443 is for tests.",
    ),
    texts("dns.servers", &[], "Name servers, as `address:port`. Empty: those of the system."),
    text(
        "dns.trust",
        "loopback",
        "Whether an answer that a name server says it validated (DNSSEC) counts as validated, as `dane` and `published` want: `loopback`, if all \
         name servers are on this machine; `always`; `never`. The way to a server elsewhere must be safe.",
    ),
    texts(
        "source.address",
        &[],
        "Addresses that outbound connections come from where no pool says otherwise, one of each family at most. Empty: the \
         system chooses.",
    ),
    texts(
        "source.pool",
        &[],
        "Names of sources from which one is drawn for each message of a tenant without `tenant.NAME.sources`. Empty: \
         `source.address`.",
    ),
    texts(
        "source.*.address",
        &[],
        "Addresses of this source, one of each family at most. A next hop without an address of the same family cannot be \
         reached from it. If the machine has not got the address, mail waits.",
    ),
    text(
        "source.*.proxy",
        "",
        "Connections from this source go through a proxy: `haproxy ADDRESS:PORT`, which is told source and next hop by the PROXY \
         protocol, version 2; or `socks5 ADDRESS:PORT`, whose own address next hops see.",
    ),
    text("source.*.hello", "", "The name in EHLO for connections from this source. Not set: `relay.hostname`."),
    named_number(
        "source.*.weight",
        0,
        1000,
        "How often the source is drawn from a pool, beside the others in it. Not set: 1. 0: not any more.",
    ),
    text(
        "source.*.warm_up.began",
        "",
        "The first day of the lists in `source.NAME.warm_up.messages`, as `2026-11-28`, in UTC. Any day before it counts as the \
         first.",
    ),
    Key {
        name: "source.*.warm_up.messages",
        kind: Kind::Lists { least: 1, most: u32::MAX as u64 },
        manual: "Messages a day from this source for each receiver, the first day's first; behind the last there is no limit: \
                 `default = [50, 100, 500]`, and `google = [20, 50]` for the sites of a rule. Each recipient of a transaction \
                 counts: [pacing.md](pacing.md).",
    },
    texts(
        "source.*.warm_up.overflow",
        &[],
        "Names of sources, one of which sends what is above, also for tenants whose source this is. Empty: it waits for the \
         next day.",
    ),
    // ---- delivering ----
    number(
        "site.default.connections",
        limits::SITE_CONNECTIONS as u64,
        1,
        1_000_000,
        "Connections to one site over all shards.",
    ),
    number("site.default.messages_per_second", 0, 0, 1_000_000, "Messages a second to one site. 0: no limit."),
    number(
        "site.default.messages_per_connection",
        limits::CONNECTION_MESSAGES_MAX as u64,
        1,
        1_000_000_000,
        "Messages over one outbound connection; then it is closed and, if need be, another opened.",
    ),
    number(
        "site.default.recipients",
        limits::TRANSACTION_RECIPIENTS_MAX as u64,
        1,
        limits::RECIPIENTS_MAX as u64,
        "Recipients in one outbound transaction.",
    ),
    text(
        "site.default.tls",
        "may",
        "Whether mail goes to next hops inside TLS: `none`, never; `may`, if offered, with any certificate, and in clear if \
         the handshake fails; `encrypt`, always, with any certificate; `verify`, always, with a certificate for the host's \
         name from `tls.roots`; `dane`, as the host's TLSA records say, where DNSSEC proves them, else as `may`; \
         `published`, as `dane` or else as the domain's MTA-STS policy says, else as `may`. Where it cannot be met, mail waits.",
    ),
    Key {
        name: "site.default.chunking",
        kind: Kind::Flag { default: true },
        manual: "Bodies go by BDAT to next hops that offer CHUNKING. If not: by DATA, but for binary ones, which cannot.",
    },
    time("site.default.idle_ms", limits::CONNECTION_IDLE_MS, "An idle outbound connection is kept so long."),
    time(
        "site.default.age_ms",
        limits::CONNECTION_AGE_MS,
        "An outbound connection takes messages so long; then it is closed.",
    ),
    time(
        "retry.first_ms",
        limits::RETRY_FIRST_MS,
        "A recipient that failed for now is tried again after so long; the \
         pause doubles each time.",
    ),
    time("retry.longest_ms", limits::RETRY_LONGEST_MS, "Two attempts of a recipient are at most so far apart."),
    time(
        "retry.expire_ms",
        limits::EXPIRE_MS,
        "A recipient still open so long after its message was accepted bounces.",
    ),
    time(
        "retry.site_first_ms",
        limits::SITE_PAUSE_FIRST_MS,
        "First pause of a site that does not answer; it doubles \
         each time.",
    ),
    time("retry.site_longest_ms", limits::SITE_PAUSE_LONGEST_MS, "Longest pause of a site that does not answer."),
    time(
        "report.delay_ms",
        limits::DELAY_REPORT_MS,
        "A sender who asked for it (NOTIFY=DELAY) is told once that a message of this age is still on its way.",
    ),
    time("timeout.connect_ms", limits::CONNECT_TIMEOUT_MS, "For a connection to a next hop to stand."),
    time("timeout.greeting_ms", limits::GREETING_TIMEOUT_MS, "For a next hop's greeting."),
    time("timeout.hello_ms", limits::HELLO_TIMEOUT_MS, "For the reply to EHLO, HELO or RSET."),
    time("timeout.mail_ms", limits::MAIL_TIMEOUT_MS, "For the reply to MAIL."),
    time("timeout.rcpt_ms", limits::RCPT_TIMEOUT_MS, "For the reply to each RCPT."),
    time("timeout.data_ms", limits::DATA_TIMEOUT_MS, "For the reply to DATA."),
    time("timeout.data_block_ms", limits::DATA_BLOCK_TIMEOUT_MS, "For each piece of message data to be taken."),
    time(
        "timeout.data_end_ms",
        limits::DATA_END_TIMEOUT_MS,
        "For the reply to the final dot. Shorter than 10 minutes \
         makes duplicates.",
    ),
    time("timeout.quit_ms", limits::QUIT_TIMEOUT_MS, "For the reply to QUIT."),
    time("timeout.tls_ms", limits::TLS_TIMEOUT_MS, "For a TLS handshake, with clients too."),
    // ---- sites with limits of their own ----
    texts(
        "site.*.mail_hosts",
        &[],
        "Makes the rule one for sites whose best mail host is among these; a leading dot stands for every host below. The site \
         is named after the rule. Rules for large providers are built in: [pacing.md](pacing.md).",
    ),
    named_number(
        "site.*.connections",
        1,
        1_000_000,
        "In place of `site.default.connections`, for the sites that the name stands for: a recipient domain, `.example.org` for every domain \
         below, `host:port` of a smart host, or a provider.",
    ),
    named_number("site.*.messages_per_second", 0, 1_000_000, "In place of `site.default.messages_per_second`."),
    named_number(
        "site.*.messages_per_connection",
        1,
        1_000_000_000,
        "In place of `site.default.messages_per_connection`.",
    ),
    named_number(
        "site.*.recipients",
        1,
        limits::RECIPIENTS_MAX as u64,
        "In place of `site.default.recipients`; more than that has no effect.",
    ),
    Key { name: "site.*.chunking", kind: Kind::Flag { default: true }, manual: "In place of `site.default.chunking`." },
    named_number("site.*.idle_ms", 1, YEAR_MS, "In place of `site.default.idle_ms`."),
    named_number("site.*.age_ms", 1, YEAR_MS, "In place of `site.default.age_ms`."),
    // ---- tenants ----
    texts(
        "tenant.*.networks",
        &[],
        "Clients in these networks send for this tenant; the narrowest network of all tenants holds. Tenants share each site \
         fairly: [pacing.md](pacing.md).",
    ),
    named_number("tenant.*.weight", 1, 1000, "Part of a site beside those of other tenants that wait. Not set: 1."),
    texts(
        "tenant.*.sources",
        &[],
        "Names of sources that the tenant's mail comes from, and from nowhere else. Not set: `source.pool`.",
    ),
    text(
        "tenant.*.route",
        "",
        "Next hop of the tenant's mail, as for `route.default`. `route.domains` and `route.senders` go first. Not set: \
         `route.default`.",
    ),
    text("tenant.*.priority", "", "Class of its messages: `urgent`, `normal` or `bulk`. Not set: `normal`."),
    Key {
        name: "tenant.*.one_click",
        kind: Kind::Flag { default: false },
        manual: "Take its mail only if it is signed and receivers can offer to unsubscribe with one click: [dkim.md](dkim.md#marketing).",
    },
];
