//! Elementwise ops of two and three operands: arithmetic, bits, comparisons, selection.

use super::common::*;
use super::elementwise::*;
use super::sample::*;
use super::*;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar::ScalarFn;

use Class::Elementwise;
use Gradient::Unwritten;

const EXACT: Tolerance = Tolerance::EXACT;
const TIGHT: Tolerance = Tolerance::TIGHT;

pub static ROWS: &[OpRow] = &[
    row(
        "add",
        XY,
        |_| Elementwise(ScalarFn::Add),
        Unwritten,
        TIGHT,
        number_binary,
        "`x + y`. Integers wrap.",
    ),
    row(
        "sub",
        XY,
        |_| Elementwise(ScalarFn::Sub),
        Unwritten,
        TIGHT,
        number_binary,
        "`x - y`. Integers wrap.",
    ),
    row(
        "mul",
        XY,
        |_| Elementwise(ScalarFn::Mul),
        Unwritten,
        TIGHT,
        number_binary,
        "`x * y`, element by element. Integers wrap.",
    ),
    row(
        "div",
        XY,
        |_| Elementwise(ScalarFn::Div),
        Unwritten,
        TIGHT,
        number_binary,
        "`x / y`. Integers truncate towards zero; by zero they give 0, and the least integer by \
         -1 wraps.",
    ),
    row(
        "floor_divide",
        XY,
        |_| Elementwise(ScalarFn::FloorDiv),
        STEPS,
        EXACT,
        division,
        "`x / y` rounded towards minus infinity. Integers by zero give 0.",
    ),
    row(
        "remainder",
        XY,
        |_| Elementwise(ScalarFn::Mod),
        Unwritten,
        TIGHT,
        division,
        "The remainder of the division that rounds towards minus infinity: it has the sign of y. \
         Integers by zero give 0, floats NaN.",
    ),
    row(
        "pow",
        XY,
        |_| Elementwise(ScalarFn::Pow),
        Unwritten,
        Tolerance { rel: 1e-5, abs: 1e-6 },
        powers,
        "x to the power of y. A negative float to a fraction is NaN. Integers wrap, and a negative \
         exponent gives 0 (±1 for the bases ±1).",
    ),
    row(
        "minimum",
        XY,
        |_| Elementwise(ScalarFn::Min),
        Unwritten,
        EXACT,
        number_binary,
        "The lesser of x and y; NaN where either is NaN.",
    ),
    row(
        "maximum",
        XY,
        |_| Elementwise(ScalarFn::Max),
        Unwritten,
        EXACT,
        number_binary,
        "The greater of x and y; NaN where either is NaN.",
    ),
    row(
        "bitwise_and",
        XY,
        |_| Elementwise(ScalarFn::And),
        BITS,
        EXACT,
        bits_binary,
        "The bits that x and y both have; of bools, whether both are true.",
    ),
    row(
        "bitwise_or",
        XY,
        |_| Elementwise(ScalarFn::Or),
        BITS,
        EXACT,
        bits_binary,
        "The bits that x or y has; of bools, whether one of them is true.",
    ),
    row(
        "bitwise_xor",
        XY,
        |_| Elementwise(ScalarFn::Xor),
        BITS,
        EXACT,
        bits_binary,
        "The bits that just one of x and y has; of bools, whether they differ.",
    ),
    row(
        "bitwise_left_shift",
        XY,
        |_| Elementwise(ScalarFn::Shl),
        BITS,
        EXACT,
        int_binary,
        "The integer x shifted left by y modulo the bits of the type; zeros come in.",
    ),
    row(
        "bitwise_right_shift",
        XY,
        |_| Elementwise(ScalarFn::Shr),
        BITS,
        EXACT,
        int_binary,
        "The integer x shifted right by y modulo the bits of the type; copies of the sign come in \
         for signed types, zeros for unsigned ones.",
    ),
    logical("logical_and", |_| Elementwise(ScalarFn::And), "True where both bools are true."),
    logical("logical_or", |_| Elementwise(ScalarFn::Or), "True where one of two bools is true."),
    logical("logical_xor", |_| Elementwise(ScalarFn::Xor), "True where two bools differ."),
    row(
        "eq",
        XY,
        |_| Elementwise(ScalarFn::Eq),
        TRUTH,
        EXACT,
        comparisons,
        "True where x equals y; NaN equals nothing.",
    ),
    row(
        "ne",
        XY,
        |_| Elementwise(ScalarFn::Ne),
        TRUTH,
        EXACT,
        comparisons,
        "True where x differs from y; NaN differs from everything.",
    ),
    row("lt", XY, |_| Elementwise(ScalarFn::Lt), TRUTH, EXACT, comparisons, "True where x < y."),
    row("le", XY, |_| Elementwise(ScalarFn::Le), TRUTH, EXACT, comparisons, "True where x ≤ y."),
    row("gt", XY, |_| Elementwise(ScalarFn::Gt), TRUTH, EXACT, comparisons, "True where x > y."),
    row("ge", XY, |_| Elementwise(ScalarFn::Ge), TRUTH, EXACT, comparisons, "True where x ≥ y."),
    row(
        "where",
        &[
            operand("condition", "bool, any shape"),
            operand("x", "where the condition holds; broadcasts"),
            operand("y", "where it does not; of the dtype of x, broadcasts"),
        ],
        |_| Elementwise(ScalarFn::Where),
        Unwritten,
        EXACT,
        choices,
        "x where the condition is true, y where it is false. The one not chosen has no influence, \
         be it NaN.",
    ),
    OpRow {
        attrs: &[attr("key", AttrKind::Ints, Preset::Required, "the two words of the key")],
        infer: infer_random,
        ..row(
            "random",
            &[
                operand("high", "u32, the first word of the counter"),
                operand("low", "u32, the second word; broadcasts against `high`"),
            ],
            random,
            BITS,
            EXACT,
            counters,
            "32 random bits for each counter: the first word of Threefry-2x32 with 20 rounds \
             (Salmon et al. 2011). The same key and counter always give the same bits. \
             `random_uniform` and `random_normal` are made of it.",
        )
    },
];

