//! What must hold of every graph. This list is the specification; each check below names its line.
//!
//!  1. *operands*: every operand is an existing result of a node of the same graph.
//!  2. *edges*: the edges into a node are those that its operand vector calls for.
//!  3. *acyclic*: no node depends on itself.
//!  4. *present*: an op has no more presence bits than its row has operands; an operand of arity
//!     `One` or `Variadic` is present; as many operands are there as the bits say.
//!  5. *attributes*: one for each entry of the row's schema, of the entry's kind; a word is one of
//!     the schema's; only an attribute whose default is absence may be absent.
//!  6. *types*: the types of a node's results are those that its row infers.
//!  7. *signature*: the graph's lists of inputs, params and states hold exactly its nodes of that
//!     class, each once; outputs and next values are existing results.
//!  8. *state*: a state's next value has the state's type.
//!  9. *names*: names of inputs are unique, so are the paths of params and states together, so are
//!     the names of outputs and declared dimensions; a name given by `as` belongs to one value and to
//!     an existing result.
//! 10. *regions*: an op has as many regions as its kind needs; a region is a graph for which all of
//!     this holds, without params and states; its inputs are the op's carries, slices and captures
//!     in type and number, its outputs what the op passes on.
//! 11. *dims*: bounds are 0 ≤ low ≤ high, and no constant extent is negative.
//! 12. *compact* ([`verify_compact`] only): ids are 0..n in canonical order.

use std::collections::BTreeSet;
use std::fmt;

use super::attr::{Attr, AttrKind, Preset};
use super::graph::{Graph, NodeId, Value};
use super::op::{Arity, Class, OpCtx, RegionKind, Source};
use crate::base::{Shape, TensorType};

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which one: the word in the list above.
    pub invariant: &'static str,
    /// The node at fault; in a region, of the region's graph.
    pub node: Option<NodeId>,
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Some(id) => write!(f, "{}: node {}: {}", self.invariant, id.0, self.message),
            None => write!(f, "{}: {}", self.invariant, self.message),
        }
    }
}

/// Checks everything but compactness. Stops early only where later checks would make no sense.
pub fn verify(graph: &Graph) -> Result<(), Vec<Violation>> {
    let mut v = Verifier { graph, found: vec![] };
    v.check();
    if v.found.is_empty() { Ok(()) } else { Err(v.found) }
}

/// [`verify`], and that ids are compact, in regions too.
pub fn verify_compact(graph: &Graph) -> Result<(), Vec<Violation>> {
    verify(graph)?;
    let in_order = graph.canonical_order().into_iter().enumerate();
    for (i, id) in in_order {
        if id.0 as usize != i {
            let message = format!("stands at position {i} of the canonical order");
            return Err(vec![Violation { invariant: "compact", node: Some(id), message }]);
        }
        graph.node(id).regions.iter().try_for_each(verify_compact)?;
    }
    Ok(())
}

struct Verifier<'a> {
    graph: &'a Graph,
    found: Vec<Violation>,
}

