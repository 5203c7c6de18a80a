//! Tensors as text for people, and as JSON for programs.
//!
//! Out: `name: f32[2,3] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]` in the fewest digits that read back to
//! the same bits; beyond [`SHORTEN_BEYOND`] elements the edges only, with minimum, maximum and mean.
//! JSON is never shortened: `{"dtype", "shape", "data"}`, the data flat in row-major order.

use std::fmt::Write;

use half::{bf16, f16};
use serde_json::{Number, Value as Json, json};

use crate::base::{DType, Tensor};

/// Tensors of more elements are printed shortened.
pub const SHORTEN_BEYOND: usize = 1000;

/// `name: dtype[shape] = data`, without a line break.
pub fn tensor(name: &str, t: &Tensor) -> String {
    let mut out = format!("{name}: {} = ", type_of(t));
    if t.numel() == 0 {
        out.push_str("[]");
    } else if t.numel() <= SHORTEN_BEYOND {
        nested(t, usize::MAX, &mut out);
    } else {
        nested(t, edge(t.rank()), &mut out);
        let _ = write!(out, " ({} elements, {})", t.numel(), Summary::of(t));
    }
    out
}

/// `f32[2,3]`, as literals on the command line have it.
pub fn type_of(t: &Tensor) -> String {
    let extents: Vec<String> = t.shape().iter().map(usize::to_string).collect();
    format!("{}[{}]", t.dtype(), extents.join(","))
}

/// `{"dtype": "f32", "shape": [2, 3], "data": […]}`. NaN and infinities are the strings `nan`,
/// `inf`, `-inf`, since JSON has no numbers for them.
pub fn json(t: &Tensor) -> Json {
    let data: Vec<Json> = (0..t.numel()).map(|i| json_element(t, i)).collect();
    json!({ "dtype": t.dtype().name(), "shape": t.shape(), "data": data })
}

/// Element `i` in the fewest digits that read back to the same bits. A NaN other than the usual one
/// is its bits, as a hexadecimal literal.
pub fn element(t: &Tensor, i: usize) -> String {
    match t.dtype() {
        DType::F32 => {
            let v = t.as_slice::<f32>()[i];
            float_text(v.is_nan().then(|| v.to_bits().into()), 0x7fc0_0000, 8, || format!("{v:?}"))
        }
        DType::F64 => {
            let v = t.as_slice::<f64>()[i];
            let usual = 0x7ff8_0000_0000_0000;
            float_text(v.is_nan().then(|| v.to_bits()), usual, 16, || format!("{v:?}"))
        }
        DType::F16 => {
            let v = t.as_slice::<f16>()[i];
            let digits = || shortest(v.to_f64(), |w| f16::from_f64(w) == v);
            float_text(v.is_nan().then(|| v.to_bits().into()), 0x7e00, 4, digits)
        }
        DType::BF16 => {
            let v = t.as_slice::<bf16>()[i];
            let digits = || shortest(v.to_f64(), |w| bf16::from_f64(w) == v);
            float_text(v.is_nan().then(|| v.to_bits().into()), 0x7fc0, 4, digits)
        }
        DType::U64 => t.as_slice::<u64>()[i].to_string(),
        DType::Bool => (t.as_bools()[i] != 0).to_string(),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::U8 | DType::U16 | DType::U32 => {
            t.get_i64(i).expect("an integer dtype").to_string()
        }
    }
}

fn float_text(nan: Option<u64>, usual: u64, width: usize, digits: impl Fn() -> String) -> String {
    match nan {
        None => digits(),
        Some(bits) if bits == usual => "nan".into(),
        Some(bits) => format!("{bits:#0w$x}", w = width + 2),
    }
}

/// The decimal of fewest digits that `same` accepts once it is read; 9 digits carry any f32, and so
/// any narrower float.
fn shortest(v: f64, same: impl Fn(f64) -> bool) -> String {
    let candidates = (0..9).map(|p| format!("{v:.p$e}"));
    let read = candidates.filter_map(|s| s.parse::<f64>().ok());
    let best = read.into_iter().find(|w| same(*w)).unwrap_or(v);
    format!("{best:?}")
}

