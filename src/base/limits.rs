//! Every bound of the relay, in one place, with the answer that a full bound gives.
//!
//! A bound is a constant here if only a developer should change it, and the default of a setting (named in the
//! comment) if an operator may. Relations between bounds are asserted when compiling, at the end of the file.
//! `docs/limits.md` lists them for operators.

// ---- the spool ----

/// Writes and reads of the log start and end on multiples of this (direct I/O).
pub const DISK_ALIGN_BYTES: usize = 4096;
/// Size of a segment file (`queue.segment_bytes`). Full: the next segment is taken; none left: 452 4.3.1.
pub const SEGMENT_BYTES: u32 = 64 << 20;
/// The least that `queue.segment_bytes` may be.
pub const SEGMENT_MIN_BYTES: u32 = 4 << 20;
/// The most that `queue.segment_bytes` may be: offsets in a segment are 32 bits wide.
pub const SEGMENT_CEILING_BYTES: u32 = 1 << 30;
/// Smallest block allocated for an open batch.
pub const BLOCK_MIN_BYTES: usize = 32 << 10;
/// A batch this long is written at once, even while another is on its way to disk (`queue.batch_bytes`).
pub const BATCH_FULL_BYTES: usize = 512 << 10;
/// Largest block: one record of the largest envelope must fit.
pub const BLOCK_MAX_BYTES: usize = 1 << 20;
/// Writes on their way to disk at a time (`queue.writes_in_flight`); more than one only for full batches.
pub const WRITES_IN_FLIGHT_MAX: usize = 4;
/// The most that `queue.writes_in_flight` may be.
pub const WRITES_IN_FLIGHT_CEILING: usize = 64;
/// Frozen blocks kept for bodies not yet delivered (`queue.memory_bytes`, per shard); older ones are read back.
pub const HOT_BLOCKS_BYTES: usize = 128 << 20;
/// Records that are wanted one behind the other are read back so many bytes at a time.
pub const READ_AHEAD_MAX_BYTES: u32 = 256 << 10;
/// So many such reads are kept, for records that nobody has asked for yet.
pub const READS_AHEAD_KEPT_MAX: usize = 8;
/// A body arriving in pieces shorter than this is gathered before it becomes a chunk record.
pub const CHUNK_MIN_BYTES: usize = 16 << 10;
/// Longest body part in one chunk record.
pub const CHUNK_MAX_BYTES: usize = 128 << 10;
/// Verdicts wait at most so long for a commit that happens anyway.
pub const VERDICT_DELAY_MS: u64 = 10;
/// Room kept at the end of the last segment that new mail may have, for verdicts and reports: delivering goes on when the disk is
/// full.
pub const SEGMENT_RESERVE_BYTES: u32 = 1 << 20;
/// The last segments that can be had are for copies, by which room is made; what settles mail may have half of the first and, of the
/// very last, a quarter. In two of them a whole segment's mail finds room beside that, however little of it is dead.
pub const SEGMENTS_KEPT: usize = 2;
/// While the next segment is being made, reading from clients pauses when no more than this is left of the open one, or half
/// of it: what was read already still finds room.
pub const SEGMENT_LATE_BYTES: u32 = 8 << 20;
/// Segments of one shard (`queue.segments`). All but the kept ones in use: 452 4.3.1.
pub const SEGMENTS_MAX: usize = 4096;
/// After a failed write or a full disk, a new segment is tried no sooner than this.
pub const SEGMENT_RETRY_MS: u64 = 1000;
/// Segments kept started ahead of the open one: the kept ones, and one more, so that taking the next costs nothing.
pub const SEGMENTS_SPARE: usize = SEGMENTS_KEPT + 1;
/// The least that `queue.segments` may be: one for mail, and those ahead of it.
pub const SEGMENTS_MIN: usize = SEGMENTS_SPARE + 1;
/// Appended but not yet handed to the disk. Half full: reading from clients pauses. Full: 451 4.3.0 (a disk that slow is failing).
pub const LOG_BACKLOG_MAX_BYTES: usize = 64 << 20;
/// Verdicts held in memory while no segment can be written. Full: only what settles recipients is held, deferrals are forgotten.
pub const VERDICTS_HELD_MAX_BYTES: usize = 16 << 20;
/// Failed writes remembered, for tickets that are asked about late; older tickets count as refused.
pub const LOG_FAILURES_KEPT: usize = 64;
/// Longest prefix (trace and signature fields) of one message.
pub const PREFIX_MAX_BYTES: usize = 10 << 10;
/// Shards of one relay.
pub const SHARDS_MAX: u16 = 256;

