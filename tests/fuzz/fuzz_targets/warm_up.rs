//! Feeds `warm_up` of `tests/fuzz/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringpost_fuzz::warm_up::run(data));
