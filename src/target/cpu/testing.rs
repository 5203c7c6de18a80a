//! What the tests of both emitters share: inputs, and the comparison with the kernel interpreter.

use super::Code;
use crate::base::DType;
use crate::base::machine::Numerics;
use crate::kernel::build::KernelBuilder;
use crate::kernel::eval;
use crate::kernel::ir::*;
use crate::kernel::random::random_buffers;
use crate::kernel::types::check_types;
use crate::target::Target;

/// Elements of every test buffer.
pub const N: u64 = 64;

/// Interesting bit patterns of a dtype, then noise.
pub fn sample(dtype: DType, seed: u64) -> Vec<u8> {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        0.3,
        -0.7,
        3.0,
        1e10,
        -1e10,
        1e300,
        -1e300,
        8388607.5,
        -8388609.0,
        4503599627370497.5,
        127.0,
        128.0,
        255.0,
        256.0,
        -128.0,
        -129.0,
        65535.0,
        2147483648.0,
        -2147483649.0,
        4294967296.0,
        1e-40,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = vec![];
    for i in 0..N {
        let pick = special[(noise() % special.len() as u64) as usize];
        let bits = match (dtype, (i + seed) % 4) {
            (DType::Bool, _) => noise() & 1,
            (_, 0 | 1) => Lit::new(dtype, pick).bits,
            (_, 2) if dtype.is_float() => Lit::new(dtype, (noise() as i32) as f64 / 65536.0).bits,
            (_, 2) => Lit::int(dtype, noise() as i8 as i64).bits,
            _ if dtype.is_float() => Lit::new(dtype, (noise() % 17) as f64 - 8.0).bits,
            _ => noise(),
        };
        out.extend_from_slice(&bits.to_le_bytes()[..dtype.bytes()]);
    }
    out
}

pub fn is_nan(dtype: DType, bytes: &[u8]) -> bool {
    match dtype {
        DType::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        DType::F64 => f64::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        DType::F16 => half::f16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        DType::BF16 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        _ => false,
    }
}

/// Runs compiled kernels and compares what they leave in their buffers with the interpreter. Any NaN
/// equals any other.
pub fn check_code(kernels: &[Kernel], code: &Code, target: &str) {
    for (i, kernel) in kernels.iter().enumerate() {
        let buffers = match kernel.name.starts_with("random") {
            true => random_buffers(kernel, i as u64),
            false => samples(kernel, i as u64),
        };
        let mut expected = buffers.clone();
        eval::run_all(kernel, &mut expected).unwrap();
        let mut found: Vec<Guarded> = buffers.iter().map(|b| Guarded::new(b)).collect();
        let pointers: Vec<*mut u8> = found.iter_mut().map(|b| b.bytes().as_mut_ptr()).collect();
        let mut scratch = vec![0u64; kernel.scratch_bytes() as usize / 8 + 1];
        // SAFETY: the buffers are those of the parameters; the interpreter has shown that all
        // accesses are inside them.
        unsafe {
            let scratch = scratch.as_mut_ptr().cast();
            code.function(i)(pointers.as_ptr(), 0, kernel.grid_points(), scratch);
        }
        for (p, (want, got)) in kernel.params.iter().zip(expected.iter().zip(&mut found)) {
            let size = p.elem.bytes();
            for (e, (a, b)) in want.chunks(size).zip(got.bytes().chunks(size)).enumerate() {
                let same = a == b || (is_nan(p.elem, a) && is_nan(p.elem, b));
                assert!(same, "{target}, {}: {}[{e}]: {a:?}, not {b:?}", kernel.name, p.name);
            }
        }
    }
}

/// Bytes that end where the memory that may be touched ends: a page of a mapped file beyond the
/// file's end follows.
struct Guarded {
    map: memmap2::MmapMut,
    start: usize,
    len: usize,
}

impl Guarded {
    fn new(bytes: &[u8]) -> Guarded {
        const PAGE: usize = 1 << 16;
        let size = bytes.len().max(1).next_multiple_of(PAGE);
        let file = tempfile::tempfile().unwrap();
        file.set_len(size as u64).unwrap();
        let behind = if cfg!(unix) { PAGE } else { 0 };
        // SAFETY: nobody else has the file.
        let map = unsafe { memmap2::MmapOptions::new().len(size + behind).map_mut(&file) };
        let (map, start) = (map.unwrap(), size - bytes.len());
        let mut guarded = Guarded { map, start, len: bytes.len() };
        guarded.bytes().copy_from_slice(bytes);
        guarded
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }
}

/// The targets of this list that run here.
pub fn runnable(names: &[&str]) -> Vec<Target> {
    let targets = names.iter().map(|name| Target::parse(name).unwrap());
    targets.filter(|t| t.check_runs_here().is_ok()).collect()
}

pub fn samples(kernel: &Kernel, seed: u64) -> Vec<Vec<u8>> {
    let one = |(p, param): (usize, &Param)| {
        let mut bytes = sample(param.elem, seed * 7 + p as u64);
        bytes.resize(param.len as usize * param.elem.bytes(), 0);
        bytes
    };
    kernel.params.iter().enumerate().map(one).collect()
}

/// One kernel whose grid walks over the buffers in steps of `lanes`.
pub fn walk(
    name: String,
    inputs: &[DType],
    out: DType,
    lanes: u16,
    f: impl FnOnce(&mut KernelBuilder, &[Val]) -> Val,
) -> Kernel {
    let mut b = KernelBuilder::new(&name, Numerics::Fused);
    let params: Vec<Buf> = inputs
        .iter()
        .enumerate()
        .map(|(i, d)| b.param(&format!("in{i}"), *d, N, Access::Read))
        .collect();
    let result = b.param("out", out, N, Access::Write);
    b.set_grid([N as u32 / lanes as u32, 1, 1]);
    let g = b.grid(0);
    let at = b.times(g, lanes as i64);
    let loaded: Vec<Val> =
        params.iter().map(|p| b.load(Addr { buf: *p, base: at, plus: 0 }, lanes)).collect();
    let v = f(&mut b, &loaded);
    let width = b.ty(v).lanes();
    let base = if width == lanes { at } else { b.times(g, width as i64) };
    b.store(Addr { buf: result, base, plus: 0 }, v);
    let mut kernel = b.finish();
    let fused = kernel.body.insts.iter().any(|i| matches!(i, Inst::Op { op: Op::Fma, .. }));
    kernel.numerics = if fused { Numerics::Fused } else { Numerics::Separate };
    kernel
}

pub fn well_formed(kernels: Vec<Kernel>, at_least: usize) -> Vec<Kernel> {
    let good: Vec<Kernel> = kernels.into_iter().filter(|k| check_types(k).is_ok()).collect();
    assert!(good.len() >= at_least, "only {} kernels", good.len());
    good
}