// ---- receiving ----

/// Inbound connections of one shard (`listen.connections`). Full: 421 4.3.2 as the greeting (SES-26). The same bound holds for one
/// address and one network if nothing else is set (`listen.connections_per_address`, `listen.connections_per_network`): 421 4.7.0.
pub const CONNECTIONS_IN_MAX: usize = 10_000;
/// A client that was refused for want of room is not read from for so long, at least: answering it again at once would take the time
/// in which room is made (QUE-07).
pub const REFUSED_REST_MS: u64 = 200;
/// Longer where many were: of all clients of a shard together so many are answered so in a second.
pub const REFUSALS_PER_SECOND: u64 = 2_000;
/// But not longer than this.
pub const REFUSED_REST_MAX_MS: u64 = 10_000;
/// A PROXY header is awaited so long (PRX-01). Over: the connection is closed.
pub const PROXY_HEADER_MS: u64 = 5_000;
/// Connections of one shard whose PROXY header is awaited. Full: the connection is closed.
pub const PROXY_HEADERS_MAX: usize = 1_024;
/// Longest command line with CRLF: 512 and all extensions of SIZ-02 and SIZ-03 with room to spare. Longer: 500, skipped to CRLF (SIZ-04).
pub const COMMAND_LINE_MAX_BYTES: usize = 2048;
/// Longest line of an AUTH exchange with CRLF, either way of the client (AUT-03; RFC 4954 4). Longer: 500, skipped to CRLF.
pub const AUTH_LINE_MAX_BYTES: usize = 12_288 + 2;
/// Longest challenge of an AUTH exchange before its base64.
pub const AUTH_CHALLENGE_MAX_BYTES: usize = 3 << 10;
/// Challenges of one AUTH exchange. One more: 501 5.5.2.
pub const AUTH_CHALLENGES_MAX: u32 = 8;
/// Longest text of the GSSAPI library about what went wrong, for the log. Longer: cut.
pub const GSSAPI_TEXT_MAX_BYTES: usize = 300;
/// Failed AUTH exchanges of one session. More: 421 4.7.0 (AUT-04).
pub const AUTH_FAILURES_MAX: u32 = 3;
/// A failed AUTH is answered no sooner (`auth.failure_delay_ms`) (AUT-08).
pub const AUTH_FAILURE_DELAY_MS: u64 = 1_000;
/// Failed AUTH exchanges of one address in the window (`auth.failures_per_address`). More: 421 4.7.0.
pub const AUTH_FAILURES_PER_ADDRESS: u64 = 30;
/// Failed AUTH exchanges of one network in the window (`auth.failures_per_network`). More: 421 4.7.0.
pub const AUTH_FAILURES_PER_NETWORK: u64 = 300;
/// Failed AUTH exchanges for one user's name in the window (`auth.failures_per_user`). More: 421 4.7.0.
pub const AUTH_FAILURES_PER_USER: u64 = 50;
/// Sessions of one user on one shard (`auth.sessions_per_user`). One more: 421 4.7.0.
pub const USER_SESSIONS_MAX: u64 = 1_000;
/// How long failed AUTH exchanges count (`auth.failures_window_ms`).
pub const AUTH_FAILURES_WINDOW_MS: u64 = 600_000;
/// Addresses, networks and users whose failures are remembered; more: the oldest are forgotten.
pub const AUTH_FAILURES_REMEMBERED_MAX: usize = 65_536;
/// Steps of AUTH exchanges being checked, delayed or waiting, for all shards. More: 454 4.7.0.
pub const AUTH_WAITING_MAX: usize = 4_096;
/// Passwords hashed and Kerberos tickets looked at at a time; more wait.
pub const AUTH_HASHES_AT_ONCE: usize = 2;
/// What a service that knows users or tokens may take (`auth.timeout_ms`). Over: 454 4.7.0 (AUT-04).
pub const AUTH_TIMEOUT_MS: u64 = 5_000;
/// The longest answer of such a service.
pub const AUTH_ANSWER_MAX_BYTES: usize = 64 << 10;
/// The longest name of a user.
pub const USER_NAME_MAX_BYTES: usize = 320;
/// Longest local part (SIZ-01).
pub const LOCAL_PART_MAX_BYTES: usize = 64;
/// Longest domain (SIZ-01).
pub const DOMAIN_MAX_BYTES: usize = 255;
/// Longest path with brackets (SIZ-01).
pub const PATH_MAX_BYTES: usize = 256 + 66;
/// Largest message, unstuffed (`relay.message_bytes`). Larger: 552 5.3.4 (SIZ-08, DAT-10).
pub const MESSAGE_MAX_BYTES: u64 = 50 << 20;
/// The most that `relay.message_bytes` may be: the chunk list of the largest message must fit its accepting record.
pub const MESSAGE_CEILING_BYTES: u64 = 64 << 20;
/// Past so many times the limit an over-long message ends with 421 and a close (DAT-10).
pub const MESSAGE_HARD_FACTOR: u64 = 2;
/// Recipients of one transaction (`relay.recipients`). More: 452 4.5.3 (SIZ-09).
pub const RECIPIENTS_MAX: usize = 1000;
/// Recipients of one transaction with all that stand behind its addresses in the alias table. More: 452 4.5.3; an address that stands
/// for so many alone is an error of the table (FND-04).
pub const EXPANDED_RECIPIENTS_MAX: usize = 10_000;
/// Their addresses, as they are recorded. More: 452 4.5.3.
pub const RECIPIENTS_MAX_BYTES: usize = 512 << 10;
/// Addresses of the alias table that lead to each other, one behind the other. More: an error of the table.
pub const ALIAS_DEPTH_MAX: usize = 8;
/// Addresses that all entries of the alias table stand for together. More: an error of the table.
pub const ALIAS_MEMBERS_MAX: usize = 1_000_000;
/// Members of an alias or list that EXPN shows. More: 252, and none of them (FND-05).
pub const EXPANSION_SHOWN_MAX: usize = 1_000;
/// Clients of one shard that wait for the answer to ETRN. More: 458 (FND-06).
pub const ETRN_WAITING_MAX: usize = 4;
/// What MAIL and RCPT said beside the addresses, as it is recorded, of one transaction. More: 452 4.5.3 (SIZ-03).
pub const ENVELOPE_PARAMETERS_MAX_BYTES: usize = 256 << 10;
/// The longest that a client may have a message held (`relay.hold_s`). More: 501 5.5.4 (EXT-11).
pub const HOLD_MAX_S: u32 = 7 * 86_400;
/// Longest data line with CRLF, not counting a doubled dot (SIZ-06, SIZ-07). Longer: 500 5.6.0 at the end of data.
pub const DATA_LINE_MAX_BYTES: usize = 1000;
/// Longest `Received` field that we write (TRC-05): folded, of names that are bounded themselves.
pub const TRACE_MAX_BYTES: usize = 2048;
/// Longest header of a message that is signed, and so held in memory while the message comes. Longer: the message goes unsigned (BLK-01).
pub const DKIM_HEADER_MAX_BYTES: usize = 64 << 10;
/// Fields that one signature covers. More: the message goes unsigned.
pub const DKIM_FIELDS_MAX: usize = 64;
/// Longest `DKIM-Signature` field that we write, with the longest key and as many fields as it may cover.
pub const DKIM_FIELD_MAX_BYTES: usize = 3072;
/// DKIM keys of a configuration. More: it is an error.
pub const DKIM_KEYS_MAX: usize = 10_000;
/// Received fields beyond which a message is looping (`relay.received_fields`): 554 5.4.6 (TRC-06).
pub const RECEIVED_FIELDS_MAX: u32 = 100;
/// Refused or unknown commands of one session since its last accepted message (`relay.errors`). More: 421 4.7.0 (SES-10).
pub const SESSION_ERRORS_MAX: u32 = 20;
/// Idle time before a command (`relay.idle_ms`). Over: 421 4.4.2 (SES-23).
pub const COMMAND_IDLE_MS: u64 = 300_000;
/// Idle time inside message data (DAT-14). Over: 421 4.4.2.
pub const DATA_IDLE_MS: u64 = 180_000;
/// Slowest average rate of message data once `DATA_IDLE_MS` is over (DAT-14). Slower: 421 4.4.2.
pub const DATA_RATE_MIN_BYTES_PER_SECOND: u64 = 512;
/// Reading stops while so much waits to be sent to a client that does not read.
pub const OUTBOX_MAX_BYTES: usize = 64 << 10;
/// Reading stops while a client sent so much behind a message that waits for its commit.
pub const LEFTOVER_MAX_BYTES: usize = 64 << 10;
/// An empty outbox keeps a buffer of at most this size: the replies to fifty recipients in one group fit.
pub const OUTBOX_KEEP_BYTES: usize = 4096;
/// Connections that the kernel holds until they are accepted (`listen.backlog`), for each shard and address. Full: it drops the
/// handshake, and the client tries again.
pub const LISTEN_BACKLOG: u32 = 4096;
/// The most that the kernel may buffer for one connection in one direction (`socket.receive_bytes`, `socket.send_bytes`).
pub const SOCKET_BUFFER_CEILING_BYTES: u64 = 64 << 20;
/// What one read may bring.
pub const RECEIVE_BYTES: usize = 256 << 10;

