//! The order of launches: root-op scheduling.
//!
//! Repeatedly one of the *root ops* (steps whose operands are all there) is taken. Two rankings are
//! tried: by the longest path to the end, and by the bytes that taking the step frees; whichever
//! keeps the least memory alive at its worst moment is the order, the first of equals.
//! Steps that follow each other without depending on each other, and that are worth a hand-over to
//! another thread, form one wave.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::ir::graph::{Graph, NodeId, Value};
use crate::ir::op::{Class, RegionKind, Source};

/// Work, in FLOP and bytes together, below which handing a step to another thread does not pay.
const WORTH: u64 = 200_000;
/// Steps above which only the cheap ranking runs.
const MANY: usize = 20_000;

/// The steps (nodes that compute) in order, in waves.
pub fn waves(graph: &Graph, work: &BTreeMap<NodeId, u64>) -> Vec<Vec<NodeId>> {
    let steps = Steps::of(graph);
    let path = steps.longest_paths(work);
    let by_path = steps.take(|i| (path[i], Reverse(i)));
    let order = if steps.ids.len() > MANY {
        by_path
    } else {
        let freed = steps.frees(graph);
        let by_memory = steps.take(|i| (freed[i], path[i], Reverse(i)));
        let peak = |order: &[usize]| steps.peak(graph, order);
        [by_path, by_memory].into_iter().min_by_key(|o| peak(o)).expect("two orders")
    };
    steps.in_waves(&order, work)
}

struct Steps {
    ids: Vec<NodeId>,
    /// Steps that a step reads from, and those that read from it, without repetition.
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
    /// Whether a step needs a wave of its own: repeats begin with copies, which nothing may run beside.
    alone: Vec<bool>,
}

impl Steps {
    fn of(graph: &Graph) -> Steps {
        let is_step = |id: &NodeId| !matches!(graph.class(*id), Class::Source(s) if s != Source::Iota { axis: 0 });
        let ids: Vec<NodeId> = graph.topological().into_iter().filter(is_step).collect();
        let at: BTreeMap<NodeId, usize> = ids.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let mut before: Vec<Vec<usize>> = vec![];
        let mut after = vec![vec![]; ids.len()];
        for (i, id) in ids.iter().enumerate() {
            let operands = graph.node(*id).operands().iter().filter_map(|v| at.get(&v.node));
            let set: BTreeSet<usize> = operands.copied().collect();
            for p in &set {
                after[*p].push(i);
            }
            before.push(set.into_iter().collect());
        }
        let repeats =
            |id: &NodeId| matches!(graph.class(*id), Class::Region(RegionKind::Scan { .. }));
        let alone = ids.iter().map(repeats).collect();
        Steps { ids, before, after, alone }
    }

    /// Work on the longest path from each step to the end.
    fn longest_paths(&self, work: &BTreeMap<NodeId, u64>) -> Vec<u64> {
        let mut path = vec![0u64; self.ids.len()];
        for i in (0..self.ids.len()).rev() {
            let rest = self.after[i].iter().map(|s| path[*s]).max().unwrap_or(0);
            path[i] = rest.saturating_add(work.get(&self.ids[i]).copied().unwrap_or(0) + 1);
        }
        path
    }

    /// Bytes of operands that no other step reads, less the bytes of results.
    fn frees(&self, graph: &Graph) -> Vec<i64> {
        let bytes = |v: Value| graph.ty(v).bytes().unwrap_or(0) as i64;
        let last = |i: usize, p: &usize| self.after[*p].iter().all(|s| *s == i);
        let one = |i: usize| {
            let freed: i64 = self.before[i]
                .iter()
                .filter(|p| last(i, p))
                .map(|p| results(graph, self.ids[*p]).map(bytes).sum::<i64>())
                .sum();
            freed - results(graph, self.ids[i]).map(bytes).sum::<i64>()
        };
        (0..self.ids.len()).map(one).collect()
    }

    /// Always the ready step of the highest rank.
    fn take<K: Ord>(&self, rank: impl Fn(usize) -> K) -> Vec<usize> {
        let mut missing: Vec<usize> = self.before.iter().map(Vec::len).collect();
        let mut ready: BinaryHeap<(K, usize)> =
            (0..self.ids.len()).filter(|i| missing[*i] == 0).map(|i| (rank(i), i)).collect();
        let mut order = Vec::with_capacity(self.ids.len());
        while let Some((_, i)) = ready.pop() {
            order.push(i);
            for s in &self.after[i] {
                missing[*s] -= 1;
                if missing[*s] == 0 {
                    ready.push((rank(*s), *s));
                }
            }
        }
        order
    }

    /// The most bytes of results alive at once.
    fn peak(&self, graph: &Graph, order: &[usize]) -> u64 {
        let mut left: Vec<usize> = self.after.iter().map(Vec::len).collect();
        let size = |i: usize| -> u64 {
            results(graph, self.ids[i]).map(|v| graph.ty(v).bytes().unwrap_or(0)).sum()
        };
        let (mut live, mut peak) = (0u64, 0u64);
        for i in order {
            live += size(*i);
            peak = peak.max(live);
            for p in &self.before[*i] {
                left[*p] -= 1;
                if left[*p] == 0 {
                    live -= size(*p);
                }
            }
        }
        peak
    }

    fn in_waves(&self, order: &[usize], work: &BTreeMap<NodeId, u64>) -> Vec<Vec<NodeId>> {
        let worth =
            |i: usize| !self.alone[i] && work.get(&self.ids[i]).is_some_and(|w| *w >= WORTH);
        let mut waves: Vec<Vec<usize>> = vec![];
        for &i in order {
            let joins = waves.last().is_some_and(|wave| {
                worth(i) && wave.iter().all(|w| worth(*w) && !self.before[i].contains(w))
            });
            match joins {
                true => waves.last_mut().expect("checked").push(i),
                false => waves.push(vec![i]),
            }
        }
        waves.iter().map(|w| w.iter().map(|i| self.ids[*i]).collect()).collect()
    }
}

fn results(graph: &Graph, id: NodeId) -> impl Iterator<Item = Value> + '_ {
    (0..graph.node(id).results.len() as u16).map(move |result| Value { node: id, result })
}
