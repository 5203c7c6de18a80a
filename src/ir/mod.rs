//! The graph IR: ops, graphs, building, printing, verification and the reference evaluator.

pub mod attr;
pub mod bind;
pub mod builder;
pub mod compare;
pub mod draw;
pub mod eval;
pub mod graph;
pub mod index;
pub mod init;
pub mod op;
pub mod print;
pub mod random;
pub mod scalar;
pub mod scalar_eval;
pub mod shrink;
pub mod verify;

pub use attr::{Attr, AttrKind, AttrSpec, Preset};
pub use builder::Builder;
pub use graph::{Graph, Loc, Node, NodeId, Value};
