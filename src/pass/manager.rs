//! The pass manager: runs a list of passes, each to the end or several to a fixed point.
//!
//! In: a graph that verifies, the steps, what the user asked for. Out: a compact graph that verifies,
//! and a row of figures for each execution of a pass. After every pass the graph is compact, so what
//! a dump shows is what the next pass gets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{PassCtx, PassRow, Settings, TABLE, find};
use crate::base::diag::did_you_mean;
use crate::ir::Graph;
use crate::ir::op::OpError;
use crate::ir::verify::{Violation, verify_compact};

/// One line of a pipeline.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Pass(&'static str),
    /// These passes in turn until a round changes nothing, for at most so many rounds.
    Repeat(&'static [&'static str], usize),
}

/// What the user may ask of the manager.
#[derive(Clone, Debug, Default)]
pub struct Control {
    pub settings: Settings,
    /// Verify after each pass, and name the one that broke the graph.
    pub verify_each: bool,
    /// At most so many single rewrites, over all passes: for bisection.
    pub limit: Option<u64>,
    /// Stop after the first execution of this pass.
    pub stop_after: Option<String>,
    /// Run these only, where given.
    pub only: Option<BTreeSet<String>>,
    pub skip: BTreeSet<String>,
}

impl Control {
    /// Takes a `--passes` list: names to run only, or names with a minus to leave out.
    pub fn select(&mut self, list: &str) -> Result<(), PassFailure> {
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            let name = word.strip_prefix('-').unwrap_or(word);
            if find(name).is_none() {
                let near = did_you_mean(name, TABLE.iter().map(|r| r.name)).map(str::to_string);
                return Err(PassFailure::Unknown { name: name.into(), near });
            }
            match word.starts_with('-') {
                true => self.skip.insert(name.into()),
                false => self.only.get_or_insert_default().insert(name.into()),
            };
        }
        Ok(())
    }

    fn runs(&self, name: &str) -> bool {
        !self.skip.contains(name) && self.only.as_ref().is_none_or(|only| only.contains(name))
    }
}

/// One execution of a pass.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PassStat {
    pub pass: &'static str,
    pub ms: f64,
    pub nodes_before: usize,
    pub nodes_after: usize,
    pub rewrites: u64,
    /// Rewrites by rule.
    pub rules: BTreeMap<&'static str, u64>,
}

/// Why a pipeline ended early.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PassFailure {
    #[error("there is no pass `{name}`{}", near.as_ref().map(|n| format!("; did you mean `{n}`?"))
        .unwrap_or_default())]
    Unknown { name: String, near: Option<String> },
    #[error("pass `{pass}` failed: {error}")]
    Op { pass: &'static str, error: OpError },
    #[error("pass `{pass}` broke the graph (last rule: {}): {}", rule.unwrap_or("none"),
        violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; "))]
    Broken { pass: &'static str, rule: Option<&'static str>, violations: Vec<Violation> },
}

/// Runs the steps. `watch` sees the graph after each execution of a pass (for dumps).
pub fn run(
    graph: &mut Graph,
    steps: &[Step],
    control: &Control,
    watch: &mut dyn FnMut(&'static str, &Graph),
) -> Result<Vec<PassStat>, PassFailure> {
    let mut m = Manager {
        control,
        cx: PassCtx::new(control.settings.clone(), control.limit),
        stats: vec![],
        watch,
        stopped: false,
    };
    compact_all(graph);
    for step in steps {
        match *step {
            Step::Pass(name) => {
                m.execute(graph, name)?;
            }
            Step::Repeat(names, rounds) => m.repeat(graph, names, rounds)?,
        }
        if m.stopped {
            break;
        }
    }
    Ok(m.stats)
}

struct Manager<'a> {
    control: &'a Control,
    cx: PassCtx,
    stats: Vec<PassStat>,
    watch: &'a mut dyn FnMut(&'static str, &Graph),
    stopped: bool,
}

