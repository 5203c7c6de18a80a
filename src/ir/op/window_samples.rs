//! Samples of convolutions and pools: every attribute, odd sizes, nothing at all, every kind of dtype.

use super::check::{data, f32s, sample, sample_of};
use super::*;

fn ints(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
    (name, Attr::Ints(v.to_vec()))
}

fn word(w: &str) -> (&'static str, Attr) {
    ("pad", Attr::Str(w.into()))
}

pub(super) fn conv_samples(axes: usize) -> Vec<Sample> {
    let shape = |n: usize, c: usize, spatial: &[usize]| [&[n, c], &spatial[3 - axes..]].concat();
    let few = |name: &'static str, v: [i64; 3]| ints(name, &v[3 - axes..]);
    let groups = |n: i64| ("groups", Attr::Int(n));
    let x = f32s(&shape(2, 4, &[4, 9, 8]), 1);
    let plain = f32s(&shape(6, 4, &[2, 3, 3]), 2);
    let grouped = f32s(&shape(6, 2, &[2, 3, 3]), 3);
    let depthwise = f32s(&shape(4, 1, &[2, 3, 3]), 4);
    let bare = |x: &Tensor, w: &Tensor, attrs: &[(&'static str, Attr)]| {
        sample_of(vec![Some(x.clone()), Some(w.clone()), None], attrs)
    };
    let mut samples = vec![
        sample([x.clone(), plain.clone(), f32s(&[6], 5)], &[]),
        bare(&x, &plain, &[("pad", Attr::Int(1))]),
        bare(&x, &plain, &[few("stride", [1, 2, 3]), few("pad", [0, 1, 2])]),
        bare(&x, &plain, &[few("dilation", [1, 2, 3]), ("pad", Attr::Int(2))]),
        bare(
            &x,
            &plain,
            &[ints("pad", &[&[0, 1, 2][3 - axes..], &[1, 0, 3][3 - axes..]].concat())],
        ),
        bare(&x, &plain, &[word("same")]),
        bare(
            &x,
            &f32s(&shape(3, 4, &[2, 4, 2]), 6),
            &[word("same_upper"), ("stride", Attr::Int(2))],
        ),
        bare(&x, &grouped, &[groups(2)]),
        sample([x.clone(), grouped, f32s(&[6], 5)], &[groups(2), ("pad", Attr::Int(1))]),
        bare(&x, &depthwise, &[groups(4), ("stride", Attr::Int(2)), ("pad", Attr::Int(1))]),
        bare(&x, &f32s(&shape(8, 1, &[1, 3, 3]), 7), &[groups(4)]),
        bare(&x, &f32s(&shape(5, 4, &[1, 1, 1]), 8), &[]),
        bare(&x, &f32s(&shape(5, 4, &[1, 1, 1]), 8), &[("stride", Attr::Int(2))]),
        bare(&f32s(&shape(0, 4, &[4, 9, 8]), 1), &plain, &[]),
        bare(&f32s(&shape(2, 0, &[4, 9, 8]), 1), &f32s(&shape(3, 0, &[1, 1, 1]), 1), &[]),
    ];
    for dtype in [DType::F64, DType::BF16, DType::F16, DType::I8, DType::I32] {
        let x = data(dtype, &shape(1, 3, &[3, 6, 5]), 9);
        let weight = data(dtype, &shape(2, 3, &[2, 3, 3]), 10);
        samples.push(sample([x, weight, data(dtype, &[2], 11)], &[("pad", Attr::Int(1))]));
    }
    samples
}

pub(super) fn max_pool_samples() -> Vec<Sample> {
    let kernel = |v: &[i64]| ints("kernel", v);
    let x = f32s(&[2, 3, 9, 8], 1);
    let (nan, inf) = (f32::NAN, f32::NEG_INFINITY);
    let holes = Tensor::from_slice(&[1, 1, 3, 3], &[1.0, nan, 4.0, 4.0, 0.0, nan, inf, inf, inf]);
    let lows = Tensor::from_slice(&[1, 1, 2, 3], &[inf; 6]);
    let pad = |n: i64| ("pad", Attr::Int(n));
    let stride = |n: i64| ("stride", Attr::Int(n));
    let mut samples = vec![
        sample([x.clone()], &[kernel(&[2])]),
        sample([x.clone()], &[kernel(&[3, 2]), stride(2), pad(1)]),
        sample([x.clone()], &[kernel(&[3, 2]), ints("stride", &[1, 2]), ints("dilation", &[2, 3])]),
        sample([x.clone()], &[kernel(&[4]), stride(3), ("ceil_mode", Attr::Bool(true)), pad(1)]),
        sample([x.clone()], &[kernel(&[3]), stride(2), word("same_upper")]),
        sample([x], &[kernel(&[3]), stride(1), word("same")]),
        sample([holes.clone()], &[kernel(&[2]), stride(1)]),
        sample([lows], &[kernel(&[3]), stride(1), pad(1)]),
        sample([f32s(&[2, 3, 11], 2)], &[kernel(&[3]), stride(2)]),
        sample([f32s(&[1, 2, 4, 5, 6], 3)], &[kernel(&[2, 3, 2]), stride(2), pad(1)]),
        sample([f32s(&[0, 2, 4, 4], 3)], &[kernel(&[2])]),
    ];
    for dtype in [DType::F64, DType::BF16, DType::I8, DType::U8, DType::I64] {
        samples.push(sample([data(dtype, &[1, 2, 5, 6], 4)], &[kernel(&[3]), stride(1), pad(1)]));
    }
    samples
}

pub(super) fn avg_pool_samples() -> Vec<Sample> {
    let kernel = |v: &[i64]| ints("kernel", v);
    let flag = |name: &'static str, v: bool| (name, Attr::Bool(v));
    let x = f32s(&[2, 3, 9, 8], 1);
    let (pad, stride) = (("pad", Attr::Int(1)), ("stride", Attr::Int(2)));
    let inside = flag("count_include_pad", false);
    let mut samples = vec![
        sample([x.clone()], &[kernel(&[2, 3]), stride.clone()]),
        sample([x.clone()], &[kernel(&[3]), stride.clone(), pad.clone()]),
        sample([x.clone()], &[kernel(&[3]), stride.clone(), pad.clone(), inside.clone()]),
        sample([x.clone()], &[kernel(&[3]), stride.clone(), flag("ceil_mode", true)]),
        sample([x.clone()], &[kernel(&[3]), stride.clone(), pad.clone(), flag("ceil_mode", true)]),
        sample(
            [f32s(&[1, 2, 7, 8], 5)],
            &[kernel(&[2, 4]), ints("stride", &[4, 4]), pad.clone(), flag("ceil_mode", true)],
        ),
        sample([x], &[kernel(&[3]), stride, pad.clone(), inside, flag("ceil_mode", true)]),
        sample([f32s(&[2, 3, 11], 2)], &[kernel(&[3])]),
        sample([f32s(&[1, 2, 4, 5, 6], 3)], &[kernel(&[2, 3, 2]), word("same")]),
        sample([f32s(&[2, 0, 4, 4], 3)], &[kernel(&[2])]),
    ];
    for dtype in [DType::F64, DType::BF16, DType::F16] {
        samples.push(sample([data(dtype, &[1, 2, 5, 6], 4)], &[kernel(&[3]), pad.clone()]));
    }
    samples
}

pub(super) fn global_samples() -> Vec<Sample> {
    let nan = Tensor::from_slice(&[1, 2, 2], &[1.0, f32::NAN, f32::INFINITY, 2.0]);
    vec![
        sample([f32s(&[2, 3, 7, 5], 1)], &[]),
        sample([f32s(&[2, 3, 70], 2)], &[]),
        sample([f32s(&[1, 2, 2, 3, 2], 3)], &[]),
        sample([f32s(&[0, 3, 2, 2], 3)], &[]),
        sample([nan], &[]),
        sample([data(DType::F64, &[2, 3, 4, 4], 4)], &[]),
        sample([data(DType::BF16, &[2, 3, 4, 4], 5)], &[]),
    ]
}
