//! Reference evaluation of windows: plain loops, sums ascending in (channel, kernel position).
//!
//! One to three spatial axes are taken as three (missing leading ones have extent 1). Windows are
//! clipped to the operand before their elements are visited, so that padding costs nothing.

use std::ops::Range;

use super::number::{Number, Real, walk, widen, with_number, with_real};
use super::*;
use crate::ir::scalar_eval::convert;

/// A window over three axes.
pub(super) struct Window3 {
    pub kernel: [usize; 3],
    stride: [usize; 3],
    dilation: [usize; 3],
    pad: [usize; 3],
    pub input: [usize; 3],
    pub output: [usize; 3],
}

/// Three axes of one to three.
fn three(v: &[usize], fill: usize) -> [usize; 3] {
    std::array::from_fn(|i| (i + v.len()).checked_sub(3).map_or(fill, |k| v[k]))
}

impl Window3 {
    pub fn new(spec: &WindowSpec, input: &[usize], output: &[usize]) -> Window3 {
        let pad: Vec<usize> = spec.pad.iter().map(|p| p.0).collect();
        Window3 {
            kernel: three(&spec.kernel, 1),
            stride: three(&spec.stride, 1),
            dilation: three(&spec.dilation, 1),
            pad: three(&pad, 0),
            input: three(&input[2..], 1),
            output: three(&output[2..], 1),
        }
    }

    /// The results along an axis whose window has its element `k` inside of the operand.
    pub fn results(&self, axis: usize, k: usize) -> Range<usize> {
        let (s, at) = (self.stride[axis], k * self.dilation[axis]);
        let first = self.pad[axis].saturating_sub(at).div_ceil(s);
        let end = (self.input[axis] + self.pad[axis]).saturating_sub(at).div_ceil(s);
        first.min(self.output[axis])..end.min(self.output[axis])
    }

    /// The elements `k` of the window of result `o` that are inside of the operand.
    fn inside(&self, axis: usize, o: usize) -> Range<usize> {
        let (d, at) = (self.dilation[axis], o * self.stride[axis]);
        let first = self.pad[axis].saturating_sub(at).div_ceil(d);
        let end = (self.input[axis] + self.pad[axis]).saturating_sub(at).div_ceil(d);
        first.min(self.kernel[axis])..end.min(self.kernel[axis])
    }

    /// Elements of the window of result `o` before these ends, which count from where padding begins.
    fn until(&self, o: [usize; 3], ends: &[usize; 3]) -> usize {
        let along = |a: usize| {
            let start = o[a] * self.stride[a];
            (0..self.kernel[a]).filter(|k| start + k * self.dilation[a] < ends[a]).count()
        };
        (0..3).map(along).product()
    }

    /// Where element `k` of the window of result `o` is; it must be inside.
    pub fn at(&self, axis: usize, o: usize, k: usize) -> usize {
        o * self.stride[axis] + k * self.dilation[axis] - self.pad[axis]
    }

    /// Calls `visit` with each element inside of the window of result `o`: its flat position in the
    /// window, and in the operand.
    fn visit(&self, o: [usize; 3], mut visit: impl FnMut(usize, usize)) {
        let [ks0, ks1, ks2] = [0, 1, 2].map(|axis| self.inside(axis, o[axis]));
        for k0 in ks0 {
            for k1 in ks1.clone() {
                let row = self.at(0, o[0], k0) * self.input[1] + self.at(1, o[1], k1);
                for k2 in ks2.clone() {
                    let tap = (k0 * self.kernel[1] + k1) * self.kernel[2] + k2;
                    visit(tap, row * self.input[2] + self.at(2, o[2], k2));
                }
            }
        }
    }

    fn each_result(&self, mut visit: impl FnMut([usize; 3])) {
        for o0 in 0..self.output[0] {
            for o1 in 0..self.output[1] {
                (0..self.output[2]).for_each(|o2| visit([o0, o1, o2]));
            }
        }
    }
}

pub(super) fn volume(v: &[usize]) -> usize {
    v.iter().product()
}

