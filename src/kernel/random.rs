//! Random kernels, for tests that compare two ways to run a kernel.
//!
//! [`random_kernel`] uses every instruction but barriers, on every dtype, without faults. NaN never
//! reaches an integer, so two right implementations agree on every bit but those of NaN
//! ([`first_difference`]). Kernels of any numeric class and any mixture of lanes come out.

use super::build::KernelBuilder;
use super::ir::*;
use crate::base::DType;
use crate::base::machine::Numerics;
use crate::ir::scalar::Combine;

/// Elements of every buffer.
const LEN: u64 = 256;
const LANES: [u16; 7] = [1, 2, 4, 8, 16, 32, 64];

/// What random kernels may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Pure instructions, about.
    pub size: u32,
    /// The mathematical functions, which only their expansions define to the bit.
    pub math: bool,
}

/// A kernel with an input and an output of each dtype, in the order of [`DType::ALL`], inputs
/// first. The same seed gives the same kernel.
pub fn random_kernel(seed: u64, numerics: Numerics, limits: Limits) -> Kernel {
    let mut b = KernelBuilder::new(&format!("random{seed}"), numerics);
    let inputs = DType::ALL.map(|d| b.param(&format!("x_{d}"), d, LEN, Access::Read));
    let outputs = DType::ALL.map(|d| b.param(&format!("y_{d}"), d, LEN, Access::Write));
    let scratch = DType::ALL.map(|d| b.scratch(d, LEN));
    b.set_grid([2, 1, 2]);
    let mut g = Generator { b, rng: Rng(seed), pool: vec![], inputs, outputs, scratch, limits };
    g.block(limits.size, 0);
    for _ in 0..6 {
        g.store();
    }
    g.b.finish()
}

/// Buffers for a random kernel: all kinds of numbers in the inputs, zeros in the outputs.
pub fn random_buffers(kernel: &Kernel, seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng(seed);
    let fill = |p: &Param| {
        let mut bytes = Vec::with_capacity(p.len as usize * p.elem.bytes());
        for _ in 0..p.len {
            let lit = if p.access == Access::Write { 0 } else { rng.literal(p.elem).bits };
            bytes.extend_from_slice(&lit.to_le_bytes()[..p.elem.bytes()]);
        }
        bytes
    };
    kernel.params.iter().map(fill).collect()
}

/// Where two buffers of a dtype first differ in a bit; all NaN are the same.
pub fn first_difference(dtype: DType, a: &[u8], b: &[u8]) -> Option<usize> {
    let size = dtype.bytes();
    let element = |bytes: &[u8]| {
        let mut bits = [0; 8];
        bits[..size].copy_from_slice(bytes);
        Lit { dtype, bits: u64::from_le_bytes(bits) }
    };
    let nan = |l: Lit| dtype.is_float() && l.as_f64().is_nan();
    a.chunks(size).zip(b.chunks(size)).position(|(x, y)| {
        let (x, y) = (element(x), element(y));
        x != y && !(nan(x) && nan(y))
    })
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Small and large numbers, edges, any bits.
    fn literal(&mut self, d: DType) -> Lit {
        let edges = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, 127.0, 128.0, 255.0, 65504.0, 65519.9];
        let more = [1e-7, 6e-8, 3e38, 1e300, 2147483648.0, -2147483648.0, 9.3e18, 1e-40];
        let bits = 8 * d.bytes() as u32;
        match self.below(8) {
            _ if d == DType::Bool => Lit { dtype: d, bits: self.next() & 1 },
            0 => Lit::new(d, self.of(&edges)),
            1 => Lit::new(d, self.of(&more)),
            2 if d.is_float() => {
                Lit::new(d, self.of(&[f64::INFINITY, f64::NEG_INFINITY, f64::NAN]))
            }
            3 => Lit { dtype: d, bits: self.next() >> (64 - bits) },
            4 => Lit::int(d, self.below(40) as i64 - 20),
            _ => Lit::new(d, (self.next() >> 40) as f64 / 65536.0 - 128.0),
        }
    }
}

struct Generator {
    b: KernelBuilder,
    rng: Rng,
    /// Registers in scope.
    pool: Vec<Val>,
    inputs: [Buf; 13],
    outputs: [Buf; 13],
    scratch: [Buf; 13],
    limits: Limits,
}