// ---- delivering ----

/// Connections to one site over all shards (`site.default.connections`).
pub const SITE_CONNECTIONS: u32 = 20;
/// Connections of one shard to a site that has not answered yet. Each that becomes ready lets one more be opened, so that
/// their number doubles with each round trip, and a site that cannot take mail is not asked by many at once.
pub const SITE_FIRST_CONNECTIONS: u32 = 2;
/// Outbound connections of one shard (`route.connections`). Full: sites without one wait for their turn.
pub const CONNECTIONS_OUT_MAX: usize = 10_000;
/// One in so many of them is only for sites that have none yet: one that comes later need not wait until slow ones end.
pub const CONNECTIONS_OUT_RESERVE: usize = 8;
/// Open files that each shard keeps for what is neither a connection nor a segment of its log: rings, listeners, its part of what
/// DNS, HTTP and reports need. Where fewer may be open, connections are fewer.
pub const FILES_KEPT: usize = 128;
/// Messages over one outbound connection (`site.default.messages_per_connection`) (RTE-20).
pub const CONNECTION_MESSAGES_MAX: u32 = 10_000;
/// A connection whose permit another shard waits for ends after so many messages, when it has nothing to do, or at
/// `CONNECTION_TURN_MS`: sooner would spend more on connecting than fairness is worth.
pub const CONNECTION_TURN_MESSAGES: u32 = 64;
/// The longest a busy connection keeps a permit that another shard waits for; its current message is finished first.
pub const CONNECTION_TURN_MS: u64 = 2_000;
/// Jobs are left to busy connections, behind whose bodies their envelopes can ride, if that takes no longer than this; else
/// idle ones take them.
pub const RIDE_WAIT_MS: u64 = 5;
/// As many jobs at most are left to one busy connection.
pub const RIDES_LEFT_MAX: u64 = 4;
/// An idle outbound connection is kept so long (`site.default.idle_ms`) (RTE-20).
pub const CONNECTION_IDLE_MS: u64 = 5_000;
/// An outbound connection takes messages so long (`site.default.age_ms`) (RTE-20).
pub const CONNECTION_AGE_MS: u64 = 600_000;
/// What a site's home allows is of no use any more after so long, so that no shard saves up messages (RTE-24).
pub const RATE_KEEP_MS: u64 = 200;
/// Days that `source.NAME.warm_up.messages` may list for one receiver. More: it is an error of the configuration.
pub const WARM_UP_DAYS_MAX: usize = 366;
/// What shards are lent ahead of a day's limit of a source that is warmed up, all together, is one in so many of it.
pub const WARM_UP_BATCHES: u32 = 8;
/// What a shard was lent of a day's limit and did not use for so long goes back.
pub const WARM_UP_KEEP_MS: u64 = 10_000;
/// What waits for another day is looked at so often: it may be too old, and the clock may have been set.
pub const WARM_UP_LOOK_MS: u64 = 60_000;
/// After what was to be lent could not be written down, a shard asks again no sooner.
pub const WARM_UP_RETRY_MS: u64 = 1_000;
/// Dates whose counts are kept of one source and receiver, those asked about last: one that comes again goes on where it stopped.
pub const WARM_UP_DAYS_KEPT: usize = 4;
/// Sources and receivers that are counted on one day. More: their mail waits for the next.
pub const WARM_UP_COUNTS_MAX: usize = 20_000;
/// A next hop's complaints that it gets too much count as one for so long, and no connection is opened (RTE-25).
pub const THROTTLE_HOLD_MS: u64 = 1_000;
/// A site that was throttled is allowed one connection more each time mail was taken for so long without a complaint (RTE-25).
pub const THROTTLE_RECOVER_MS: u64 = 10_000;
/// A site that was throttled is remembered so long after its last mail.
pub const THROTTLE_MEMORY_MS: u64 = 600_000;
/// Recipients in one outbound transaction (`site.default.recipients`) (SIZ-10).
pub const TRANSACTION_RECIPIENTS_MAX: usize = 100;
/// Longest reply line of a next hop that is kept; longer ends the session as temporary (RTE-21).
pub const REPLY_LINE_MAX_BYTES: usize = 4096;
/// Lines of one reply (EXT-10, RTE-21).
pub const REPLY_LINES_MAX: usize = 200;
/// Longest reply text kept in a verdict.
pub const VERDICT_TEXT_MAX_BYTES: usize = 400;
/// Header of a failed message copied into its report; longer is cut at a line (DSN-06).
pub const BOUNCE_HEADER_MAX_BYTES: usize = 32 << 10;
/// A failed message is given back in full (RET=FULL) if it is no longer than this; of a longer one the header is (DSN-06).
pub const REPORT_FULL_MAX_BYTES: u64 = 64 << 10;
/// TCP connect (RTE-15).
pub const CONNECT_TIMEOUT_MS: u64 = 30_000;
/// Greeting (RTE-15; RFC 5321 4.5.3.2.1).
pub const GREETING_TIMEOUT_MS: u64 = 300_000;
/// EHLO, HELO, RSET, QUIT; the RFC names none for them, so MAIL's serves.
pub const HELLO_TIMEOUT_MS: u64 = 300_000;
/// MAIL (RFC 5321 4.5.3.2.2).
pub const MAIL_TIMEOUT_MS: u64 = 300_000;
/// RCPT (RFC 5321 4.5.3.2.3).
pub const RCPT_TIMEOUT_MS: u64 = 300_000;
/// DATA initiation (RFC 5321 4.5.3.2.4).
pub const DATA_TIMEOUT_MS: u64 = 120_000;
/// Each data block (RFC 5321 4.5.3.2.5).
pub const DATA_BLOCK_TIMEOUT_MS: u64 = 180_000;
/// The reply after the final dot (RFC 5321 4.5.3.2.6).
pub const DATA_END_TIMEOUT_MS: u64 = 600_000;
/// A TLS handshake, on either side (`timeout.tls_ms`) (TLS-13). Over: the connection is closed.
pub const TLS_TIMEOUT_MS: u64 = 30_000;
/// After a TLS handshake failed, an address is tried in clear for so long where the policy is `may` (TLS-06).
pub const TLS_FALLBACK_MS: u64 = 600_000;
/// Addresses of one site remembered for failed TLS handshakes; the oldest is forgotten.
pub const TLS_FALLBACKS_MAX: usize = 16;
/// No host of a domain could do what a message needs: others that need the same are not tried for so long (EXT-06, RTL-02).
pub const UNABLE_MEMORY_MS: u64 = 300_000;
/// TLS sessions remembered for resumption: of all next hops together, and for each role of listener of clients that take no tickets.
/// More: the longest unused is forgotten.
pub const TLS_SESSIONS_MAX: usize = 4096;
/// Plain bytes sealed into TLS records at a time; a connection holds no more records than these.
pub const TLS_SEAL_BYTES: usize = 64 << 10;
/// Bytes of an unfinished record or handshake message kept by one connection. More: the connection is closed.
pub const TLS_KEPT_MAX_BYTES: usize = 96 << 10;
/// QUIT's reply is not waited for longer (RTE-18).
pub const QUIT_TIMEOUT_MS: u64 = 2_000;
/// Addresses of a site tried in vain, one after the other, before the site pauses (RTE-04).
pub const ADDRESSES_TRIED_MAX: u32 = 6;
/// Addresses kept of one site, the best; the rest is ignored (RTE-04, RTE-09).
pub const SITE_ADDRESSES_MAX: usize = 32;
/// While one connection tries an address that failed before, the others leave it aside at most so long.
pub const HOST_TRIAL_MS: u64 = 60_000;
/// A connection that does not stand after so long is raced by one to the host's other family (RTE-10; RFC 8305 5).
pub const CONNECT_RACE_MS: u64 = 250;
/// Mail hosts kept of one DNS answer; the rest is ignored (RTE-04, RTE-09).
pub const MAIL_HOSTS_MAX: usize = 20;
/// Addresses kept of one mail host; the rest is ignored (RTE-04, RTE-09).
pub const HOST_ADDRESSES_MAX: usize = 16;
/// TLSA records kept of one mail host that can be used; the rest is ignored (DAN-02).
pub const TLSA_RECORDS_MAX: usize = 16;
/// Domains whose DNS answer a shard remembers; the longest unused is forgotten.
pub const DNS_CACHE_DOMAINS_MAX: usize = 50_000;
/// A destination without mail is remembered so long, for the next message may be for it.
pub const DESTINATION_LINGER_MS: u64 = 2_000;
/// Destinations without mail that are remembered. More: the longest unused is forgotten.
pub const DESTINATIONS_LINGERING_MAX: usize = 10_000;
/// Jobs that urgent mail of a site has in a round of turns, while other classes wait too.
pub const URGENT_TURNS: u32 = 64;
/// The same for normal mail.
pub const NORMAL_TURNS: u32 = 8;
/// The same for bulk mail.
pub const BULK_TURNS: u32 = 1;
/// Recipients that a tenant of weight 1 has in one of its turns at a site, while others wait too.
pub const TENANT_TURN_RECIPIENTS: u32 = 20;
/// Tenants that the configuration may name.
pub const TENANTS_MAX: usize = 1000;
/// A DNS answer is used at least so long, so that a TTL of 0 does not mean a question per message (RTE-09).
pub const DNS_TTL_MIN_S: u32 = 5;
/// A DNS answer is used at most so long.
pub const DNS_TTL_MAX_S: u32 = 86_400;
/// An answer that says no is used at most so long.
pub const DNS_NEGATIVE_TTL_MAX_S: u32 = 3_600;
/// A question that failed is not asked again sooner than this.
pub const DNS_FAILURE_TTL_S: u32 = 30;
/// One try of one DNS question; there are `DNS_TRIES` (RTE-02).
pub const DNS_TIMEOUT_MS: u64 = 5_000;
/// Tries of one DNS question.
pub const DNS_TRIES: usize = 2;
/// All DNS questions about one domain together; over: deferred (RTE-04).
pub const DNS_TOTAL_TIMEOUT_MS: u64 = 45_000;
/// Domains being resolved at a time, for all shards; more wait.
pub const DNS_DOMAINS_AT_ONCE: usize = 512;
/// DNS questions on their way at a time; more wait.
pub const DNS_QUESTIONS_AT_ONCE: usize = 512;
/// Domains waiting to be resolved, each shard's part of it. Full: their mail waits.
pub const DNS_WAITING_MAX: usize = 16_384;
/// Bytes of an MTA-STS policy. More: it is none that can be read (STS-01; RFC 8461 3.3).
pub const STS_POLICY_MAX_BYTES: usize = 64 << 10;
/// A policy is there after so long, or cannot be fetched (STS-01; RFC 8461 3.3).
pub const STS_FETCH_MS: u64 = 60_000;
/// Policies being fetched at a time, for all shards; more wait, and after `STS_FETCH_MS` their domains' mail is deferred.
pub const STS_FETCHES_AT_ONCE: usize = 64;
/// Mail hosts and patterns that a policy may name. More: it is none that can be read.
pub const STS_HOSTS_MAX: usize = 64;
/// Domains whose policies are kept. More: the policy that lapses first is forgotten.
pub const STS_POLICIES_MAX: usize = 10_000;
/// A policy stays in force at most so long after it was fetched (RFC 8461 3.2).
pub const STS_AGE_MAX_S: u32 = 31_557_600;
/// A policy that is in use is fetched again after so long, or half of its own time if that is less (RFC 8461 10.2).
pub const STS_REFRESH_S: u32 = 86_400;
/// A policy that could not be fetched is not asked for again sooner than this (RFC 8461 3.3).
pub const STS_FAILURE_S: u32 = 300;
/// A domain's answer with a policy is used at most so long: then the policy's record is looked at again (STS-02).
pub const STS_ANSWER_S: u32 = 300;
/// What changed in the policies that are kept is written down after so long.
pub const STS_WRITE_PAUSE_MS: u64 = 500;
/// First retry of a recipient after (`retry.first_ms`) (QUE-04).
pub const RETRY_FIRST_MS: u64 = 60_000;
/// Retries are at most so far apart (`retry.longest_ms`) (QUE-04).
pub const RETRY_LONGEST_MS: u64 = 4 * 3_600_000;
/// A message is given up so long after it was accepted (`retry.expire_ms`) (QUE-04).
pub const EXPIRE_MS: u64 = 5 * 86_400_000;
/// The age at which a sender who asked for it is told that a message takes long (`report.delay_ms`) (DSN-07).
pub const DELAY_REPORT_MS: u64 = 4 * 3_600_000;
/// First pause of a site that does not answer (`retry.site_first_ms`) (QUE-05).
pub const SITE_PAUSE_FIRST_MS: u64 = 5_000;
/// Longest pause of a site (`retry.site_longest_ms`).
pub const SITE_PAUSE_LONGEST_MS: u64 = 15 * 60_000;
/// Jobs that fail together (expired, or a domain that does not exist) in one turn; the rest follows.
pub const EXPIRED_AT_ONCE_MAX: usize = 256;
/// What an operator gives up is looked at again after so long while not all of it is settled.
pub const ORDERS_PAUSE_MS: u64 = 20;
/// A drain waits so long for deliveries on their way (`drain_ms`).
pub const DRAIN_MS: u64 = 30_000;