impl Manager<'_> {
    /// A pass rests once all passes since its last run, itself included, changed nothing.
    fn repeat(
        &mut self,
        graph: &mut Graph,
        names: &[&'static str],
        rounds: usize,
    ) -> Result<(), PassFailure> {
        let mut quiet = 0;
        for name in names.iter().cycle().take(names.len() * rounds) {
            let changed = self.execute(graph, name)?;
            quiet = if changed { 0 } else { quiet + 1 };
            if self.stopped || quiet >= names.len() {
                break;
            }
        }
        Ok(())
    }

    /// Whether the pass changed anything.
    fn execute(&mut self, graph: &mut Graph, name: &'static str) -> Result<bool, PassFailure> {
        let row = find(name).ok_or(PassFailure::Unknown { name: name.into(), near: None })?;
        if !self.control.runs(name) {
            return Ok(false);
        }
        let nodes_before = count_nodes(graph);
        let start = Instant::now();
        self.cx.made.clear();
        apply(row, graph, &mut self.cx).map_err(|error| PassFailure::Op { pass: name, error })?;
        // A pass that rewrote nothing left the canonical order as it was.
        if self.cx.rewrites() > 0 {
            compact_all(graph);
        }
        let ms = start.elapsed().as_secs_f64() * 1e3;
        if self.control.verify_each {
            verify_compact(graph).map_err(|violations| {
                let rule = self.cx.latest;
                PassFailure::Broken { pass: name, rule, violations }
            })?;
        }
        let rewrites = self.cx.rewrites();
        let rules = self.cx.made.clone();
        let nodes_after = count_nodes(graph);
        self.stats.push(PassStat { pass: name, ms, nodes_before, nodes_after, rewrites, rules });
        (self.watch)(name, graph);
        self.stopped |= self.control.stop_after.as_deref() == Some(name);
        Ok(rewrites > 0)
    }
}

/// Runs a pass on the regions of a graph, innermost first, and then on the graph.
fn apply(row: &PassRow, graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    for id in owners(graph) {
        let mut regions = std::mem::take(&mut graph.node_mut(id).regions);
        for region in &mut regions {
            apply(row, region, cx)?;
        }
        graph.node_mut(id).regions = regions;
    }
    (row.run)(graph, cx)
}

/// Compacts a graph and its regions.
pub fn compact_all(graph: &mut Graph) {
    for id in owners(graph) {
        graph.node_mut(id).regions.iter_mut().for_each(compact_all);
    }
    graph.compact();
}

/// Nodes that own regions.
fn owners(graph: &Graph) -> Vec<crate::ir::NodeId> {
    graph.ids().filter(|id| !graph.node(*id).regions.is_empty()).collect()
}

/// Nodes of a graph, those of its regions too.
fn count_nodes(graph: &Graph) -> usize {
    let inner = |id| graph.node(id).regions.iter().map(count_nodes).sum::<usize>();
    graph.len() + owners(graph).into_iter().map(inner).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DType, Tensor, TensorType};
    use crate::ir::Builder;

    const STEPS: &[Step] = &[Step::Repeat(&["cse", "dce"], 4)];

    /// Two equal constants, one of which is dead in the end, and a dead one.
    fn graph() -> Graph {
        let mut g = Graph::new("g");
        let mut b = Builder::new(&mut g);
        b.input("x", TensorType::of(DType::F32, &[2]));
        let one = b.constant(Tensor::from_slice(&[1], &[1f32]));
        let same = b.constant(Tensor::from_slice(&[1], &[1f32]));
        b.constant(Tensor::from_slice(&[1], &[2f32]));
        b.output("a", one);
        b.output("b", same);
        g
    }

    fn go(control: &Control) -> (Graph, Vec<PassStat>, Vec<&'static str>) {
        let (mut g, mut seen) = (graph(), vec![]);
        let stats = run(&mut g, STEPS, control, &mut |name, _| seen.push(name)).unwrap();
        (g, stats, seen)
    }

    #[test]
    fn runs_to_a_fixed_point_and_counts() {
        let (g, stats, seen) = go(&Control { verify_each: true, ..Control::default() });
        assert_eq!(g.len(), 2);
        assert_eq!(g.outputs[0].value, g.outputs[1].value);
        assert_eq!(seen, ["cse", "dce", "cse", "dce"]);
        assert_eq!((stats[0].nodes_before, stats[0].nodes_after, stats[0].rewrites), (4, 3, 1));
        assert_eq!((stats[1].nodes_after, stats[1].rewrites), (2, 1));
    }

    #[test]
    fn limits_selections_and_stops() {
        let (g, stats, _) = go(&Control { limit: Some(1), ..Control::default() });
        assert_eq!((g.len(), stats.len()), (3, 3));
        let (.., seen) = go(&Control { stop_after: Some("cse".into()), ..Control::default() });
        assert_eq!(seen, ["cse"]);
        let mut only = Control::default();
        only.select("dce").unwrap();
        assert_eq!(go(&only).0.len(), 3);
        let mut skip = Control::default();
        skip.select("-dce,-cse").unwrap();
        assert_eq!(go(&skip).0.len(), 4);
        let unknown = Control::default().select("cze");
        assert_eq!(unknown.unwrap_err().to_string(), "there is no pass `cze`; did you mean `cse`?");
    }

    #[test]
    fn a_broken_graph_names_the_pass() {
        let mut g = graph();
        g.outputs[0].name = "b".into();
        let control = Control { verify_each: true, ..Control::default() };
        let failure = run(&mut g, STEPS, &control, &mut |_, _| {}).unwrap_err();
        assert!(failure.to_string().starts_with("pass `cse` broke the graph"), "{failure}");
    }
}
