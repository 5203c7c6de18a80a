//! Convolutions of one to three axes, transposed ones, and what stands around them in networks.

use dlc::ir::{Attr, Value};
use dlc::pipeline::Level;

use super::draw::{Case, Draw};

const CHANNELS: &[usize] = &[1, 2, 3, 5, 7, 12, 15, 16, 16, 17, 24, 31, 32, 32, 33, 48];

pub fn case(seed: u64) -> Case {
    let mut d = Draw::new(seed);
    let axes = d.pick(&[1, 2, 2, 2, 3]);
    let mut x = image(&mut d, axes);
    if d.one_in(4) {
        x = d.elementwise(x, axes + 1, 2);
    }
    let mut outputs = vec![];
    let depth = d.pick(&[1, 1, 1, 2, 2, 3]);
    for _ in 0..depth {
        x = match d.below(12) {
            0 => transposed(&mut d, x),
            1 => pool(&mut d, x),
            2 => padded(&mut d, x),
            _ => x,
        };
        x = convolution(&mut d, x);
        x = d.elementwise(x, axes + 1, 3);
        if d.one_in(8) {
            outputs.push(x);
        }
    }
    let y = tail(&mut d, x);
    outputs.push(y);
    d.finish(&outputs)
}

/// Kernels of 3 × 3 in steps of 1 over maps in blocks of channels, which are done in tiles.
pub fn tiled(seed: u64) -> Case {
    let mut d = Draw::new(seed);
    let level = d.pick(&[Level::O2, Level::O2, Level::O3]);
    d.compile_at(level);
    let n = d.pick(&[1, 1, 2, 3]);
    let c = d.pick(&[3, 8, 16]);
    let spatial = [4 + d.below(16), 4 + d.below(16)];
    let x = d.input(&[&[n, c], &spatial[..]].concat());
    let channels = |d: &mut Draw| d.pick(&[16, 16, 32, 48, 64, 24, 45]);
    let o = channels(&mut d);
    d.sums(c);
    let w = d.param(&[o, c, 1, 1]);
    let mut x = d.op("conv2d", &[x, w], &[]);
    if d.one_in(2) {
        x = d.op("relu", &[x], &[]);
    }
    let mut outputs = vec![];
    for _ in 0..d.pick(&[1, 1, 2]) {
        let (c, o) = (d.shape(x)[1], channels(&mut d));
        let w = d.param(&[o, c, 3, 3]);
        let pad = [(); 4].map(|()| d.pick(&[0, 1, 1, 1, 1, 2]));
        let pad = if d.one_in(2) { [1; 4] } else { pad };
        x = d.op("conv2d", &[x, w], &[ints("pad", &pad)]);
        // Sums before and after the products: of numbers up to 9 times as large with tiles of two,
        // up to 100 times with tiles of four, whose matrices hold thirds.
        d.sums(if level == Level::O3 { 100 } else { 9 } * c);
        if level == Level::O3 {
            d.rounds();
        }
        x = d.elementwise(x, 3, 3);
        if d.one_in(6) {
            outputs.push(x);
        }
    }
    let y = tail(&mut d, x);
    outputs.push(y);
    d.finish(&outputs)
}

/// `[N, C, spatial…]`, now and then stored with the channels last.
fn image(d: &mut Draw, axes: usize) -> Value {
    let n = if d.one_in(40) { 0 } else { d.pick(&[1, 1, 1, 2, 3]) };
    let c = if d.one_in(60) { 0 } else { d.pick(CHANNELS) };
    let most = [90, 20, 8][axes - 1];
    let spatial: Vec<usize> =
        (0..axes).map(|_| if d.one_in(8) { 1 } else { 1 + d.below(most) }).collect();
    if d.one_in(8) {
        let x = d.values(&[&[n], &spatial[..], &[c]].concat());
        let perm: Vec<usize> = [0, axes + 1].into_iter().chain(1..=axes).collect();
        return d.permute(x, &perm);
    }
    d.values(&[&[n, c], &spatial[..]].concat())
}

fn by_axis(d: &mut Draw, axes: usize, of: &[usize]) -> Vec<usize> {
    if d.one_in(2) {
        return vec![d.pick(of); axes];
    }
    (0..axes).map(|_| d.pick(of)).collect()
}

fn ints(name: &'static str, v: &[usize]) -> (&'static str, Attr) {
    (name, Attr::Ints(v.iter().map(|n| *n as i64).collect()))
}

/// A window that fits, by axis.
struct Window {
    kernel: Vec<usize>,
    stride: Vec<usize>,
    dilation: Vec<usize>,
    /// All before, then all after.
    pad: Vec<usize>,
}

