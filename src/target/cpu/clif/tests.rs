//! The emitter against the kernel interpreter, to the bit, on each x86-64 target that runs here.

use super::*;
use crate::base::DType;
use crate::base::machine::Numerics;
use crate::ir::scalar::Combine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::*;
use crate::kernel::random::{Limits, random_kernel};
use crate::target::cpu::compile::compile_all;
use crate::target::cpu::testing::{N, check_code, runnable, walk, well_formed};
use crate::target::cpu::{Code, Options, compile, jit, print_assembly, print_clif};

/// The lanes of registers of at most 16 bytes.
fn lane_counts(dtypes: &[DType]) -> impl Iterator<Item = u16> {
    let widest = dtypes.iter().map(|d| d.bytes()).max().unwrap() as u16;
    [1, 2, 4, 8, 16].into_iter().filter(move |n| n * widest <= 16)
}

/// Compiles the kernels as they are, without legalizing them, for each x86-64 target, and compares
/// with the interpreter.
fn check(kernels: &[Kernel]) {
    check_with(kernels, |kernels, target| {
        let clif = Clif::new(target, Effort::Speed).unwrap();
        let one = |worker: &mut Worker, kernel: &Kernel| clif.compile(kernel, worker);
        jit::place(clif.isa(), compile_all(kernels, 1, one).unwrap()).unwrap()
    });
}

fn check_with(kernels: &[Kernel], compile: impl Fn(&[Kernel], &Target) -> Code) {
    assert!(!kernels.is_empty());
    for target in runnable(&["cpu:clif", "cpu:x86-64", "cpu:x86-64-v3"]) {
        let fma = Clif::new(&target, Effort::Speed).unwrap().has_fma();
        let fits = |k: &&Kernel| k.numerics == Numerics::Separate || fma;
        let fits: Vec<Kernel> = kernels.iter().filter(fits).cloned().collect();
        check_code(&fits, &compile(&fits, &target), target.row.name);
    }
}

#[test]
fn every_operation_on_every_type() {
    use Op::*;
    let ops = [
        Add, Sub, Mul, Div, Rem, Neg, Abs, Sqrt, Floor, Ceil, Trunc, Round, Fma, Min, Max, And, Or,
        Xor, Not, Shl, Shr, Eq, Ne, Lt, Le, Gt, Ge,
    ];
    let mut kernels = vec![];
    for op in ops {
        let arity = crate::kernel::types::arity(op);
        for dtype in DType::ALL {
            let compares = matches!(op, Eq | Ne | Lt | Le | Gt | Ge);
            let out = if compares { DType::Bool } else { dtype };
            for lanes in lane_counts(&[dtype]) {
                let name = format!("{op:?} {dtype} {lanes}");
                kernels.push(walk(name, &vec![dtype; arity], out, lanes, |b, v| b.op(op, v)));
            }
        }
    }
    check(&well_formed(kernels, 600));
}

#[test]
fn selects_and_shifts_by_one_amount() {
    let mut kernels = vec![];
    for dtype in DType::ALL {
        for lanes in lane_counts(&[dtype]) {
            let inputs = [DType::Bool, dtype, dtype];
            kernels.push(walk(format!("select {dtype} {lanes}"), &inputs, dtype, lanes, |b, v| {
                b.op(Op::Select, v)
            }));
            if !dtype.is_int() {
                continue;
            }
            for op in [Op::Shl, Op::Shr] {
                for amount in [0, 3, 8 * dtype.bytes() as i64 + 1] {
                    let name = format!("{op:?} {dtype} {lanes} by {amount}");
                    kernels.push(walk(name, &[dtype], dtype, lanes, |b, v| {
                        let lit = Lit::int(dtype, amount);
                        let amount = b.constant(Ty::of(dtype, lanes), lit);
                        b.op(op, &[v[0], amount])
                    }));
                }
                let name = format!("{op:?} {dtype} {lanes} by a splat");
                kernels.push(walk(name, &[dtype, dtype], dtype, lanes, |b, v| {
                    let ty = b.ty(v[1]);
                    let one = match lanes {
                        1 => v[1],
                        _ => b.lane(LaneOp::Extract(lanes - 1), ty.with_lanes(1), &[v[1]]),
                    };
                    let amount = b.splat(one, lanes);
                    b.op(op, &[v[0], amount])
                }));
            }
        }
    }
    check(&well_formed(kernels, 200));
}

