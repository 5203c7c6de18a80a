use super::*;
use crate::base::DType;
use crate::base::machine::Numerics;
use crate::kernel::eval::run_all;
use crate::kernel::ir::*;
use crate::kernel::random::{Limits, first_difference, random_buffers, random_kernel};
use crate::kernel::types::check_types;

const FORMS: [(u32, u32, bool, bool); 8] = [
    (0, 0, false, false),
    (16, 16, false, true),
    (16, 16, true, false),
    (32, 32, true, true),
    (32, 16, true, true),
    (64, 64, true, true),
    (64, 16, true, true),
    (64, 32, false, true),
];

fn forms() -> impl Iterator<Item = Form> {
    FORMS.into_iter().map(|(vector_bytes, narrowest, masked, packed)| Form {
        vector_bytes,
        narrowest,
        masked,
        packed,
        means: Means { scales: vector_bytes == 64, double: true },
        short: false,
        half: false,
    })
}

/// Runs both kernels on the same buffers; they have the same bits, and the second is legal.
fn assert_same(kernel: &Kernel, legal: &Kernel, seed: u64) {
    check_types(legal).unwrap();
    let mut want = random_buffers(kernel, seed);
    let mut got = want.clone();
    run_all(kernel, &mut want).unwrap();
    run_all(legal, &mut got).unwrap();
    for (p, (want, got)) in kernel.params.iter().zip(want.iter().zip(&got)) {
        let at = first_difference(p.elem, want, got);
        assert_eq!(at, None, "seed {seed}: `{}` differs", p.name);
    }
}

#[test]
fn legal_kernels_have_the_same_bits() {
    for seed in 0..24 {
        let numerics = if seed % 2 == 0 { Numerics::Fused } else { Numerics::Separate };
        let kernel = random_kernel(seed, numerics, Limits { size: 40, math: false });
        check_types(&kernel).unwrap();
        assert_same(&kernel, &widen(&kernel, false), seed);
        let short = forms().take(1).map(|form| Form { short: true, ..form });
        for form in forms().chain(short) {
            let legal = legalize_to(&kernel, form);
            assert_legal(&legal, form);
            assert_same(&kernel, &legal, seed);
        }
    }
}

/// Asserts the table at the top of the module.
fn assert_legal(kernel: &Kernel, form: Form) {
    let regions = &mut vec![&kernel.body];
    while let Some(region) = regions.pop() {
        for inst in &region.insts {
            for v in inst.defs() {
                let ty = kernel.ty(*v);
                let n = ty.lanes();
                let full = match ty {
                    Ty::Index => vec![1],
                    Ty::Scalar(d) | Ty::Vector(d, _) if d.bytes() >= 4 => {
                        vec![form.lanes(d.bytes(), n)]
                    }
                    Ty::Scalar(d) | Ty::Vector(d, _) if form.packed || d == DType::F16 => {
                        vec![form.lanes(4, n)]
                    }
                    Ty::Scalar(_) | Ty::Vector(..) => vec![],
                    Ty::Mask(_) => vec![form.lanes(4, n), form.lanes(8, n)],
                };
                assert!(n == 1 || full.contains(&n), "{ty:?} in {form:?}: {inst:?}");
                assert!(!ty.dtype().is_narrow_float(), "{inst:?}");
            }
            match inst {
                Inst::Fold { .. } => panic!("a fold is left"),
                Inst::Load { mode, valid, dst, .. } => {
                    assert!(!matches!(mode, LoadMode::Gather(_)), "a gather is left");
                    assert!(form.masked || *valid == kernel.ty(*dst).lanes());
                }
                Inst::Store { v, valid, .. } => {
                    assert!(form.masked || *valid == kernel.ty(*v).lanes());
                }
                Inst::Op { op, args, dst } => {
                    let ty = kernel.ty(args[if *op == Op::Select { 1 } else { 0 }]);
                    assert!(ty.dtype().bytes() >= 4 || ty.dtype() == DType::Bool, "{inst:?}");
                    if ty.lanes() > 1 && matches!(op, Op::Div | Op::Rem) {
                        assert!(kernel.ty(*dst).dtype().is_float(), "{inst:?}");
                    }
                }
                Inst::Lane { op: LaneOp::Concat, dst, args } => {
                    let all = args.iter().map(|v| kernel.ty(*v).lanes());
                    let mask = kernel.ty(*dst).dtype() == DType::Bool;
                    assert!(all.into_iter().all(|n| if mask { n > 1 } else { n == 1 }), "{inst:?}");
                }
                Inst::Lane { op: LaneOp::Convert, dst, args } => {
                    let pair = (kernel.ty(args[0]).dtype(), kernel.ty(*dst).dtype());
                    let narrow = |d: DType| d.bytes() < 4;
                    let ok = match pair {
                        (DType::I32, d) | (d, DType::I32) if narrow(d) => true,
                        (a, b) if narrow(a) || narrow(b) => false,
                        (DType::F32, DType::I32) | (DType::I32, DType::F32) => true,
                        _ => kernel.ty(*dst).lanes() == 1,
                    };
                    assert!(ok, "{inst:?} from {pair:?}");
                }
                Inst::For { body, .. } => regions.push(body),
                Inst::If { then, els, .. } => regions.extend([then, els]),
                Inst::Const { .. }
                | Inst::Grid { .. }
                | Inst::Local { .. }
                | Inst::GroupFold { .. }
                | Inst::Lane { .. }
                | Inst::Prefetch { .. }
                | Inst::Barrier => {}
            }
        }
    }
}

