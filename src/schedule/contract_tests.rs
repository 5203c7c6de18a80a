//! Contractions in tiles against the generic loops: the same bits.

use super::lower::lower_group;
use crate::base::machine::{Isa, Machine, Numerics};
use crate::base::{DType, TensorType};
use crate::ir::attr::Attr;
use crate::ir::builder::Builder;
use crate::ir::graph::{Graph, Value};
use crate::kernel::eval::run_all;
use crate::kernel::generate::contract::{build, is_contraction, product};
use crate::kernel::generate::loops;
use crate::kernel::ir::Kernel;
use crate::kernel::legalize::legalize;
use crate::kernel::nest::{Nest, Slot};
use crate::kernel::types::check_types;
use crate::kernel::verify::verify;

fn input(b: &mut Builder, i: usize, dtype: DType, shape: &[usize]) -> Value {
    b.input(&format!("x{i}"), TensorType::of(dtype, shape))
}

/// The nest of a group with one op and what `more` makes of its result.
fn nest(
    op: (&str, &[(&str, Attr)]),
    dtype: DType,
    shapes: &[&[usize]],
    more: impl FnOnce(&mut Builder, Value) -> Value,
) -> Nest {
    let mut g = Graph::new("");
    let mut b = Builder::new(&mut g);
    let xs: Vec<Value> =
        shapes.iter().enumerate().map(|(i, s)| input(&mut b, i, dtype, s)).collect();
    let y = b.op(op.0, &xs, op.1).unwrap();
    let y = more(&mut b, y);
    b.output("y", y);
    lower_group("k", &g).unwrap()
}

/// Small numbers, a few zeros among them, from a counter.
fn data(dtype: DType, n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    let values: Vec<f64> = (0..n).map(|_| next()).collect();
    match dtype {
        DType::F32 => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
        DType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|v| half::f16::from_f64(*v).to_le_bytes()).collect(),
        DType::I32 => values.iter().flat_map(|v| ((*v * 99.0) as i32).to_le_bytes()).collect(),
        _ => values.iter().map(|v| (*v * 99.0) as i8 as u8).collect(),
    }
}

/// Buffers of all slots.
fn filled(nest: &Nest) -> Vec<Vec<u8>> {
    let of = |(i, s): (usize, &Slot)| match i < nest.operands {
        true => data(s.dtype, s.numel() as usize, 1 + i as u64),
        false => vec![0xa5; s.numel() as usize * s.dtype.bytes()],
    };
    nest.slots.iter().enumerate().map(of).collect()
}

fn bits(kernel: &Kernel, nest: &Nest) -> Vec<u8> {
    check_types(kernel).unwrap();
    let mut buffers = filled(nest);
    run_all(kernel, &mut buffers).unwrap();
    buffers[nest.operands..].concat()
}

/// Tiles and loops give the same bits on several machines, legalized and not.
fn check(what: &str, nest: &Nest) {
    assert!(is_contraction(nest), "{what} is a contraction");
    for (isa, bytes) in [(Isa::X86_64V3, 16), (Isa::X86_64, 16), (Isa::X86_64V4, 64)] {
        let machine = Machine::new(isa, bytes);
        let want = bits(&loops::build(nest, &machine), nest);
        let kernel = build(nest, &machine).unwrap_or_else(|| panic!("{what} has tiles"));
        assert!(bits(&kernel, nest) == want, "{what} on {isa:?}");
        assert!(bits(&legalize(&kernel, &machine), nest) == want, "{what} on {isa:?}, legal");
    }
    check_product(what, nest);
}