// ---- HTTP ----

/// Connections over HTTP. Full: more wait to be accepted.
pub const HTTP_CONNECTIONS_MAX: usize = 1024;
/// Longest head of a request. Longer: 431.
pub const HTTP_HEAD_MAX_BYTES: usize = 64 << 10;
/// A request's head, and each piece of its body, must come within this. Over: the connection is closed, or 408.
pub const HTTP_IDLE_MS: u64 = 60_000;
/// Bodies of all requests in memory at a time, each counted twice. Full: requests wait, and get 503 when they waited too long.
pub const HTTP_BODIES_MAX_BYTES: usize = 256 << 20;
/// Of a body that was refused so much is read and thrown away, so that its client hears why. Over: the connection is closed on it.
pub const HTTP_SKIPPED_MAX_BYTES: usize = 16 << 20;
/// The queue has so long to take a request's messages. Over: 504, and the outcome is unknown.
pub const HTTP_ANSWER_MS: u64 = 120_000;
/// Longest `Idempotency-Key`. Longer: 422.
pub const IDEMPOTENCY_KEY_MAX_BYTES: usize = 255;
/// A request's answer is given again under the same key for so long.
pub const IDEMPOTENCY_KEEP_MS: u64 = 86_400_000;
/// Answers remembered. More: the oldest is forgotten.
pub const IDEMPOTENCY_KEYS_MAX: usize = 100_000;
/// All answers remembered together. More: the oldest is forgotten.
pub const IDEMPOTENCY_ANSWERS_MAX_BYTES: usize = 64 << 20;
/// Steps of one template for one recipient. More: 422.
pub const TEMPLATE_STEPS_MAX: u64 = 1_000_000;
/// Orders to hold that stand at a time. More: 422.
pub const HOLDS_MAX: usize = 10_000;
/// Shards are asked what they do no more often than this.
pub const STATS_AGE_MS: u64 = 1000;
/// Sites that one shard tells of when asked, those with most jobs; the others are only counted.
pub const SITES_REPORTED_MAX: usize = 1000;
/// Sites with series of their own in the metrics, those with most jobs.
pub const SITES_IN_METRICS_MAX: usize = 100;

