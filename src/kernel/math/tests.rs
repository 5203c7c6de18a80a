use super::*;
use crate::base::machine::Numerics;
use crate::kernel::eval::{erf, run_all};
use crate::kernel::types::check_types;

const ALL: Means = Means { scales: false, double: true };
const CLASSES: [Numerics; 2] = [Numerics::Fused, Numerics::Separate];
/// With f64 for functions of f32, and without.
const WAYS: [(Numerics, bool); 3] =
    [(Numerics::Fused, true), (Numerics::Separate, true), (Numerics::Separate, false)];
type Exact = fn(f64) -> f64;
const UNARY: [(Op, Exact); 8] = [
    (Op::Exp, f64::exp),
    (Op::Expm1, f64::exp_m1),
    (Op::Log, f64::ln),
    (Op::Log1p, f64::ln_1p),
    (Op::Sin, f64::sin),
    (Op::Cos, f64::cos),
    (Op::Tanh, f64::tanh),
    (Op::Erf, erf),
];

/// y[i] = op(x[i] …), expanded.
fn kernel(op: Op, dtype: DType, operands: usize, len: usize, numerics: Numerics) -> Kernel {
    kernel_with(op, dtype, operands, len, numerics, ALL)
}

fn kernel_with(
    op: Op,
    dtype: DType,
    operands: usize,
    len: usize,
    numerics: Numerics,
    means: Means,
) -> Kernel {
    let mut b = KernelBuilder::new("math", numerics);
    let xs: Vec<Buf> =
        (0..operands).map(|i| b.param(&format!("x{i}"), dtype, len as u64, Access::Read)).collect();
    let y = b.param("y", dtype, len as u64, Access::Write);
    let range = (b.index(0), b.index(len as i64), 32);
    assert!(len.is_multiple_of(32));
    b.for_loop(range, &[], |b, base, _| {
        let args: Vec<Val> =
            xs.iter().map(|buf| b.load(Addr { buf: *buf, base, plus: 0 }, 32)).collect();
        let v = b.op(op, &args);
        b.store(Addr { buf: y, base, plus: 0 }, v);
        vec![]
    });
    let expanded = expand_math(&b.finish(), means).into_owned();
    check_types(&expanded).unwrap();
    assert!(!has_math(&expanded.body));
    expanded
}

fn apply_f32(op: Op, numerics: Numerics, double: bool, operands: &[Vec<f32>]) -> Vec<f32> {
    let len = operands[0].len().next_multiple_of(32);
    let means = Means { scales: false, double };
    let kernel = kernel_with(op, DType::F32, operands.len(), len, numerics, means);
    let wide = kernel.types.iter().any(|ty| *ty != Ty::Index && ty.dtype().bytes() == 8);
    assert!(double || !wide, "{op:?} computes in 64 bits");
    let padded = |v: &Vec<f32>| {
        let mut v = v.clone();
        v.resize(len, 0.0);
        bytemuck::cast_slice(&v).to_vec()
    };
    let mut buffers: Vec<Vec<u8>> = operands.iter().map(padded).collect();
    buffers.push(vec![0; 4 * len]);
    run_all(&kernel, &mut buffers).unwrap();
    let result = buffers.last().unwrap().chunks(4).map(bytemuck::pod_read_unaligned);
    result.take(operands[0].len()).collect()
}

fn apply_f64(op: Op, numerics: Numerics, operands: &[Vec<f64>]) -> Vec<f64> {
    let len = operands[0].len().next_multiple_of(32);
    let kernel = kernel(op, DType::F64, operands.len(), len, numerics);
    let padded = |v: &Vec<f64>| {
        let mut v = v.clone();
        v.resize(len, 0.0);
        bytemuck::cast_slice(&v).to_vec()
    };
    let mut buffers: Vec<Vec<u8>> = operands.iter().map(padded).collect();
    buffers.push(vec![0; 8 * len]);
    run_all(&kernel, &mut buffers).unwrap();
    let result = buffers.last().unwrap().chunks(8).map(bytemuck::pod_read_unaligned);
    result.take(operands[0].len()).collect()
}

