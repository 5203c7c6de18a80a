//! Evaluates views by their index maps, so that what targets read is what the reference reads.
//!
//! In: a [`View`], its operands and the result's shape. Each part is copied over the box of result
//! positions where its guards hold and its source exists, the last part first, so that earlier parts
//! win. Out: the result, in the operands' dtype.

use super::*;
use crate::base::tensor::AlignedBytes;
use crate::ir::index::{Expr, IndexMap, Term};

pub fn eval_view(view: &View, operands: &[Tensor], shape: &[usize]) -> Tensor {
    let dtype = operands[0].dtype();
    if *view == View::Reshape {
        return operands[0].reshaped(shape).expect("inference compared the numbers of elements");
    }
    let shapes: Vec<Vec<usize>> = operands.iter().map(|t| t.shape().to_vec()).collect();
    let n: usize = shape.iter().product();
    let mut out = AlignedBytes::zeroed(n * dtype.bytes());
    if n > 0 {
        for part in view.parts(&shapes, shape).iter().rev() {
            let part = resolved(part, operands);
            let from = &operands[part.operand];
            match dtype.bytes() {
                1 => copy_part::<u8>(&part, from, out.as_mut(), shape),
                2 => copy_part::<u16>(&part, from, out.as_mut(), shape),
                4 => copy_part::<u32>(&part, from, out.as_mut(), shape),
                _ => copy_part::<u64>(&part, from, out.as_mut(), shape),
            }
        }
    }
    Tensor::from_bytes(dtype, shape, out).expect("as many bytes as the shape needs")
}

/// With run-time indices replaced by what they are.
fn resolved(part: &Part, operands: &[Tensor]) -> Part {
    let fix = |e: &Expr| {
        e.terms.iter().fold(Expr::constant(e.constant), |sum, (t, c)| match t {
            Term::Dyn { slot, at, limit } if at.is_empty() => {
                let v = operands[*slot as usize].get_i64(0).expect("a start is an integer");
                sum.plus(c * start_of(&operands[*slot as usize], v).clamp(0, *limit))
            }
            other => sum.add(&Expr::term(other.clone()).scale(*c)),
        })
    };
    Part { map: IndexMap(part.map.0.iter().map(fix).collect()), ..part.clone() }
}

/// A u64 beyond i64 is far beyond every axis.
fn start_of(t: &Tensor, v: i64) -> i64 {
    if t.dtype() == DType::U64 && v < 0 { i64::MAX } else { v }
}

fn copy_part<E: bytemuck::Pod>(part: &Part, from: &Tensor, out: &mut [u8], shape: &[usize]) {
    let (source, out): (&[E], &mut [E]) =
        (bytemuck::cast_slice(from.bytes()), bytemuck::cast_slice_mut(out));
    let offset = part.map.flatten(from.shape());
    let Some(region) = part_box(part, from.shape(), shape) else {
        return copy_points(part, from.shape(), source, out, shape);
    };
    if region.iter().any(|(lo, hi)| lo >= hi) {
        return;
    }
    let mut spans = vec![];
    // The first point of the box, in the source and in the result.
    let (mut src, mut dst) = (offset.constant, 0);
    for (axis, ((lo, hi), to)) in region.iter().zip(row_major(shape)).enumerate() {
        let from = offset.stride(axis).expect("an affine map has strides");
        (src, dst) = (src + lo * from, dst + lo * to);
        Span { len: hi - lo, from, to }.append_to(&mut spans);
    }
    // What the source holds side by side is read so, if it does not lie so in the result.
    if let Some(last) = spans.len().checked_sub(1)
        && !matches!(spans[last].from, 0 | 1)
        && let Some(a) = spans[..last].iter().position(|s| s.from == 1)
    {
        let span = spans.remove(a);
        spans.insert(last - 1, span);
    }
    copy_spans(&spans, source, src, out, dst);
}

/// One axis of a box: how far its points lie apart in the source and in the result.
#[derive(Clone, Copy)]
struct Span {
    len: i64,
    from: i64,
    to: i64,
}

impl Span {
    /// As the next inner axis; axes that are walked through in step become one.
    fn append_to(self, spans: &mut Vec<Span>) {
        match spans.last_mut() {
            _ if self.len == 1 => {}
            Some(s) if s.from == self.from * self.len && s.to == self.to * self.len => {
                *s = Span { len: s.len * self.len, ..self };
            }
            Some(_) | None => spans.push(self),
        }
    }
}