// ---- TLS reports ----

/// A day, by which reports are made.
pub const DAY_MS: u64 = 86_400_000;
/// Domains whose sessions are counted for reports in a day (RPT-01). More: their sessions are left out, and the log says how many.
pub const TLS_REPORT_DOMAINS_MAX: usize = 20_000;
/// Policies of one domain in a day's report. More: their sessions are left out.
pub const TLS_REPORT_POLICIES_MAX: usize = 16;
/// Rows of failures under one policy in a report. More: counted in rows that tell nothing but the kind of failure.
pub const TLS_REPORT_ROWS_MAX: usize = 64;
/// Records or lines of one policy in a report, and hosts that it names. More: left out of it.
pub const TLS_REPORT_POLICY_MAX_BYTES: usize = 16 << 10;
/// What a mail host calls itself, and the reason of a failure, in a report. Longer: cut.
pub const TLS_REPORT_TEXT_MAX_BYTES: usize = 255;
/// One domain's report before compression; the bounds above keep it.
pub const TLS_REPORT_MAX_BYTES: usize = 4 << 20;
/// What is counted of one day, about. More: no new domain, policy or row.
pub const TLS_REPORT_DAY_MAX_BYTES: usize = 64 << 20;
/// Destinations of one domain's report. More: the first ones get it.
pub const TLS_REPORT_URIS_MAX: usize = 8;
/// Longest URI of a destination. Longer: it gets none.
pub const TLS_REPORT_URI_MAX_BYTES: usize = 1024;
/// Domains for which one session is counted. More: it is not counted for them.
pub const TLS_REPORT_DOMAINS_OF_SESSION_MAX: usize = 64;
/// Sessions that one shard hands over for counting at a time, or after the time below.
pub const TLS_REPORT_BATCH: usize = 64;
/// A session is handed over for counting after so long.
pub const TLS_REPORT_BATCH_MS: u64 = 1000;
/// Batches that wait for being counted. More: left out, and the log says how many sessions.
pub const TLS_REPORT_BATCHES_MAX: usize = 1024;
/// What was counted is written down so long after it changed; a crash loses no more than that.
pub const TLS_REPORT_WRITE_PAUSE_MS: u64 = 30_000;
/// Reports made at a time.
pub const TLS_REPORTS_AT_ONCE: usize = 64;
/// A web server may take so long for a report.
pub const TLS_REPORT_POST_MS: u64 = 60_000;
/// The first pause before a report is tried again; it doubles each time.
pub const TLS_REPORT_RETRY_FIRST_MS: u64 = 5000;
/// The longest of these pauses.
pub const TLS_REPORT_RETRY_LONGEST_MS: u64 = 4 * 3_600_000;
/// A report is tried for so long after its first attempt (RFC 8460 5.5). Over: it is given up.
pub const TLS_REPORT_RETRIES_MS: u64 = 86_400_000;
/// A day's reports that nobody sent by then, for the relay did not run, are thrown away.
pub const TLS_REPORT_KEEP_MS: u64 = 3 * 86_400_000;
/// Reports are spread over so long after midnight (`tls.report_delay_ms`; RFC 8460 4.1).
pub const TLS_REPORT_DELAY_MS: u64 = 4 * 3_600_000;