/// The distance of a result from the exact value, in units in the last place of f32 there.
fn ulps_f32(got: f32, want: f64) -> f64 {
    let rounded = want as f32;
    if got.to_bits() == rounded.to_bits() || (got.is_nan() && want.is_nan()) {
        return 0.0;
    }
    if got.is_nan() || want.is_nan() || (got == 0.0 && want == 0.0) {
        return f64::INFINITY;
    }
    // What overflows is as far away as the next power of two.
    let got = if got.is_infinite() { 2f64.powi(128).copysign(got as f64) } else { got as f64 };
    let want = if want.abs() > 1e300 { 2f64.powi(128).copysign(want) } else { want };
    let exponent = (want.abs().log2().floor() as i32).clamp(-126, 127);
    (got - want).abs() / 2f64.powi(exponent - 23)
}

/// Every exponent and sign with many significands, and what is special.
fn sweep(per_exponent: u32) -> Vec<f32> {
    let mut out = vec![];
    for top in 0..512u32 {
        for i in 0..per_exponent {
            let spread = i.wrapping_mul(0x9e37_79b9).wrapping_add(top * 77) & 0x7f_ffff;
            let low = if i < 2 { i } else { spread };
            out.push(f32::from_bits(top << 23 | low));
        }
    }
    out.extend([f32::NAN, 0.0, -0.0, 1.0, -1.0, f32::MAX, f32::MIN, 88.72283, -103.97208]);
    out
}

/// Multiplying by a power of two in one step or in two: the same bits, subnormal results included.
#[test]
fn scaling_in_one_step_changes_nothing() {
    let xs = [sweep(40), (0..4000).map(|i| -105.0 + i as f32 * 0.05).collect()].concat();
    let len = xs.len().next_multiple_of(32);
    for (dtype, bytes) in [(DType::F32, 4), (DType::F64, 8)] {
        let run = |scales: bool| {
            let kernel = kernel_with(
                Op::Exp,
                dtype,
                1,
                len,
                Numerics::Fused,
                Means { scales, double: true },
            );
            let text = crate::kernel::print::print_kernel(&kernel);
            assert_eq!(text.contains("= scale "), scales);
            let of = |x: &f32| match dtype {
                DType::F32 => x.to_le_bytes().to_vec(),
                _ => (*x as f64 * 7.1).to_le_bytes().to_vec(),
            };
            let mut values: Vec<u8> = xs.iter().flat_map(of).collect();
            values.resize(len * bytes, 0);
            let mut buffers = vec![values, vec![0; len * bytes]];
            run_all(&kernel, &mut buffers).unwrap();
            buffers.pop().unwrap()
        };
        let (one, two) = (run(true), run(false));
        for (i, (a, b)) in one.chunks(bytes).zip(two.chunks(bytes)).enumerate() {
            let nan = xs.get(i).is_some_and(|x| x.is_nan());
            assert!(a == b || nan, "{dtype}: exp of {:?}", xs.get(i));
        }
    }
}

#[test]
fn f32_is_within_two_ulp_of_the_exact_value() {
    let mut xs = sweep(20);
    // Where the functions turn from one formula to another, densely.
    xs.extend((0..2000).map(|i| (i as f32 - 1000.0) * 0.0054));
    let mut report = vec![];
    for (op, exact) in UNARY {
        for (numerics, double) in WAYS {
            let got = apply_f32(op, numerics, double, &[xs.clone()]);
            let worst = xs
                .iter()
                .zip(&got)
                .map(|(x, y)| (ulps_f32(*y, exact(*x as f64)), *x, *y))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap();
            if worst.0 > 2.0 {
                report.push(format!(
                    "{op:?} {numerics:?} {double} {worst:?} want {}",
                    exact(worst.1 as f64)
                ));
            }
        }
    }
    assert!(report.is_empty(), "{report:#?}");
}

