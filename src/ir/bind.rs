//! Binding of open dimensions: a graph over symbols becomes a graph over integers.
//!
//! In: a graph, values for some or all symbols (given, or solved from the shapes of the inputs at
//! hand). Out: the graph with the values in all types, attributes and regions, each node checked by
//! its row's inference; or every error that was found. Schedules start from bound graphs.

use std::collections::{BTreeMap, BTreeSet};

use super::attr::Attr;
use super::graph::{DimDecl, Graph, NodeId};
use super::op::{OpCtx, OpError};
use crate::base::codes;
use crate::base::diag::did_you_mean;
use crate::base::{Bindings, Dim, Symbol, TensorType};

/// Rounds of solving: each round uses what the one before found.
const ROUNDS: usize = 16;

impl Graph {
    /// The open dimensions that types and attributes mention, with their declared bounds, in the
    /// order of their declaration, then by name.
    pub fn open_dims(&self) -> Vec<DimDecl> {
        let mut found = BTreeSet::new();
        self.collect_symbols(&mut found);
        let mut all: Vec<DimDecl> =
            self.dims.iter().filter(|d| found.remove(&d.symbol)).cloned().collect();
        all.extend(found.into_iter().map(|symbol| DimDecl { symbol, low: 0, high: None }));
        all
    }

    fn collect_symbols(&self, into: &mut BTreeSet<Symbol>) {
        let mut symbols = vec![];
        for id in self.ids() {
            let node = self.node(id);
            let types = node.results.iter().flat_map(|t| t.shape.dims());
            types.for_each(|d| d.symbols(&mut symbols));
            for a in &node.op.attrs {
                if let Attr::Dims(dims) = a {
                    dims.iter().for_each(|d| d.symbols(&mut symbols));
                }
            }
            node.regions.iter().for_each(|r| r.collect_symbols(into));
            into.extend(symbols.drain(..));
        }
    }

    /// The graph with these dimensions bound; others stay open.
    pub fn bind(&self, dims: &Bindings) -> Result<Graph, Vec<OpError>> {
        let open = self.open_dims();
        let mut errors = check_values(&open, dims);
        if errors.is_empty() {
            let mut graph = self.clone();
            graph.substitute(dims, &mut errors);
            graph.dims.retain(|d| !dims.contains_key(&d.symbol));
            if errors.is_empty() {
                return Ok(graph);
            }
        }
        Err(errors)
    }

    /// Substitutes in place, operands before users. Stops at the first node that does not fit, for
    /// its users would only repeat the error.
    fn substitute(&mut self, dims: &Bindings, errors: &mut Vec<OpError>) {
        for id in self.topological() {
            let node = self.node_mut(id);
            for a in &mut node.op.attrs {
                if let Attr::Dims(list) = a {
                    let bound: Option<Vec<Dim>> = list.iter().map(|d| d.bind(dims)).collect();
                    match bound {
                        Some(bound) => *list = bound,
                        None => errors.push(OpError::overflow()),
                    }
                }
            }
            node.regions.iter_mut().for_each(|r| r.substitute(dims, errors));
            if errors.is_empty() {
                match self.inferred(id) {
                    Ok(results) => self.node_mut(id).results = results,
                    Err(e) => errors.push(placed(self, id, e)),
                }
            }
            if !errors.is_empty() {
                return;
            }
        }
        self.dims.retain(|d| !dims.contains_key(&d.symbol));
    }

    fn inferred(&self, id: NodeId) -> Result<Vec<TensorType>, OpError> {
        let node = self.node(id);
        let types = self.op_types(id);
        OpCtx { op: &node.op, types: &types, regions: &node.regions }.infer()
    }
}

