//! Matrix products: operands however they lie in memory, batches, vectors, layers, equations.

use dlc::ir::{Attr, Value};

use super::draw::{Case, Draw};

/// One off a tile, exactly a tile.
const TILES: &[usize] = &[15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65];
const PRIMES: &[usize] = &[2, 3, 5, 7, 11, 13, 19, 23, 29, 37, 53, 97, 127, 251];

pub fn case(seed: u64) -> Case {
    let mut d = Draw::new(seed);
    let mut y = match d.below(10) {
        0 | 1 => dense(&mut d),
        2 | 3 => einsum(&mut d),
        _ => matmul(&mut d),
    };
    let mut outputs = vec![];
    let last = |d: &Draw, y: Value| d.shape(y).len().min(1);
    let channels = last(&d, y);
    y = d.elementwise(y, channels, 3);
    if d.one_in(6) {
        if d.one_in(3) {
            outputs.push(y);
        }
        y = another(&mut d, y);
        let channels = last(&d, y);
        y = d.elementwise(y, channels, 2);
    }
    y = tail(&mut d, y);
    outputs.push(y);
    d.finish(&outputs)
}

fn extent(d: &mut Draw) -> usize {
    match d.below(48) {
        0 => 0,
        1..=9 => 1,
        10..=29 => d.pick(TILES),
        30..=39 => d.pick(PRIMES),
        _ => 1 + d.below(24),
    }
}

/// Extents whose product stays within the budget.
fn extents(d: &mut Draw, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).map(|_| extent(d)).collect();
    let budget = d.budget;
    for i in (0..count).cycle() {
        if all.iter().product::<usize>() <= budget {
            return all;
        }
        // The largest ones of a draw are drawn again.
        if all[i] * 2 >= *all.iter().max().expect("some extents") {
            all[i] = extent(d).min(all[i] - 1);
        }
    }
    all
}

fn matmul(d: &mut Draw) -> Value {
    let mut all = extents(d, 4);
    let (k, batch) = (all.remove(2), all.remove(2));
    let [m, n] = [all[0], all[1]];
    d.sums(k);
    let batch = match d.below(4) {
        0 | 1 => vec![],
        2 => vec![batch],
        _ => {
            let small = d.pick(&[1, 2, 3]);
            if batch % small == 0 { vec![small, batch / small] } else { vec![1, batch] }
        }
    };
    if d.one_in(12) {
        return vector_product(d, &batch, k, n);
    }
    if batch.is_empty() && d.one_in(12) {
        return square(d, m, k);
    }
    let left = part(d, &batch);
    let right = part(d, &batch);
    let (a, transpose_a) = operand(d, &left, [m, k], false);
    let weight = d.one_in(2);
    let (b, transpose_b) = operand(d, &right, [k, n], weight);
    let attrs =
        [("transpose_a", Attr::Bool(transpose_a)), ("transpose_b", Attr::Bool(transpose_b))];
    d.op("matmul", &[a, b], &attrs)
}

/// The batch of one operand: axes of 1 or none, which broadcast.
fn part(d: &mut Draw, batch: &[usize]) -> Vec<usize> {
    let from = if d.one_in(4) { d.below(batch.len() + 1) } else { 0 };
    batch[from..].iter().map(|n| if d.one_in(5) { 1 } else { *n }).collect()
}

/// A stack of matrices, and whether `matmul` has to transpose them.
fn operand(
    d: &mut Draw,
    batch: &[usize],
    [rows, columns]: [usize; 2],
    weight: bool,
) -> (Value, bool) {
    let make = |d: &mut Draw, shape: &[usize]| match weight {
        true => d.weights(shape),
        false => d.values(shape),
    };
    let with = |tail: &[usize]| [batch, tail].concat();
    let (x, flipped) = match d.below(10) {
        0 | 1 => {
            let x = make(d, &with(&[columns, rows]));
            (d.op("transpose", &[x], &[]), false)
        }
        2 | 3 => (make(d, &with(&[columns, rows])), true),
        4 => {
            let x = make(d, &with(&[rows, columns]));
            (d.op("transpose", &[x], &[]), true)
        }
        5 => {
            // Rows outermost, the batch within.
            let stored = [&[rows], batch, &[columns]].concat();
            let x = make(d, &stored);
            let n = batch.len();
            let perm: Vec<usize> = (1..=n).chain([0, n + 1]).collect();
            (d.permute(x, &perm), false)
        }
        6 => {
            let x = make(d, &with(&[rows + 2, columns + 1]));
            let n = batch.len() as i64;
            let attrs = [
                ("starts", Attr::Ints(vec![1, 1])),
                ("ends", Attr::Ints(vec![1 + rows as i64, 1 + columns as i64])),
                ("axes", Attr::Ints(vec![n, n + 1])),
            ];
            (d.op("slice", &[x], &attrs), false)
        }
        7 => {
            let whole = with(&[rows, columns]);
            let x = make(d, &[whole.iter().product()]);
            (d.reshape(x, &whole), false)
        }
        _ => (make(d, &with(&[rows, columns])), false),
    };
    let x = if !weight && d.one_in(4) { d.elementwise(x, 1, 2) } else { x };
    (x, flipped)
}

