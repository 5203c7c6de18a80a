//! Values on the command line: `cargo +nightly fuzz run value`.
//!
//! The property is `dlc::import::value::fuzz`, which the stable test `fuzz::value` runs too.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlc::import::value::fuzz(data);
});