/// Every name is open in the graph, every value within its bounds.
fn check_values(open: &[DimDecl], dims: &Bindings) -> Vec<OpError> {
    let mut errors = vec![];
    for (symbol, value) in dims {
        let Some(d) = open.iter().find(|d| d.symbol == *symbol) else {
            let error =
                OpError::new(codes::UNKNOWN_DIM, format!("there is no open dimension `{symbol}`"));
            let names = || open.iter().map(|d| &*d.symbol.0);
            errors.push(match did_you_mean(&symbol.0, names()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None if open.is_empty() => error.help("the model has no open dimensions"),
                None => error.help(format!("open are: {}", names().collect::<Vec<_>>().join(", "))),
            });
            continue;
        };
        if *value < d.low || d.high.is_some_and(|h| *value > h) {
            let range = match d.high {
                Some(h) => format!("{}..={h}", d.low),
                None => format!("at least {}", d.low),
            };
            let message = format!("dimension `{symbol}` is {value}, out of its range");
            errors.push(
                OpError::new(codes::DIM_RANGE, message).note(format!("`{symbol}` is {range}")),
            );
        }
    }
    errors
}

fn placed(graph: &Graph, id: NodeId, error: OpError) -> OpError {
    match &graph.node(id).loc {
        Some(l) => error.note(format!("at {}:{}:{}", l.file, l.line, l.column)),
        None => error,
    }
}

