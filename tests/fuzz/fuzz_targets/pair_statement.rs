#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atedge_tests::fuzz::run("pair_statement", data));