fn json_element(t: &Tensor, i: usize) -> Json {
    if t.dtype() == DType::Bool {
        return Json::Bool(t.as_bools()[i] != 0);
    }
    if t.dtype() == DType::U64 {
        return Json::from(t.as_slice::<u64>()[i]);
    }
    if let Some(v) = t.get_i64(i) {
        return Json::from(v);
    }
    let v = t.get_f64(i);
    if v.is_nan() {
        return Json::from("nan");
    }
    if v.is_infinite() {
        return Json::from(if v > 0.0 { "inf" } else { "-inf" });
    }
    // The f64 next to the short decimal prints as that decimal, and rounds to the element.
    let short: f64 = element(t, i).parse().unwrap_or(v);
    Number::from_f64(short).map_or(Json::Null, Json::Number)
}

/// Elements at each end of an axis, so that at most about a thousand are printed in all.
fn edge(rank: usize) -> usize {
    match rank {
        0..=3 => 3,
        4 => 2,
        _ => 1,
    }
}

/// The elements in nested brackets; of axes longer than `2 · edge` only the ends. Axes within the
/// first ones whose ends alone would be too many print their first element only.
fn nested(t: &Tensor, edge: usize, out: &mut String) {
    let shape = t.shape();
    let shown: Vec<Vec<usize>> = shape
        .iter()
        .enumerate()
        .map(|(axis, &n)| match n <= edge.saturating_mul(2) {
            // 2⁹ elements at most: the axes beyond the ninth show one index.
            _ if edge == 1 && axis >= 9 && n > 1 => vec![0],
            true => (0..n).collect(),
            false => (0..edge).chain(n - edge..n).collect(),
        })
        .collect();
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    // An odometer over the shown indices, so that the depth of the stack is that of this loop.
    let mut at = vec![0usize; shape.len()];
    out.push_str(&"[".repeat(shape.len()));
    loop {
        let flat = (0..shape.len()).map(|a| shown[a][at[a]] * strides[a]).sum();
        out.push_str(&element(t, flat));
        let mut axis = shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            let (list, here) = (&shown[axis], at[axis]);
            if here + 1 < list.len() {
                at[axis] += 1;
                out.push_str(if list[here] + 1 == list[here + 1] { ", " } else { ", …, " });
                out.push_str(&"[".repeat(shape.len() - axis - 1));
                break;
            }
            at[axis] = 0;
            let cut = list.last().is_some_and(|last| last + 1 < shape[axis]);
            out.push_str(if cut { ", …]" } else { "]" });
        }
    }
}

/// Minimum, maximum and mean of the elements that are numbers, and how many are none.
struct Summary {
    min: f64,
    max: f64,
    mean: f64,
    nan: usize,
}

