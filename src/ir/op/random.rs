//! Random tensors: elementwise over a counter, under a key hashed from a stream's name and a seed.
//!
//! Element i of draw d is a function of (seed, stream, d, i) alone: no pass, target or number of
//! threads changes it. A stream repeats after 2³² elements. The operand `draw` tells runs of a model
//! apart (training steps); without it every run draws the same.

use sha2::{Digest, Sha256};

use super::common::*;
use super::sample::*;
use super::view::SHAPE;
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::{Num, Scalar, for_dtype, threefry2x32};

const DRAW: &[OperandSpec] =
    &[optional("draw", "a u32 scalar: which draw of the stream; absent: 0")];
const DTYPE: AttrSpec = attr("dtype", AttrKind::DType, Preset::None, "a float; absent: f32");
const STREAM: AttrSpec = attr(
    "stream",
    AttrKind::Str,
    Preset::Str(""),
    "the name of the stream; in a model, the dotted name of the value",
);
const SEED: AttrSpec = attr("seed", AttrKind::Int, Preset::Int(0), "the seed of all streams");

pub static ROWS: &[OpRow] = &[
    row(
        "random_uniform",
        &[
            SHAPE,
            attr("low", AttrKind::Float, Preset::Float(0.0), "the lower bound, included"),
            attr(
                "high",
                AttrKind::Float,
                Preset::Float(1.0),
                "the upper bound, excluded but for rounding",
            ),
            DTYPE,
            STREAM,
            SEED,
        ],
        |c| {
            eval(c, |bits| {
                c.op.float("low") + unit(bits(0)) * (c.op.float("high") - c.op.float("low"))
            })
        },
        expand_uniform,
        uniform_samples,
        "Numbers drawn evenly between two bounds, with 24 random bits each.",
    ),
    row(
        "random_normal",
        &[
            SHAPE,
            attr("mean", AttrKind::Float, Preset::Float(0.0), "the mean"),
            attr("std", AttrKind::Float, Preset::Float(1.0), "the standard deviation"),
            DTYPE,
            STREAM,
            SEED,
        ],
        |c| {
            eval(c, |bits| {
                // Box and Muller 1958; 1 - u lies in (0, 1], where the logarithm is finite.
                let radius = (-2.0 * libm::log(1.0 - unit(bits(0)))).sqrt();
                let angle = std::f64::consts::TAU * unit(bits(1));
                c.op.float("mean") + c.op.float("std") * (radius * libm::cos(angle))
            })
        },
        expand_normal,
        normal_samples,
        "Numbers from a normal distribution.",
    ),
];

const fn row(
    name: &'static str,
    attrs: &'static [AttrSpec],
    eval: fn(&EvalCtx) -> Result<Vec<Tensor>, OpError>,
    expand: Expand,
    samples: fn() -> Vec<Sample>,
    doc: &'static str,
) -> OpRow {
    OpRow {
        name,
        doc,
        operands: DRAW,
        attrs,
        results: &["y"],
        infer,
        eval,
        class: |_| Class::Composite,
        expand: Some(expand),
        gradient: Gradient::Zero("a draw depends on nothing that has a gradient"),
        tolerance: Tolerance { rel: 1e-5, abs: 1e-5 },
        samples,
    }
}

/// The key of a stream; `lane` tells apart the words that one element needs.
pub fn stream_key(stream: &str, seed: i64, lane: u8) -> [u32; 2] {
    let hash = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update([lane])
        .chain_update(stream)
        .finalize();
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| hash[at + i]));
    [word(0), word(4)]
}

/// 24 bits as a number in `0..1`, a multiple of 2⁻²⁴, exact in f32.
fn unit(bits: u32) -> f64 {
    (bits >> 8) as f64 / 16_777_216.0
}