/// The convolution, with the bias added at the end of each sum.
pub(super) fn conv(
    spec: &WindowSpec,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: &[usize],
) -> Tensor {
    let WindowKind::Conv { groups } = spec.kind else { unreachable!("this is a convolution") };
    let window = Window3::new(spec, x.shape(), shape);
    let (dtype, wide_x, wide_w) = (x.dtype(), widen(x), widen(weight));
    let bias = bias.map(widen);
    let y = with_number!(dtype, T => {
        let bias = bias.as_ref().map(|b| b.as_slice::<T>());
        let (x, w) = (wide_x.as_slice::<T>(), wide_w.as_slice::<T>());
        Tensor::from_slice(shape, &conv_typed(&window, x, w, bias, shape, weight.shape(), groups))
    });
    convert(&y, dtype)
}

/// One result position after the other, all output channels of a group at once: the innermost loop
/// runs over channels, whose weights lie side by side.
fn conv_typed<T: Number>(
    window: &Window3,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    shape: &[usize],
    weight_shape: &[usize],
    groups: usize,
) -> Vec<T> {
    let (of_x, of_y) = (weight_shape[1], shape[1] / groups);
    let (image, taps) = (volume(&window.input), volume(&window.kernel));
    let plane = volume(&window.output);
    let mut y = vec![T::default(); volume(shape)];
    // [O, C / g, taps] → [g, C / g, taps, O / g].
    let mut packed = Vec::with_capacity(weight.len());
    let rows = of_x * taps;
    walk(&[groups, rows, of_y], [&[of_y * rows, 1, rows]], |[at]| packed.push(weight[at]));
    let mut sums = vec![T::default(); of_y];
    for (n, group) in (0..shape[0]).flat_map(|n| (0..groups).map(move |g| (n, g))) {
        let x = &x[(n * groups + group) * of_x * image..][..of_x * image];
        let weight = &packed[group * rows * of_y..][..rows * of_y];
        let y = &mut y[(n * groups + group) * of_y * plane..][..of_y * plane];
        let mut position = 0;
        window.each_result(|o| {
            let mut inside = Vec::with_capacity(taps);
            window.visit(o, |tap, at| inside.push((tap, at)));
            sums.fill(T::default());
            for c in 0..of_x {
                for (tap, at) in &inside {
                    let weight = &weight[(c * taps + tap) * of_y..][..of_y];
                    T::add_scaled(&mut sums, x[c * image + at], weight, 1);
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                let bias = bias.map(|b| b[group * of_y + i]);
                y[i * plane + position] = bias.map_or(*sum, |b| sum.plus(b));
            }
            position += 1;
        });
    }
    y
}

/// The maxima and their indices.
pub(super) fn max_pool(spec: &WindowSpec, x: &Tensor, shape: &[usize]) -> Vec<Tensor> {
    let window = Window3::new(spec, x.shape(), shape);
    let (dtype, wide) = (x.dtype(), widen(x));
    let mut index: Vec<i64> = Vec::with_capacity(volume(shape));
    let image = volume(&window.input);
    let y = with_number!(dtype, T => {
        let mut y: Vec<T> = Vec::with_capacity(volume(shape));
        for n in 0..shape[0] * shape[1] {
            let x = &wide.as_slice::<T>()[n * image..][..image];
            window.each_result(|o| {
                let mut best: Option<usize> = None;
                window.visit(o, |_, i| {
                    let wins = best.is_none_or(|b| !x[b].is_nan() && (x[i].is_nan() || x[i] > x[b]));
                    if wins {
                        best = Some(i);
                    }
                });
                y.push(best.map_or(T::LEAST, |b| x[b]));
                index.push(best.unwrap_or(0) as i64);
            });
        }
        Tensor::from_slice(shape, &y)
    });
    vec![convert(&y, dtype), Tensor::from_slice(shape, &index)]
}

/// The means. With `counted` (extents of the axes from the first window's start), what lies before
/// their ends counts.
pub(super) fn avg_pool(
    spec: &WindowSpec,
    x: &Tensor,
    shape: &[usize],
    counted: Option<&[usize]>,
) -> Tensor {
    let window = Window3::new(spec, x.shape(), shape);
    let whole = spec.kind == WindowKind::AvgPool { include_pad: true };
    let ends = counted.map(|v| three(v, 1));
    let (dtype, wide) = (x.dtype(), widen(x));
    let image = volume(&window.input);
    let y = with_real!(dtype, T => {
        let mut y: Vec<T> = Vec::with_capacity(volume(shape));
        for n in 0..shape[0] * shape[1] {
            let x = &wide.as_slice::<T>()[n * image..][..image];
            window.each_result(|o| {
                let (mut sum, mut count) = (T::default(), 0usize);
                window.visit(o, |_, i| {
                    sum = sum.plus(x[i]);
                    count += 1;
                });
                let by = match &ends {
                    Some(ends) => window.until(o, ends),
                    None if whole => volume(&window.kernel),
                    None => count,
                };
                y.push(sum.over(T::of(by as f64)));
            });
        }
        Tensor::from_slice(shape, &y)
    });
    convert(&y, dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(
        kind: WindowKind,
        kernel: usize,
        stride: usize,
        dilation: usize,
        pad: usize,
    ) -> WindowSpec {
        WindowSpec {
            kind,
            kernel: vec![kernel],
            stride: vec![stride],
            dilation: vec![dilation],
            pad: vec![(pad, pad)],
        }
    }

    #[test]
    fn convolution_in_one_dimension_by_hand() {
        let x = Tensor::from_slice(&[1, 1, 5], &[1i32, 2, 3, 4, 5]);
        let w = Tensor::from_slice(&[1, 1, 3], &[1i32, 10, 100]);
        let conv1 = |stride, dilation, pad, out: usize| {
            let s = spec(WindowKind::Conv { groups: 1 }, 3, stride, dilation, pad);
            conv(&s, &x, &w, None, &[1, 1, out]).as_slice::<i32>().to_vec()
        };
        assert_eq!(conv1(1, 1, 0, 3), [321, 432, 543]);
        assert_eq!(conv1(1, 1, 1, 5), [210, 321, 432, 543, 54]);
        assert_eq!(conv1(2, 2, 2, 3), [310, 531, 53]);
    }

    /// Every window element against its place, taken one by one.
    #[test]
    fn clipping_agrees_with_counting() {
        for (input, kernel, stride, dilation, pad) in
            [(5, 3, 1, 1, 1), (7, 2, 3, 2, 1), (1, 3, 2, 3, 3), (6, 4, 2, 1, 2), (4, 1, 1, 5, 0)]
        {
            let reach = dilation * (kernel - 1) + 1;
            let out = (input + 2 * pad - reach) / stride + 1;
            let s = spec(WindowKind::MaxPool, kernel, stride, dilation, pad);
            let w = Window3::new(&s, &[1, 1, input], &[1, 1, out]);
            for o in 0..out {
                for k in 0..kernel {
                    let place = (o * stride + k * dilation).checked_sub(pad).filter(|p| *p < input);
                    assert_eq!(w.inside(2, o).contains(&k), place.is_some());
                    assert_eq!(w.results(2, k).contains(&o), place.is_some());
                    assert!(place.is_none_or(|p| p == w.at(2, o, k)));
                }
            }
        }
    }

    #[test]
    fn pools_by_hand() {
        let x = Tensor::from_slice(&[1, 1, 4], &[1f32, f32::NAN, 3.0, 3.0]);
        let pools = max_pool(&spec(WindowKind::MaxPool, 2, 1, 1, 0), &x, &[1, 1, 3]);
        assert_eq!(pools[1].as_slice::<i64>(), [1, 1, 2]);
        assert_eq!(pools[0].as_slice::<f32>()[2], 3.0);
        let x = Tensor::from_slice(&[1, 1, 3], &[2f32, 4.0, 9.0]);
        let kind = WindowKind::AvgPool { include_pad: true };
        let all = avg_pool(&spec(kind, 2, 2, 1, 1), &x, &[1, 1, 2], None);
        assert_eq!(all.as_slice::<f32>(), [1.0, 6.5]);
        let kind = WindowKind::AvgPool { include_pad: false };
        let inside = avg_pool(&spec(kind, 2, 2, 1, 1), &x, &[1, 1, 2], None);
        assert_eq!(inside.as_slice::<f32>(), [2.0, 6.5]);
    }

    /// PyTorch's `avg_pool1d(kernel_size = 4, stride = 3, padding = 1, ceil_mode = True)`: the last
    /// window has one element, one of padding, and two beyond.
    #[test]
    fn what_ceil_mode_adds_does_not_count() {
        let x = Tensor::from_slice(&[1, 1, 6], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let s = spec(WindowKind::AvgPool { include_pad: false }, 4, 3, 1, 1);
        let y = avg_pool(&s, &x, &[1, 1, 3], Some(&[8]));
        assert_eq!(y.as_slice::<f32>(), [1.5, 4.5, 3.0]);
    }
}
