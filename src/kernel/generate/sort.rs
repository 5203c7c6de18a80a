//! Sorting along an axis: a stable bottom-up merge sort of each line in worker scratch.
//!
//! The first result is the `k` first elements, the second where they came from. NaN counts as the
//! greatest element. All passes are straight code around loops over scalars.

use super::loops::grid_point;
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::op::SortSpec;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::{Access, Addr, Buf, Kernel, Op, Ty, Val};
use crate::kernel::nest::Slot;

/// Parameters: the operand, the values, the indices.
pub fn build(name: &str, spec: SortSpec, x: &Slot, machine: &Machine) -> Kernel {
    let mut b = KernelBuilder::new(name, machine.numerics());
    let n = x.shape[spec.axis] as i64;
    let inner: usize = x.shape[spec.axis + 1..].iter().product();
    let outer: usize = x.shape[..spec.axis].iter().product();
    let results = (outer * inner * spec.k) as u64;
    let operand = b.param("x0", x.dtype, x.numel(), Access::Read);
    let values = b.param("y0", x.dtype, results, Access::Write);
    let indices = b.param("y1", DType::I64, results, Access::Write);
    let key = if x.dtype == DType::Bool { DType::U8 } else { x.dtype.compute() };
    let point = grid_point(&mut b, &[outer as i64, inner as i64]);
    if n == 0 || spec.k == 0 || results == 0 {
        b.set_grid([0, 1, 1]);
        return b.finish();
    }
    let buffers = [0, 1].map(|_| (b.scratch(key, n as u64), b.scratch(DType::I64, n as u64)));
    let line = Line { n, inner: inner as i64, key, descending: spec.descending };
    line.read(&mut b, operand, x.dtype, &point, buffers[0]);
    let (mut width, mut from) = (1, 0);
    while width < n {
        line.merge(&mut b, width, buffers[from], buffers[1 - from]);
        (width, from) = (width * 2, 1 - from);
    }
    let (keys, places) = buffers[from];
    let (lo, hi) = (b.index(0), b.index(spec.k as i64));
    b.for_loop((lo, hi, 1), &[], |b, i, _| {
        let to = line.at(b, &point, spec.k as i64, i);
        let (v, p) = (scalar(b, keys, i), scalar(b, places, i));
        let v = match x.dtype {
            DType::Bool => {
                let zero = b.number(DType::U8, 1, 0.0);
                b.op(Op::Ne, &[v, zero])
            }
            d => b.convert(v, d),
        };
        b.store(Addr { buf: values, base: to, plus: 0 }, v);
        b.store(Addr { buf: indices, base: to, plus: 0 }, p);
        vec![]
    });
    b.finish()
}

struct Line {
    n: i64,
    inner: i64,
    key: DType,
    descending: bool,
}

impl Line {
    /// The offset of element `i` of the line at `point`, in a tensor with `n` elements a line.
    fn at(&self, b: &mut KernelBuilder, point: &[Val], n: i64, i: Val) -> Val {
        let outer = b.times(point[0], n);
        let row = b.add(outer, i);
        let scaled = b.times(row, self.inner);
        b.add(scaled, point[1])
    }

    fn read(
        &self,
        b: &mut KernelBuilder,
        x: Buf,
        dtype: DType,
        point: &[Val],
        (keys, places): (Buf, Buf),
    ) {
        let (lo, hi) = (b.index(0), b.index(self.n));
        b.for_loop((lo, hi, 1), &[], |b, i, _| {
            let at = self.at(b, point, self.n, i);
            let v = b.load(Addr { buf: x, base: at, plus: 0 }, 1);
            let v = if dtype == DType::Bool { b.convert(v, DType::U8) } else { v };
            let v = b.convert(v, self.key);
            let place = b.convert(i, DType::I64);
            b.store(Addr { buf: keys, base: i, plus: 0 }, v);
            b.store(Addr { buf: places, base: i, plus: 0 }, place);
            vec![]
        });
    }

    /// Merges neighbouring runs of `width` elements.
    fn merge(&self, b: &mut KernelBuilder, width: i64, from: (Buf, Buf), to: (Buf, Buf)) {
        let (zero, n) = (b.index(0), b.index(self.n));
        b.for_loop((zero, n, 2 * width), &[], |b, start, _| {
            let (mid, end) = (b.offset(start, width), b.offset(start, 2 * width));
            let (mid, end) = (b.op(Op::Min, &[mid, n]), b.op(Op::Min, &[end, n]));
            b.for_loop((start, end, 1), &[start, mid], |b, out, runs| {
                let (left, right) = (runs[0], runs[1]);
                let last = b.index(self.n - 1);
                let (l, r) = (b.op(Op::Min, &[left, last]), b.op(Op::Min, &[right, last]));
                let (kl, kr) = (scalar(b, from.0, l), scalar(b, from.0, r));
                let (pl, pr) = (scalar(b, from.1, l), scalar(b, from.1, r));
                let right_first = self.before(b, kr, kl);
                let left_ended = b.op(Op::Ge, &[left, mid]);
                let right_left = b.op(Op::Lt, &[right, end]);
                let either = b.op(Op::Or, &[left_ended, right_first]);
                let take_right = b.op(Op::And, &[either, right_left]);
                let key = b.op(Op::Select, &[take_right, kr, kl]);
                let place = b.op(Op::Select, &[take_right, pr, pl]);
                b.store(Addr { buf: to.0, base: out, plus: 0 }, key);
                b.store(Addr { buf: to.1, base: out, plus: 0 }, place);
                let (next_left, next_right) = (b.offset(left, 1), b.offset(right, 1));
                vec![
                    b.op(Op::Select, &[take_right, left, next_left]),
                    b.op(Op::Select, &[take_right, next_right, right]),
                ]
            });
            vec![]
        });
    }

    /// Whether `x` comes strictly before `y`.
    fn before(&self, b: &mut KernelBuilder, x: Val, y: Val) -> Val {
        let op = if self.descending { Op::Gt } else { Op::Lt };
        let ordered = b.op(op, &[x, y]);
        if !self.key.is_float() {
            return ordered;
        }
        let (nan, number) = if self.descending { (x, y) } else { (y, x) };
        let (is_nan, is_number) = (b.op(Op::Ne, &[nan, nan]), b.op(Op::Eq, &[number, number]));
        let by_nan = b.op(Op::And, &[is_nan, is_number]);
        b.op(Op::Or, &[ordered, by_nan])
    }
}

fn scalar(b: &mut KernelBuilder, buf: Buf, at: Val) -> Val {
    debug_assert_eq!(b.ty(at), Ty::Index);
    b.load(Addr { buf, base: at, plus: 0 }, 1)
}
