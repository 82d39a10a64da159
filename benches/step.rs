//! The whole shard without a kernel: a message from MAIL to its last verdict, with disk and peers in memory.
//!
//! `cargo bench --bench step`. What it shows is Ringpost's own work per message, at most a few microseconds of the
//! budget; the rest is the kernel's. A next hop takes everything; the disk is done at once.

mod world;

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::base::bytes::HeapBlocks;
use ringpost::base::checksum::crc32c;
use ringpost::shard::Counters;
use ringpost::smtp::data::{DataDecoder, END_OF_DATA, PlainScan, Step};
use world::{ENVELOPE, World, message};

fn whole_message(c: &mut Criterion) {
    for (name, size) in [("1 KiB", 1024), ("10 KiB", 10 * 1024), ("100 KiB", 100 * 1024)] {
        let mut group = c.benchmark_group("message");
        let body = message(size);
        let mut world = World::new(Box::new(HeapBlocks), 1);
        group.throughput(Throughput::Elements(1));
        let counters = measure(&mut group, name, &mut world, &body);
        assert_eq!((counters.accepted_messages, counters.recipients_open), (world.delivered, 0), "{counters:?}");
        group.finish();
    }
}

/// From MAIL to the last verdict, again and again.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, world: &mut World, body: &[u8]) -> Counters {
    group.bench_function(name, |b| {
        b.iter(|| {
            world.say(ENVELOPE);
            world.say(body);
        });
    });
    world.rest();
    world.shard.counters()
}

/// The same with DKIM signatures, by keys that openssl makes; the ratio to `message/10 KiB` is what they cost (BLK-01).
#[cfg(feature = "runtime")]
fn signed_message(c: &mut Criterion) {
    use ringpost::runtime::signing::{new_digest, read_key};
    let dir = tempfile::tempdir().unwrap();
    let mut group = c.benchmark_group("signed 10 KiB");
    let body = message(10 * 1024);
    let kinds: [(&str, &[&str]); 3] = [
        ("ed25519", &["-algorithm", "ED25519"]),
        ("rsa 2048", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
        ("rsa 4096", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"]),
    ];
    for (name, options) in kinds {
        let file = dir.path().join(name);
        let made = std::process::Command::new("openssl").arg("genpkey").args(options).arg("-out").arg(&file).output();
        assert!(made.unwrap().status.success());
        let mut settings = World::settings();
        settings.dkim.keys.push(ringpost::config::DkimKeySettings {
            name: "key".into(),
            domain: "source.test".into(),
            selector: "s".into(),
            file,
            subdomains: false,
            tenants: Box::default(),
        });
        settings.dkim.read(read_key, new_digest).unwrap();
        let mut world = World::with(settings, Box::new(HeapBlocks), 1);
        let counters = measure(&mut group, name, &mut world, &body);
        assert_eq!((counters.signed_messages, counters.unsigned_messages), (world.delivered, 0), "{counters:?}");
    }
    group.finish();
}

#[cfg(not(feature = "runtime"))]
fn signed_message(_: &mut Criterion) {}

/// What is done to each byte of a body.
fn sweeps(c: &mut Criterion) {
    let body = message(10 * 1024);
    let text = &body[..body.len() - END_OF_DATA.len()];
    let mut group = c.benchmark_group("10 KiB");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("checksum", |b| b.iter(|| crc32c(&[black_box(text)])));
    group.bench_function("judged as DATA", |b| {
        b.iter(|| {
            let (mut decoder, mut input) = (DataDecoder::new(), black_box(&body[..]));
            while decoder.step(&mut input) != Step::End {}
            decoder.wire_bytes()
        });
    });
    group.bench_function("judged as BDAT", |b| {
        b.iter(|| {
            let mut scan = PlainScan::default();
            scan.feed(black_box(text));
            scan.bytes()
        });
    });
    group.finish();
}

criterion_group!(benches, whole_message, signed_message, sweeps);
criterion_main!(benches);
