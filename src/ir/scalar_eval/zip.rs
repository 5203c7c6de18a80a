//! Functions of two operands, element by element; what broadcasts is read in place.
//!
//! Preparing the weights of a model runs through here, so it works at the speed of memory.

use crate::base::Tensor;
use crate::base::tensor::{AlignedBytes, Element};

/// `f` of all pairs, the operands broadcast to `shape` (NumPy's rule, aligned at the right).
pub fn zip<T: Element>(x: &Tensor, y: &Tensor, shape: &[usize], f: impl Fn(T, T) -> T) -> Tensor {
    let n: usize = shape.iter().product();
    let mut bytes = AlignedBytes::zeroed(n * size_of::<T>());
    if n > 0 {
        let out = bytemuck::cast_slice_mut(bytes.as_mut());
        walk(&axes(x, y, shape), x.as_slice(), y.as_slice(), out, &f);
    }
    Tensor::from_bytes(T::DTYPE, shape, bytes).expect("as many bytes as the shape needs")
}

/// One axis of the result, and how far its points lie apart in the operands.
struct Axis {
    len: usize,
    x: usize,
    y: usize,
}

/// The axes, outermost first; those that both operands walk through in step are one.
fn axes(x: &Tensor, y: &Tensor, shape: &[usize]) -> Vec<Axis> {
    let (mut axes, mut steps): (Vec<Axis>, [usize; 2]) = (vec![], [1, 1]);
    for (back, &len) in shape.iter().rev().enumerate() {
        let mut apart = [0, 0];
        for (k, t) in [x, y].into_iter().enumerate() {
            let own = t.rank().checked_sub(back + 1).map_or(1, |a| t.shape()[a]);
            if own != 1 {
                apart[k] = steps[k];
            }
            steps[k] *= own;
        }
        let [x, y] = apart;
        match axes.last_mut() {
            _ if len == 1 => {}
            Some(inner) if x == inner.x * inner.len && y == inner.y * inner.len => {
                inner.len *= len;
            }
            Some(_) | None => axes.push(Axis { len, x, y }),
        }
    }
    axes.reverse();
    axes
}

fn walk<T: Element>(axes: &[Axis], x: &[T], y: &[T], out: &mut [T], f: &impl Fn(T, T) -> T) {
    match axes {
        [] => out[0] = f(x[0], y[0]),
        [Axis { len, x: 1, y: 1 }] => {
            let pairs = x[..*len].iter().zip(&y[..*len]);
            out.iter_mut().zip(pairs).for_each(|(o, (a, b))| *o = f(*a, *b));
        }
        [Axis { len, x: 1, y: 0 }] => {
            let b = y[0];
            out.iter_mut().zip(&x[..*len]).for_each(|(o, a)| *o = f(*a, b));
        }
        [Axis { len, x: 0, y: 1 }] => {
            let a = x[0];
            out.iter_mut().zip(&y[..*len]).for_each(|(o, b)| *o = f(a, *b));
        }
        [Axis { x: ax, y: ay, .. }] => {
            out.iter_mut().enumerate().for_each(|(i, o)| *o = f(x[i * ax], y[i * ay]));
        }
        [outer, inner @ ..] => {
            let size = inner.iter().map(|a| a.len).product();
            for (i, part) in out.chunks_exact_mut(size).enumerate() {
                walk(inner, &x[i * outer.x..], &y[i * outer.y..], part, f);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::scalar_eval::wide;

    #[test]
    fn broadcasting_is_that_of_whole_copies() {
        let shape = [2, 3, 4, 5];
        let shapes: [&[usize]; 7] =
            [&[2, 3, 4, 5], &[5], &[1, 3, 1, 1], &[4, 1], &[2, 1, 4, 5], &[], &[2, 3, 1, 1]];
        let tensor = |shape: &[usize], first: i32| {
            let n = shape.iter().product::<usize>() as i32;
            Tensor::from_slice(shape, &(first..first + n).collect::<Vec<_>>())
        };
        let f = |a: i32, b: i32| a * 1000 - b;
        for (xs, ys) in shapes.iter().flat_map(|x| shapes.iter().map(move |y| (x, y))) {
            let (x, y) = (tensor(xs, 1), tensor(ys, 500));
            let (a, b) = (wide::<i32>(&x, &shape), wide::<i32>(&y, &shape));
            let want: Vec<i32> = a.iter().zip(&*b).map(|(a, b)| f(*a, *b)).collect();
            assert_eq!(zip(&x, &y, &shape, f).as_slice::<i32>(), want, "{xs:?} {ys:?}");
        }
        let none = tensor(&[0, 5], 0);
        assert_eq!(zip(&none, &tensor(&[5], 0), &[0, 5], f).numel(), 0);
    }
}
