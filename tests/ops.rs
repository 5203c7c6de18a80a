//! The walk of the op table: every row, every sample, on everything that computes.

use dlc::ir::compare::{against_reference, allclose};
use dlc::ir::eval::{Precision, evaluate};
use dlc::ir::graph::Graph;
use dlc::ir::op::walk::{Case, cases};
use dlc::ir::op::{Class, Gradient, Tolerance, table};

/// Runs a check on every sample of every row, and fails with all that went wrong.
pub fn walk(column: &str, check: impl Fn(&Case) -> Result<(), String>) {
    let mut failures = vec![];
    let mut seen = 0;
    for row in table() {
        for case in cases(row) {
            seen += 1;
            match case {
                Err(e) => failures.push(e),
                Ok(case) => {
                    if let Err(e) = check(&case) {
                        failures.push(format!("{} sample {}: {e}", row.name, case.index));
                    }
                }
            }
        }
    }
    assert!(seen > 300, "the table has samples: {seen}");
    let shown = failures.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    let rest = failures.iter().skip(40).filter_map(|f| f.split(':').next());
    let rest = rest.collect::<Vec<_>>().join(", ");
    assert!(failures.is_empty(), "{column}: {} of {seen} fail\n{shown}\n{rest}", failures.len());
}

#[test]
fn inferred_types_are_evaluated_types() {
    walk("reference", |case| {
        for (i, t) in case.own.iter().enumerate() {
            let inferred = &case.graph.node(case.node).results[i];
            if t.ty() != *inferred {
                return Err(format!("result {i} is {}, inferred {inferred}", t.ty()));
            }
        }
        Ok(())
    });
}

#[test]
fn own_dtype_against_f64() {
    walk("reference", |case| case.check(&case.own));
}

/// The expansion of a composite computes what its row's `eval` defines.
#[test]
fn expansions_are_equal_to_definitions() {
    walk("expansion", |case| {
        let Some(graph) = case.expanded().map_err(|e| e.to_string())? else { return Ok(()) };
        let run = |graph: &Graph, p| {
            evaluate(graph, &case.env, p).map(|r| r.outputs).map_err(|e| e.to_string())
        };
        for (o, t) in graph.outputs.iter().zip(&case.graph.node(case.node).results) {
            if graph.ty(o.value) != t {
                return Err(format!("{} expands to {}", t, graph.ty(o.value)));
            }
        }
        case.check(&run(&graph, Precision::Own)?)?;
        // In f64 the two may only differ by constants that were rounded to the graph's dtype.
        for (i, (a, b)) in run(&graph, Precision::F64)?.iter().zip(&case.exact).enumerate() {
            let dtype = case.graph.node(case.node).results[i].dtype;
            let t = dlc::ir::compare::scaled(case.row.tolerance, dtype);
            allclose(a, b, t.rel, t.abs).map_err(|m| format!("in f64, result {i}: {m}"))?;
        }
        Ok(())
    });
}

/// The walk notices an error: one element that is off by more than the tolerance.
#[test]
fn a_wrong_result_is_caught() {
    let row = dlc::ir::op::find("add").expect("a row of the table");
    let case = cases(row).next().expect("it has samples").expect("that fit");
    let mut data = case.own[0].as_slice::<f32>().to_vec();
    data[3] += 0.01;
    let wrong = dlc::base::Tensor::from_slice(case.own[0].shape(), &data);
    assert!(case.check(std::slice::from_ref(&wrong)).is_err());
    assert!(against_reference(&wrong, &case.own[0], &case.exact[0], Tolerance::TIGHT).is_err());
}

#[test]
fn rows_are_complete() {
    for row in table() {
        assert!(row.doc.ends_with('.'), "{}: the documentation is a sentence", row.name);
        assert!(!row.results.is_empty(), "{}: results have names", row.name);
        let texts = row.operands.iter().map(|o| o.doc).chain(row.attrs.iter().map(|a| a.doc));
        texts.for_each(|t| assert!(!t.is_empty(), "{}: everything is documented", row.name));
        if matches!(row.gradient, Gradient::Expansion) {
            assert!(row.expand.is_some(), "{}: it has an expansion", row.name);
        }
        for case in cases(row).flatten() {
            let composite = case.graph.class(case.node) == Class::Composite;
            assert!(!composite || row.expand.is_some(), "{}: a composite expands", row.name);
        }
    }
}