#[test]
fn pow_of_f32() {
    let edges = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.0, 3.0, 1e-40, 1e30, -1e30, 2.5, -0.5];
    let mut all = edges.to_vec();
    all.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 16777216.0, 16777215.0, 0.99999994]);
    let (mut xs, mut ys) = (vec![], vec![]);
    for x in &all {
        for y in &all {
            xs.push(*x);
            ys.push(*y);
        }
    }
    for i in 0..3000 {
        let x = (i as f32 * 0.37).exp2() % 1e30 + i as f32 * 1e-3;
        xs.push(x);
        ys.push((i as f32 * 0.77).sin() * 80.0 / x.log2().abs().max(0.1));
    }
    for (numerics, double) in WAYS {
        let got = apply_f32(Op::Pow, numerics, double, &[xs.clone(), ys.clone()]);
        let most = if double { 1.0 } else { 2.0 };
        for ((x, y), got) in xs.iter().zip(&ys).zip(got) {
            let want = (*x as f64).powf(*y as f64);
            assert!(ulps_f32(got, want) <= most, "{x}^{y}: {got}, not {want}");
        }
    }
}

/// Results rounded from 2000 bits, written by `tools/math_points.py`.
#[test]
fn f64_is_within_four_ulp_of_the_exact_value() {
    let text = include_str!("../../../tests/data/math_f64.txt");
    let names = [
        ("exp", Op::Exp),
        ("expm1", Op::Expm1),
        ("log", Op::Log),
        ("log1p", Op::Log1p),
        ("sin", Op::Sin),
        ("cos", Op::Cos),
        ("tanh", Op::Tanh),
        ("erf", Op::Erf),
        ("pow", Op::Pow),
    ];
    let mut report = vec![];
    for (name, op) in names {
        let rows: Vec<Vec<f64>> = text
            .lines()
            .map(|l| l.split(' ').collect::<Vec<_>>())
            .filter(|words| words[0] == name)
            .map(|words| {
                let number = |w: &&str| f64::from_bits(u64::from_str_radix(w, 16).unwrap());
                words[1..].iter().map(number).collect()
            })
            .collect();
        assert!(rows.len() >= 150, "{name}");
        let operands: Vec<Vec<f64>> = (0..super::super::types::arity(op))
            .map(|i| rows.iter().map(|r| r[i]).collect())
            .collect();
        for numerics in CLASSES {
            let got = apply_f64(op, numerics, &operands);
            for (row, got) in rows.iter().zip(got) {
                let want = row[row.len() - 1];
                let distance = (want.to_bits() as i64).abs_diff(got.to_bits() as i64);
                if distance > 4 {
                    report.push(format!("{name} {numerics:?} {row:?}: {got}, {distance} ulp"));
                }
            }
        }
    }
    report.truncate(12);
    assert!(report.is_empty(), "{report:#?}");
}

#[test]
fn edges_of_f64() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let cases: [(Op, &[(f64, f64)]); 8] = [
        (Op::Exp, &[(inf, inf), (-inf, 0.0), (nan, nan), (710.0, inf), (-746.0, 0.0), (0.0, 1.0)]),
        (Op::Expm1, &[(inf, inf), (-inf, -1.0), (nan, nan), (-0.0, -0.0), (1e-300, 1e-300)]),
        (Op::Log, &[(inf, inf), (0.0, -inf), (-0.0, -inf), (-1.0, nan), (nan, nan), (1.0, 0.0)]),
        (Op::Log1p, &[(inf, inf), (-1.0, -inf), (-2.0, nan), (nan, nan), (-0.0, -0.0)]),
        (Op::Sin, &[(inf, nan), (-inf, nan), (nan, nan), (-0.0, -0.0), (5e-324, 5e-324)]),
        (Op::Cos, &[(inf, nan), (nan, nan), (0.0, 1.0)]),
        (Op::Tanh, &[(inf, 1.0), (-inf, -1.0), (nan, nan), (-0.0, -0.0), (400.0, 1.0)]),
        (Op::Erf, &[(inf, 1.0), (-inf, -1.0), (nan, nan), (-0.0, -0.0), (-7.0, -1.0)]),
    ];
    for (op, rows) in cases {
        for numerics in CLASSES {
            let xs = rows.iter().map(|r| r.0).collect();
            let got = apply_f64(op, numerics, &[xs]);
            for ((x, want), got) in rows.iter().zip(got) {
                let same = want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan());
                assert!(same, "{op:?} of {x}: {got}, not {want}");
            }
        }
    }
}