/// The parts of a product, run one after the other, give the same bits.
fn check_product(what: &str, nest: &Nest) {
    let machine = Machine::new(Isa::Gpu, 16);
    let Some(p) = product(nest, &machine) else { return };
    let size = |a: u32, b: u32| p.groups as usize * a as usize * b as usize;
    let mut buffers = filled(nest);
    let mut run = |kernel: &Kernel, matrix: Vec<f32>| -> Vec<f32> {
        verify(kernel).unwrap_or_else(|e| panic!("{what}: {e}"));
        buffers.push(bytemuck::cast_slice(&matrix).to_vec());
        run_all(kernel, &mut buffers).unwrap_or_else(|e| panic!("{what}: {e}"));
        bytemuck::pod_collect_to_vec(&buffers.pop().unwrap())
    };
    let left = run(&p.left.kernel, vec![f32::NAN; size(p.rows, p.steps)]);
    let right = run(&p.right.kernel, vec![f32::NAN; size(p.steps, p.columns)]);
    let [rows, columns, steps] = [p.rows, p.columns, p.steps].map(|n| n as usize);
    let mut sums = vec![0f32; size(p.rows, p.columns)];
    for (i, sum) in sums.iter_mut().enumerate() {
        let (group, row, column) = (i / columns / rows, i / columns % rows, i % columns);
        // (step, row or column, group), or (row or column, step, group).
        let place = |by_steps: bool, step: usize, (at, extent): (usize, usize)| match by_steps {
            true => (group * extent + at) * steps + step,
            false => (group * steps + step) * extent + at,
        };
        for step in 0..steps {
            let a = left[place(p.left.by_steps, step, (row, rows))];
            *sum += a * right[place(p.right.by_steps, step, (column, columns))];
        }
    }
    run(&p.finish, sums);
    let got = buffers[nest.operands..].concat();
    assert!(got == bits(&loops::build(nest, &machine), nest), "{what} as a product");
}

/// Loops, which take it because tiles would share nothing, give the same bits with vectors of any
/// width, legalized and not.
fn check_loops(what: &str, nest: &Nest) {
    assert!(is_contraction(nest), "{what} is a contraction");
    let mut wants: Vec<(Numerics, Vec<u8>)> = vec![];
    for (isa, bytes) in [(Isa::X86_64, 16), (Isa::X86_64V3, 32), (Isa::X86_64V4, 64)] {
        let machine = Machine::new(isa, bytes);
        assert!(build(nest, &machine).is_none(), "{what} has no tiles");
        let kernel = loops::build(nest, &machine);
        let got = bits(&kernel, nest);
        assert!(bits(&legalize(&kernel, &machine), nest) == got, "{what} on {isa:?}, legal");
        let same = wants.iter().find(|(numerics, _)| *numerics == machine.numerics());
        assert!(same.is_none_or(|(_, want)| *want == got), "{what} on {isa:?}");
        wants.push((machine.numerics(), got));
    }
}

fn relu(b: &mut Builder, y: Value) -> Value {
    b.op("relu", &[y], &[]).unwrap()
}

#[test]
fn matmuls() {
    let sizes = [
        (1, 17, 37),
        (2, 5, 19),
        (3, 33, 16),
        (4, 2, 9),
        (5, 21, 3),
        (7, 18, 13),
        (13, 20, 8),
        (12, 7, 25),
        (19, 23, 1),
    ];
    for (m, k, n) in sizes {
        let nest = nest(("matmul", &[]), DType::F32, &[&[m, k], &[k, n]], relu);
        if is_contraction(&nest) {
            check(&format!("matmul {m}×{k}×{n}"), &nest);
        }
    }
    for dtype in [DType::F64, DType::F16, DType::I32, DType::I8] {
        let nest = nest(("matmul", &[]), dtype, &[&[3, 5, 18], &[3, 18, 11]], |_, y| y);
        check(&format!("batched {dtype}"), &nest);
    }
}

