//! The emitter against the kernel interpreter, to the bit, on each level that runs here; and that no
//! kernel of these needs Cranelift.

use super::*;
use crate::base::DType;
use crate::base::machine::Numerics;
use crate::ir::scalar::Combine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::*;
use crate::kernel::random::{Limits, random_kernel};
use crate::target::Target;
use crate::target::cpu::testing::{N, check_code, runnable, walk, well_formed};
use crate::target::cpu::{Options, compile, print_assembly};

fn targets() -> Vec<Target> {
    runnable(&["cpu:x86-64-v4", "cpu:x86-64-v3"])
}

fn check(kernels: &[Kernel]) {
    assert!(!kernels.is_empty());
    for target in targets() {
        for effort in [Effort::Speed, Effort::Compile] {
            let code = compile(kernels, &target, Options { effort, threads: 1 }).unwrap();
            let names: Vec<(&str, &str)> =
                code.fallbacks().iter().map(|(i, why)| (&kernels[*i].name[..], &why[..])).collect();
            assert_eq!(names, [], "{}", target.row.name);
            check_code(kernels, &code, target.row.name);
        }
    }
}

fn lane_counts() -> impl Iterator<Item = u16> {
    [1, 2, 4, 8, 16, 32].into_iter()
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
            for lanes in lane_counts() {
                let name = format!("{op:?} {dtype} {lanes}");
                kernels.push(walk(name, &vec![dtype; arity], out, lanes, |b, v| b.op(op, v)));
            }
        }
    }
    check(&well_formed(kernels, 600));
}

#[test]
fn operands_in_memory_constants_and_registers() {
    use Op::*;
    let mut kernels = vec![];
    for dtype in [DType::F32, DType::F64, DType::I32, DType::I64, DType::U32, DType::U64] {
        for op in [Add, Sub, Mul, Min, Max, And, Xor, Lt, Ge, Eq, Fma] {
            let out = if matches!(op, Lt | Ge | Eq) { DType::Bool } else { dtype };
            for lanes in [1, 16] {
                let name = |what: &str| format!("{op:?} {dtype} {lanes}, {what}");
                let three =
                    |b: &mut KernelBuilder, x: Val| b.constant(b.ty(x), Lit::new(dtype, 3.0));
                let apply = |b: &mut KernelBuilder, args: [Val; 3]| {
                    b.op(op, &args[..crate::kernel::types::arity(op)])
                };
                kernels.push(walk(name("constant first"), &[dtype; 2], out, lanes, |b, v| {
                    let c = three(b, v[0]);
                    apply(b, [c, v[0], v[1]])
                }));
                kernels.push(walk(name("constant second"), &[dtype; 2], out, lanes, |b, v| {
                    let c = three(b, v[0]);
                    apply(b, [v[0], c, v[1]])
                }));
                kernels.push(walk(name("constant third"), &[dtype; 2], out, lanes, |b, v| {
                    let c = three(b, v[0]);
                    apply(b, [v[0], v[1], c])
                }));
                kernels.push(walk(name("twice"), &[dtype; 2], out, lanes, |b, v| {
                    apply(b, [v[0], v[0], v[0]])
                }));
                kernels.push(walk(name("used again"), &[dtype; 3], out, lanes, |b, v| {
                    let first = apply(b, [v[0], v[1], v[2]]);
                    if b.ty(first).dtype() == DType::Bool {
                        let second = b.op(op, &[v[1], v[0]]);
                        return b.op(And, &[first, second]);
                    }
                    let second = apply(b, [first, v[1], v[2]]);
                    let third = apply(b, [second, v[0], first]);
                    b.op(Add, &[third, v[2]])
                }));
            }
        }
    }
    check(&well_formed(kernels, 400));
}