fn vector_product(d: &mut Draw, batch: &[usize], k: usize, n: usize) -> Value {
    let vector = d.values(&[k]);
    if d.one_in(2) {
        let (b, flipped) = operand(d, batch, [k, n], true);
        return d.op("matmul", &[vector, b], &[("transpose_b", Attr::Bool(flipped))]);
    }
    let (a, flipped) = operand(d, batch, [n, k], false);
    d.op("matmul", &[a, vector], &[("transpose_a", Attr::Bool(flipped))])
}

/// One value on both sides.
fn square(d: &mut Draw, m: usize, k: usize) -> Value {
    let m = if m * m * k > d.budget { 1 + m % 16 } else { m };
    let x = d.values(&[m, k]);
    match d.one_in(2) {
        true => d.op("matmul", &[x, x], &[("transpose_b", Attr::Bool(true))]),
        false => {
            let t = d.op("transpose", &[x], &[]);
            d.op("matmul", &[x, t], &[])
        }
    }
}

fn dense(d: &mut Draw) -> Value {
    let all = extents(d, 3);
    let [rows, k, n] = [all[0], all[1], all[2]];
    d.sums(k);
    let lead = match d.below(4) {
        0 => vec![1, rows],
        1 if rows % 2 == 0 => vec![2, rows / 2],
        _ => vec![rows],
    };
    let mut x = d.values(&[&lead[..], &[k]].concat());
    if d.one_in(3) {
        x = d.elementwise(x, 1, 2);
    }
    let w = d.weights(&[n, k]);
    if d.one_in(3) {
        return d.op("dense", &[x, w], &[]);
    }
    let bias = d.bias(n);
    d.op("dense", &[x, w, bias], &[])
}

const EQUATIONS: &[&str] = &[
    "mk,kn->mn",
    "mk,nk->nm",
    "km,kn->mn",
    "km,nk->nm",
    "bmk,bkn->bmn",
    "bmk,bnk->mbn",
    "bmk,kn->bnm",
    "bhmk,bhnk->bhmn",
    "bmhk,bnhk->bhmn",
    "bsd,dhe->bhse",
    "bshe,hed->bsd",
    "abk,ckd->acbd",
    "mkl,kln->mn",
    "mkl,lkn->mn",
    "kml,lnk->mn",
    "ij,ij->i",
    "ij,ij->j",
    "ij,ij->",
    "i,j->ij",
    "ij,ik->ijk",
    "bi,bj->bji",
];

fn einsum(d: &mut Draw) -> Value {
    let equation = d.pick(EQUATIONS);
    let mut letters: Vec<char> = equation.chars().filter(char::is_ascii_lowercase).collect();
    letters.sort_unstable();
    letters.dedup();
    let all = extents(d, letters.len());
    let of = |word: &str| -> Vec<usize> {
        let at = |c: char| letters.iter().position(|l| *l == c).expect("a letter of it");
        word.chars().map(|c| all[at(c)]).collect()
    };
    let (operands, result) = equation.split_once("->").expect("an arrow");
    let (left, right) = operands.split_once(',').expect("two operands");
    let kept: usize = of(result).iter().product();
    d.sums(all.iter().product::<usize>() / kept.max(1));
    let a = d.values(&of(left));
    let b = if d.one_in(2) { d.values(&of(right)) } else { d.weights(&of(right)) };
    d.op("einsum", &[a, b], &[("equation", Attr::Str(equation.into()))])
}

/// A second product over the last axis of the first one's result.
fn another(d: &mut Draw, y: Value) -> Value {
    let shape = d.shape(y);
    let Some(k) = shape.last().copied() else { return y };
    let most = d.budget / shape.iter().product::<usize>().max(1);
    let n = extent(d).min(most.max(1));
    d.sums(k);
    match d.one_in(2) {
        true => {
            let w = d.weights(&[n, k]);
            d.op("dense", &[y, w], &[])
        }
        false => {
            let w = d.weights(&[k, n]);
            d.op("matmul", &[y, w], &[])
        }
    }
}

/// What reads the result otherwise than element by element.
fn tail(d: &mut Draw, y: Value) -> Value {
    let shape = d.shape(y);
    if shape.is_empty() || shape.contains(&0) {
        return y;
    }
    let last = [("axis", Attr::Ints(vec![-1]))];
    match d.below(16) {
        0 => {
            d.sums(*shape.last().unwrap_or(&1));
            d.op("sum", &[y], &last)
        }
        1 => d.op("amax", &[y], &last),
        2 if shape.len() > 1 => d.op("transpose", &[y], &[]),
        3 => d.reshape(y, &[shape.iter().product()]),
        4 if d.dtype.is_float() => {
            d.rounds();
            d.op("softmax", &[y], &[("axis", Attr::Int(-1))])
        }
        _ => y,
    }
}
