//! Composites with open dimensions: a row infers and expands while a dimension is a symbol, and the
//! expansion, once bound, computes what the row's definition says.

use std::collections::BTreeMap;

use dlc::base::{Bindings, Dim, Shape, Symbol, TensorType};
use dlc::ir::eval::{Precision, evaluate};
use dlc::ir::op::walk::{Case, cases};
use dlc::ir::op::{Class, ExpandCtx, table};
use dlc::ir::{Builder, Graph, Value};

/// Composites whose only operand is a scalar.
const CLOSED: &[&str] = &["random_normal", "random_uniform"];

/// Composites that expand along an open axis only once it is bound, and say so.
const LATE: &[&str] = &["cumprod", "cumsum"];

#[test]
fn composites_expand_while_their_first_axis_is_open() {
    let mut failures = vec![];
    let mut opened: BTreeMap<&str, usize> = BTreeMap::new();
    for row in table() {
        for case in cases(row) {
            let case = case.expect("samples are what their row takes");
            if case.graph.class(case.node) != Class::Composite || case.env.inputs.is_empty() {
                continue;
            }
            let count = opened.entry(row.name).or_default();
            match check(&case) {
                Ok(true) => *count += 1,
                Ok(false) => {}
                Err(e) => failures.push(format!("{} sample {}: {e}", row.name, case.index)),
            }
        }
    }
    let shown = failures.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} fail\n{shown}", failures.len());
    let never: Vec<&str> = opened.iter().filter(|(_, n)| **n == 0).map(|(r, _)| *r).collect();
    assert_eq!(never, CLOSED, "rows that never took an open axis");
}

/// Opens axis 0 of every operand that has the first operand's extent there. `false` where the row
/// refuses that: two of its operands may have met by chance.
fn check(case: &Case) -> Result<bool, String> {
    let node = case.graph.node(case.node);
    let closed = case.graph.op_types(case.node);
    let Some(extent) = closed[0].shape.dims().first().and_then(Dim::as_const) else {
        return Ok(false);
    };
    let symbol = Symbol::new("n");
    let open = |t: &TensorType| {
        let mut dims = t.shape.dims().to_vec();
        if dims.first() == Some(&Dim::Const(extent)) {
            dims[0] = Dim::symbol(symbol.clone());
        }
        TensorType::new(t.dtype, Shape(dims))
    };
    let types: Vec<TensorType> = closed.iter().map(open).collect();

    let mut graph = Graph::new("open");
    let mut b = Builder::new(&mut graph);
    let operands: Vec<Value> =
        types.iter().enumerate().map(|(i, t)| b.input(&format!("in{i}"), t.clone())).collect();
    let Ok(id) = b.push(node.op.clone(), operands.clone(), node.regions.clone()) else {
        return Ok(false);
    };
    let results = b.graph.node(id).results.clone();
    let ctx = ExpandCtx {
        op: &node.op,
        operands: &operands,
        types: &types,
        results: &results,
        regions: &node.regions,
    };
    let expand = case.row.expand.ok_or("a composite expands")?;
    let values = match expand(&mut b, &ctx) {
        Ok(values) => values,
        Err(_) if LATE.contains(&case.row.name) => return Ok(false),
        Err(e) => return Err(format!("{e} {:?}", e.notes)),
    };
    for (i, v) in values.iter().enumerate() {
        if b.ty(*v) != &results[i] {
            return Err(format!("result {i} is {}, inferred {}", b.ty(*v), results[i]));
        }
        b.output(&format!("out{i}"), *v);
    }
    let bound = graph.bind(&Bindings::from([(symbol, extent)])).map_err(|e| format!("{e:?}"))?;
    let got = evaluate(&bound, &case.env, Precision::Own).map_err(|e| e.to_string())?.outputs;
    case.check(&got).map(|()| true)
}
