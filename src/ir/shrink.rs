//! Shrinks a graph on which something fails to a small one on which it still fails.
//!
//! In: a random graph and a predicate. Out: the smallest graph found by dropping and moving outputs, cutting
//! nodes (a node's results become inputs with the values they had), and stepping over nodes (a result
//! becomes an operand of the same type). Bounded by a number of trials.

use super::Builder;
use super::eval::{Precision, evaluate_all};
use super::graph::{Graph, NodeId, Value};
use super::random::RandomGraph;

/// The smallest failing graph found within so many trials of `fails`.
pub fn shrink(
    start: RandomGraph,
    fails: &mut dyn FnMut(&RandomGraph) -> bool,
    trials: usize,
) -> RandomGraph {
    let mut s = Shrinker { best: start, fails, left: trials };
    loop {
        let before = size(&s.best);
        s.drop_results();
        s.hoist_outputs();
        s.cut_nodes();
        s.step_over_nodes();
        if size(&s.best) == before || s.left == 0 {
            return s.best;
        }
    }
}

fn size(r: &RandomGraph) -> (usize, usize) {
    let states = r.graph.states.iter().filter(|s| s.next.node != s.node).count();
    (r.graph.len(), r.graph.outputs.len() + states)
}

struct Shrinker<'a> {
    best: RandomGraph,
    fails: &'a mut dyn FnMut(&RandomGraph) -> bool,
    left: usize,
}

impl Shrinker<'_> {
    /// Takes a candidate if it is smaller and fails.
    fn offer(&mut self, mut candidate: RandomGraph) -> bool {
        prune(&mut candidate);
        if self.left == 0 || size(&candidate) >= size(&self.best) {
            return false;
        }
        self.left -= 1;
        let taken = (self.fails)(&candidate);
        if taken {
            self.best = candidate;
        }
        taken
    }

    fn drop_results(&mut self) {
        let mut k = self.best.graph.outputs.len();
        while k > 0 {
            k -= 1;
            let mut c = self.best.clone();
            c.graph.outputs.remove(k);
            c.slack.remove(k);
            self.offer(c);
        }
        for k in 0..self.best.graph.states.len() {
            let mut c = self.best.clone();
            // States may have been pruned meanwhile.
            if let Some(state) = c.graph.states.get_mut(k) {
                state.next = Value { node: state.node, result: 0 };
                c.slack[c.graph.outputs.len() + k] = 0.0;
                self.offer(c);
            }
        }
    }

    /// An output becomes an operand of the node that computes it.
    fn hoist_outputs(&mut self) {
        for k in 0..self.best.graph.outputs.len() {
            loop {
                let node = self.best.graph.outputs[k].value.node;
                let operands = self.best.graph.node(node).operands().to_vec();
                let hoisted = operands.into_iter().any(|v| {
                    let mut c = self.best.clone();
                    c.graph.outputs[k].value = v;
                    self.offer(c)
                });
                if !hoisted {
                    break;
                }
            }
        }
    }

    fn cut_nodes(&mut self) {
        let mut i = self.best.graph.len();
        while i > 0 {
            i -= 1;
            if let Some(c) = self.cut(NodeId(i as u32)) {
                self.offer(c);
            }
            i = i.min(self.best.graph.len());
        }
    }

    /// The node's results become inputs.
    fn cut(&self, id: NodeId) -> Option<RandomGraph> {
        let mut c = self.best.clone();
        if !c.graph.contains(id) || c.graph.node(id).operands().is_empty() {
            return None;
        }
        let values = evaluate_all(&c.graph, &c.env, Precision::Own, &|_| true).ok()?;
        for result in 0..c.graph.node(id).results.len() as u16 {
            let old = Value { node: id, result };
            let name = (0..).map(|k| format!("cut{k}")).find(|n| !has_input(&c.graph, n))?;
            let ty = c.graph.ty(old).clone();
            let new = Builder::new(&mut c.graph).input(&name, ty);
            c.graph.replace_uses(old, new);
            c.env.inputs.push(values[&old].clone());
        }
        Some(c)
    }

    fn step_over_nodes(&mut self) {
        let mut i = self.best.graph.len();
        while i > 0 {
            i -= 1;
            if let Some(c) = self.step_over(NodeId(i as u32)) {
                self.offer(c);
            }
            i = i.min(self.best.graph.len());
        }
    }

    fn step_over(&self, id: NodeId) -> Option<RandomGraph> {
        let mut c = self.best.clone();
        let old = Value { node: id, result: 0 };
        if !c.graph.contains(id) {
            return None;
        }
        let operands = c.graph.node(id).operands().to_vec();
        let new = operands.into_iter().find(|v| c.graph.ty(*v) == c.graph.ty(old))?;
        c.graph.replace_uses(old, new);
        Some(c)
    }
}

fn has_input(graph: &Graph, name: &str) -> bool {
    graph.inputs.iter().any(|i| graph.node(*i).op.str("name") == name)
}

/// Removes what no result depends on, sources too.
fn prune(r: &mut RandomGraph) {
    let g = &mut r.graph;
    let mut live = vec![false; g.id_bound()];
    let mut open: Vec<NodeId> = g.outputs.iter().map(|o| o.value.node).collect();
    let moving = g.states.iter().filter(|s| s.next != Value { node: s.node, result: 0 });
    open.extend(moving.flat_map(|s| [s.node, s.next.node]));
    while let Some(id) = open.pop() {
        if !std::mem::replace(&mut live[id.0 as usize], true) {
            open.extend(g.node(id).operands().iter().map(|v| v.node));
        }
    }
    let alive = |id: &NodeId| live[id.0 as usize];
    let keep: Vec<bool> = g.inputs.iter().map(alive).collect();
    filter(&mut g.inputs, &keep);
    filter(&mut r.env.inputs, &keep);
    let keep: Vec<bool> = g.params.iter().map(alive).collect();
    filter(&mut g.params, &keep);
    filter(&mut r.env.params, &keep);
    let keep: Vec<bool> = g.states.iter().map(|s| alive(&s.node)).collect();
    let outputs = g.outputs.len();
    let slack = r.slack[outputs..].iter().zip(&keep).filter(|(_, k)| **k).map(|(s, _)| *s);
    let slack: Vec<f64> = slack.collect();
    r.slack.truncate(outputs);
    r.slack.extend(slack);
    filter(&mut g.states, &keep);
    filter(&mut r.env.states, &keep);
    g.retain(&live);
    g.compact();
}

fn filter<T>(items: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    items.retain(|_| *keep.next().expect("as many marks as items"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op;
    use crate::ir::random::{Limits, random_graph};
    use crate::ir::verify::verify;

    #[test]
    fn finds_the_one_guilty_op() {
        let limits = Limits { ops: 30, ..Limits::default() };
        let guilty = op::find("reshape").unwrap();
        let has =
            |r: &RandomGraph| r.graph.ids().any(|id| std::ptr::eq(r.graph.node(id).op.row, guilty));
        let start = (0..).map(|seed| random_graph(seed, &limits)).find(has).unwrap();
        let small = shrink(start, &mut |r| verify(&r.graph).is_ok() && has(r), 500);
        assert_eq!((small.graph.len(), small.graph.outputs.len()), (2, 1));
        assert!(small.expected().is_ok());
    }
}
