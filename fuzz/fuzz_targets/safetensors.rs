//! Weights: `cargo +nightly fuzz run safetensors`.
//!
//! The property is `dlc::import::safetensors::fuzz`, which the stable test `fuzz::safetensors` runs too.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlc::import::safetensors::fuzz(data);
});
