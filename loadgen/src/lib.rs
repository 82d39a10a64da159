//! The instrument: a load generator, a sink and a ledger for SMTP relays. It shares no code with any relay, so that it
//! can be trusted with all of them.
//!
//! The path of a message through it:
//!
//! 1. [`corpus`] makes its text, [`marker`] the field that carries its name, time and checksum;
//! 2. [`client`] is the sending side of the protocol, over bytes alone; [`send`] drives many of them on sockets,
//!    closed loop or as a [`schedule`] tells;
//! 3. the relay under test ([`relay`] starts, kills and measures it) does what it does;
//! 4. [`sink`] is the receiving side: its protocol over bytes alone, its faults, and its sockets;
//! 5. [`ledger`] holds the fate of every recipient on one byte, and says what was lost, duplicated or corrupted;
//! 6. [`run`] puts all this together, and [`report`] prints it;
//! 7. [`compare`] does so with several relays in turn, by commands or by [`recipes`], and [`table`] sets them side by side;
//! 8. [`figures`] makes tables, plots and a page of what was kept;
//! 9. [`floor`] tells what the kernel alone takes for the same bytes.
//!
//! Times are nanoseconds since the Unix epoch, read from one [`clock`] per process that never goes back.

pub mod auth;
pub mod client;
pub mod clock;
pub mod compare;
pub mod corpus;
pub mod disk;
pub mod dns;
pub mod domains;
pub mod figures;
pub mod floor;
pub mod http;
pub mod latency;
pub mod ledger;
pub mod live;
pub mod marker;
pub mod messages;
pub mod outbox;
pub mod progress;
pub mod recipes;
pub mod relay;
pub mod report;
pub mod rng;
pub mod run;
pub mod schedule;
pub mod send;
pub mod series;
pub mod sink;
pub mod system;
pub mod table;
pub mod threads;
pub mod tls;
pub mod trace;
pub mod units;
