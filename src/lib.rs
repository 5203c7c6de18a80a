//! dlc: a deep-learning graph compiler.

pub mod artifact;
pub mod base;
pub mod front;
pub mod import;
pub mod ir;
pub mod kernel;
pub mod model;
pub mod pass;
pub mod pipeline;
pub mod plan;
pub mod runtime;
pub mod schedule;
pub mod session;
pub mod target;
