//! What this machine can do at most, measured with kernels of our own emitter: the yardstick for
//! `doctor` and `bench`.

use std::hint::black_box;
use std::time::Instant;

use super::RunError;
use super::buffer::RawBytes;
use crate::base::DType;
use crate::base::machine::Machine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::{Access, Addr, Buf, Kernel, Op, Val};
use crate::target::Target;
use crate::target::cpu::{self, Code, KernelFn, Options};

/// Measured peaks of one thread.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Peaks {
    /// Multiply-adds of f32 in the target's widest vectors, 10⁹ operations a second (two for each).
    pub multiply_add_gflops: f64,
    /// The same in vectors of 128 bits.
    pub narrow_gflops: f64,
    /// Bits of the widest vectors.
    pub bits: u32,
    /// Reading memory far larger than the caches' share of a core, 10⁹ bytes a second.
    pub read_gigabytes: f64,
}

const ROUNDS: i64 = 20_000;
/// Independent chains: more than latency × ports of any processor here, fewer than registers.
const CHAINS: usize = 12;
const UNROLL: usize = 4;
const BYTES: u64 = 128 << 20;

/// Measures for some tens of milliseconds; the best of a few runs counts.
pub fn measure(target: &Target) -> Result<Peaks, RunError> {
    let kernel = |e: &dyn std::fmt::Display| RunError::Kernel(e.to_string());
    target.check_runs_here().map_err(|e| kernel(&e.message))?;
    let narrow = Machine { vector_bytes: 16, ..target.machine.clone() };
    let narrow = Target { machine: narrow, ..target.clone() };
    let compile = |target: &Target| {
        let lanes = (target.machine.vector_bytes / 4) as u16;
        let kernels = [multiply_adds(target, lanes), reader(target, lanes)];
        cpu::compile(&kernels, target, Options::default()).map_err(|e| kernel(&e))
    };
    let (wide, narrow) = (compile(target)?, compile(&narrow)?);
    let big = RawBytes::zeroed(BYTES, "the bandwidth measurement")?;
    let small = RawBytes::zeroed(64 * CHAINS as u64, "the peak measurement")?;
    let best = |function: KernelFn, buffers: &[*mut u8]| {
        let seconds = (0..7).map(|_| {
            let start = Instant::now();
            // SAFETY: the buffers have the sizes of the kernel's parameters; the kernels use no
            // scratch.
            unsafe { function(black_box(buffers.as_ptr()), 0, 1, std::ptr::null_mut()) };
            start.elapsed().as_secs_f64()
        });
        seconds.fold(f64::INFINITY, f64::min)
    };
    let rate = |code: &Code, lanes: usize| {
        let operations = (ROUNDS as usize * CHAINS * UNROLL * lanes * 2) as f64;
        operations / best(code.function(0), &[small.pointer()]) / 1e9
    };
    let bits = 8 * target.machine.vector_bytes;
    Ok(Peaks {
        multiply_add_gflops: rate(&wide, bits as usize / 32),
        narrow_gflops: rate(&narrow, 4),
        bits,
        read_gigabytes: BYTES as f64
            / best(wide.function(1), &[big.pointer(), small.pointer()])
            / 1e9,
    })
}

/// Chains of `x = x · a + b`, which settle at b / (1 - a).
fn multiply_adds(target: &Target, lanes: u16) -> Kernel {
    let mut k = KernelBuilder::new("multiply_adds", target.machine.numerics());
    let out = k.param("out", DType::F32, 16 * CHAINS as u64, Access::Write);
    let a = k.number(DType::F32, lanes, 0.75);
    let b = k.number(DType::F32, lanes, 0.25);
    let start: Vec<Val> = (0..CHAINS).map(|i| k.number(DType::F32, lanes, i as f64)).collect();
    let (lo, hi) = (k.index(0), k.index(ROUNDS));
    let last = k.for_loop((lo, hi, 1), &start, |k, _, chains| {
        let mut chains = chains.to_vec();
        for _ in 0..UNROLL {
            for x in &mut chains {
                *x = k.mul_add(*x, a, b);
            }
        }
        chains
    });
    store_all(&mut k, out, &last, lanes);
    k.finish()
}

/// The bitwise or of everything, eight vectors at a time.
fn reader(target: &Target, lanes: u16) -> Kernel {
    const VECTORS: usize = 8;
    let mut k = KernelBuilder::new("reader", target.machine.numerics());
    let input = k.param("in", DType::U32, BYTES / 4, Access::Read);
    let out = k.param("out", DType::U32, 16 * CHAINS as u64, Access::Write);
    let zero = k.number(DType::U32, lanes, 0.0);
    let (lo, hi) = (k.index(0), k.index(BYTES as i64 / 4));
    let step = (VECTORS * lanes as usize) as i64;
    let last = k.for_loop((lo, hi, step), &[zero; VECTORS], |k, at, seen| {
        let next = |(i, x): (usize, &Val)| {
            let plus = (i * lanes as usize) as i64;
            let v = k.load(Addr { buf: input, base: at, plus }, lanes);
            k.op(Op::Or, &[*x, v])
        };
        seen.iter().enumerate().map(next).collect()
    });
    store_all(&mut k, out, &last, lanes);
    k.finish()
}

fn store_all(k: &mut KernelBuilder, out: Buf, values: &[Val], lanes: u16) {
    let base = k.index(0);
    for (i, v) in values.iter().enumerate() {
        k.store(Addr { buf: out, base, plus: (i * lanes as usize) as i64 }, *v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_plausible() {
        let peaks = measure(&Target::host()).unwrap();
        assert!(peaks.multiply_add_gflops > 0.5 && peaks.multiply_add_gflops < 1e4, "{peaks:?}");
        assert!(peaks.read_gigabytes > 0.1 && peaks.read_gigabytes < 1e4, "{peaks:?}");
        println!("{peaks:?}");
    }
}