/// Rows of the source that are taken together where they become columns: a line of cache each.
const TOGETHER: i64 = 16;

fn copy_spans<E: Copy>(spans: &[Span], source: &[E], src: i64, out: &mut [E], dst: i64) {
    match *spans {
        [] => out[dst as usize] = source[src as usize],
        [Span { len, from: 1, to: 1 }] => out[dst as usize..(dst + len) as usize]
            .copy_from_slice(&source[src as usize..(src + len) as usize]),
        [Span { len, from: 0, to: 1 }] => {
            out[dst as usize..(dst + len) as usize].fill(source[src as usize]);
        }
        [Span { len, from, to }] => {
            for i in 0..len {
                out[(dst + i * to) as usize] = source[(src + i * from) as usize];
            }
        }
        [columns @ Span { from: 1, .. }, rows] if !matches!(rows.from, 0 | 1) => {
            for first in (0..columns.len).step_by(TOGETHER as usize) {
                let n = TOGETHER.min(columns.len - first);
                for k in 0..rows.len {
                    let at = src + first + k * rows.from;
                    let read = &source[at as usize..(at + n) as usize];
                    let to = dst + first * columns.to + k * rows.to;
                    for (i, v) in (0..).zip(read) {
                        out[(to + i * columns.to) as usize] = *v;
                    }
                }
            }
        }
        [outer, ref inner @ ..] => {
            for i in 0..outer.len {
                copy_spans(inner, source, src + i * outer.from, out, dst + i * outer.to);
            }
        }
    }
}

fn row_major(shape: &[usize]) -> Vec<i64> {
    let mut steps = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        steps[i - 1] = steps[i] * shape[i] as i64;
    }
    steps
}

/// The box of result positions where the guards hold and every coordinate lies in the source;
/// `None` where an expression is not a multiple of one axis plus a constant.
fn part_box(part: &Part, from: &[usize], shape: &[usize]) -> Option<Vec<(i64, i64)>> {
    let mut region: Vec<(i64, i64)> = shape.iter().map(|&d| (0, d as i64)).collect();
    let inside = part.map.0.iter().zip(from).map(|(e, &n)| (e, 0, n as i64));
    let guards = part.guards.iter().map(|g| (&g.expr, g.lo, g.hi));
    for (e, lo, hi) in guards.chain(inside) {
        match e.terms.as_slice() {
            [] if (lo..hi).contains(&e.constant) => {}
            [] => return Some(vec![(0, 0); shape.len().max(1)]),
            [(Term::Axis(a), c)] => {
                let range = &mut region[*a as usize];
                // lo ≤ c·i + k < hi, for c of either sign.
                let (lo, hi) = (lo - e.constant, hi - 1 - e.constant);
                let (least, most) = match *c > 0 {
                    true => (ceil_div(lo, *c), hi.div_euclid(*c)),
                    false => (ceil_div(-hi, -c), (-lo).div_euclid(-c)),
                };
                *range = (range.0.max(least), range.1.min(most + 1));
            }
            _ => return None,
        }
    }
    Some(region)
}

fn ceil_div(a: i64, b: i64) -> i64 {
    -(-a).div_euclid(b)
}

/// The definition, point by point.
fn copy_points<E: Copy>(part: &Part, from: &[usize], source: &[E], out: &mut [E], shape: &[usize]) {
    let no_dyn = |_: u16, _: &[i64]| unreachable!("run-time indices were resolved");
    for_each_point(shape, |i, at| {
        let at: Vec<i64> = at.iter().map(|&v| v as i64).collect();
        let holds = part.guards.iter().all(|g| (g.lo..g.hi).contains(&g.expr.eval(&at, &no_dyn)));
        let index: Vec<i64> = part.map.0.iter().map(|e| e.eval(&at, &no_dyn)).collect();
        let inside = index.iter().zip(from).all(|(v, &n)| (0..n as i64).contains(v));
        if holds && inside {
            let offset = index.iter().zip(from).fold(0, |o, (v, &n)| o * n + *v as usize);
            out[i] = source[offset];
        }
    });
}

/// `f(row-major number, coordinates)` for each position of a shape.
pub fn for_each_point(shape: &[usize], mut f: impl FnMut(usize, &[usize])) {
    let n: usize = shape.iter().product();
    let mut at = vec![0; shape.len()];
    for i in 0..n {
        f(i, &at);
        for a in (0..shape.len()).rev() {
            at[a] += 1;
            if at[a] < shape[a] {
                break;
            }
            at[a] = 0;
        }
    }
}