fn infer(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let shape = shape_attr(c.op, "shape")?;
    let y = TensorType::new(dtype_or(c.op, "dtype", DType::F32), shape);
    if !y.dtype.is_float() {
        return Err(OpError::dtype(format!("`{}` draws floats, not {}", c.op.row.name, y.dtype)));
    }
    match c.operand("draw") {
        Some(d) if d.dtype != DType::U32 || d.rank() != 0 => Err(OpError::dtype(format!(
            "`{}` takes `draw` as a u32 scalar, not {d}",
            c.op.row.name
        ))),
        _ => Ok(vec![y]),
    }
}

/// `f` of the words of each element, by lane.
fn eval(c: &EvalCtx, f: impl Fn(&dyn Fn(u8) -> u32) -> f64) -> Result<Vec<Tensor>, OpError> {
    let shape = c.result_shape(0);
    let draw = c.operand("draw").map_or(0, |t| t.as_slice::<u32>()[0]);
    let keys = [0, 1].map(|lane| stream_key(c.op.str("stream"), c.op.int("seed"), lane));
    let n: usize = shape.iter().product();
    let number = |i: usize| f(&|lane| threefry2x32(keys[lane as usize], [draw, i as u32])[0]);
    // Under Precision::F64 the evaluator would widen what was rounded here.
    let dtype = match c.precision {
        crate::ir::eval::Precision::Own => c.results[0].dtype,
        crate::ir::eval::Precision::F64 => DType::F64,
    };
    Ok(vec![for_dtype!(dtype, T => {
        let data: Vec<T> = (0..n).map(|i| T::from_num(Num::Float(number(i)))).collect();
        Tensor::from_slice(&shape, &data)
    })])
}

// ---- Expansions --------------------------------------------------------------------------------

/// u32 words of this shape, one for each element.
pub fn random_bits(
    b: &mut Builder,
    shape: &Shape,
    key: [u32; 2],
    draw: Option<Value>,
) -> Result<Value, OpError> {
    let n = shape.numel().ok_or_else(OpError::overflow)?;
    let count = [("shape", Attr::Dims(vec![n])), ("dtype", Attr::DType(DType::U32))];
    let count = b.op("iota", &[], &count)?;
    let count = b.reshape(count, shape)?;
    let draw = match draw {
        Some(draw) => draw,
        None => b.constant(Tensor::from_slice(&[], &[0u32])),
    };
    let key = Attr::Ints(key.iter().map(|&k| k as i64).collect());
    b.op("random", &[draw, count], &[("key", key)])
}

/// Numbers in `0..1`, of this float dtype.
pub fn random_unit(
    b: &mut Builder,
    shape: &Shape,
    dtype: DType,
    key: [u32; 2],
    draw: Option<Value>,
) -> Result<Value, OpError> {
    let bits = random_bits(b, shape, key, draw)?;
    let high = b.bin_const("bitwise_right_shift", bits, 8.0)?;
    let number = b.cast(high, dtype)?;
    b.bin_const("mul", number, 1.0 / 16_777_216.0)
}

/// Narrow dtypes are computed in f32.
fn compute(c: &ExpandCtx) -> DType {
    c.results[0].dtype.compute()
}

fn key(c: &ExpandCtx, lane: u8) -> [u32; 2] {
    stream_key(c.op.str("stream"), c.op.int("seed"), lane)
}

fn expand_uniform(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let u = random_unit(b, &c.results[0].shape, compute(c), key(c, 0), c.operand("draw"))?;
    let (low, high) = (c.op.float("low"), c.op.float("high"));
    let u = b.bin_const("mul", u, high - low)?;
    let y = b.bin_const("add", u, low)?;
    Ok(vec![b.cast(y, c.results[0].dtype)?])
}