impl Verifier<'_> {
    fn fail(&mut self, invariant: &'static str, node: impl Into<Option<NodeId>>, message: String) {
        self.found.push(Violation { invariant, node: node.into(), message });
    }

    fn check(&mut self) {
        let ids: Vec<NodeId> = self.graph.ids().collect();
        for id in &ids {
            self.operands(*id);
        }
        self.value_lists();
        if !self.found.is_empty() {
            return;
        }
        if !self.graph.is_acyclic() {
            self.fail("acyclic", None, "some node depends on itself".into());
            return;
        }
        for id in &ids {
            self.present(*id);
            self.attributes(*id);
        }
        if !self.found.is_empty() {
            return;
        }
        for id in &ids {
            // A class may only be asked for where inference is content.
            let before = self.found.len();
            self.types(*id);
            if self.found.len() == before {
                self.regions(*id);
            }
        }
        if self.found.is_empty() {
            self.signature();
            self.names();
            self.dims();
        }
    }

    fn exists(&self, v: Value) -> bool {
        self.graph.contains(v.node) && (v.result as usize) < self.graph.node(v.node).results.len()
    }

    fn operands(&mut self, id: NodeId) {
        for (k, v) in self.graph.node(id).operands().iter().enumerate() {
            if !self.exists(*v) {
                self.fail("operands", id, format!("operand {k} is {v:?}, which does not exist"));
                return;
            }
        }
        if !self.graph.edges_agree(id) {
            self.fail("edges", id, "the edges are not those of the operands".into());
        }
    }

    fn value_lists(&mut self) {
        let g = self.graph;
        for o in g.outputs.iter().filter(|o| !self.exists(o.value)).collect::<Vec<_>>() {
            self.fail("signature", None, format!("output `{}` does not exist", o.name));
        }
        for s in g.states.iter().filter(|s| !self.exists(s.next)).collect::<Vec<_>>() {
            self.fail("signature", s.node, "its next value does not exist".into());
        }
        let states = g.states.iter().map(|s| &s.node);
        for id in g.inputs.iter().chain(&g.params).chain(states) {
            if !g.contains(*id) {
                self.fail("signature", *id, "is in the signature and not in the graph".into());
            }
        }
    }

    fn present(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let rows = node.op.row.operands;
        if (node.op.present as u64) >> rows.len() != 0 {
            self.fail("present", id, "a presence bit beyond the row's operands".into());
            return;
        }
        let mut fixed = 0;
        let mut variadic = false;
        for (i, spec) in rows.iter().enumerate() {
            let here = node.op.present >> i & 1 == 1;
            match spec.arity {
                Arity::One if !here => {
                    self.fail("present", id, format!("operand `{}` is missing", spec.name));
                }
                Arity::One | Arity::Optional => fixed += usize::from(here),
                Arity::Variadic if !here => {
                    self.fail("present", id, format!("operand `{}` is marked absent", spec.name));
                }
                Arity::Variadic => variadic = true,
            }
        }
        let n = node.operands().len();
        if n < fixed || (n > fixed && !variadic) {
            let name = node.op.row.name;
            self.fail("present", id, format!("`{name}` has {n} operands, its bits say {fixed}"));
        }
    }

    fn attributes(&mut self, id: NodeId) {
        let op = &self.graph.node(id).op;
        if op.attrs.len() != op.row.attrs.len() {
            let (n, m) = (op.attrs.len(), op.row.attrs.len());
            self.fail("attributes", id, format!("{n} attributes for a schema of {m}"));
            return;
        }
        for (spec, value) in op.row.attrs.iter().zip(&op.attrs) {
            if !fits(spec.kind, spec.default, value) {
                let message = format!("`{}` is {value:?}, not {:?}", spec.name, spec.kind);
                self.fail("attributes", id, message);
            }
        }
    }

    fn types(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let types = self.graph.op_types(id);
        let ctx = OpCtx { op: &node.op, types: &types, regions: &node.regions };
        match ctx.infer() {
            Ok(inferred) if inferred == node.results => {}
            Ok(inferred) => {
                let (is, be) = (list(&node.results), list(&inferred));
                let name = node.op.row.name;
                self.fail("types", id, format!("`{name}` gives {is}, its row infers {be}"));
            }
            Err(e) => self.fail("types", id, format!("`{}`: {e}", node.op.row.name)),
        }
    }

    fn regions(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let types = self.graph.op_types(id);
        let kind = match self.graph.class(id) {
            Class::Region(kind) => kind,
            Class::Source(_)
            | Class::Elementwise(_)
            | Class::Reduce(_)
            | Class::View(_)
            | Class::Contract(_)
            | Class::Window(_)
            | Class::Gather { .. }
            | Class::Scatter(_)
            | Class::UpdateSlice { .. }
            | Class::Sort(_)
            | Class::Composite => {
                if !node.regions.is_empty() {
                    self.fail("regions", id, format!("`{}` owns no regions", node.op.row.name));
                }
                return;
            }
        };
        let wanted = match kind {
            RegionKind::Scan { .. } | RegionKind::Do => 1,
            RegionKind::Cond => 2,
        };
        if node.regions.len() != wanted {
            self.fail("regions", id, format!("{} regions, not {wanted}", node.regions.len()));
            return;
        }
        let Some((inputs, outputs)) = interface(kind, &types, &node.results) else {
            self.fail("regions", id, "fewer operands than its attributes say".into());
            return;
        };
        for region in &node.regions {
            if !region.params.is_empty() || !region.states.is_empty() {
                self.fail("regions", id, "a region has params or states of its own".into());
            }
            if let Err(inner) = verify(region) {
                self.found.extend(inner);
                continue;
            }
            let has: Vec<TensorType> =
                region.inputs.iter().map(|i| region.node(*i).results[0].clone()).collect();
            if has != inputs {
                let message = format!("a region takes {}, not {}", list(&has), list(&inputs));
                self.fail("regions", id, message);
            }
            let has: Vec<TensorType> =
                region.outputs.iter().map(|o| region.ty(o.value).clone()).collect();
            if has != outputs {
                let message = format!("a region yields {}, not {}", list(&has), list(&outputs));
                self.fail("regions", id, message);
            }
        }
    }

    fn signature(&mut self) {
        let g = self.graph;
        let mut listed: BTreeSet<NodeId> = BTreeSet::new();
        let mut lists: Vec<(NodeId, Source)> = vec![];
        lists.extend(g.inputs.iter().map(|i| (*i, Source::Input)));
        lists.extend(g.params.iter().map(|i| (*i, Source::Param)));
        lists.extend(g.states.iter().map(|s| (s.node, Source::State)));
        for (id, source) in lists {
            if g.class(id) != Class::Source(source) {
                self.fail("signature", id, format!("is listed as {source:?} and is not one"));
            }
            if !listed.insert(id) {
                self.fail("signature", id, "is listed twice".into());
            }
        }
        for id in g.ids().filter(|id| !listed.contains(id)) {
            if let Class::Source(s @ (Source::Input | Source::Param | Source::State)) = g.class(id)
            {
                self.fail("signature", id, format!("is {s:?} and not listed"));
            }
        }
        for s in &g.states {
            let (is, next) = (&g.node(s.node).results[0], g.ty(s.next));
            if is != next {
                self.fail("state", s.node, format!("is {is}, its next value {next}"));
            }
        }
    }

    fn names(&mut self) {
        let g = self.graph;
        let name = |id: &NodeId| g.node(*id).op.str("name").to_string();
        self.unique("inputs", g.inputs.iter().map(name).collect());
        let states = g.states.iter().map(|s| &s.node);
        self.unique("params and states", g.params.iter().chain(states).map(name).collect());
        self.unique("outputs", g.outputs.iter().map(|o| o.name.to_string()).collect());
        self.unique("dims", g.dims.iter().map(|d| d.symbol.0.to_string()).collect());
        let given = g.ids().flat_map(|id| g.node(id).names.iter().map(|(_, n)| n.to_string()));
        self.unique("named values", given.collect());
        for id in g.ids() {
            let node = g.node(id);
            if node.names.iter().any(|(r, _)| *r as usize >= node.results.len()) {
                self.fail("names", id, "names a result that it does not have".into());
            }
        }
    }

    fn unique(&mut self, what: &str, mut names: Vec<String>) {
        names.sort();
        for pair in names.windows(2).filter(|p| p[0] == p[1]) {
            self.fail("names", None, format!("two {what} are called `{}`", pair[0]));
        }
    }

    fn dims(&mut self) {
        for d in &self.graph.dims {
            if d.low < 0 || d.high.is_some_and(|h| h < d.low) {
                self.fail("dims", None, format!("`{}` has no value in its bounds", d.symbol));
            }
        }
        for id in self.graph.ids() {
            let extents = self.graph.node(id).results.iter().flat_map(|t| t.shape.dims());
            if extents.filter_map(|d| d.as_const()).any(|d| d < 0) {
                self.fail("dims", id, "a negative extent".into());
            }
        }
    }
}