const _: () = assert!(SEGMENT_MIN_BYTES as usize >= 2 * BLOCK_MAX_BYTES + SEGMENT_RESERVE_BYTES as usize);
const _: () = assert!(SEGMENT_LATE_BYTES > 2 * SEGMENT_RESERVE_BYTES);
const _: () = assert!(BLOCK_MIN_BYTES <= BATCH_FULL_BYTES && BATCH_FULL_BYTES <= BLOCK_MAX_BYTES);
const _: () = assert!(CHUNK_MIN_BYTES <= CHUNK_MAX_BYTES && CHUNK_MAX_BYTES <= BATCH_FULL_BYTES);
const _: () =
    assert!(BLOCK_MAX_BYTES.is_multiple_of(DISK_ALIGN_BYTES) && BLOCK_MIN_BYTES.is_multiple_of(DISK_ALIGN_BYTES));
const _: () = assert!(RECIPIENTS_MAX >= 100, "RFC 5321 4.5.3.1.8");
const _: () = assert!(MESSAGE_MAX_BYTES >= 64 << 10, "RFC 5321 4.5.3.1.7");
const _: () = assert!(
    RECIPIENTS_MAX_BYTES + ENVELOPE_PARAMETERS_MAX_BYTES + CHUNK_MAX_BYTES + 64 * 1024 + 16 * 1024 <= BLOCK_MAX_BYTES,
    "the accepting record of the largest envelope fits one block"
);
const _: () = assert!(RECIPIENTS_MAX * (PATH_MAX_BYTES + 16) + PATH_MAX_BYTES <= RECIPIENTS_MAX_BYTES);
const _: () = assert!(EXPANDED_RECIPIENTS_MAX <= u16::MAX as usize, "recipients are numbered with 16 bits");
const _: () = assert!(EXPANDED_RECIPIENTS_MAX * 21 + 2048 <= ENVELOPE_PARAMETERS_MAX_BYTES, "NOTIFY of each fits");
const _: () = assert!(
    MESSAGE_CEILING_BYTES * 4 / 3 / CHUNK_MIN_BYTES as u64 * 12 <= 64 * 1024,
    "the chunk list (12 bytes a chunk) of the largest message, stuffed a dot to every three bytes, fits its record"
);
const _: () = assert!(MESSAGE_MAX_BYTES <= MESSAGE_CEILING_BYTES && SEGMENT_BYTES <= SEGMENT_CEILING_BYTES);
const _: () = assert!(SEGMENT_MIN_BYTES <= SEGMENT_BYTES);
const _: () = assert!(TLS_KEPT_MAX_BYTES < RECEIVE_BYTES, "what is kept stands in front of what is read");
const _: () = assert!(COMMAND_LINE_MAX_BYTES >= 1036, "SIZ-03");
const _: () = assert!(PREFIX_MAX_BYTES >= TRACE_MAX_BYTES + 512 + 2 * DKIM_FIELD_MAX_BYTES, "a key of each kind signs");
const _: () = assert!(TRACE_MAX_BYTES >= 2 * DOMAIN_MAX_BYTES + PATH_MAX_BYTES + 512);

const _: () = assert!(
    TLS_REPORT_POLICIES_MAX
        * (4 * TLS_REPORT_POLICY_MAX_BYTES
            + (TLS_REPORT_ROWS_MAX + 10) * (DOMAIN_MAX_BYTES + 2 * 2 * TLS_REPORT_TEXT_MAX_BYTES + 512))
        <= TLS_REPORT_MAX_BYTES,
    "a report with all that there may be in it, escaped"
);
#[cfg(test)]
mod tests;