fn expand_normal(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let (shape, draw) = (&c.results[0].shape, c.operand("draw"));
    let u = random_unit(b, shape, compute(c), key(c, 0), draw)?;
    let v = random_unit(b, shape, compute(c), key(c, 1), draw)?;
    let one = b.scalar(compute(c), 1.0);
    let rest = b.bin("sub", one, u)?;
    let log = b.un("log", rest)?;
    let square = b.bin_const("mul", log, -2.0)?;
    let radius = b.un("sqrt", square)?;
    let angle = b.bin_const("mul", v, std::f64::consts::TAU)?;
    let cos = b.un("cos", angle)?;
    let z = b.bin("mul", radius, cos)?;
    let z = b.bin_const("mul", z, c.op.float("std"))?;
    let y = b.bin_const("add", z, c.op.float("mean"))?;
    Ok(vec![b.cast(y, c.results[0].dtype)?])
}

// ---- Samples -----------------------------------------------------------------------------------

fn shape(v: &[i64]) -> (&'static str, Attr) {
    ("shape", Attr::Dims(v.iter().map(|&d| Dim::Const(d)).collect()))
}

fn base() -> Vec<Sample> {
    let stream = || ("stream", Attr::Str("encoder.0.dropout".into()));
    let seed = || ("seed", Attr::Int(42));
    let draw = || Tensor::from_slice(&[], &[9u32]);
    let absent = |attrs| Sample { operands: vec![None], attrs, regions: vec![] };
    vec![
        absent(vec![shape(&[5, 40]), stream()]),
        absent(vec![shape(&[0, 3]), stream()]),
        sample(vec![draw()], vec![shape(&[30]), stream(), seed()]),
        absent(vec![shape(&[30]), ("dtype", Attr::DType(DType::BF16))]),
        absent(vec![shape(&[30]), ("dtype", Attr::DType(DType::F64)), seed()]),
        absent(vec![shape(&[]), seed()]),
    ]
}

fn uniform_samples() -> Vec<Sample> {
    let mut out = base();
    let bounds = vec![("low", Attr::Float(-2.0)), ("high", Attr::Float(3.0))];
    out.push(Sample {
        operands: vec![None],
        attrs: [vec![shape(&[50])], bounds].concat(),
        regions: vec![],
    });
    out
}

fn normal_samples() -> Vec<Sample> {
    let mut out = base();
    let moments = vec![("mean", Attr::Float(-2.0)), ("std", Attr::Float(0.5))];
    out.push(Sample {
        operands: vec![None],
        attrs: [vec![shape(&[50])], moments].concat(),
        regions: vec![],
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::walk::graph_of;

    fn draw(name: &str, attrs: Vec<(&'static str, Attr)>) -> Vec<f32> {
        let row = find(name).expect("a row of the table");
        let sample = Sample { operands: vec![None], attrs, regions: vec![] };
        let (graph, _, env) = graph_of(row, sample).expect("it is well formed");
        let run = crate::ir::eval::evaluate(&graph, &env, crate::ir::eval::Precision::Own);
        run.expect("it evaluates").outputs[0].as_slice::<f32>().to_vec()
    }

    fn moments(v: &[f32]) -> (f64, f64) {
        let n = v.len() as f64;
        let mean = v.iter().map(|&x| x as f64).sum::<f64>() / n;
        (mean, (v.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn distributions_have_their_moments() {
        let u = draw("random_uniform", vec![shape(&[20000])]);
        assert!(u.iter().all(|x| (0.0..1.0).contains(x)));
        let (mean, std) = moments(&u);
        assert!((mean - 0.5).abs() < 0.01 && (std - 0.2887).abs() < 0.01, "{mean} {std}");
        let (mean, std) = moments(&draw("random_normal", vec![shape(&[20000])]));
        assert!(mean.abs() < 0.03 && (std - 1.0).abs() < 0.03, "{mean} {std}");
    }

    #[test]
    fn streams_and_seeds_differ() {
        let of = |name: &str, seed| {
            let stream = ("stream", Attr::Str(name.into()));
            draw("random_uniform", vec![shape(&[4]), stream, ("seed", Attr::Int(seed))])
        };
        assert_eq!(of("a", 0), of("a", 0));
        assert_ne!(of("a", 0), of("b", 0));
        assert_ne!(of("a", 0), of("a", 1));
    }
}
