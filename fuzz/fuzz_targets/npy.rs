//! NumPy arrays and archives: `cargo +nightly fuzz run npy`.
//!
//! The property is `dlc::import::npy::fuzz`, which the stable test `fuzz::npy` runs too.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlc::import::npy::fuzz(data);
});
