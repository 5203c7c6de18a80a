//! Equations of matrix products.

use super::{Found, Site};
use crate::ir::op::View;
use crate::ir::{Attr, Value};

/// `matmul(transpose(a), b) = matmul(a, b, transpose_a)`, and the same on the right. Exact: the same
/// sums in the same order. Which ops can do so their rows say, by the attribute.
pub fn simplify(s: &mut Site) -> Found {
    for (k, name) in ["transpose_a", "transpose_b"].into_iter().enumerate() {
        let Some(index) = s.node.op.row.attr_index(name) else { continue };
        let Some((View::Transpose(perm), inner)) = s.view(s.operand(k)) else { continue };
        let rank = perm.len();
        if rank < 2 {
            continue;
        }
        let mut last_two: Vec<usize> = (0..rank).collect();
        last_two.swap(rank - 2, rank - 1);
        if perm != last_two || !s.cx.allow("matmul(transpose(a), b) = matmul(a, b, transpose_a)") {
            continue;
        }
        let mut op = s.node.op.clone();
        op.attrs[index] = Attr::Bool(op.attrs[index] != Attr::Bool(true));
        let mut operands = s.node.operands().to_vec();
        operands[k] = inner[0];
        let node = s.builder().push(op, operands, vec![])?;
        return Ok(Some(vec![Value { node, result: 0 }]));
    }
    Ok(None)
}