impl Window {
    fn of(d: &mut Draw, spatial: &[usize]) -> Window {
        let axes = spatial.len();
        let sizes: &[usize] = d.pick(&[&[1][..], &[3], &[3], &[1, 2, 3, 4, 5]]);
        let kernel = by_axis(d, axes, sizes);
        let stride = if d.one_in(2) { vec![1; axes] } else { by_axis(d, axes, &[1, 2, 3]) };
        let dilation = if d.one_in(4) { by_axis(d, axes, &[1, 2, 3]) } else { vec![1; axes] };
        let pad = match d.below(4) {
            0 => vec![0; 2 * axes],
            1 | 2 => [&kernel[..], &kernel].concat().iter().map(|k| k / 2).collect(),
            _ => (0..2 * axes).map(|_| d.below(4)).collect(),
        };
        let mut w = Window { kernel, stride, dilation, pad };
        w.fit(spatial);
        w
    }

    /// Smaller where it reaches over the padded image.
    fn fit(&mut self, spatial: &[usize]) {
        let axes = spatial.len();
        for (i, extent) in spatial.iter().enumerate() {
            let padded = extent + self.pad[i] + self.pad[axes + i];
            if self.reach(i) > padded {
                (self.kernel[i], self.dilation[i]) = (1, 1);
            }
            if padded == 0 {
                self.pad[i] = 1;
            }
        }
    }

    fn reach(&self, axis: usize) -> usize {
        self.dilation[axis] * (self.kernel[axis] - 1) + 1
    }

    /// As a pool's window: at most half of it may lie in padding.
    fn pooling(mut self, spatial: &[usize]) -> Window {
        let axes = spatial.len();
        let halve = |w: &mut Window| {
            for i in 0..2 * axes {
                w.pad[i] = w.pad[i].min(w.reach(i % axes) / 2);
            }
        };
        halve(&mut self);
        self.fit(spatial);
        halve(&mut self);
        self
    }

    fn out(&self, spatial: &[usize]) -> usize {
        let n = spatial.len();
        let extent = |i: usize| {
            (spatial[i] + self.pad[i] + self.pad[n + i] - self.reach(i)) / self.stride[i] + 1
        };
        (0..n).map(extent).product()
    }

    fn attrs(&self, d: &mut Draw) -> Vec<(&'static str, Attr)> {
        let pad = match d.below(12) {
            0 => ("pad", Attr::Str("same".into())),
            1 => ("pad", Attr::Str("same_upper".into())),
            _ => ints("pad", &self.pad),
        };
        vec![ints("stride", &self.stride), ints("dilation", &self.dilation), pad]
    }
}

/// How channels fall into groups: groups, and channels of the result.
fn groups(d: &mut Draw, c: usize) -> (usize, usize) {
    if c == 0 {
        return (1, d.pick(CHANNELS));
    }
    match d.below(6) {
        0 => (c, c),
        1 => (c, c * d.pick(&[1, 2, 3])),
        2 => {
            let fits: Vec<usize> =
                [2, 3, 4, 8].into_iter().filter(|g| c.is_multiple_of(*g)).collect();
            let g = if fits.is_empty() { 1 } else { d.pick(&fits) };
            (g, g * d.pick(&[1, 2, 3, 4, 8, 16]))
        }
        _ => (1, d.pick(CHANNELS)),
    }
}

fn convolution(d: &mut Draw, x: Value) -> Value {
    let shape = d.shape(x);
    let (c, spatial) = (shape[1], &shape[2..]);
    let (mut w, mut g, mut o);
    let mut tries = 0;
    loop {
        w = Window::of(d, spatial);
        (g, o) = groups(d, c);
        let terms = c / g * w.kernel.iter().product::<usize>();
        // `same` may give a little more than this.
        let products = shape[0].max(1) * o * w.out(spatial) * terms;
        if products <= d.budget || tries == 20 {
            d.sums(terms);
            break;
        }
        tries += 1;
    }
    let axes = spatial.len();
    let name = ["conv1d", "conv2d", "conv3d"][axes - 1];
    let weight = d.weights(&[&[o, c / g], &w.kernel[..]].concat());
    let mut attrs = w.attrs(d);
    attrs.push(("groups", Attr::Int(g as i64)));
    match d.below(3) {
        0 => {
            let bias = d.bias(o);
            d.op(name, &[x, weight, bias], &attrs)
        }
        _ => d.op(name, &[x, weight], &attrs),
    }
}

/// A transposed convolution, if the window leaves something.
fn transposed(d: &mut Draw, x: Value) -> Value {
    let shape = d.shape(x);
    let (c, axes) = (shape[1], shape.len() - 2);
    if c == 0 {
        return x;
    }
    let kernel = by_axis(d, axes, &[1, 2, 3, 4]);
    let stride = by_axis(d, axes, &[1, 2, 3]);
    let dilation = by_axis(d, axes, &[1, 1, 2]);
    let pad = by_axis(d, axes, &[0, 0, 1, 2]);
    let more: Vec<usize> = (0..axes).map(|i| d.below(stride[i].max(dilation[i]))).collect();
    let g = if d.one_in(3) && c % 2 == 0 { 2 } else { 1 };
    let o = d.pick(&[1, 2, 3, 8, 16]);
    let out: usize = (0..axes).map(|i| shape[i + 2] * stride[i] + 4).product();
    let terms = c / g * kernel.iter().product::<usize>();
    if shape[0].max(1) * o * g * out * terms > 2 * d.budget {
        return x;
    }
    let name = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"][axes - 1];
    let weight = d.weights(&[&[c, o], &kernel[..]].concat());
    let attrs = [
        ints("stride", &stride),
        ints("pad", &pad),
        ints("output_padding", &more),
        ints("dilation", &dilation),
        ("groups", Attr::Int(g as i64)),
    ];
    match d.try_op(name, &[x, weight], &attrs) {
        Ok(y) => {
            d.sums(terms);
            y
        }
        Err(_) => x,
    }
}

