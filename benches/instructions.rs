//! Instructions of the pure parts, counted by callgrind: a regression check that a loaded machine does not blur.
//!
//! `cargo bench --no-default-features --bench instructions`, with Valgrind and `gungraun-runner` installed. It fails where a
//! part needs more instructions than its limit here, which is the figure of the last record and 5 % for other compilers.

#![expect(missing_docs, reason = "the benchmarks' macros make items without a word")]

mod world;

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use ringpost::base::bytes::HeapBlocks;
use ringpost::smtp::data::{DataDecoder, Step};
use world::{ENVELOPE, World, message};

/// Messages that warm a world up.
const WARM_MESSAGES: u32 = 200;

fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, instructions)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

fn warm(size_bytes: usize) -> (World, Vec<u8>) {
    let (mut world, body) = (World::new(Box::new(HeapBlocks), 1), message(size_bytes));
    for _ in 0..WARM_MESSAGES {
        world.say(ENVELOPE);
        world.say(&body);
    }
    world.rest();
    (world, body)
}

// From MAIL to the last verdict. The world is given back so that its end is not counted.
#[library_benchmark]
#[bench::kib_1(args = (1 << 10), setup = warm, config = at_most(LIMIT_1_KIB))]
#[bench::kib_10(args = (10 << 10), setup = warm, config = at_most(LIMIT_10_KIB))]
#[bench::kib_100(args = (100 << 10), setup = warm, config = at_most(LIMIT_100_KIB))]
fn whole_message((mut world, body): (World, Vec<u8>)) -> (World, Vec<u8>) {
    world.say(ENVELOPE);
    world.say(&body);
    (world, body)
}

// The dot codec alone.
#[library_benchmark]
#[bench::kib_100(args = (100 << 10), setup = message, config = at_most(LIMIT_DATA_100_KIB))]
fn data(body: Vec<u8>) -> (Vec<u8>, u64) {
    let (mut decoder, mut input) = (DataDecoder::new(), &body[..]);
    while decoder.step(&mut input) != Step::End {}
    let bytes = decoder.wire_bytes();
    (body, bytes)
}

const LIMIT_1_KIB: u64 = 108_500;
const LIMIT_10_KIB: u64 = 134_500;
const LIMIT_100_KIB: u64 = 484_000;
const LIMIT_DATA_100_KIB: u64 = 105_500;

library_benchmark_group!(name = pure, benchmarks = [whole_message, data]);
main!(library_benchmark_groups = pure);