impl Generator {
    fn block(&mut self, size: u32, depth: u32) {
        for _ in 0..size {
            match self.rng.below(24) {
                0 | 1 => self.store(),
                2 if depth < 2 => self.repeat(size / 3, depth),
                3 if depth < 2 => self.branch(size / 3, depth),
                4..=8 => self.lane_op(),
                9..=11 => {
                    let v = self.load();
                    self.pool.push(v);
                }
                12 => self.fold(),
                _ => self.op(),
            }
        }
    }

    fn dtype(&mut self) -> DType {
        // The types of most kernels most of the time.
        let often = [DType::F32, DType::F32, DType::F64, DType::I32, DType::I64, DType::Bool];
        let d = self.rng.below(10);
        often.get(d).copied().unwrap_or_else(|| self.rng.of(&DType::ALL))
    }

    fn ty(&mut self) -> Ty {
        let d = self.dtype();
        Ty::of(d, self.rng.of(&LANES))
    }

    /// A register of this type: one in scope, or a new one.
    fn value(&mut self, ty: Ty) -> Val {
        let known: Vec<Val> = self.pool.iter().copied().filter(|v| self.b.ty(*v) == ty).collect();
        if !known.is_empty() && self.rng.below(5) > 0 {
            return self.rng.of(&known);
        }
        let v = match self.rng.below(3) {
            0 => {
                let lit = self.rng.literal(ty.dtype());
                self.b.constant(ty, lit)
            }
            _ if ty == Ty::Index => self.address(64),
            _ => self.load_of(ty),
        };
        self.pool.push(v);
        v
    }

    /// An index in `0 .. LEN - room`.
    fn address(&mut self, room: u64) -> Val {
        let c = self.rng.next() % (LEN - room + 1);
        let (c, small) = (self.b.index(c as i64), self.b.index((LEN - room) as i64));
        let zero = self.b.index(0);
        let known: Vec<Val> =
            self.pool.iter().copied().filter(|v| self.b.ty(*v) == Ty::Index).collect();
        if known.is_empty() {
            return c;
        }
        let v = self.rng.of(&known);
        let low = self.b.op(Op::Max, &[v, zero]);
        self.b.op(Op::Min, &[low, small])
    }

    fn load(&mut self) -> Val {
        let ty = self.ty();
        self.load_of(ty)
    }

    fn load_of(&mut self, ty: Ty) -> Val {
        let (d, n) = (ty.dtype(), ty.lanes());
        let which = DType::ALL.iter().position(|x| *x == d).unwrap_or(0);
        let buf = self.inputs[which];
        let valid = if self.rng.below(4) == 0 { 1 + self.rng.below(n as usize) as u16 } else { n };
        let fill = (self.rng.below(2) == 0).then(|| self.rng.literal(d));
        let (mode, room) = match self.rng.below(5) {
            0 if n > 1 => (LoadMode::Splat, 1),
            1 => {
                let idx = self.value(Ty::of(DType::I64, n));
                let mask = self.b.constant(Ty::of(DType::I64, n), Lit::int(DType::I64, 127));
                (LoadMode::Gather(self.b.op(Op::And, &[idx, mask])), 128)
            }
            _ => (LoadMode::Contig, valid as u64),
        };
        let base = self.address(room);
        if self.rng.below(8) == 0 {
            self.b.prefetch(Addr { buf, base, plus: 1 << 20 });
        }
        self.b.load_as(Addr { buf, base, plus: 0 }, n, mode, valid, fill)
    }

    fn store(&mut self) {
        let ty = self.ty();
        let v = self.value(ty);
        let n = ty.lanes();
        let valid = if self.rng.below(4) == 0 { 1 + self.rng.below(n as usize) as u16 } else { n };
        let which = DType::ALL.iter().position(|x| *x == ty.dtype()).unwrap_or(0);
        let base = self.address(valid as u64);
        self.b.store_valid(Addr { buf: self.outputs[which], base, plus: 0 }, v, valid);
        if self.rng.below(4) == 0 {
            let at = Addr { buf: self.scratch[which], base, plus: 0 };
            let first = first_lane(&mut self.b, v);
            self.b.store(at, first);
            let back = self.b.load(at, 1);
            self.pool.push(back);
        }
    }

