//! Feeds `report_files` of `tests/fuzz/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringpost_fuzz::report_files::run(data));
