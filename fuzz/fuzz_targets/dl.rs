//! Models as text: `cargo +nightly fuzz run dl`.
//!
//! The property is `dlc::front::fuzz`, which the stable test `fuzz::dl` runs too.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlc::front::fuzz(data);
});