    fn op(&mut self) {
        let mut ty = self.ty();
        if self.rng.below(6) == 0 {
            ty = Ty::Index;
        }
        let d = ty.dtype();
        let float = matches!(d, DType::F32 | DType::F64);
        let all = [Op::Add, Op::Sub, Op::Mul, Op::Neg, Op::Abs, Op::Min, Op::Max];
        let compare = [Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge, Op::Select, Op::Select];
        let fused = self.b.numerics() == Numerics::Fused;
        let own: &[Op] = match d {
            DType::Bool => &[Op::And, Op::Or, Op::Xor, Op::Not],
            _ if d.is_narrow_float() => &[Op::Select],
            _ if float && fused => &[Op::Fma, Op::Div, Op::Sqrt, Op::Floor, Op::Ceil, Op::Round],
            _ if float => &[Op::Trunc, Op::Div, Op::Sqrt, Op::Floor, Op::Ceil, Op::Round],
            _ if ty == Ty::Index => &[Op::Div, Op::Rem],
            _ => &[Op::Div, Op::Rem, Op::And, Op::Or, Op::Xor, Op::Not, Op::Shl, Op::Shr],
        };
        let functions =
            [Op::Exp, Op::Expm1, Op::Log, Op::Log1p, Op::Sin, Op::Cos, Op::Tanh, Op::Erf, Op::Pow];
        let op = match self.rng.below(4) {
            0 if !d.is_narrow_float() && d != DType::Bool => self.rng.of(&all),
            1 if !d.is_narrow_float() => self.rng.of(&compare),
            2 if float && self.limits.math => self.rng.of(&functions),
            _ => self.rng.of(own),
        };
        let mut args: Vec<Val> = (0..super::types::arity(op)).map(|_| self.value(ty)).collect();
        if op == Op::Select {
            args[0] = self.value(Ty::Mask(ty.lanes()));
        }
        if matches!(op, Op::Shl | Op::Shr) && self.rng.below(2) == 0 {
            let amount = Lit::int(d, self.rng.below(70) as i64);
            args[1] = self.b.constant(ty, amount);
        }
        if ty == Ty::Index && matches!(op, Op::Div | Op::Rem) {
            args[1] = self.b.index(1 + self.rng.below(20) as i64);
        }
        let v = self.b.op(op, &args);
        self.pool.push(v);
    }

    fn lane_op(&mut self) {
        let ty = self.ty();
        let (d, n) = (ty.dtype(), ty.lanes());
        let out = match self.rng.below(8) {
            0 => {
                let v = self.value(ty.with_lanes(1));
                self.b.splat(v, n)
            }
            1 => {
                let (v, lane) = (self.value(ty), self.rng.below(n as usize) as u16);
                self.b.lane(LaneOp::Extract(lane), ty.with_lanes(1), &[v])
            }
            2 => {
                let (v, s) = (self.value(ty), self.value(ty.with_lanes(1)));
                let lane = self.rng.below(n as usize) as u16;
                self.b.lane(LaneOp::Insert(lane), ty, &[v, s])
            }
            3 => {
                let v = self.value(ty);
                let m = 1 << self.rng.below(n.trailing_zeros() as usize + 1);
                let from = self.rng.below((n - m) as usize + 1) as u16;
                self.b.lane(LaneOp::Slice(from), ty.with_lanes(m), &[v])
            }
            4 if n > 1 => {
                let half = ty.with_lanes(n / 2);
                let (x, y) = (self.value(half), self.value(half));
                self.b.lane(LaneOp::Concat, ty, &[x, y])
            }
            5 => {
                let (v, m) = (self.value(ty), self.rng.of(&LANES));
                let lanes = (0..m).map(|_| self.rng.below(n as usize) as u16).collect();
                self.b.lane(LaneOp::Shuffle(lanes), ty.with_lanes(m), &[v])
            }
            6 if d != DType::Bool => {
                let same: Vec<DType> = DType::ALL
                    .into_iter()
                    .filter(|t| t.bytes() == d.bytes() && *t != DType::Bool)
                    .filter(|t| !d.is_narrow_float() || t.is_narrow_float())
                    .collect();
                let (mut v, to) = (self.value(ty), self.rng.of(&same));
                if to.is_int() && d.is_float() {
                    let number = self.b.op(Op::Eq, &[v, v]);
                    let one = self.b.number(d, n, 1.0);
                    v = self.b.op(Op::Select, &[number, v, one]);
                }
                self.b.lane(LaneOp::Bitcast, Ty::of(to, n), &[v])
            }
            _ => {
                let (v, to) = (self.value(ty), self.dtype());
                if n == 1 && d != DType::Bool && self.rng.below(3) == 0 {
                    self.b.to_index(v)
                } else {
                    self.b.convert(v, to)
                }
            }
        };
        self.pool.push(out);
    }