#[test]
fn conversions_between_all_types() {
    let mut kernels = vec![];
    for from in DType::ALL.into_iter().filter(|d| !d.is_narrow_float()) {
        for to in DType::ALL.into_iter().filter(|d| !d.is_narrow_float()) {
            for lanes in lane_counts(&[from, to]) {
                let name = format!("{from} to {to} {lanes}");
                kernels.push(walk(name, &[from], to, lanes, |b, v| b.convert(v[0], to)));
            }
        }
    }
    check(&well_formed(kernels, 300));
}

#[test]
fn moves_between_lanes() {
    let mut kernels = vec![];
    for dtype in DType::ALL {
        for lanes in lane_counts(&[dtype]).filter(|n| *n > 1) {
            let ty = Ty::of(dtype, lanes);
            let one = ty.with_lanes(1);
            let last = lanes - 1;
            let name = |what: &str| format!("{what} {dtype} {lanes}");
            kernels.push(walk(name("extract"), &[dtype], dtype, lanes, |b, v| {
                let x = b.lane(LaneOp::Extract(last), one, &[v[0]]);
                b.lane(LaneOp::Splat, ty, &[x])
            }));
            kernels.push(walk(name("insert"), &[dtype, dtype], dtype, lanes, |b, v| {
                let x = b.lane(LaneOp::Extract(0), one, &[v[1]]);
                b.lane(LaneOp::Insert(last), ty, &[v[0], x])
            }));
            kernels.push(walk(name("slice"), &[dtype], dtype, lanes, |b, v| {
                let half = ty.with_lanes(lanes / 2);
                b.lane(LaneOp::Slice(lanes / 2), half, &[v[0]])
            }));
            kernels.push(walk(name("concat"), &[dtype, dtype], dtype, lanes, |b, v| {
                let half = ty.with_lanes(lanes / 2);
                let high = b.lane(LaneOp::Slice(lanes / 2), half, &[v[0]]);
                let low = b.lane(LaneOp::Slice(0), half, &[v[1]]);
                b.lane(LaneOp::Concat, ty, &[high, low])
            }));
            kernels.push(walk(name("scalars"), &[dtype], dtype, lanes, |b, v| {
                let back: Vec<Val> =
                    (0..lanes).rev().map(|i| b.lane(LaneOp::Extract(i), one, &[v[0]])).collect();
                b.lane(LaneOp::Concat, ty, &back)
            }));
            for (what, list) in [
                ("reverse", (0..lanes).rev().collect::<Vec<u16>>()),
                ("rotate", (0..lanes).map(|i| (i + 1) % lanes).collect()),
                ("swap", (0..lanes).map(|i| i ^ 1).collect()),
                ("even", (0..lanes / 2).map(|i| 2 * i).collect()),
            ] {
                kernels.push(walk(name(what), &[dtype], dtype, lanes, |b, v| {
                    let out = ty.with_lanes(list.len() as u16);
                    b.lane(LaneOp::Shuffle(list), out, &[v[0]])
                }));
            }
            for combine in [
                Combine::Sum,
                Combine::Prod,
                Combine::Max,
                Combine::Min,
                Combine::Any,
                Combine::All,
            ] {
                let name = format!("{combine:?} {dtype} {lanes}");
                kernels.push(walk(name, &[dtype], dtype, lanes, |b, v| b.fold(combine, v[0])));
            }
        }
        for to in DType::ALL.into_iter().filter(|d| d.bytes() == dtype.bytes()) {
            for lanes in lane_counts(&[dtype]) {
                let name = format!("{dtype} as {to} {lanes}");
                kernels.push(walk(name, &[dtype], to, lanes, |b, v| b.bitcast(v[0], to)));
            }
        }
    }
    check(&well_formed(kernels, 400));
}