/// Solves the open dimensions of a graph from the shapes of its inputs (in the order of the
/// signature), beginning with those already known. The result holds `known` too.
pub fn solve(
    graph: &Graph,
    shapes: &[Vec<usize>],
    known: &Bindings,
) -> Result<Bindings, Vec<OpError>> {
    let mut found = known.clone();
    let mut errors = vec![];
    let mut equations: Vec<Equation> = vec![];
    for (id, shape) in graph.inputs.iter().zip(shapes) {
        let node = graph.node(*id);
        let (name, ty) = (node.op.str("name"), &node.results[0]);
        if ty.rank() != shape.len() {
            let message =
                format!("input `{name}` has {} axes, the model takes {}", shape.len(), ty.rank());
            let note = format!("`{name}` is {ty}, given was {}", crate::base::Shape::of(shape));
            errors.push(OpError::new(codes::INPUT_SHAPE, message).note(note));
            continue;
        }
        for (axis, (dim, extent)) in ty.shape.dims().iter().zip(shape).enumerate() {
            equations.push(Equation { input: name, axis, dim, extent: *extent as i64 });
        }
    }
    // Who determined a symbol, for the message where two inputs disagree.
    let mut origin: BTreeMap<Symbol, (&str, usize)> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let before = found.len();
        for e in &equations {
            if let Some((symbol, value)) = e.solve(&found) {
                origin.insert(symbol.clone(), (e.input, e.axis));
                found.insert(symbol, value);
            }
        }
        if found.len() == before {
            break;
        }
    }
    for e in &equations {
        if let Some(bound) = e.dim.bind(&found).and_then(|d| d.as_const())
            && bound != e.extent
        {
            errors.push(e.mismatch(bound, &origin, known));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let open = graph.open_dims();
    let missing: Vec<&DimDecl> = open.iter().filter(|d| !found.contains_key(&d.symbol)).collect();
    for d in missing {
        let message = format!("no input determines the dimension `{}`", d.symbol);
        let help = format!("set it: `--set {}=…`", d.symbol);
        errors.push(OpError::new(codes::OPEN_DIM, message).help(help));
    }
    errors.extend(check_values(&open, &found));
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

/// One axis of one input: `dim = extent`.
struct Equation<'a> {
    input: &'a str,
    axis: usize,
    dim: &'a Dim,
    extent: i64,
}

impl Equation<'_> {
    /// The value of the only unknown symbol, where the dimension is linear in it and the solution a
    /// whole number. With `f(s) = a·s + b` at three points: `b = f(0)`, `a = f(1) − f(0)`, and
    /// `f(2) = 2a + b` shows that nothing hides in a division.
    fn solve(&self, found: &Bindings) -> Option<(Symbol, i64)> {
        let open = self.dim.bind(found)?;
        let mut symbols = vec![];
        open.symbols(&mut symbols);
        symbols.sort();
        symbols.dedup();
        let [symbol] = symbols.as_slice() else { return None };
        let at = |v: i64| open.bind(&Bindings::from([(symbol.clone(), v)]))?.as_const();
        let (f0, f1, f2) = (at(0)?, at(1)?, at(2)?);
        let slope = f1.checked_sub(f0)?;
        if slope == 0 || f2.checked_sub(f1)? != slope {
            return None;
        }
        let rest = self.extent.checked_sub(f0)?;
        let value = rest.checked_div(slope)?;
        (at(value)? == self.extent && value >= 0).then(|| (symbol.clone(), value))
    }

    fn mismatch(
        &self,
        bound: i64,
        origin: &BTreeMap<Symbol, (&str, usize)>,
        known: &Bindings,
    ) -> OpError {
        let Equation { input, axis, dim, extent } = self;
        let message =
            format!("axis {axis} of input `{input}` has {extent} elements, expected {bound}");
        let mut error = OpError::new(codes::INPUT_SHAPE, message);
        let mut symbols = vec![];
        dim.symbols(&mut symbols);
        symbols.dedup();
        if !symbols.is_empty() {
            error = error.note(format!("the model says `{dim}`"));
        }
        for s in symbols {
            error = match (origin.get(&s), known.get(&s)) {
                (Some((i, a)), _) => {
                    error.note(format!("`{s}` comes from axis {a} of input `{i}`"))
                }
                (None, Some(v)) => error.note(format!("`{s}` was set to {v}")),
                (None, None) => error,
            };
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DType, Shape};
    use crate::ir::Builder;

    fn dim(name: &str) -> Dim {
        Dim::symbol(Symbol::new(name))
    }

    /// Inputs `[n, 2 * t + 1]` and `[n * t]`.
    fn graph() -> Graph {
        let mut g = Graph::new("g");
        g.dims.push(DimDecl { symbol: Symbol::new("n"), low: 1, high: Some(8) });
        let odd = dim("t").mul(&Dim::Const(2)).unwrap().add(&Dim::ONE).unwrap();
        let area = dim("n").mul(&dim("t")).unwrap();
        let mut b = Builder::new(&mut g);
        let x = b.input("x", TensorType::new(DType::F32, Shape(vec![dim("n"), odd])));
        b.input("y", TensorType::new(DType::F32, Shape(vec![area])));
        b.output("z", x);
        g
    }

    fn codes(r: Result<Bindings, Vec<OpError>>) -> Vec<&'static str> {
        r.unwrap_err().into_iter().map(|e| e.code).collect()
    }

    #[test]
    fn shapes_determine_symbols() {
        let g = graph();
        let none = Bindings::new();
        let found = solve(&g, &[vec![3, 11], vec![15]], &none).unwrap();
        assert_eq!(found, Bindings::from([(Symbol::new("n"), 3), (Symbol::new("t"), 5)]));
        let bound = g.bind(&found).unwrap();
        assert_eq!(bound.ty(bound.outputs[0].value).to_string(), "f32[3, 11]");
        assert_eq!(
            bound.ty(crate::ir::Value { node: bound.inputs[1], result: 0 }).to_string(),
            "f32[15]"
        );
        assert!(bound.dims.is_empty() && bound.open_dims().is_empty());
        assert_eq!(crate::ir::verify::verify(&bound), Ok(()));
    }

    #[test]
    fn errors_name_input_axis_and_values() {
        let g = graph();
        let none = Bindings::new();
        let e = solve(&g, &[vec![3, 11], vec![14]], &none).unwrap_err().remove(0);
        assert_eq!(e.message, "axis 0 of input `y` has 14 elements, expected 15");
        assert_eq!(e.notes[1], "`n` comes from axis 0 of input `x`");
        assert_eq!(codes(solve(&g, &[vec![3], vec![15]], &none)), ["E0312"]);
        assert_eq!(codes(solve(&g, &[vec![3, 10], vec![15]], &none)), ["E0312"]);
        assert_eq!(codes(solve(&g, &[vec![9, 11], vec![45]], &none)), ["E0311"]);
        assert_eq!(
            codes(solve(&g, &[vec![3, 11], vec![15]], &Bindings::from([(Symbol::new("n"), 2)]))),
            ["E0312", "E0312"]
        );
        let two = g.bind(&Bindings::from([(Symbol::new("m"), 2)])).unwrap_err();
        assert_eq!(two[0].code, "E0310");
    }
}
