//! Scatter: a copy of the operand, then the updates one after the other in row-major order.

use super::sweep;
use crate::base::machine::Machine;
use crate::ir::op::ScatterSpec;
use crate::ir::scalar::Combine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::{Access, Addr, Kernel, Op, Val};
use crate::kernel::nest::Slot;
use crate::kernel::scalar_fn::nan_keeping;

/// Parameters: the operand, the indices, the updates, the result. The result may overwrite the
/// operand.
pub fn build(
    name: &str,
    spec: ScatterSpec,
    x: &Slot,
    indices: &Slot,
    updates: &Slot,
    machine: &Machine,
) -> Kernel {
    let mut b = KernelBuilder::new(name, machine.numerics());
    let operand = b.param("x0", x.dtype, x.numel(), Access::Read);
    let index = b.param("x1", indices.dtype, indices.numel(), Access::Read);
    let update = b.param("x2", updates.dtype, updates.numel(), Access::Read);
    let result = b.param("y0", x.dtype, x.numel(), Access::ReadWrite);
    b.inplace(result, operand);
    let lanes = (machine.vector_bytes as usize / x.dtype.bytes().max(4)).max(1) as u16;
    sweep::vectors(&mut b, (0, x.numel() as i64), lanes, &mut |b, i, lanes| {
        let v = b.load(Addr { buf: operand, base: i, plus: 0 }, lanes);
        b.store(Addr { buf: result, base: i, plus: 0 }, v);
    });
    let extents: Vec<i64> = updates.shape.iter().map(|&d| d as i64).collect();
    sweep::nested(&mut b, &extents, &mut vec![], &mut |b, at| {
        let from = offset(b, at, &updates.shape);
        let loaded = b.load(Addr { buf: index, base: from, plus: 0 }, 1);
        let target = b.to_index(loaded);
        let mut place = at.to_vec();
        place[spec.axis] = target;
        let (zero, n) = (b.index(0), b.index(x.shape[spec.axis] as i64));
        let (low, high) = (b.op(Op::Ge, &[target, zero]), b.op(Op::Lt, &[target, n]));
        let inside = b.op(Op::And, &[low, high]);
        b.if_else(
            inside,
            |b| {
                // Clamped, so that it is plain that the access lies inside.
                let last = b.index(x.shape[spec.axis] as i64 - 1);
                let top = b.op(Op::Min, &[target, last]);
                place[spec.axis] = b.op(Op::Max, &[top, zero]);
                let to = Addr { buf: result, base: offset(b, &place, &x.shape), plus: 0 };
                let new = b.load(Addr { buf: update, base: from, plus: 0 }, 1);
                let value = match spec.combine {
                    None => new,
                    Some(combine) => {
                        let old = b.load(to, 1);
                        let (old, new) =
                            (b.convert(old, x.dtype.compute()), b.convert(new, x.dtype.compute()));
                        let joined = join(b, combine, old, new);
                        b.convert(joined, x.dtype)
                    }
                };
                b.store(to, value);
                vec![]
            },
            |_| vec![],
        );
    });
    b.finish()
}

fn join(b: &mut KernelBuilder, combine: Combine, old: Val, new: Val) -> Val {
    let float = b.ty(new).dtype().is_float();
    match combine {
        Combine::Sum => b.op(Op::Add, &[old, new]),
        Combine::Prod => b.op(Op::Mul, &[old, new]),
        Combine::Max | Combine::ArgMax => nan_keeping(b, Op::Max, float, old, new),
        Combine::Min | Combine::ArgMin => nan_keeping(b, Op::Min, float, old, new),
        Combine::Any => b.op(Op::Or, &[old, new]),
        Combine::All => b.op(Op::And, &[old, new]),
    }
}

/// Row-major offset.
fn offset(b: &mut KernelBuilder, at: &[Val], shape: &[usize]) -> Val {
    let mut sum = b.index(0);
    for (v, d) in at.iter().zip(shape) {
        let scaled = b.times(sum, *d as i64);
        sum = b.add(scaled, *v);
    }
    sum
}