#[test]
fn loads_and_stores() {
    let mut kernels = vec![];
    for dtype in DType::ALL {
        for lanes in lane_counts(&[dtype]) {
            for valid in 1..=lanes {
                let name = format!("{valid} of {dtype} {lanes}");
                let mut b = KernelBuilder::new(&name, Numerics::Separate);
                let input = b.param("in", dtype, N, Access::Read);
                let out = b.param("out", dtype, N, Access::ReadWrite);
                let splats = b.param("splats", dtype, N, Access::Write);
                b.set_grid([2, 1, 2]);
                let (x, z) = (b.grid(0), b.grid(2));
                let row = b.times(z, 32);
                let place = b.times(x, lanes as i64);
                let base = b.add(row, place);
                let fill = Some(Lit::new(dtype, 1.0));
                let from = Addr { buf: input, base, plus: 0 };
                let v = b.load_as(from, lanes, LoadMode::Contig, valid, fill);
                b.store(Addr { buf: out, base, plus: 0 }, v);
                let w = b.load_as(from, lanes, LoadMode::Splat, valid, fill);
                b.store_valid(Addr { buf: splats, base, plus: 0 }, w, valid);
                kernels.push(b.finish());
            }
        }
        for lanes in lane_counts(&[dtype, DType::I64]) {
            let name = format!("gather {dtype} {lanes}");
            kernels.push(walk(name, &[dtype, DType::I64], dtype, lanes, |b, v| {
                let low = b.constant(Ty::of(DType::I64, lanes), Lit::index(N as i64 / 2 - 1));
                let index = b.op(Op::And, &[v[1], low]);
                let base = b.index(3);
                let at = Addr { buf: Buf::Param(0), base, plus: 2 };
                b.load_as(at, lanes, LoadMode::Gather(index), lanes, None)
            }));
        }
    }
    check(&well_formed(kernels, 150));
}

#[test]
fn index_arithmetic() {
    let mut kernels = vec![];
    for divisor in [1i64, 2, 7, 8, 12, 1 << 40] {
        for op in [Op::Div, Op::Rem] {
            for shift in [0i64, -1 << 20] {
                let name = format!("{op:?} by {divisor} from {shift}");
                let mut b = KernelBuilder::new(&name, Numerics::Separate);
                let out = b.param("out", DType::I64, N, Access::Write);
                b.set_grid([4, 4, 4]);
                let (x, y, z) = (b.grid(0), b.grid(1), b.grid(2));
                let y4 = b.times(y, 4);
                let z16 = b.times(z, 16);
                let xy = b.add(x, y4);
                let at = b.add(xy, z16);
                let moved = b.offset(at, shift);
                let big = b.times(moved, 12345);
                let d = b.index(divisor);
                let q = b.op(op, &[big, d]);
                let q = b.convert(q, DType::I64);
                b.store(Addr { buf: out, base: at, plus: 0 }, q);
                kernels.push(b.finish());
            }
        }
    }
    check(&well_formed(kernels, 24));
}

/// Loops with known and unknown bounds, branches around loads, scratch, in-place buffers.
#[test]
fn control_flow() {
    let mut b = KernelBuilder::new("control", Numerics::Separate);
    let x = b.param("x", DType::F32, N, Access::Read);
    let limits = b.param("limits", DType::I32, N, Access::Read);
    let y = b.param("y", DType::F32, N, Access::ReadWrite);
    let t = b.scratch(DType::F32, 8);
    b.set_grid([8, 1, 1]);
    let g = b.grid(0);
    let row = b.times(g, 8);
    let zero = b.index(0);
    let eight = b.index(8);
    b.for_loop((zero, eight, 4), &[], |b, i, _| {
        let at = b.add(row, i);
        let v = b.load(Addr { buf: x, base: at, plus: 0 }, 4);
        b.store(Addr { buf: t, base: i, plus: 0 }, v);
        vec![]
    });
    // Between 0 and 7 rounds.
    let raw = b.load(Addr { buf: limits, base: g, plus: 0 }, 1);
    let seven = b.constant(Ty::Scalar(DType::I32), Lit::int(DType::I32, 7));
    let low = b.op(Op::And, &[raw, seven]);
    let limit = b.to_index(low);
    let start = b.number(DType::F32, 1, 0.5);
    let sum = b.for_loop((zero, limit, 1), &[start, zero], |b, i, carried| {
        let v = b.load(Addr { buf: t, base: i, plus: 0 }, 1);
        let three = b.index(3);
        let high = b.op(Op::Gt, &[i, three]);
        let term = b.if_else(
            high,
            |b| {
                let deep = b.offset(i, -4);
                vec![b.load(Addr { buf: x, base: deep, plus: 0 }, 1)]
            },
            |_| vec![v],
        );
        let next = b.add(carried[0], term[0]);
        let count = b.offset(carried[1], 1);
        vec![next, count]
    });
    let count = b.convert(sum[1], DType::F32);
    let total = b.add(sum[0], count);
    b.for_loop((limit, eight, 1), &[], |b, i, _| {
        let at = b.add(row, i);
        let old = b.load(Addr { buf: y, base: at, plus: 0 }, 1);
        let new = b.mul(old, total);
        b.store(Addr { buf: y, base: at, plus: 0 }, new);
        vec![]
    });
    check(&well_formed(vec![b.finish()], 1));
}

