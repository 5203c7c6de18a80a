//! Initial values of parameters: recipes, and the numbers that they give.
//!
//! In: a recipe's text, a type, the seed and the parameter's path. Out: a tensor that depends on
//! these four alone, so that adding a layer changes no other and every platform draws the same bits:
//! a counter-based generator (Threefry-2x32 under a key hashed from seed and path), and logarithm,
//! sine and cosine from `libm` instead of the system's.
//!
//! Fans follow Keras for dlc's layouts `[out, in]` and `[out, in, height, width]`: the receptive
//! field multiplies both. The normal variants of glorot, he and lecun are truncated at two standard
//! deviations and rescaled, as Keras does.

use std::cell::Cell;
use std::fmt;

use half::{bf16, f16};
use sha2::{Digest, Sha256};

use super::op::OpError;
use super::scalar_eval::threefry2x32;
use crate::base::tensor::AlignedBytes;
use crate::base::{DType, Tensor, TensorType};

/// How a parameter begins.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Recipe {
    /// Every element is this number (`zeros`, `ones`, `constant(v)`).
    Constant(f64),
    /// Ones on the diagonal of a matrix.
    Identity,
    /// Evenly between two bounds.
    Uniform {
        low: f64,
        high: f64,
    },
    Normal {
        mean: f64,
        std: f64,
    },
    /// Redrawn beyond two standard deviations.
    TruncatedNormal {
        mean: f64,
        std: f64,
    },
    /// A variance that depends on the shape.
    Scaled {
        scale: Scale,
        shape: Distribution,
    },
    /// Rows (or columns, where these are fewer) of length one, at right angles.
    Orthogonal,
}

/// The variance of a scaled recipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// 2 / (fan in + fan out). Glorot and Bengio, AISTATS 2010.
    Glorot,
    /// 2 / fan in. He et al., ICCV 2015.
    He,
    /// 1 / fan in. LeCun et al., 1998.
    Lecun,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Distribution {
    Uniform,
    Normal,
}

/// The initial value of the parameter `path`. Errors: E0303 for a recipe that does not exist or does
/// not suit the type, E0304 for a type too large for this machine.
pub fn initial_value(
    recipe: &str,
    ty: &TensorType,
    seed: u64,
    path: &str,
) -> Result<Tensor, OpError> {
    let shape = ty.shape.concrete().ok_or_else(|| {
        OpError::attr(format!("`{path}` has no initial value while its shape {} is open", ty.shape))
    })?;
    Recipe::parse(recipe)?.draw(ty.dtype, &shape, seed, path)
}

impl Recipe {
    /// Reads `zeros`, `normal(0, 0.02)`, `uniform(-1, 1)` … One number for `normal` is the standard
    /// deviation, one for `uniform` the bound on both sides.
    pub fn parse(text: &str) -> Result<Recipe, OpError> {
        let bad = |why: &str| OpError::attr(format!("`{text}` is no initial value: {why}"));
        let (name, arguments) = match text.trim().split_once('(') {
            None => (text.trim(), ""),
            Some((name, rest)) => {
                let inner = rest.trim_end().strip_suffix(')');
                (name.trim(), inner.ok_or_else(|| bad("`)` is missing"))?)
            }
        };
        let numbers = arguments.split(',').map(str::trim).filter(|a| !a.is_empty());
        let numbers: Vec<f64> = numbers
            .map(|a| a.parse().map_err(|_| bad("an argument is not a number")))
            .collect::<Result<_, _>>()?;
        let scaled = |scale, shape| Recipe::Scaled { scale, shape };
        use Distribution::{Normal, Uniform};
        let recipe = match (name, numbers.as_slice()) {
            ("zeros", []) => Recipe::Constant(0.0),
            ("ones", []) => Recipe::Constant(1.0),
            ("constant", [v]) => Recipe::Constant(*v),
            ("identity", []) => Recipe::Identity,
            ("uniform", [bound]) => Recipe::Uniform { low: -bound, high: *bound },
            ("uniform", [low, high]) => Recipe::Uniform { low: *low, high: *high },
            ("normal", [std]) => Recipe::Normal { mean: 0.0, std: *std },
            ("normal", [mean, std]) => Recipe::Normal { mean: *mean, std: *std },
            ("truncated_normal", [std]) => Recipe::TruncatedNormal { mean: 0.0, std: *std },
            ("truncated_normal", [mean, std]) => Recipe::TruncatedNormal { mean: *mean, std: *std },
            ("glorot_uniform", []) => scaled(Scale::Glorot, Uniform),
            ("glorot_normal", []) => scaled(Scale::Glorot, Normal),
            ("he_uniform", []) => scaled(Scale::He, Uniform),
            ("he_normal", []) => scaled(Scale::He, Normal),
            ("lecun_uniform", []) => scaled(Scale::Lecun, Uniform),
            ("lecun_normal", []) => scaled(Scale::Lecun, Normal),
            ("orthogonal", []) => Recipe::Orthogonal,
            _ => {
                return Err(bad("unknown name, or a wrong number of arguments").help(
                    "one of zeros, ones, constant(v), identity, uniform(low, high), \
                     normal(mean, std), truncated_normal(mean, std), glorot_uniform, \
                     glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal, orthogonal",
                ));
            }
        };
        match recipe {
            Recipe::Normal { mean, std } | Recipe::TruncatedNormal { mean, std }
                if !(std >= 0.0 && std.is_finite() && mean.is_finite()) =>
            {
                Err(bad("the mean is finite, the standard deviation finite and not negative"))
            }
            Recipe::Uniform { low, high }
                if !(low <= high && low.is_finite() && high.is_finite()) =>
            {
                Err(bad("bounds are finite, the lower one first"))
            }
            recipe => Ok(recipe),
        }
    }

