//! Arbitrary packets at the gateway: `oracle::hostile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(rule) = oracle::hostile::play(bytes) {
        panic!("{rule}");
    }
});
