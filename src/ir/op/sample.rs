//! Sample tensors for the walk of the table and for random graphs: seeded, the same everywhere.

use super::*;
use crate::ir::scalar_eval::{Num, Scalar, for_dtype};

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
        z ^ (z >> 31)
    }

    /// In `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In `0..n`, for `n > 0`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }
}

/// Operands that are all there, and attributes.
pub fn sample(operands: Vec<Tensor>, attrs: Vec<(&'static str, Attr)>) -> Sample {
    Sample { operands: operands.into_iter().map(Some).collect(), attrs, regions: vec![] }
}

/// Uniform in `lo..hi`; integers round towards zero, bool is `x != 0`.
pub fn uniform(dtype: DType, shape: &[usize], seed: u64, lo: f64, hi: f64) -> Tensor {
    let mut rng = Rng(seed);
    let n = shape.iter().product();
    let data: Vec<f64> = (0..n).map(|_| lo + rng.unit() * (hi - lo)).collect();
    tensor(dtype, shape, &data)
}

pub fn f32s(shape: &[usize], seed: u64) -> Tensor {
    uniform(DType::F32, shape, seed, -3.0, 3.0)
}

/// Integers in `lo..=hi`.
pub fn ints(dtype: DType, shape: &[usize], seed: u64, lo: i64, hi: i64) -> Tensor {
    let mut rng = Rng(seed);
    let n = shape.iter().product();
    let data: Vec<f64> =
        (0..n).map(|_| lo as f64 + rng.below((hi - lo + 1) as u64) as f64).collect();
    tensor(dtype, shape, &data)
}

pub fn bools(shape: &[usize], seed: u64) -> Tensor {
    ints(DType::Bool, shape, seed, 0, 1)
}

/// A tensor with these elements in this dtype, converted as `cast` does.
pub fn tensor(dtype: DType, shape: &[usize], data: &[f64]) -> Tensor {
    for_dtype!(dtype, T => {
        let data: Vec<T> = data.iter().map(|&v| T::from_num(Num::Float(v))).collect();
        Tensor::from_slice(shape, &data)
    })
}

/// Every kind of value that a dtype has: zeros, NaN, infinities, extremes, subnormals, ordinary ones.
pub fn specials(dtype: DType) -> Vec<f64> {
    let mut out = vec![0.0, 1.0, 2.0, 3.0, 7.0];
    if dtype == DType::Bool {
        return vec![0.0, 1.0];
    }
    if !dtype.is_unsigned_int() {
        out.extend([-1.0, -2.0, -3.0, -7.0]);
    }
    if dtype.is_float() {
        out.extend([-0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.1, -0.1, 12.25, -12.25]);
        out.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    }
    // The greatest, the least positive normal and a subnormal number of each dtype.
    match dtype {
        DType::F32 => out.extend([f32::MAX as f64, f32::MIN as f64, 1.1754944e-38, 1e-40, -1e-40]),
        DType::F64 => out.extend([f64::MAX, f64::MIN, f64::MIN_POSITIVE, 1e-310]),
        DType::F16 => out.extend([65504.0, -65504.0, 6.104e-5, 6e-8]),
        DType::BF16 => out.extend([3.3895314e38, -3.3895314e38, 1.1754944e-38]),
        DType::I8 => out.extend([127.0, -128.0]),
        DType::I16 => out.extend([32767.0, -32768.0]),
        DType::I32 => out.extend([i32::MAX as f64, i32::MIN as f64]),
        DType::I64 => out.extend([i64::MAX as f64, i64::MIN as f64]),
        DType::U8 => out.push(255.0),
        DType::U16 => out.push(65535.0),
        DType::U32 => out.push(u32::MAX as f64),
        DType::U64 => out.push(u64::MAX as f64),
        DType::Bool => {}
    }
    out
}

/// The special values as a vector.
pub fn specials_of(dtype: DType) -> Tensor {
    let data = specials(dtype);
    tensor(dtype, &[data.len()], &data)
}

/// Every pair of special values: two vectors of equal length.
pub fn special_pairs(dtype: DType) -> [Tensor; 2] {
    let data = specials(dtype);
    let n = data.len();
    let left: Vec<f64> = (0..n * n).map(|i| data[i / n]).collect();
    let right: Vec<f64> = (0..n * n).map(|i| data[i % n]).collect();
    [tensor(dtype, &[n * n], &left), tensor(dtype, &[n * n], &right)]
}