    /// The numbers that the recipe gives for this type, seed and path.
    pub fn draw(
        self,
        dtype: DType,
        shape: &[usize],
        seed: u64,
        path: &str,
    ) -> Result<Tensor, OpError> {
        let random = match self {
            Recipe::Constant(_) | Recipe::Identity => false,
            Recipe::Uniform { .. }
            | Recipe::Normal { .. }
            | Recipe::TruncatedNormal { .. }
            | Recipe::Scaled { .. }
            | Recipe::Orthogonal => true,
        };
        if random && !dtype.is_float() {
            let message = format!("`{path}` is {dtype}, and `{self}` gives floats");
            return Err(OpError::attr(message).help("use zeros, ones or constant(v)"));
        }
        let stream = Stream::new(seed, path);
        let mut fill = Fill { dtype, shape, path };
        match self {
            Recipe::Constant(v) => fill.with(|_| v),
            Recipe::Identity | Recipe::Orthogonal if shape.len() < 2 => {
                Err(OpError::attr(format!("`{self}` wants a matrix, and `{path}` is {shape:?}")))
            }
            Recipe::Identity => {
                let row = shape[1..].iter().product::<usize>();
                fill.with(|i| if i / row == i % row { 1.0 } else { 0.0 })
            }
            Recipe::Uniform { low, high } => fill.with(|i| low + (high - low) * stream.uniform(i)),
            Recipe::Normal { mean, std } => fill.with(|i| mean + std * stream.normal(i)),
            Recipe::TruncatedNormal { mean, std } => {
                fill.with(|i| mean + std * stream.truncated(i))
            }
            Recipe::Scaled { scale, shape: distribution } => {
                let variance = scale.variance(shape);
                match distribution {
                    // The variance of an even distribution over ±b is b² / 3.
                    Distribution::Uniform => {
                        let bound = (3.0 * variance).sqrt();
                        fill.with(|i| bound * (2.0 * stream.uniform(i) - 1.0))
                    }
                    // A unit normal cut at ±2 has this standard deviation.
                    Distribution::Normal => {
                        let std = variance.sqrt() / 0.879_625_661_034_239_8;
                        fill.with(|i| std * stream.truncated(i))
                    }
                }
            }
            Recipe::Orthogonal => {
                let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
                let matrix = orthogonal(rows, columns, &stream);
                fill.with(|i| matrix[i])
            }
        }
    }
}

/// As `parse` reads it.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipe::Constant(0.0) => f.write_str("zeros"),
            Recipe::Constant(1.0) => f.write_str("ones"),
            Recipe::Constant(v) => write!(f, "constant({v})"),
            Recipe::Identity => f.write_str("identity"),
            Recipe::Uniform { low, high } => write!(f, "uniform({low}, {high})"),
            Recipe::Normal { mean, std } => write!(f, "normal({mean}, {std})"),
            Recipe::TruncatedNormal { mean, std } => write!(f, "truncated_normal({mean}, {std})"),
            Recipe::Scaled { scale, shape } => {
                let scale = match scale {
                    Scale::Glorot => "glorot",
                    Scale::He => "he",
                    Scale::Lecun => "lecun",
                };
                let shape = match shape {
                    Distribution::Uniform => "uniform",
                    Distribution::Normal => "normal",
                };
                write!(f, "{scale}_{shape}")
            }
            Recipe::Orthogonal => f.write_str("orthogonal"),
        }
    }
}

