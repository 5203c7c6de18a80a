//! Reference evaluation of reading and writing at indices. Elements move as bytes; only a scatter
//! that combines needs to know what they are.

use super::number::{Number, strides, walk, widen, with_number};
use super::*;
use crate::base::tensor::AlignedBytes;
use crate::ir::scalar::Combine;
use crate::ir::scalar_eval::convert;

/// Index `i` of an index tensor; what does not fit i64 is the greatest i64.
pub(super) fn index_at(indices: &Tensor, i: usize) -> i64 {
    match indices.dtype() {
        DType::U64 => i64::try_from(indices.as_slice::<u64>()[i]).unwrap_or(i64::MAX),
        _ => indices.get_i64(i).expect("indices are integers"),
    }
}

/// Index `i`, clamped into `0..extent` (0 where there is nothing).
fn clamped(indices: &Tensor, i: usize, extent: usize) -> usize {
    index_at(indices, i).clamp(0, (extent as i64 - 1).max(0)) as usize
}

fn tensor(dtype: DType, shape: &[usize], bytes: AlignedBytes) -> Tensor {
    Tensor::from_bytes(dtype, shape, bytes).expect("as many bytes as the shape says")
}

/// `x[.., indices, ..]` along an axis; zeros where that axis has no elements.
pub(super) fn take(x: &Tensor, indices: &Tensor, axis: usize) -> Tensor {
    let (lead, rest) = x.shape().split_at(axis);
    let shape = [lead, indices.shape(), &rest[1..]].concat();
    let size = x.dtype().bytes();
    let row = rest[1..].iter().product::<usize>() * size;
    let mut out = AlignedBytes::zeroed(shape.iter().product::<usize>() * size);
    if rest[0] == 0 || row == 0 {
        return tensor(x.dtype(), &shape, out);
    }
    let n = indices.numel();
    for (i, to) in out.as_mut().chunks_mut(row).enumerate() {
        let from = (i / n * rest[0] + clamped(indices, i % n, rest[0])) * row;
        to.copy_from_slice(&x.bytes()[from..from + row]);
    }
    tensor(x.dtype(), &shape, out)
}

/// `result[p] = x[p with p[axis] = index[p]]`; zeros where that axis has no elements.
pub(super) fn gather(x: &Tensor, index: &Tensor, axis: usize) -> Tensor {
    let size = x.dtype().bytes();
    let mut out = AlignedBytes::zeroed(index.numel() * size);
    if x.shape()[axis] > 0 {
        let steps = strides(x.shape());
        let (along, mut others) = (steps[axis], steps);
        others[axis] = 0;
        let mut i = 0;
        walk(index.shape(), [&others], |[base]| {
            let from = (base + clamped(index, i, x.shape()[axis]) * along) * size;
            out.as_mut()[i * size..][..size].copy_from_slice(&x.bytes()[from..from + size]);
            i += 1;
        });
    }
    tensor(x.dtype(), index.shape(), out)
}

/// `x` with updates written, or combined in row-major order.
pub(super) fn scatter(spec: &ScatterSpec, x: &Tensor, index: &Tensor, updates: &Tensor) -> Tensor {
    let extent = x.shape()[spec.axis];
    let steps = strides(x.shape());
    let (along, mut others) = (steps[spec.axis], steps);
    others[spec.axis] = 0;
    // (element of the updates, element of the result), in order.
    let mut writes: Vec<(usize, usize)> = Vec::with_capacity(index.numel());
    let mut i = 0;
    walk(index.shape(), [&others], |[base]| {
        let at = index_at(index, i);
        if (0..extent as i64).contains(&at) {
            writes.push((i, base + at as usize * along));
        }
        i += 1;
    });
    let Some(combine) = spec.combine else {
        let size = x.dtype().bytes();
        let mut out = AlignedBytes::copy_of(x.bytes());
        for (from, to) in writes {
            let update = &updates.bytes()[from * size..][..size];
            out.as_mut()[to * size..][..size].copy_from_slice(update);
        }
        return tensor(x.dtype(), x.shape(), out);
    };
    let (dtype, wide, updates) = (x.dtype(), widen(x), widen(updates));
    let y = with_number!(dtype, T => {
        let mut y = wide.as_slice::<T>().to_vec();
        let updates = updates.as_slice::<T>();
        for (from, to) in writes {
            y[to] = combined(combine, y[to], updates[from]);
        }
        Tensor::from_slice(x.shape(), &y)
    });
    convert(&y, dtype)
}