    fn fold(&mut self) {
        let ty = self.ty();
        let v = self.value(ty);
        let combine = match ty.dtype() {
            DType::Bool => self.rng.of(&[Combine::Any, Combine::All]),
            d if d.is_narrow_float() => return,
            _ => self.rng.of(&[Combine::Sum, Combine::Prod, Combine::Max, Combine::Min]),
        };
        let folded = self.b.fold(combine, v);
        self.pool.push(folded);
    }

    fn repeat(&mut self, size: u32, depth: u32) {
        let types = [self.ty(), self.ty(), Ty::Index];
        let mut init = types.map(|t| self.value(t)).to_vec();
        init.truncate(1 + self.rng.below(3));
        let (lo, step) = (self.rng.below(4) as i64, 1 + self.rng.below(3) as i64);
        let count = self.rng.below(4) as i64;
        let range = (self.b.index(lo), self.b.index(lo + step * count), step);
        let counter = self.b.fresh(Ty::Index);
        let carried: Vec<Val> = init.iter().map(|v| self.b.fresh(self.b.ty(*v))).collect();
        let results: Vec<Val> = init.iter().map(|v| self.b.fresh(self.b.ty(*v))).collect();
        let scope = self.pool.len();
        self.b.enter();
        let params = [&[counter], &carried[..]].concat();
        self.pool.extend_from_slice(&params);
        self.block(size, depth + 1);
        let mut yields: Vec<Val> = carried.iter().map(|v| self.value(self.b.ty(*v))).collect();
        if yields.len() > 1 && types[0] == types[1] {
            yields.swap(0, 1);
        }
        self.pool.truncate(scope);
        let body = Region { params, insts: self.b.leave(), yields };
        let (lo, hi, step) = range;
        let unroll = 1 + self.rng.below(4) as u32;
        self.pool.extend_from_slice(&results);
        self.b.push(Inst::For { results, lo, hi, step, init, body, unroll });
    }

    fn branch(&mut self, size: u32, depth: u32) {
        let (x, y) = (self.value(Ty::Scalar(DType::I32)), self.value(Ty::Scalar(DType::I32)));
        let cond = self.b.op(Op::Lt, &[x, y]);
        let types = [self.ty(), self.ty()];
        let [then, els] = [0, 1].map(|_| {
            let scope = self.pool.len();
            self.b.enter();
            self.block(size, depth + 1);
            let yields = types.map(|t| self.value(t)).to_vec();
            self.pool.truncate(scope);
            Region { params: vec![], insts: self.b.leave(), yields }
        });
        let results: Vec<Val> = types.iter().map(|t| self.b.fresh(*t)).collect();
        self.pool.extend_from_slice(&results);
        self.b.push(Inst::If { results, cond, then, els });
    }
}

/// Lane 0 as a scalar.
fn first_lane(b: &mut KernelBuilder, v: Val) -> Val {
    let ty = b.ty(v);
    if ty.lanes() == 1 {
        return v;
    }
    b.lane(LaneOp::Extract(0), ty.with_lanes(1), &[v])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::eval::run_all;

    #[test]
    fn random_kernels_run_and_write_every_dtype() {
        let mut written = [false; 13];
        for seed in 0..40 {
            let kernel = random_kernel(seed, Numerics::Fused, Limits { size: 30, math: true });
            let mut buffers = random_buffers(&kernel, seed);
            run_all(&kernel, &mut buffers).unwrap();
            for (written, bytes) in written.iter_mut().zip(&buffers[13..]) {
                *written |= bytes.iter().any(|b| *b != 0);
            }
        }
        assert_eq!(written, [true; 13]);
    }

    #[test]
    fn differences_are_found_and_nan_is_nan() {
        let a: Vec<u8> = [1f32, f32::NAN, -0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let b: Vec<u8> = [1f32, -f32::NAN, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(first_difference(DType::F32, &a, &b), Some(2));
        assert_eq!(first_difference(DType::F32, &a, &a), None);
    }
}