/// A tensor whose element at a position is that of `x` at the offset which `f` gives.
pub fn copy_by(x: &Tensor, shape: &[usize], f: impl Fn(&[usize]) -> usize) -> Tensor {
    let size = x.dtype().bytes();
    let mut out = AlignedBytes::zeroed(shape.iter().product::<usize>() * size);
    for_each_point(shape, |i, at| {
        let from = f(at) * size;
        out.as_mut()[i * size..][..size].copy_from_slice(&x.bytes()[from..from + size]);
    });
    Tensor::from_bytes(x.dtype(), shape, out).expect("as many bytes as the shape needs")
}

/// Row-major offset of coordinates.
pub fn offset(shape: &[usize], at: &[usize]) -> usize {
    shape.iter().zip(at).fold(0, |o, (&n, &i)| o * n + i)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Boxes and strides against the definition, for every view that is no reshape.
    #[test]
    fn copying_boxes_is_copying_points() {
        let x = Tensor::from_slice(&[3, 4], &(0..12).collect::<Vec<i32>>());
        let y = Tensor::from_slice(&[2, 4], &(100..108).collect::<Vec<i32>>());
        let start = Tensor::from_slice(&[], &[7i64]);
        let one = Tensor::from_slice(&[], &[-1i32]);
        let row = Tensor::from_slice(&[1, 4], &(0..4).collect::<Vec<i32>>());
        let pad = |lo: [i64; 2], mode| View::Pad { lo: lo.to_vec(), mode };
        let cases: Vec<(View, Vec<Tensor>, Vec<usize>)> = vec![
            (View::Transpose(vec![1, 0]), vec![x.clone()], vec![4, 3]),
            (View::Broadcast, vec![row], vec![2, 3, 4]),
            (View::Slice { starts: vec![2, 3], steps: vec![-1, -2] }, vec![x.clone()], vec![3, 2]),
            (View::Slice { starts: vec![1, 0], steps: vec![1, 3] }, vec![x.clone()], vec![2, 2]),
            (pad([1, 2], PadMode::Constant), vec![x.clone(), one.clone()], vec![5, 9]),
            (pad([-1, 2], PadMode::Constant), vec![x.clone(), one], vec![4, 5]),
            (pad([2, 3], PadMode::Reflect), vec![x.clone()], vec![7, 10]),
            (pad([2, 0], PadMode::Reflect), vec![x.clone()], vec![5, 4]),
            (pad([2, 3], PadMode::Edge), vec![x.clone()], vec![9, 10]),
            (View::Concat { axis: 0 }, vec![x.clone(), y, x.clone()], vec![8, 4]),
            (View::DynamicSlice { axis: 1 }, vec![x.clone(), start], vec![3, 2]),
        ];
        for (view, operands, shape) in cases {
            let shapes: Vec<Vec<usize>> = operands.iter().map(|t| t.shape().to_vec()).collect();
            let parts = view.parts(&shapes, &shape);
            let start = |slot: u16, _: &[i64]| operands[slot as usize].get_i64(0).unwrap();
            let mut expected = vec![];
            for_each_point(&shape, |_, at| {
                let at: Vec<i64> = at.iter().map(|&v| v as i64).collect();
                let holds = |p: &&Part| {
                    p.guards.iter().all(|g| (g.lo..g.hi).contains(&g.expr.eval(&at, &start)))
                };
                let part = parts.iter().find(holds).expect("the last part has no guards");
                let from = &operands[part.operand];
                let index: Vec<usize> =
                    part.map.0.iter().map(|e| e.eval(&at, &start) as usize).collect();
                expected.push(from.as_slice::<i32>()[offset(from.shape(), &index)]);
            });
            let got = eval_view(&view, &operands, &shape);
            assert_eq!(got.as_slice::<i32>(), expected, "{view:?}");
        }
    }

    #[test]
    fn padding_by_mode() {
        let x = Tensor::from_slice(&[4], &[1i32, 2, 3, 4]);
        let padded = |lo, mode, n| {
            eval_view(&View::Pad { lo: vec![lo], mode }, std::slice::from_ref(&x), &[n])
                .as_slice::<i32>()
                .to_vec()
        };
        assert_eq!(padded(2, PadMode::Reflect, 9), [3, 2, 1, 2, 3, 4, 3, 2, 1]);
        assert_eq!(padded(1, PadMode::Edge, 7), [1, 1, 2, 3, 4, 4, 4]);
    }
}