impl Scale {
    fn variance(self, shape: &[usize]) -> f64 {
        let (fan_in, fan_out) = fans(shape);
        match self {
            Scale::Glorot => 2.0 / (fan_in + fan_out).max(1.0),
            Scale::He => 2.0 / fan_in.max(1.0),
            Scale::Lecun => 1.0 / fan_in.max(1.0),
        }
    }
}

/// Fan in and fan out of `[out, in, …]`; a vector has its length as both, a scalar 1.
pub fn fans(shape: &[usize]) -> (f64, f64) {
    match shape {
        [] => (1.0, 1.0),
        [n] => (*n as f64, *n as f64),
        [out, inner, field @ ..] => {
            let field: f64 = field.iter().map(|d| *d as f64).product();
            (*inner as f64 * field, *out as f64 * field)
        }
    }
}

/// Random numbers by index; the index is the counter.
struct Stream {
    key: [u32; 2],
    /// The pair that was drawn last, and its number: numbers are asked for in their order.
    last: Cell<(u64, [f64; 2])>,
}

impl Stream {
    fn new(seed: u64, path: &str) -> Stream {
        let hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(path).finalize();
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| hash[at + i]));
        Stream { key: [word(0), word(4)], last: Cell::new((u64::MAX, [0.0; 2])) }
    }

    fn block(key: [u32; 2], index: u64) -> [f64; 2] {
        // The middle of each of 2³² steps: never 0, whose logarithm is infinite, and never 1.
        let unit = |w: u32| (w as f64 + 0.5) / 4_294_967_296.0;
        threefry2x32(key, [index as u32, (index >> 32) as u32]).map(unit)
    }

    /// The pair that number `i` is drawn from.
    fn pair(&self, i: usize) -> [f64; 2] {
        let index = i as u64 / 2;
        let (known, pair) = self.last.get();
        if known == index {
            return pair;
        }
        let pair = Stream::block(self.key, index);
        self.last.set((index, pair));
        pair
    }

    /// In (0, 1).
    fn uniform(&self, i: usize) -> f64 {
        self.pair(i)[i % 2]
    }

    /// Mean 0, standard deviation 1. Box and Muller, 1958: two numbers from two.
    fn normal(&self, i: usize) -> f64 {
        let (radius, angle) = polar(self.pair(i));
        if i.is_multiple_of(2) { radius * libm::cos(angle) } else { radius * libm::sin(angle) }
    }

    /// As `normal`, drawn again while it lies beyond ±2; each try has a key of its own.
    fn truncated(&self, i: usize) -> f64 {
        let mut z = self.normal(i);
        let mut attempt = 0;
        while z.abs() > 2.0 && attempt < 64 {
            attempt += 1;
            let key = threefry2x32(self.key, [attempt, u32::MAX]);
            let (radius, angle) = polar(Stream::block(key, i as u64));
            z = radius * libm::cos(angle);
        }
        z.clamp(-2.0, 2.0)
    }
}

fn polar([a, b]: [f64; 2]) -> (f64, f64) {
    ((-2.0 * libm::log(a)).sqrt(), std::f64::consts::TAU * b)
}

/// Vectors of normal numbers made orthonormal by Gram and Schmidt, twice for accuracy.
fn orthogonal(rows: usize, columns: usize, stream: &Stream) -> Vec<f64> {
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut v: Vec<f64> = (0..count * length).map(|i| stream.normal(i)).collect();
    for k in 0..count {
        let (done, rest) = v.split_at_mut(k * length);
        let this = &mut rest[..length];
        for _ in 0..2 {
            for other in done.chunks_exact(length) {
                let dot: f64 = this.iter().zip(other).map(|(a, b)| a * b).sum();
                this.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
            }
        }
        let norm = this.iter().map(|a| a * a).sum::<f64>().sqrt();
        this.iter_mut().for_each(|a| *a /= norm);
    }
    if rows <= columns {
        return v;
    }
    (0..rows * columns).map(|i| v[i % columns * length + i / columns]).collect()
}

/// Where the numbers go.
struct Fill<'a> {
    dtype: DType,
    shape: &'a [usize],
    path: &'a str,
}

