//! Which values are known before the first run: computed from parameters and constants alone.

use super::class_of;
use crate::ir::op::{Class, Source};
use crate::ir::{Graph, NodeId, Value};

/// Answers for a graph that only grows; each node is looked at once.
#[derive(Default)]
pub struct Known {
    known: Vec<bool>,
}

impl Known {
    /// Whether a value depends on parameters and constants only.
    pub fn is_known(&mut self, graph: &Graph, v: Value) -> bool {
        while self.known.len() <= v.node.0 as usize {
            let id = NodeId(self.known.len() as u32);
            let answer = graph.contains(id) && self.node(graph, id);
            self.known.push(answer);
        }
        self.known[v.node.0 as usize]
    }

    fn node(&self, graph: &Graph, id: NodeId) -> bool {
        let node = graph.node(id);
        if !node.operands().is_empty() {
            let before = |v: &Value| self.known.get(v.node.0 as usize) == Some(&true);
            return node.regions.is_empty() && node.operands().iter().all(before);
        }
        match class_of(graph, node) {
            Class::Source(Source::Param | Source::Constant | Source::Iota { .. }) => true,
            Class::Source(Source::Input | Source::State)
            | Class::Elementwise(_)
            | Class::Reduce(_)
            | Class::View(_)
            | Class::Contract(_)
            | Class::Window(_)
            | Class::Gather { .. }
            | Class::Scatter(_)
            | Class::UpdateSlice { .. }
            | Class::Sort(_)
            | Class::Region(_)
            | Class::Composite => false,
        }
    }
}
