//! What goes over rows: softmax, normalizations, attention, reductions, pools, elementwise chains.

use dlc::base::DType;
use dlc::ir::{Attr, Value};

use super::draw::{Case, Draw};

/// Extents of a row: one, around vectors and unrolled ones, primes.
const ROWS: &[usize] =
    &[1, 1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 23, 31, 32, 33, 63, 64, 65, 127, 129, 251];

pub fn case(seed: u64) -> Case {
    let mut d = Draw::new(seed);
    if !d.dtype.is_float() {
        d.dtype = DType::F32;
    }
    let y = match d.below(8) {
        0 | 1 => attention(&mut d),
        2 => pool(&mut d),
        kind => {
            let x = rows(&mut d);
            let x = d.elementwise(x, 1, 2);
            match kind {
                3 => softmax(&mut d, x),
                4 | 5 => norm(&mut d, x),
                6 => reduction(&mut d, x),
                _ => d.elementwise(x, 1, 3),
            }
        }
    };
    let channels = d.shape(y).len().min(1);
    let y = d.elementwise(y, channels, 2);
    d.finish(&[y])
}

/// `[…, n]` with up to two axes before the last.
fn rows(d: &mut Draw) -> Value {
    let n = if d.one_in(40) { 0 } else { d.pick(ROWS) };
    let mut shape: Vec<usize> =
        (0..d.below(3)).map(|_| if d.one_in(40) { 0 } else { 1 + d.below(9) }).collect();
    shape.push(n);
    d.values(&shape)
}

fn axis(d: &mut Draw, x: Value) -> Attr {
    let rank = d.shape(x).len();
    if d.one_in(2) { Attr::Int(-1) } else { Attr::Int(d.below(rank) as i64) }
}

fn softmax(d: &mut Draw, x: Value) -> Value {
    d.rounds();
    d.sums(300);
    let name = d.pick(&["softmax", "softmax", "log_softmax"]);
    let axis = axis(d, x);
    d.op(name, &[x], &[("axis", axis)])
}

fn norm(d: &mut Draw, x: Value) -> Value {
    let shape = d.shape(x);
    if shape.contains(&0) {
        return x;
    }
    d.rounds();
    // Differences from a rounded mean are divided by a root that may be small.
    d.sums(1000);
    let from = if d.one_in(4) { d.below(shape.len()) } else { shape.len() - 1 };
    let axis = [("axis", Attr::Int(from as i64))];
    let own = &shape[from..];
    match d.below(4) {
        0 => d.op("rms_norm", &[x], &axis),
        1 => {
            let w = d.weights(own);
            d.op("rms_norm", &[x, w], &axis)
        }
        2 => d.op("layer_norm", &[x], &axis),
        _ => {
            let (w, b) = (d.weights(own), d.weights(own));
            d.op("layer_norm", &[x, w, b], &axis)
        }
    }
}

fn reduction(d: &mut Draw, x: Value) -> Value {
    let shape = d.shape(x);
    if shape.contains(&0) {
        return d.op("sum", &[x], &[("axis", Attr::Ints(vec![-1]))]);
    }
    d.sums(shape.iter().product());
    let name = d.pick(&["sum", "mean", "amax", "amin", "sum", "amax"]);
    if name == "mean" {
        d.rounds();
    }
    let axis = match d.below(4) {
        0 => vec![0],
        1 => (0..shape.len() as i64).collect(),
        _ => vec![-1],
    };
    d.op(name, &[x], &[("axis", Attr::Ints(axis))])
}

fn attention(d: &mut Draw) -> Value {
    d.rounds();
    d.sums(300);
    let (shared, heads) = (d.pick(&[1, 1, 2]), d.pick(&[1, 2, 3]));
    let (rows, keys) = (d.pick(ROWS).min(65), d.pick(ROWS).min(65));
    let (dim, values) = (d.pick(&[1, 4, 7, 8, 16, 17, 32]), d.pick(&[1, 4, 5, 8, 16, 31, 32]));
    let batch: &[usize] = d.pick(&[&[][..], &[1], &[2]]);
    let with = |tail: [usize; 3]| [batch, &tail].concat();
    let q = d.values(&with([heads * shared, rows, dim]));
    let k = d.values(&with([heads, keys, dim]));
    let v = d.values(&with([heads, keys, values]));
    let causal = [("causal", Attr::Bool(d.one_in(3)))];
    if d.one_in(3) {
        let mask = d.values(&[rows, keys]);
        return d.op("attention", &[q, k, v, mask], &causal);
    }
    d.op("attention", &[q, k, v], &causal)
}

fn pool(d: &mut Draw) -> Value {
    let (h, w) = (d.pick(ROWS).min(33), d.pick(ROWS).min(66));
    let (n, c) = (1 + d.below(2), d.pick(&[1, 3, 16, 17]));
    let x = d.values(&[n, c, h, w]);
    super::conv::pool(d, x)
}