#[test]
fn einsums_and_views() {
    let equation = |s: &str| [("equation", Attr::Str(s.into()))];
    let cases: [(&str, &[usize], &[usize]); 5] = [
        ("mk,nk->mn", &[7, 19], &[10, 19]),
        ("km,kn->mn", &[19, 9], &[19, 12]),
        ("bsd,dhe->bhse", &[2, 3, 6], &[6, 2, 8]),
        ("bshe,hed->bsd", &[2, 3, 2, 4], &[2, 4, 9]),
        ("mk,kn->nm", &[9, 5], &[5, 6]),
    ];
    for (text, x, y) in cases {
        let nest = nest(("einsum", &equation(text)), DType::F32, &[x, y], relu);
        check(text, &nest);
    }
    let folded = nest(("matmul", &[]), DType::F32, &[&[12, 7], &[7, 10]], |b, y| {
        let perm = [("perm", Attr::Ints(vec![1, 0]))];
        b.op("transpose", &[y], &perm).unwrap()
    });
    check("a transposed result", &folded);
}

struct Conv {
    x: [usize; 4],
    w: [usize; 4],
    stride: i64,
    pad: i64,
    dilation: i64,
    groups: i64,
}

#[test]
fn convolutions() {
    let conv = |x, w, stride, pad, dilation, groups| Conv { x, w, stride, pad, dilation, groups };
    let cases = [
        conv([2, 3, 9, 11], [7, 3, 3, 3], 1, 1, 1, 1),
        conv([1, 2, 12, 30], [4, 2, 3, 3], 1, 1, 1, 1),
        conv([1, 3, 13, 13], [5, 3, 7, 7], 2, 3, 1, 1),
        conv([1, 5, 6, 6], [9, 5, 1, 1], 1, 0, 1, 1),
        conv([2, 4, 8, 8], [6, 4, 1, 1], 2, 0, 1, 1),
        conv([1, 6, 9, 10], [6, 1, 3, 3], 1, 1, 1, 6),
        conv([1, 6, 9, 10], [6, 1, 3, 3], 2, 1, 1, 6),
        conv([1, 4, 7, 7], [8, 2, 3, 3], 1, 1, 1, 2),
        conv([1, 2, 8, 19], [3, 2, 3, 3], 1, 3, 3, 1),
        conv([1, 2, 5, 5], [3, 2, 5, 5], 1, 2, 1, 1),
        conv([1, 3, 4, 4], [5, 3, 3, 2], 1, 0, 1, 1),
    ];
    for c in cases {
        let attrs = [
            ("stride", Attr::Ints(vec![c.stride; 2])),
            ("pad", Attr::Ints(vec![c.pad; 2])),
            ("dilation", Attr::Ints(vec![c.dilation; 2])),
            ("groups", Attr::Int(c.groups)),
        ];
        let nest = nest(("conv2d", &attrs), DType::F32, &[&c.x, &c.w], relu);
        let name = format!("conv {:?} {:?} stride {} pad {}", c.x, c.w, c.stride, c.pad);
        match c.w[1] * c.w[2] * c.w[3] <= 32 && c.groups as usize == c.x[1] {
            // Channel by channel there is nothing to share.
            true => check_loops(&name, &nest),
            false => check(&name, &nest),
        }
    }
}

/// The other branch of a residual network ends with a bias of its own.
#[test]
fn what_is_added_to_the_sums_may_be_computed() {
    let mut g = Graph::new("");
    let mut b = Builder::new(&mut g);
    let shapes: [&[usize]; 4] = [&[1, 8, 6, 6], &[1, 8, 1, 1], &[1, 5, 6, 6], &[8, 5, 1, 1]];
    let xs: Vec<Value> =
        shapes.iter().enumerate().map(|(i, s)| input(&mut b, i, DType::F32, s)).collect();
    let other = b.op("add", &xs[..2], &[]).unwrap();
    let y = b.op("conv2d", &xs[2..], &[]).unwrap();
    let y = b.op("add", &[y, other], &[]).unwrap();
    let y = relu(&mut b, y);
    b.output("y", y);
    check("a computed residual", &lower_group("k", &g).unwrap());
}