fn combined<T: Number>(combine: Combine, a: T, b: T) -> T {
    match combine {
        Combine::Sum => a.plus(b),
        Combine::Prod => a.times(b),
        Combine::Max if a.is_nan() || a > b => a,
        Combine::Min if a.is_nan() || a < b => a,
        Combine::Max | Combine::Min => b,
        Combine::Any | Combine::All | Combine::ArgMax | Combine::ArgMin => {
            unreachable!("no row scatters with {combine:?}")
        }
    }
}

/// `x` with a part of `axis` replaced, from `at` on, which is clamped so that the part fits.
pub(super) fn update_slice(x: &Tensor, update: &Tensor, at: &Tensor, axis: usize) -> Tensor {
    let (extent, part) = (x.shape()[axis], update.shape()[axis]);
    let row = x.shape()[axis + 1..].iter().product::<usize>() * x.dtype().bytes();
    let start = index_at(at, 0).clamp(0, extent.saturating_sub(part) as i64) as usize;
    let mut out = AlignedBytes::copy_of(x.bytes());
    if part * row > 0 {
        for (i, from) in update.bytes().chunks(part * row).enumerate() {
            out.as_mut()[(i * extent + start) * row..][..part * row].copy_from_slice(from);
        }
    }
    tensor(x.dtype(), x.shape(), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn i32s(shape: &[usize], v: &[i32]) -> Tensor {
        Tensor::from_slice(shape, v)
    }

    #[test]
    fn reading_clamps() {
        let x = i32s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let at = Tensor::from_slice(&[2], &[-7i64, 99]);
        assert_eq!(take(&x, &at, 1), i32s(&[2, 2], &[1, 3, 4, 6]));
        assert_eq!(take(&x, &at, 0), i32s(&[2, 3], &[1, 2, 3, 4, 5, 6]));
        let huge = Tensor::from_slice(&[1, 1], &[u64::MAX]);
        assert_eq!(gather(&x, &huge, 1), i32s(&[1, 1], &[3]));
        let empty = i32s(&[2, 0], &[]);
        assert_eq!(take(&empty, &at, 1), i32s(&[2, 2], &[0; 4]));
    }

    #[test]
    fn writing_skips_and_keeps_the_order() {
        let x = i32s(&[3], &[1, 2, 3]);
        let index = Tensor::from_slice(&[4], &[2i64, -1, 2, 3]);
        let updates = i32s(&[4], &[10, 20, 30, 40]);
        let run = |combine| scatter(&ScatterSpec { axis: 0, combine }, &x, &index, &updates);
        assert_eq!(run(None), i32s(&[3], &[1, 2, 30]));
        assert_eq!(run(Some(Combine::Sum)), i32s(&[3], &[1, 2, 43]));
        assert_eq!(run(Some(Combine::Prod)), i32s(&[3], &[1, 2, 900]));
        assert_eq!(run(Some(Combine::Min)), x);
    }

    #[test]
    fn a_slice_is_moved_so_that_it_fits() {
        let x = i32s(&[2, 3], &[0; 6]);
        let update = i32s(&[2, 2], &[1, 2, 3, 4]);
        let run = |at: i32| update_slice(&x, &update, &i32s(&[], &[at]), 1);
        assert_eq!(run(-5), i32s(&[2, 3], &[1, 2, 0, 3, 4, 0]));
        assert_eq!(run(1), i32s(&[2, 3], &[0, 1, 2, 0, 3, 4]));
        assert_eq!(run(9), run(1));
    }
}
