//! The integration tests: one binary, so that they link once.

mod ops;
mod ops_reference;
mod random;