pub fn pool(d: &mut Draw, x: Value) -> Value {
    let shape = d.shape(x);
    if shape.contains(&0) {
        return x;
    }
    let mut w = Window::of(d, &shape[2..]);
    let axes = shape.len() - 2;
    let max = d.one_in(2) || !d.dtype.is_float();
    let ceil = ("ceil_mode", Attr::Bool(d.one_in(4)));
    if !max {
        w.dilation = vec![1; axes];
    }
    let w = w.pooling(&shape[2..]);
    let mut attrs =
        vec![ints("kernel", &w.kernel), ints("stride", &w.stride), ints("pad", &w.pad), ceil];
    if max {
        attrs.push(ints("dilation", &w.dilation));
        return d.op("max_pool", &[x], &attrs);
    }
    attrs.push(("count_include_pad", Attr::Bool(d.one_in(2))));
    d.rounds();
    d.sums(w.kernel.iter().product());
    d.op("avg_pool", &[x], &attrs)
}

/// Padding as an op of its own.
fn padded(d: &mut Draw, x: Value) -> Value {
    let rank = d.shape(x).len();
    let spatial: Vec<i64> = (0..2 * (rank - 2)).map(|_| d.below(3) as i64).collect();
    let widths = [&[0, 0], &spatial[..rank - 2], &[0, 0], &spatial[rank - 2..]].concat();
    d.op("pad", &[x], &[("pad", Attr::Ints(widths))])
}

/// What networks do with the result.
fn tail(d: &mut Draw, x: Value) -> Value {
    let shape = d.shape(x);
    match d.below(12) {
        0 | 1 => pool(d, x),
        2 if d.dtype.is_float() && !shape.contains(&0) => {
            d.rounds();
            d.sums(shape[2..].iter().product());
            d.op("global_avg_pool", &[x], &[])
        }
        3 if !shape.contains(&0) => d.op("global_max_pool", &[x], &[]),
        4 => {
            let c = d.pick(CHANNELS);
            let rest = d.values(&[&[shape[0], c], &shape[2..]].concat());
            let both = if d.one_in(2) { [x, rest] } else { [rest, x] };
            d.op("concat", &both, &[("axis", Attr::Int(1))])
        }
        5 => side_by_side(d, x),
        6 if !shape.contains(&0) => {
            let k: usize = shape[1..].iter().product();
            let flat = d.reshape(x, &[shape[0], k]);
            let n = d.pick(CHANNELS).min((d.budget / (shape[0] * k)).max(1));
            d.sums(k);
            let w = d.weights(&[n, k]);
            d.op("dense", &[flat, w], &[])
        }
        7 if shape[1].is_multiple_of(2) && shape[1] > 0 => shuffled(d, x),
        8 => {
            let rank = shape.len();
            let perm: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
            d.permute(x, &perm)
        }
        _ => x,
    }
}

/// Two convolutions of one map, their channels behind each other, and one over both.
fn side_by_side(d: &mut Draw, x: Value) -> Value {
    let shape = d.shape(x);
    let axes = shape.len() - 2;
    let name = ["conv1d", "conv2d", "conv3d"][axes - 1];
    let point = |d: &mut Draw, x: Value, k: usize| {
        let shape = d.shape(x);
        let each = shape[0].max(1) * shape[1..].iter().product::<usize>() * k.pow(axes as u32);
        let o = d.pick(CHANNELS).min((d.budget / each.max(1)).max(1));
        d.sums(shape[1] * k.pow(axes as u32));
        let w = d.weights(&[&[o, shape[1]], &vec![k; axes][..]].concat());
        let y = d.op(name, &[x, w], &[ints("pad", &[k / 2])]);
        d.elementwise(y, axes + 1, 2)
    };
    let (a, b) = (point(d, x, 1), point(d, x, 3));
    let both = d.op("concat", &[a, b], &[("axis", Attr::Int(1))]);
    point(d, both, 1)
}

/// The channels of two groups take turns, then a convolution reads them.
fn shuffled(d: &mut Draw, x: Value) -> Value {
    let shape = d.shape(x);
    let (n, c, spatial) = (shape[0], shape[1], &shape[2..]);
    let y = d.reshape(x, &[&[n, 2, c / 2], spatial].concat());
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..shape.len() + 1).collect();
    let y = d.permute(y, &perm);
    let y = d.reshape(y, &shape);
    convolution(d, y)
}