/// The types that the regions of a node take and yield.
fn interface(
    kind: RegionKind,
    operands: &[TensorType],
    results: &[TensorType],
) -> Option<(Vec<TensorType>, Vec<TensorType>)> {
    // One step of a sequence: its outermost axis is gone.
    let slice =
        |t: &TensorType| Some(TensorType::new(t.dtype, Shape(t.shape.dims().get(1..)?.to_vec())));
    match kind {
        RegionKind::Scan { carries, sequences, .. } => {
            let captures = operands.get(carries + sequences..)?;
            let steps: Option<Vec<_>> =
                operands[carries..carries + sequences].iter().map(slice).collect();
            let stacked: Option<Vec<_>> = results.get(carries..)?.iter().map(slice).collect();
            Some((
                [&operands[..carries], &steps?, captures].concat(),
                [&operands[..carries], &stacked?].concat(),
            ))
        }
        RegionKind::Cond => Some((operands.get(1..)?.to_vec(), results.to_vec())),
        RegionKind::Do => Some((operands.to_vec(), results.to_vec())),
    }
}

/// Whether a value is one that the schema allows.
fn fits(kind: AttrKind, default: Preset, value: &Attr) -> bool {
    if *value == Attr::None {
        return default == Preset::None;
    }
    match kind {
        AttrKind::Int => matches!(value, Attr::Int(_)),
        AttrKind::Float => matches!(value, Attr::Float(_) | Attr::Int(_)),
        AttrKind::Bool => matches!(value, Attr::Bool(_)),
        AttrKind::Word(words) => matches!(value, Attr::Str(s) if words.contains(&s.as_str())),
        AttrKind::Str => matches!(value, Attr::Str(_)),
        AttrKind::Ints => matches!(value, Attr::Ints(_) | Attr::Int(_)),
        AttrKind::Dims => matches!(value, Attr::Dims(_) | Attr::Ints(_) | Attr::Int(_)),
        AttrKind::DType => matches!(value, Attr::DType(_)),
        AttrKind::Tensor => matches!(value, Attr::Tensor(_)),
        AttrKind::IntsOr(words) => match value {
            Attr::Str(s) => words.contains(&s.as_str()),
            other => matches!(other, Attr::Ints(_) | Attr::Int(_)),
        },
    }
}

