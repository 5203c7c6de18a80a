//! Raising: computations that were written out are recognized as the op that they are.
//!
//! Softmax, log-softmax, layer and rms normalization, gelu, silu, softplus and attention. An op that
//! is recognized as a whole gets a kernel of its own. Licence: function (the op rounds in its own
//! places), so nothing is raised under `--strict`. This is the only pass that looks at names of ops.

mod activation;
mod attention;
mod find;
mod norm;

use find::Find;

use super::PassCtx;
use super::fold_batch_norm::single_uses;
use super::rebuild::{Visit, all_results, rebuild};
use crate::ir::op::OpError;
use crate::ir::{Attr, Builder, Graph, Node, Value};

/// An op that a pattern found: its name, its operands, its attributes.
struct Raised {
    rule: &'static str,
    name: &'static str,
    operands: Vec<Value>,
    /// The operand of this number is permuted first.
    permuted: Option<(usize, Vec<i64>)>,
    attrs: Vec<(&'static str, Attr)>,
}

/// What a pattern ends with: most nodes need no look at all.
const LAST_OPS: &[&str] = &["add", "sub", "mul", "div", "log", "log1p", "matmul"];

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    if cx.settings.strict {
        return Ok(());
    }
    let old_single = single_uses(graph);
    // By new id: results that one op reads.
    let mut single: Vec<bool> = vec![];
    rebuild(graph, &mut |graph, id, node| {
        let find = Find { graph, single: &single };
        let found = LAST_OPS.contains(&node.op.row.name).then(|| {
            norm::softmax(&find, &node)
                .or_else(|| norm::normalization(&find, &node))
                .or_else(|| norm::with_weights(&find, &node))
                .or_else(|| activation::find(&find, &node))
                .or_else(|| attention::find(&find, &node))
        });
        let raised = match found.flatten() {
            Some(raised) => build(graph, &node, raised, cx),
            None => None,
        };
        let visit = match raised {
            Some(v) => {
                single.resize(graph.id_bound(), false);
                single[v.node.0 as usize] = old_single[id.0 as usize];
                Visit::Replace(vec![v])
            }
            None => {
                let results = node.results.len();
                let new = graph.add(node);
                single.resize(graph.id_bound(), false);
                single[new.0 as usize] = old_single[id.0 as usize];
                Visit::Added(all_results(new, results))
            }
        };
        Ok(visit)
    })
}

/// Adds what was found, if its row takes it and gives the type that was there.
fn build(graph: &mut Graph, node: &Node, raised: Raised, cx: &mut PassCtx) -> Option<Value> {
    let Raised { rule, name, mut operands, permuted, attrs } = raised;
    let mut trial = Graph::new("trial");
    let mut b = Builder::new(&mut trial);
    let mut inputs: Vec<Value> = (operands.iter().enumerate())
        .map(|(i, v)| b.input(&i.to_string(), graph.ty(*v).clone()))
        .collect();
    permute(&mut b, &mut inputs, &permuted)?;
    let v = b.op(name, &inputs, &attrs).ok()?;
    if *b.ty(v) != node.results[0] || !cx.allow_inexact(rule) {
        return None;
    }
    let mut b = Builder { graph, loc: node.loc.clone() };
    permute(&mut b, &mut operands, &permuted)?;
    b.op(name, &operands, &attrs).ok()
}

fn permute(
    b: &mut Builder,
    operands: &mut [Value],
    permuted: &Option<(usize, Vec<i64>)>,
) -> Option<()> {
    if let Some((i, perm)) = permuted {
        let perm = vec![("perm", Attr::Ints(perm.clone()))];
        operands[*i] = b.op("transpose", &[operands[*i]], &perm).ok()?;
    }
    Some(())
}