/// Every pair of dtypes, on edges and random bits.
#[test]
fn conversions_to_and_from_narrow_types() {
    use crate::kernel::build::KernelBuilder;
    for from in DType::ALL {
        let mut b = KernelBuilder::new("convert", Numerics::Separate);
        let x = b.param("x", from, 256, Access::Read);
        let zero = b.index(0);
        for to in DType::ALL {
            let y = b.param(&format!("y_{to}"), to, 256, Access::Write);
            let v = b.load(Addr { buf: x, base: zero, plus: 0 }, 32);
            let v = b.convert(v, to);
            b.store(Addr { buf: y, base: zero, plus: 0 }, v);
        }
        let kernel = b.finish();
        for form in forms().take(2) {
            let legal = legalize_to(&kernel, form);
            for seed in 0..6 {
                assert_same(&kernel, &legal, seed);
            }
        }
    }
}

/// The vectors of a matmul that was shaped for the machine stay as they are.
#[test]
fn what_fits_is_not_split() {
    use crate::kernel::build::KernelBuilder;
    let mut b = KernelBuilder::new("k", Numerics::Fused);
    let x = b.param("x", DType::F32, 8, Access::Read);
    let y = b.param("y", DType::F32, 8, Access::Write);
    let zero = b.index(0);
    let v = b.load(Addr { buf: x, base: zero, plus: 0 }, 8);
    let w = b.op(Op::Fma, &[v, v, v]);
    b.store(Addr { buf: y, base: zero, plus: 0 }, w);
    let kernel = b.finish();
    let form = |vector_bytes| Form {
        vector_bytes,
        narrowest: vector_bytes,
        masked: false,
        packed: false,
        means: Means { scales: false, double: true },
        short: false,
        half: false,
    };
    assert_eq!(legalize_to(&kernel, form(32)), dce(kernel.clone()));
    let split = legalize_to(&kernel, form(16));
    assert_eq!(split.body.insts.len(), 1 + 3 * 2);
}

/// Widening copies no kernel that it would not change; loops of one round go, so that is a change.
#[test]
fn plain_kernels_are_not_widened() {
    use crate::kernel::build::KernelBuilder;
    use std::borrow::Cow;
    let kernel = |elem: DType, rounds: i64| {
        let mut b = KernelBuilder::new("k", Numerics::Fused);
        let x = b.param("x", elem, 64, Access::Read);
        let y = b.param("y", elem, 64, Access::Write);
        let range = (b.index(0), b.index(8 * rounds), 8);
        b.for_loop(range, &[], |b, i, _| {
            let v = b.load(Addr { buf: x, base: i, plus: 0 }, 8);
            let less = b.op(Op::Lt, &[v, v]);
            let w = b.op(Op::Select, &[less, v, v]);
            b.store(Addr { buf: y, base: i, plus: 0 }, w);
            vec![]
        });
        b.finish()
    };
    let borrowed = |k: &Kernel| matches!(widen(k, false), Cow::Borrowed(_));
    assert!(borrowed(&kernel(DType::F32, 8)));
    assert!(!borrowed(&kernel(DType::F32, 1)));
    assert!(!borrowed(&kernel(DType::I8, 8)));
    assert!(!borrowed(&kernel(DType::BF16, 8)));
}

/// What is computed of coordinates needs no i64; what is loaded stays one.
#[test]
fn small_integers_are_narrow() {
    use crate::kernel::build::KernelBuilder;
    let kernel = |factor: i64| {
        let mut b = KernelBuilder::new("k", Numerics::Separate);
        let x = b.param("x", DType::I64, 8, Access::Read);
        let y = b.param("y", DType::F32, 8, Access::Write);
        b.set_grid([8, 1, 1]);
        let g = b.grid(0);
        let place = b.convert(g, DType::I64);
        let ty = Ty::Scalar(DType::I64);
        let [c, three] = [factor, 3].map(|n| b.constant(ty, Lit::int(DType::I64, n)));
        let scaled = b.op(Op::Mul, &[place, c]);
        let rest = b.op(Op::Rem, &[scaled, three]);
        let read = b.load(Addr { buf: x, base: g, plus: 0 }, 1);
        let (less, few) = (b.op(Op::Lt, &[rest, three]), b.op(Op::Lt, &[place, three]));
        let picked = b.op(Op::Select, &[few, scaled, rest]);
        let sum = b.op(Op::Add, &[read, picked]);
        let either = b.op(Op::Select, &[less, sum, read]);
        let v = b.convert(either, DType::F32);
        b.store(Addr { buf: y, base: g, plus: 0 }, v);
        b.finish()
    };
    // Values of i64 that are left: the loaded one, the sum and the choice with it, and what it adds; where the
    // factor is large, also what it is computed of.
    for (factor, long) in [(5, 4), (1 << 40, 9)] {
        let kernel = kernel(factor);
        let form = Form { short: true, ..forms().next().unwrap() };
        let narrow = legalize_to(&kernel, form);
        let plain = legalize_to(&kernel, Form { short: false, ..form });
        assert_same(&plain, &narrow, 7);
        let is_long = |ty: &&Ty| **ty == Ty::Scalar(DType::I64);
        assert_eq!(narrow.types.iter().filter(is_long).count(), long);
    }
}