fn list(types: &[TensorType]) -> String {
    let texts: Vec<String> = types.iter().map(TensorType::to_string).collect();
    format!("({})", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DType, Tensor};
    use crate::ir::op::Op;
    use crate::ir::{Builder, Node, op};

    fn broken(g: &Graph) -> Vec<&'static str> {
        verify(g).err().unwrap_or_default().into_iter().map(|v| v.invariant).collect()
    }

    fn small() -> (Graph, Value, Value) {
        let mut g = Graph::new("g");
        let mut b = Builder::new(&mut g);
        let x = b.input("x", TensorType::of(DType::F32, &[2]));
        let s = b.state("s", TensorType::of(DType::F32, &[2]), "zeros");
        b.output("y", x);
        (g, x, s)
    }

    #[test]
    fn a_good_graph_passes() {
        let (mut g, ..) = small();
        assert_eq!(broken(&g), Vec::<&str>::new());
        g.compact();
        assert_eq!(verify_compact(&g), Ok(()));
    }

    #[test]
    fn each_broken_invariant_is_named() {
        let (mut g, x, _) = small();
        g.node_mut(x.node).results[0] = TensorType::of(DType::F32, &[3]);
        assert_eq!(broken(&g), ["types"]);

        let (mut g, x, _) = small();
        g.inputs.clear();
        assert_eq!(broken(&g), ["signature"]);
        g.inputs = vec![x.node, x.node];
        assert!(broken(&g).contains(&"signature"));

        let (mut g, _, s) = small();
        let next = Builder::new(&mut g).constant(Tensor::from_slice(&[1], &[0f32]));
        g.states[0].next = next;
        assert_eq!(broken(&g), ["state"]);
        g.states[0].next = Value { node: s.node, result: 4 };
        assert_eq!(broken(&g), ["signature"]);

        let (mut g, x, _) = small();
        g.outputs.push(crate::ir::graph::Output { name: "y".into(), value: x });
        assert_eq!(broken(&g), ["names"]);

        let (mut g, x, _) = small();
        g.node_mut(x.node).op.attrs[0] = Attr::Int(1);
        assert_eq!(broken(&g), ["attributes"]);

        let (mut g, x, _) = small();
        g.node_mut(x.node).op.present = 1;
        assert_eq!(broken(&g), ["present"]);

        let (mut g, x, _) = small();
        g.node_mut(x.node).regions.push(Graph::new("r"));
        assert_eq!(broken(&g), ["regions"]);

        let (mut g, ..) = small();
        let row = op::find("constant").unwrap();
        let value = Tensor::from_slice(&[1], &[0f32]);
        let ty = value.ty();
        let op = Op::new(row, &[("value", Attr::Tensor(value))]);
        let missing = Value { node: NodeId(0), result: 7 };
        g.add(Node::new(op, vec![missing], vec![ty]));
        assert_eq!(broken(&g), ["operands"]);
    }

    #[test]
    fn ids_out_of_order_are_not_compact() {
        let mut g = Graph::new("g");
        let mut b = Builder::new(&mut g);
        b.param("w", TensorType::of(DType::F32, &[2]), "zeros", false);
        b.input("x", TensorType::of(DType::F32, &[2]));
        assert_eq!(verify(&g), Ok(()));
        assert_eq!(verify_compact(&g).unwrap_err()[0].invariant, "compact");
        g.compact();
        assert_eq!(verify_compact(&g), Ok(()));
    }
}