impl Fill<'_> {
    fn with(&mut self, number: impl Fn(usize) -> f64) -> Result<Tensor, OpError> {
        let (dtype, shape, path) = (self.dtype, self.shape, self.path);
        let large = || OpError::new("E0304", format!("`{path}` is too large: {dtype}{shape:?}"));
        let n = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).ok_or_else(large)?;
        let bytes = n.checked_mul(dtype.bytes()).and_then(AlignedBytes::try_zeroed);
        let mut bytes = bytes.ok_or_else(large)?;
        let out = bytes.as_mut();
        macro_rules! floats {
            ($t:ty, $of:expr) => {
                for (i, slot) in bytemuck::cast_slice_mut::<u8, $t>(out).iter_mut().enumerate() {
                    *slot = $of(number(i));
                }
            };
        }
        macro_rules! whole {
            ($t:ty) => {
                for (i, slot) in bytemuck::cast_slice_mut::<u8, $t>(out).iter_mut().enumerate() {
                    let v = number(i);
                    // The upper bound is exclusive: `MAX as f64` rounds up to it for 64 bits.
                    let inside = v >= <$t>::MIN as f64 && v < <$t>::MAX as f64 + 1.0;
                    if v.fract() != 0.0 || !inside {
                        return Err(OpError::attr(format!(
                            "`{path}` is {dtype} and cannot be {v}"
                        )));
                    }
                    *slot = v as $t;
                }
            };
        }
        match dtype {
            DType::F32 => floats!(f32, |v| v as f32),
            DType::F64 => floats!(f64, |v| v),
            DType::F16 => floats!(f16, f16::from_f64),
            DType::BF16 => floats!(bf16, bf16::from_f64),
            DType::I8 => whole!(i8),
            DType::I16 => whole!(i16),
            DType::I32 => whole!(i32),
            DType::I64 => whole!(i64),
            DType::U8 | DType::Bool => whole!(u8),
            DType::U16 => whole!(u16),
            DType::U32 => whole!(u32),
            DType::U64 => whole!(u64),
        }
        Tensor::from_bytes(dtype, shape, bytes)
            .ok_or_else(|| OpError::attr(format!("`{path}` is bool, which is 0 or 1")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(recipe: &str, dtype: DType, shape: &[usize]) -> Vec<f64> {
        let t = initial_value(recipe, &TensorType::of(dtype, shape), 7, "layer.weight").unwrap();
        assert_eq!((t.dtype(), t.shape()), (dtype, shape));
        (0..t.numel()).map(|i| t.get_f64(i)).collect()
    }

    fn moments(v: &[f64]) -> (f64, f64, f64) {
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        let variance = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len() as f64;
        (mean, variance, v.iter().fold(0.0, |m, x| m.max(x.abs())))
    }

    #[test]
    fn variances_and_bounds() {
        let shape = [120, 80, 3, 3];
        let (fan_in, fan_out) = (720.0, 1080.0);
        let glorot = 2.0 / (fan_in + fan_out);
        let cases = [
            ("glorot_uniform", glorot, (3.0f64 * glorot).sqrt()),
            ("he_uniform", 2.0 / fan_in, (6.0f64 / fan_in).sqrt()),
            ("lecun_uniform", 1.0 / fan_in, (3.0f64 / fan_in).sqrt()),
            ("glorot_normal", glorot, 2.0 * glorot.sqrt() / 0.8796),
            ("he_normal", 2.0 / fan_in, 2.0 * (2.0f64 / fan_in).sqrt() / 0.8796),
            ("lecun_normal", 1.0 / fan_in, 2.0 * (1.0f64 / fan_in).sqrt() / 0.8796),
            ("normal(0.02)", 4e-4, 0.02 * 4.7),
            ("truncated_normal(0.5)", 0.25 * 0.77374, 1.0),
            ("uniform(-2, 2)", 4.0 / 3.0, 2.0),
        ];
        for (recipe, variance, bound) in cases {
            let (mean, got, max) = moments(&draw(recipe, DType::F32, &shape));
            assert!((got / variance - 1.0).abs() < 0.02, "{recipe}: {got} for {variance}");
            assert!(mean.abs() < 0.01 * variance.sqrt(), "{recipe}: mean {mean}");
            assert!(max <= bound * 1.0001 && max > 0.85 * bound, "{recipe}: {max}");
        }
        let (mean, variance, _) = moments(&draw("uniform(1, 3)", DType::F64, &[50_000]));
        assert!((mean - 2.0).abs() < 0.01 && (variance * 3.0 - 1.0).abs() < 0.02);
        // A normal reaches beyond what the truncated one stops at.
        assert!(moments(&draw("normal(1)", DType::F32, &[50_000])).2 > 3.5);
    }

    #[test]
    fn depends_on_seed_and_path_alone() {
        let ty = TensorType::of(DType::F32, &[4, 4]);
        let of = |seed, path| initial_value("he_normal", &ty, seed, path).unwrap();
        assert_eq!(of(1, "a"), of(1, "a"));
        assert_ne!(of(1, "a"), of(2, "a"));
        assert_ne!(of(1, "a"), of(1, "b"));
    }

    #[test]
    fn the_same_bits_on_every_platform() {
        let ty = TensorType::of(DType::F32, &[2, 3]);
        let bits = |recipe: &str| -> Vec<u32> {
            let t = initial_value(recipe, &ty, 0, "w").unwrap();
            t.as_slice::<f32>().iter().map(|v| v.to_bits()).collect()
        };
        assert_eq!(bits("glorot_uniform"), UNIFORM_BITS);
        assert_eq!(bits("normal(1)"), NORMAL_BITS);
    }

    /// Computed by a second implementation, in Python.
    const UNIFORM_BITS: [u32; 6] =
        [1056575967, 1016669988, 3213032456, 1048975121, 3202602881, 1063366675];
    const NORMAL_BITS: [u32; 6] =
        [3209554821, 3174093240, 3220469676, 3219406096, 1067655405, 3211108917];

    #[test]
    fn constants_of_every_dtype() {
        for dtype in DType::ALL {
            assert_eq!(draw("zeros", dtype, &[2, 2]), [0.0; 4]);
            assert_eq!(draw("ones", dtype, &[]), [1.0]);
            assert_eq!(draw("constant(1)", dtype, &[0, 3]), [] as [f64; 0]);
        }
        assert_eq!(draw("constant(-3)", DType::I8, &[1]), [-3.0]);
        assert_eq!(draw("identity", DType::F32, &[2, 3]), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert!(draw("constant(NaN)", DType::F16, &[1])[0].is_nan());
        for dtype in [DType::F16, DType::BF16, DType::F64] {
            assert!(moments(&draw("glorot_uniform", dtype, &[10, 10])).2 > 0.1);
        }
    }

    #[test]
    fn orthogonal_rows_and_columns() {
        for shape in [[5usize, 9], [9, 5]] {
            let (m, (rows, columns)) =
                (draw("orthogonal", DType::F64, &shape), (shape[0], shape[1]));
            for i in 0..5 {
                for j in 0..5 {
                    let at = |v: usize, k: usize| {
                        if rows < columns { m[v * columns + k] } else { m[k * columns + v] }
                    };
                    let dot: f64 = (0..9).map(|k| at(i, k) * at(j, k)).sum();
                    let want = if i == j { 1.0 } else { 0.0 };
                    assert!((dot - want).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn bad_recipes() {
        let error = |recipe: &str, dtype, shape: &[usize]| {
            initial_value(recipe, &TensorType::of(dtype, shape), 0, "w").unwrap_err().code
        };
        for recipe in [
            "",
            "glorot",
            "zeros(1)",
            "normal",
            "normal(-1)",
            "normal(x)",
            "uniform(2, 1)",
            "uniform(NaN)",
            "constant(1",
            "he_normal()x",
            "normal(inf)",
            "constant(1, 2)",
        ] {
            assert_eq!(error(recipe, DType::F32, &[2, 2]), "E0303", "{recipe}");
        }
        assert_eq!(error("glorot_uniform", DType::I32, &[2, 2]), "E0303");
        assert_eq!(error("constant(1.5)", DType::I32, &[2]), "E0303");
        assert_eq!(error("constant(256)", DType::U8, &[2]), "E0303");
        assert_eq!(error("constant(9223372036854775808)", DType::I64, &[2]), "E0303");
        assert_eq!(error("constant(2)", DType::Bool, &[2]), "E0303");
        assert_eq!(error("identity", DType::F32, &[2]), "E0303");
        assert_eq!(error("zeros", DType::F32, &[1 << 40, 1 << 40]), "E0304");
        assert_eq!(error("zeros", DType::F32, &[1 << 50]), "E0304");
    }

    #[test]
    fn printing_reads_back() {
        for recipe in [
            "zeros",
            "ones",
            "constant(0.5)",
            "uniform(-1, 2)",
            "normal(0, 0.02)",
            "truncated_normal(1, 2)",
            "glorot_normal",
            "he_uniform",
            "lecun_normal",
            "identity",
            "orthogonal",
        ] {
            assert_eq!(Recipe::parse(recipe).unwrap().to_string(), recipe);
        }
    }
}
