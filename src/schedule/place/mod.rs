//! Placement: which queue computes which part of a graph, and the graph cut into what each computes.
//!
//! In: a bound graph, what the queues take ([`Costs`]) and what was asked for ([`Rule`]). Out: a
//! [`Split`]: graphs of one queue each, in the order of a run, with where their inputs come from.
//!
//! ```text
//! Graph ─units→ Units ─assign→ a queue for each ─timeline→ segments ─cut→ a Graph for each segment
//! ```
//!
//! Names and numbers of values are those of `inspect graph`: placement comes before composites are
//! expanded, so that one of them is never torn apart.

mod assign;
mod components;
pub mod cost;
mod cut;
mod rules;
mod timeline;
mod units;

pub use assign::Placing;
pub use cost::{Abilities, Accelerator, Costs};
pub use cut::{Origin, Part, Split};
pub use rules::{Rule, Rules, rule_sources};
pub use units::Units;

use super::program::Queue;

/// The queues by number: tables of two have an entry for each.
pub const QUEUES: [Queue; 2] = [Queue::Cpu, Queue::Gpu];

/// The number of a queue.
pub fn number(queue: Queue) -> usize {
    match queue {
        Queue::Cpu => 0,
        Queue::Gpu => 1,
    }
}

/// The queue that this one is not.
pub fn other(queue: Queue) -> Queue {
    match queue {
        Queue::Cpu => Queue::Gpu,
        Queue::Gpu => Queue::Cpu,
    }
}