#[test]
fn selects_and_shifts_by_one_amount() {
    let mut kernels = vec![];
    for dtype in DType::ALL {
        for lanes in lane_counts() {
            let inputs = [DType::Bool, dtype, dtype];
            kernels.push(walk(format!("select {dtype} {lanes}"), &inputs, dtype, lanes, |b, v| {
                b.op(Op::Select, v)
            }));
            let name = format!("select by comparison {dtype} {lanes}");
            kernels.push(walk(name, &[dtype, dtype], dtype, lanes, |b, v| {
                let less = b.op(Op::Lt, &[v[0], v[1]]);
                let zero = b.constant(b.ty(v[0]), Lit { dtype, bits: 0 });
                let chosen = b.op(Op::Select, &[less, v[0], zero]);
                let same = b.op(Op::Eq, &[v[0], v[1]]);
                b.op(Op::Select, &[same, chosen, v[1]])
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
            }
        }
    }
    check(&well_formed(kernels, 200));
}

#[test]
fn conversions_between_all_types() {
    let mut kernels = vec![];
    for from in DType::ALL {
        for to in DType::ALL {
            for lanes in lane_counts() {
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
        for lanes in lane_counts().filter(|n| *n > 1) {
            let ty = Ty::of(dtype, lanes);
            let one = ty.with_lanes(1);
            let last = lanes - 1;
            let name = |what: &str| format!("{what} {dtype} {lanes}");
            for lane in [0, last / 2, last] {
                kernels.push(walk(name("extract"), &[dtype], dtype, lanes, |b, v| {
                    let x = b.lane(LaneOp::Extract(lane), one, &[v[0]]);
                    b.lane(LaneOp::Splat, ty, &[x])
                }));
                kernels.push(walk(name("insert"), &[dtype, dtype], dtype, lanes, |b, v| {
                    let x = b.lane(LaneOp::Extract(0), one, &[v[1]]);
                    b.lane(LaneOp::Insert(lane), ty, &[v[0], x])
                }));
            }
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
            kernels.push(walk(name("constants"), &[dtype], dtype, lanes, |b, _| {
                let each: Vec<Val> = (0..lanes).map(|i| b.number(dtype, 1, i as f64)).collect();
                b.lane(LaneOp::Concat, ty, &each)
            }));
            for (what, list) in [
                ("reverse", (0..lanes).rev().collect::<Vec<u16>>()),
                ("rotate", (0..lanes).map(|i| (i + 1) % lanes).collect()),
                ("swap", (0..lanes).map(|i| i ^ 1).collect()),
                ("swap pairs", (0..lanes).map(|i| (i ^ 2) % lanes).collect()),
                ("swap fours", (0..lanes).map(|i| (i ^ 4) % lanes).collect()),
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
            for lanes in lane_counts() {
                let name = format!("{dtype} as {to} {lanes}");
                kernels.push(walk(name, &[dtype], to, lanes, |b, v| b.bitcast(v[0], to)));
            }
        }
    }
    check(&well_formed(kernels, 400));
}

/// Every number of valid lanes; the buffers end where the memory ends.
#[test]
fn loads_and_stores() {
    let mut kernels = vec![];
    for dtype in DType::ALL {
        for lanes in lane_counts() {
            for valid in 1..=lanes {
                for fill in [0.0, 1.0] {
                    let name = format!("{valid} of {dtype} {lanes}, else {fill}");
                    let mut b = KernelBuilder::new(&name, Numerics::Separate);
                    let input = b.param("in", dtype, 2 * valid as u64, Access::Read);
                    let out = b.param("out", dtype, 2 * lanes as u64, Access::ReadWrite);
                    let splats = b.param("splats", dtype, 2 * valid as u64, Access::ReadWrite);
                    b.set_grid([2, 1, 1]);
                    let x = b.grid(0);
                    let (from, to) = (b.times(x, valid as i64), b.times(x, lanes as i64));
                    let fill = Some(Lit::new(dtype, fill));
                    let at = Addr { buf: input, base: from, plus: 0 };
                    let v = b.load_as(at, lanes, LoadMode::Contig, valid, fill);
                    b.store(Addr { buf: out, base: to, plus: 0 }, v);
                    let w = b.load_as(at, lanes, LoadMode::Splat, valid, fill);
                    b.store_valid(Addr { buf: splats, base: from, plus: 0 }, w, valid);
                    kernels.push(b.finish());
                }
            }
        }
        for lanes in lane_counts() {
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
    check(&well_formed(kernels, 800));
}

#[test]
fn index_arithmetic() {
    let mut kernels = vec![];
    for divisor in [1i64, 2, 3, 7, 8, 12, 1000003, (1 << 40) + 1, 1 << 40, i64::MAX] {
        for op in [Op::Div, Op::Rem] {
            for (shift, factor) in [(0i64, 12345), (-1 << 20, 12345), (-30, i64::MAX / 40)] {
                let name = format!("{op:?} by {divisor} from {shift} times {factor}");
                let mut b = KernelBuilder::new(&name, Numerics::Separate);
                let out = b.param("out", DType::I64, N, Access::Write);
                b.set_grid([4, 4, 4]);
                let (x, y, z) = (b.grid(0), b.grid(1), b.grid(2));
                let y4 = b.times(y, 4);
                let z16 = b.times(z, 16);
                let xy = b.add(x, y4);
                let at = b.add(xy, z16);
                let moved = b.offset(at, shift);
                let big = b.times(moved, factor);
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

/// Sums over loops of many lengths and factors of unrolling, with strides that no addressing mode
/// has, and carried values that change places.
#[test]
fn unrolled_loops() {
    let mut kernels = vec![];
    for (trips, stride) in [(1i64, 1i64), (2, 3), (7, 1), (8, 5), (9, 7), (30, 2)] {
        for unroll in [1, 2, 4, 16, 100] {
            let name = format!("{trips} times {stride}, {unroll} at once");
            let mut b = KernelBuilder::new(&name, Numerics::Fused);
            let x = b.param("x", DType::F32, 300, Access::Read);
            let y = b.param("y", DType::F32, 80, Access::ReadWrite);
            b.set_grid([2, 2, 1]);
            let (g0, g1) = (b.grid(0), b.grid(1));
            let g1 = b.times(g1, 2);
            let g = b.add(g0, g1);
            let (lo, hi) = (b.index(2), b.index(2 + 3 * trips));
            let zero = b.number(DType::F32, 16, 0.5);
            let one = b.number(DType::F32, 16, 2.0);
            let sums = b.for_loop((lo, hi, 3), &[zero, one, g], |b, i, c| {
                let at = b.times(i, stride);
                let v = b.load(Addr { buf: x, base: at, plus: -2 }, 16);
                let w = b.load_splat(Addr { buf: x, base: i, plus: 9 }, 16);
                let next = b.mul_add(v, w, c[0]);
                let count = b.add(c[2], i);
                vec![c[1], next, count]
            });
            let Some(Inst::For { unroll: u, .. }) = b.last_mut() else { panic!("a loop") };
            *u = unroll;
            let to = b.times(g, 16);
            let last = b.convert(sums[2], DType::F32);
            let last = b.splat(last, 16);
            let sum = b.add(sums[0], sums[1]);
            let sum = b.add(sum, last);
            b.store(Addr { buf: y, base: to, plus: 0 }, sum);
            kernels.push(b.finish());
        }
    }
    check(&well_formed(kernels, 30));
}

/// More live vectors than registers, and more masks and indices than registers.
#[test]
fn spills() {
    let mut kernels = vec![];
    for lanes in [1, 16] {
        let mut b = KernelBuilder::new(&format!("spills {lanes}"), Numerics::Fused);
        let x = b.param("x", DType::F32, 61 + 60 * lanes as u64, Access::Read);
        let y = b.param("y", DType::F32, lanes as u64, Access::Write);
        let zero = b.index(0);
        let at = |base, plus| Addr { buf: x, base, plus };
        let mut live = vec![];
        let mut masks = vec![];
        for i in 0..60 {
            live.push(b.load(at(zero, i * lanes as i64), lanes));
        }
        for pair in live.windows(2) {
            masks.push(b.op(Op::Lt, &[pair[0], pair[1]]));
        }
        let (lo, hi) = (b.index(0), b.index(60));
        let mut offsets = vec![];
        for i in 0..20 {
            let seven = b.index(7 + i);
            let nine = b.index(9);
            offsets.push(
                b.for_loop((lo, nine, 1), &[seven], |b, i, c| {
                    let sum = b.add(c[0], i);
                    let three = b.index(31);
                    vec![b.op(Op::Rem, &[sum, three])]
                })[0],
            );
        }
        let sums = b.for_loop((lo, hi, 1), &live, |b, i, c| {
            let w = b.load_splat(at(i, 0), lanes);
            let mut next: Vec<Val> = c.to_vec();
            next.rotate_left(1);
            for (n, offset) in offsets.iter().enumerate() {
                let u = b.load_splat(at(*offset, 0), lanes);
                next[n] = b.mul_add(next[n], u, w);
            }
            for (n, m) in masks.iter().enumerate() {
                next[n] = b.op(Op::Select, &[*m, next[n], next[n + 1]]);
            }
            next
        });
        let mut total = sums[0];
        for s in &sums[1..] {
            total = b.add(total, *s);
        }
        b.store(Addr { buf: y, base: zero, plus: 0 }, total);
        kernels.push(b.finish());
    }
    check(&well_formed(kernels, 2));
}

/// Distances beyond 32 bits between accesses that are never made, and large ones that are.
#[test]
fn large_displacements() {
    let mut b = KernelBuilder::new("far", Numerics::Separate);
    let x = b.param("x", DType::F64, 1 << 20, Access::Read);
    let y = b.param("y", DType::F64, 8, Access::Write);
    b.set_grid([2, 1, 1]);
    let g = b.grid(0);
    let (one, zero) = (b.index(1), b.index(0));
    let big = b.times(g, 1 << 40);
    let four = b.number(DType::F64, 4, 4.0);
    let far = b.op(Op::Gt, &[g, one]);
    let picked = b.if_else(
        far,
        |b| {
            let mut sum = four;
            for plus in [1 << 33, (1 << 33) + 4, -(1 << 35), (1 << 31) - 3] {
                let v = b.load(Addr { buf: x, base: big, plus }, 4);
                sum = b.add(sum, v);
            }
            vec![sum]
        },
        |b| {
            let v = b.load(Addr { buf: x, base: zero, plus: (1 << 20) - 4 }, 4);
            let w = b.load(Addr { buf: x, base: g, plus: 0 }, 4);
            vec![b.add(v, w)]
        },
    );
    let to = b.times(g, 4);
    b.store(Addr { buf: y, base: to, plus: 0 }, picked[0]);
    check(&well_formed(vec![b.finish()], 1));
}

/// Every dtype and any lanes.
#[test]
fn random_kernels() {
    let kernels: Vec<Kernel> = (0..200)
        .map(|seed| random_kernel(seed, Numerics::Fused, Limits { size: 30, math: false }))
        .collect();
    check(&kernels);
}

#[test]
fn listings() {
    let kernel = walk("add".into(), &[DType::F32; 3], DType::F32, 16, |b, v| {
        let c = b.number(DType::F32, 16, 0.3);
        let sum = b.mul_add(v[0], v[1], v[2]);
        b.mul(sum, c)
    });
    let print = |name: &str| print_assembly(&kernel, &Target::parse(name).unwrap()).unwrap();
    let text = print("cpu:x86-64-v4");
    for part in ["vfmadd", "zmm", "vzeroupper"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(print("cpu:x86-64-v3").contains("ymm"));
}