/// The group of a convolution from blocks to blocks, with packed weights; `x` plain where it has
/// few channels.
fn blocked_conv(c: &Conv, residual: bool) -> Nest {
    let mut g = Graph::new("");
    let mut b = Builder::new(&mut g);
    let unblock = |b: &mut Builder, x: Value, [n, ch, h, w]: [usize; 4]| {
        let perm = [("perm", Attr::Ints(vec![0, 1, 4, 2, 3]))];
        let x = b.op("transpose", &[x], &perm).unwrap();
        let shape = TensorType::of(DType::F32, &[n, ch, h, w]).shape;
        b.reshape(x, &shape).unwrap()
    };
    let [n, ch, h, w] = c.x;
    let x = match ch % 16 {
        0 => {
            let x = input(&mut b, 0, DType::F32, &[n, ch / 16, h, w, 16]);
            unblock(&mut b, x, c.x)
        }
        _ => input(&mut b, 0, DType::F32, &c.x),
    };
    let [o, i, kh, kw] = c.w;
    let packed = input(&mut b, 1, DType::F32, &[o / 16, i * kh * kw, 16]);
    let perm = [("perm", Attr::Ints(vec![0, 2, 1]))];
    let packed = b.op("transpose", &[packed], &perm).unwrap();
    let weights = b.reshape(packed, &TensorType::of(DType::F32, &c.w).shape).unwrap();
    let attrs = [
        ("stride", Attr::Ints(vec![c.stride; 2])),
        ("pad", Attr::Ints(vec![c.pad; 2])),
        ("dilation", Attr::Ints(vec![c.dilation; 2])),
        ("groups", Attr::Int(c.groups)),
    ];
    let y = b.op("conv2d", &[x, weights], &attrs).unwrap();
    let shape: [usize; 4] = b.ty(y).shape.concrete().unwrap().try_into().unwrap();
    let bias = input(&mut b, 2, DType::F32, &[o, 1, 1]);
    let mut y = b.op("add", &[y, bias], &[]).unwrap();
    if residual {
        let [n, ch, h, w] = shape;
        let r = input(&mut b, 3, DType::F32, &[n, ch / 16, h, w, 16]);
        let r = unblock(&mut b, r, shape);
        y = b.op("add", &[y, r], &[]).unwrap();
    }
    let y = relu(&mut b, y);
    let blocks = [("axis", Attr::Int(1)), ("block", Attr::Int(16))];
    let y = b.op("relayout", &[y], &blocks).unwrap();
    b.output("y", y);
    lower_group("k", &g).unwrap()
}

#[test]
fn convolutions_in_blocks() {
    let conv = |x, w, stride, pad, dilation, groups| Conv { x, w, stride, pad, dilation, groups };
    let cases = [
        conv([1, 16, 5, 7], [32, 16, 3, 3], 1, 1, 1, 1),
        conv([2, 32, 4, 15], [16, 32, 3, 3], 1, 1, 1, 1),
        conv([1, 16, 6, 9], [48, 16, 1, 1], 1, 0, 1, 1),
        conv([1, 32, 9, 9], [16, 32, 1, 1], 2, 0, 1, 1),
        conv([1, 16, 11, 30], [16, 16, 3, 3], 2, 1, 1, 1),
        conv([1, 3, 13, 13], [32, 3, 7, 7], 2, 3, 1, 1),
        conv([1, 16, 8, 19], [16, 16, 3, 3], 1, 3, 3, 1),
        conv([1, 32, 6, 17], [32, 1, 3, 3], 1, 1, 1, 32),
        conv([2, 16, 9, 9], [16, 1, 5, 5], 2, 2, 1, 16),
        conv([17, 16, 2, 2], [16, 16, 3, 3], 1, 1, 1, 1),
    ];
    for c in cases {
        for residual in [false, true] {
            let nest = blocked_conv(&c, residual);
            check(&format!("conv {:?} {:?} stride {} in blocks", c.x, c.w, c.stride), &nest);
        }
    }
}

#[test]
fn long_dot_products_without_rows_stay_with_the_generic_reduction() {
    let equation = [("equation", Attr::Str("mk,nk->mn".into()))];
    let nest = nest(("einsum", &equation), DType::F32, &[&[1, 64], &[10, 64]], |_, y| y);
    assert!(!is_contraction(&nest));
}
