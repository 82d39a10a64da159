//! What the fuzzer feeds: one module per target, each with `run`, which panics when what must hold does not.
//!
//! Shared by the fuzzing binaries beside it and by `tests/corpus.rs`, which replays what is kept. A target takes any
//! bytes; where bytes are cut, the places follow from the bytes themselves, so that a corpus of texts stays
//! one of texts. `docs/fuzzing.md` says how to run it. What reads outside the pure core is there with the feature `runtime` alone,
//! here and in Ringpost itself.

pub mod address;
pub mod aliases;
pub mod auth;
pub mod bdat;
pub mod client;
pub mod command;
pub mod config;
pub mod damage;
pub mod data;
pub mod dkim;
pub mod dsn;
#[cfg(feature = "runtime")]
pub mod given;
#[cfg(feature = "runtime")]
pub mod letter;
pub mod line;
pub mod message_id;
#[cfg(feature = "runtime")]
pub mod orders;
#[cfg(feature = "runtime")]
pub mod prover;
pub mod proxy;
pub mod record;
pub mod recovery;
pub mod reply;
#[cfg(feature = "runtime")]
pub mod report_files;
pub mod server;
#[cfg(feature = "runtime")]
pub mod service;
pub mod socks;
pub mod sts;
pub mod sts_store;
#[cfg(feature = "runtime")]
pub mod template;
pub mod tls_report;
pub mod trace;
#[cfg(feature = "runtime")]
pub mod users;
pub mod warm_up;
pub mod xclient;

use ringpost::base::rng::Rng;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("address", address::run),
    ("aliases", aliases::run),
    ("auth", auth::run),
    ("bdat", bdat::run),
    ("client", client::run),
    ("command", command::run),
    ("config", config::run),
    ("damage", damage::run),
    ("data", data::run),
    ("dkim", dkim::run),
    ("dsn", dsn::run),
    #[cfg(feature = "runtime")]
    ("given", given::run),
    #[cfg(feature = "runtime")]
    ("letter", letter::run),
    ("line", line::run),
    ("message_id", message_id::run),
    #[cfg(feature = "runtime")]
    ("orders", orders::run),
    #[cfg(feature = "runtime")]
    ("prover", prover::run),
    ("proxy", proxy::run),
    ("record", record::run),
    ("recovery", recovery::run),
    ("reply", reply::run),
    #[cfg(feature = "runtime")]
    ("report_files", report_files::run),
    ("server", server::run),
    #[cfg(feature = "runtime")]
    ("service", service::run),
    ("socks", socks::run),
    ("sts", sts::run),
    ("sts_store", sts_store::run),
    #[cfg(feature = "runtime")]
    ("template", template::run),
    ("tls_report", tls_report::run),
    ("trace", trace::run),
    #[cfg(feature = "runtime")]
    ("users", users::run),
    ("warm_up", warm_up::run),
    ("xclient", xclient::run),
];

/// Randomness that follows from the input (FNV-1a).
fn rng(data: &[u8]) -> Rng {
    Rng::new(data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &b| (sum ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
}

/// The input cut at up to five places, among them perhaps the same one twice.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut rng = rng(data);
    let mut at: Vec<usize> = (0..rng.below(6)).map(|_| rng.below(data.len() as u64 + 1) as usize).collect();
    at.extend([0, data.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
}

/// The input byte by byte, or in crumbs if it is long.
fn crumbs(data: &[u8]) -> Vec<&[u8]> {
    data.chunks(1 + data.len() / 1000).collect()
}

/// Little numbers from the front of an input; zeros when it is used up.
struct Numbers<'a>(&'a [u8]);

impl<'a> Numbers<'a> {
    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.u8()))
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
