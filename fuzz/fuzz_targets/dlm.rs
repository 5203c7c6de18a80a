//! Compiled models: `cargo +nightly fuzz run dlm`.
//!
//! The property is `dlc::artifact::dlm::fuzz`, which the stable test `fuzz::dlm` runs too.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlc::artifact::dlm::fuzz(data);
});
