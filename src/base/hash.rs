//! Hashing of keys that nobody outside chooses.
//!
//! Keys of the compiler's own making (registers, instructions, index expressions) need no defence
//! against collisions on purpose; names that come from files do, and stay with the standard hasher.
//! Nothing may depend on the order in which a map is walked.

use std::hash::{BuildHasher, Hash};

pub use rustc_hash::FxHashMap as FastMap;

pub fn hash_of(key: &impl Hash) -> u64 {
    rustc_hash::FxBuildHasher.hash_one(key)
}