/// A load behind a guard must not move before it: the address that the guard excludes is not
/// mapped.
#[test]
fn guarded_loads_stay_behind_their_guards() {
    let mut b = KernelBuilder::new("guard", Numerics::Separate);
    let x = b.param("x", DType::F32, N, Access::Read);
    let y = b.param("y", DType::F32, N, Access::Write);
    b.set_grid([N as u32, 1, 1]);
    let g = b.grid(0);
    let far = b.times(g, 1 << 40);
    let (zero, three) = (b.index(0), b.index(3));
    let start = b.number(DType::F32, 1, 0.0);
    let sum = b.for_loop((zero, three, 1), &[start], |b, i, c| {
        let first = b.index(1);
        let near = b.op(Op::Lt, &[g, first]);
        let term = b.if_else(
            near,
            |b| vec![b.load(Addr { buf: x, base: far, plus: 0 }, 1)],
            |b| {
                let i = b.convert(i, DType::F32);
                vec![i]
            },
        );
        let inner = b.for_loop((zero, g, N as i64), &[c[0]], |b, _, c| {
            let high = b.offset(g, -1);
            let v = b.load(Addr { buf: x, base: high, plus: 0 }, 1);
            vec![b.add(c[0], v)]
        });
        vec![b.add(inner[0], term[0])]
    });
    b.store(Addr { buf: y, base: g, plus: 0 }, sum[0]);
    check(&[b.finish()]);
}

/// Every dtype and any lanes, through `legalize`.
#[test]
fn random_kernels() {
    let kernels: Vec<Kernel> = (0..24)
        .map(|seed| {
            let numerics = if seed % 2 == 0 { Numerics::Fused } else { Numerics::Separate };
            random_kernel(seed, numerics, Limits { size: 30, math: false })
        })
        .collect();
    check_with(&kernels, |kernels, target| {
        compile(kernels, target, Options { threads: 2, ..Options::default() }).unwrap()
    });
}

#[test]
fn threads_change_nothing() {
    let kernels: Vec<Kernel> = (0..40)
        .map(|i| {
            walk(format!("k{i}"), &[DType::F32, DType::F32], DType::F32, 4, |b, v| {
                let mut x = v[0];
                for _ in 0..40 + i {
                    x = b.add(x, v[1]);
                    x = b.mul(x, v[0]);
                }
                x
            })
        })
        .collect();
    let target = Target::host();
    let clif = Clif::new(&target, Effort::Speed).unwrap();
    let bytes = |threads| -> Vec<Vec<u8>> {
        let one = |worker: &mut Worker, kernel: &Kernel| clif.compile(kernel, worker);
        let all = compile_all(&kernels, threads, one).unwrap();
        all.into_iter().map(|c| c.bytes).collect()
    };
    assert_eq!(bytes(1), bytes(3));
    check(&kernels);
}

#[test]
fn texts() {
    let kernel =
        walk("add".into(), &[DType::F32, DType::F32], DType::F32, 4, |b, v| b.add(v[0], v[1]));
    let target = Target::parse("cpu:x86-64").unwrap();
    let clif = print_clif(&kernel, &target).unwrap();
    assert!(clif.contains("fadd"), "{clif}");
    let listing = print_assembly(&kernel, &target).unwrap();
    assert!(listing.contains("addps"), "{listing}");
}

#[test]
fn what_has_no_code_is_refused() {
    let exp = walk("exp".into(), &[DType::F32], DType::F32, 4, |b, v| b.op(Op::Exp, &[v[0]]));
    let fma = walk("fma".into(), &[DType::F32; 3], DType::F32, 4, |b, v| b.op(Op::Fma, v));
    let target = Target::parse("cpu:x86-64").unwrap();
    let clif = Clif::new(&target, Effort::Speed).unwrap();
    for kernel in [exp, fma] {
        let error = clif.compile(&kernel, &mut Worker::default()).map(|_| ()).unwrap_err();
        assert!(matches!(error, CodegenError::Unsupported { .. }), "{error}");
    }
}