const fn logical(name: &'static str, class: fn(&OpCtx) -> Class, doc: &'static str) -> OpRow {
    OpRow { infer: infer_logical, ..row(name, XY, class, TRUTH, EXACT, bool_binary, doc) }
}

fn infer_logical(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    for (ty, spec) in ctx.types.iter().zip(ctx.op.row.operands) {
        expect_dtype(ctx.op, spec.name, ty, Domain::Bool)?;
    }
    infer(ctx)
}

fn random(ctx: &OpCtx) -> Class {
    let key = ctx.op.ints("key");
    let word = |i: usize| key.get(i).copied().unwrap_or(0) as u32;
    Elementwise(ScalarFn::Random { key: [word(0), word(1)] })
}

fn infer_random(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let key = ctx.op.ints("key");
    if key.len() != 2 || key.iter().any(|&k| u32::try_from(k).is_err()) {
        return Err(OpError::attr(format!(
            "`random` takes a key of two 32-bit words, not {key:?}"
        )));
    }
    for (ty, spec) in ctx.types.iter().zip(ctx.op.row.operands) {
        if ty.dtype != DType::U32 {
            let message = format!("`random` counts in u32, but `{}` is {ty}", spec.name);
            return Err(OpError::dtype(message).help("cast it: `cast(x, u32)`"));
        }
    }
    infer(ctx)
}

fn counters() -> Vec<Sample> {
    let key = |a: i64, b: i64| vec![("key", Attr::Ints(vec![a, b]))];
    let low: Vec<u32> = (0..40).chain([u32::MAX]).collect();
    let low = Tensor::from_slice(&[41], &low);
    let high = Tensor::from_slice(&[2, 1], &[0u32, 0x243f6a88]);
    let one = Tensor::from_slice(&[], &[7u32]);
    vec![
        sample(vec![high.clone(), low.clone()], key(0x13198a2e, 0x03707344)),
        sample(vec![one, low], key(0, u32::MAX as i64)),
    ]
}

/// Quotients stay moderate, and far from integers where they are floats: at a step, a rounding
/// decides which side is right.
fn division() -> Vec<Sample> {
    let grid = |seed, lo, hi| {
        let halves: Vec<f64> = ints(DType::I32, &[60], seed, lo, hi)
            .as_slice::<i32>()
            .iter()
            .map(|&v| v as f64)
            .collect();
        halves
    };
    let x: Vec<f64> = grid(1, -80, 80).iter().map(|v| v + 0.25).collect();
    let y: Vec<f64> = grid(2, 1, 9)
        .iter()
        .zip(grid(3, 0, 1))
        .map(|(v, s)| if s > 0.0 { *v } else { -v })
        .collect();
    let edges = [0.0, 1.5, -1.5, f64::NAN, 7.0];
    let by = [2.0, 0.0, 0.0, 1.0, f64::NAN];
    let pair = |d, a: &[f64], b: &[f64]| {
        sample(vec![tensor(d, &[a.len()], a), tensor(d, &[b.len()], b)], vec![])
    };
    let mut out = vec![
        pair(DType::F32, &x, &y),
        pair(DType::F64, &x, &y),
        pair(DType::F16, &x[..20], &y[..20]),
        pair(DType::F32, &edges, &by),
    ];
    out.extend(int_binary());
    out
}

fn powers() -> Vec<Sample> {
    let base = [2.0, -2.0, -2.0, 0.0, 0.0, 9.0, 1.0, f64::INFINITY, 2.0, -8.0, 0.5, 4.0, f64::NAN];
    let power =
        [10.0, 3.0, 2.0, 0.0, -1.0, 0.5, f64::NAN, 0.0, -3.0, 1.5, f64::INFINITY, -0.5, 0.0];
    let mut out = float_binary(0.1, 4.0);
    out.push(sample(
        vec![tensor(DType::F32, &[13], &base), tensor(DType::F32, &[13], &power)],
        vec![],
    ));
    out.extend(int_binary());
    out
}

fn comparisons() -> Vec<Sample> {
    let mut out = number_binary();
    out.push(sample(special_pairs(DType::Bool).to_vec(), vec![]));
    out
}

fn choices() -> Vec<Sample> {
    let c = |shape: &[usize]| bools(shape, 3);
    let special = specials_of(DType::F32);
    let n = special.numel();
    vec![
        sample(vec![c(&[3, 4]), f32s(&[3, 4], 1), f32s(&[4], 2)], vec![]),
        sample(vec![c(&[2, 1, 5]), f32s(&[3, 1], 1), f32s(&[], 2)], vec![]),
        sample(vec![c(&[n]), special, f32s(&[n], 2)], vec![]),
        sample(
            vec![c(&[3]), ints(DType::I64, &[3], 1, -9, 9), ints(DType::I64, &[1], 2, 0, 9)],
            vec![],
        ),
        sample(vec![c(&[4]), bools(&[4], 1), bools(&[4], 2)], vec![]),
        sample(
            vec![
                c(&[]),
                uniform(DType::BF16, &[2, 3], 1, -1.0, 1.0),
                uniform(DType::BF16, &[3], 2, -1.0, 1.0),
            ],
            vec![],
        ),
    ]
}