impl Summary {
    fn of(t: &Tensor) -> Summary {
        let (mut min, mut max, mut sum, mut nan) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0);
        for v in (0..t.numel()).map(|i| t.get_f64(i)) {
            if v.is_nan() {
                nan += 1;
            } else {
                (min, max, sum) = (min.min(v), max.max(v), sum + v);
            }
        }
        Summary { min, max, mean: sum / (t.numel() - nan) as f64, nan }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min > self.max {
            return f.write_str("all nan");
        }
        let (min, max) = (self.min as f32, self.max as f32);
        write!(f, "min {min:?}, max {max:?}, mean {:?}", self.mean as f32)?;
        match self.nan {
            0 => Ok(()),
            n => write!(f, ", {n} nan"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::value::parse;

    #[test]
    fn small_tensors() {
        let t = Tensor::from_slice(&[2, 3], &[1.0f32, 2.5, -0.0, 1e-7, f32::INFINITY, f32::NAN]);
        assert_eq!(tensor("x", &t), "x: f32[2,3] = [[1.0, 2.5, -0.0], [1e-7, inf, nan]]");
        assert_eq!(tensor("s", &Tensor::from_slice(&[], &[0.1f32])), "s: f32[] = 0.1");
        assert_eq!(
            tensor("b", &Tensor::from_bools(&[2], &[true, false])),
            "b: bool[2] = [true, false]"
        );
        assert_eq!(tensor("e", &Tensor::zeros(DType::F32, &[2, 0]).unwrap()), "e: f32[2,0] = []");
        let t = Tensor::from_slice(&[2, 1, 2], &[1i8, 2, 3, 4]);
        assert_eq!(tensor("t", &t), "t: i8[2,1,2] = [[[1, 2]], [[3, 4]]]");
        let odd = Tensor::from_slice(&[1], &[f32::from_bits(0xffc0_0001)]);
        assert_eq!(tensor("n", &odd), "n: f32[1] = [0xffc00001]");
    }

    #[test]
    fn large_tensors_show_their_edges() {
        let data: Vec<f32> = (0..2000).map(|v| v as f32).collect();
        let t = Tensor::from_slice(&[2000], &data);
        assert_eq!(
            tensor("x", &t),
            "x: f32[2000] = [0.0, 1.0, 2.0, …, 1997.0, 1998.0, 1999.0] \
             (2000 elements, min 0.0, max 1999.0, mean 999.5)"
        );
        let t = t.reshaped(&[100, 20]).unwrap();
        let text = tensor("x", &t);
        assert!(text.contains("[[0.0, 1.0, 2.0, …, 17.0, 18.0, 19.0], [20.0,"), "{text}");
        assert!(text.contains("59.0], …, [1940.0,"), "{text}");
        let deep = Tensor::zeros(DType::U8, &[2; 12]).unwrap();
        assert!(tensor("d", &deep).len() < 20_000);
        let nan = Tensor::from_slice(&[1001], &[f32::NAN; 1001]);
        assert!(tensor("n", &nan).ends_with("(1001 elements, all nan)"));
    }

    #[test]
    fn all_narrow_floats_read_back() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let halves: Vec<f16> = bits.iter().map(|b| f16::from_bits(*b)).collect();
        let brains: Vec<bf16> = bits.iter().map(|b| bf16::from_bits(*b)).collect();
        for t in [Tensor::from_slice(&[65536], &halves), Tensor::from_slice(&[65536], &brains)] {
            let dtype = t.dtype();
            for i in 0..t.numel() {
                let text = element(&t, i);
                let back = crate::import::value::parse_element(&text, dtype).unwrap();
                assert_eq!(back, &t.bytes()[2 * i..2 * i + 2], "{dtype} {text}");
            }
        }
        assert_eq!(element(&Tensor::from_slice(&[], &[f16::from_f32(0.1)]), 0), "0.1");
    }

    #[test]
    fn what_is_printed_reads_back() {
        let values = [0.1f64, 1.0 / 3.0, 5e-324, f64::MAX, -0.0, f64::NAN, f64::NEG_INFINITY];
        let t = Tensor::from_slice(&[7], &values);
        let text = tensor("x", &t);
        let back = parse(text.strip_prefix("x: f64[7] = ").unwrap(), Some(&t.ty())).unwrap();
        assert_eq!(back, t);
    }

    #[test]
    fn json_has_short_numbers() {
        let t = Tensor::from_slice(&[2, 2], &[0.1f32, f32::NAN, f32::NEG_INFINITY, 2.0]);
        let want = r#"{"dtype":"f32","shape":[2,2],"data":[0.1,"nan","-inf",2.0]}"#;
        assert_eq!(json(&t).to_string(), want);
        let t = Tensor::from_slice(&[1], &[u64::MAX]);
        assert_eq!(
            json(&t).to_string(),
            r#"{"dtype":"u64","shape":[1],"data":[18446744073709551615]}"#
        );
    }
}
