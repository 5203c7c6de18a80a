//! The interpreter of kernels: what a kernel means, to the bit.
//!
//! It is the oracle between generators and emitters. A kernel that is not well formed, an access
//! outside its buffer and a barrier that not all invocations reach give a [`Fault`].
//!
//! - Elements are held as bits; f32 is computed in f32, `Fma` rounds once.
//! - The invocations of a workgroup go in step: each instruction is done by all of them before the
//!   next one, so a barrier has nothing to wait for.
//! - Scratch is filled with ones (NaN, -1) at the start of every grid point, so that what is read
//!   before it was written shows.
//! - The mathematical functions (`Exp` … `Pow`) are computed in f64 and rounded, so only their
//!   expanded forms are equal to the bit between interpreter and emitters.

mod convert;
mod decode;
mod scalar;

use std::ops::Range;

pub use convert::convert;
pub use scalar::{ElementFn, element_fn, erf, fold_op};

use super::ir::{Buf, Kernel};
use super::types::{Invalid, check_types};
use crate::base::DType;
use decode::{Access1, Block, Code, Loop, Mode, Place};

/// Where a parameter's elements begin: several parameters may share a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    pub buffer: usize,
    /// In bytes.
    pub offset: usize,
}

/// Why a kernel could not be run to its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("kernel `{kernel}`: {what}")]
    Buffers { kernel: String, what: String },
    #[error(
        "kernel `{kernel}`, grid point {point}: element {element} of `{buffer}`, which has {len}"
    )]
    Bounds { kernel: String, point: u64, buffer: String, element: i128, len: u64 },
    #[error("kernel `{kernel}`, grid point {point}: a barrier that not all invocations reach")]
    Barrier { kernel: String, point: u64 },
}

/// Runs the grid points `points` (axis 0 runs fastest); parameter `i` is `buffers[bind[i]]`.
pub fn run(
    kernel: &Kernel,
    buffers: &mut [&mut [u8]],
    bind: &[Slice],
    points: Range<u64>,
) -> Result<(), Fault> {
    check_types(kernel)?;
    check_buffers(kernel, buffers, bind)?;
    let (block, lanes) = decode::decode(kernel);
    let invocations = kernel.local.iter().product::<u32>();
    let scratch = kernel.scratch.iter().map(|s| vec![0; (s.len as usize) * s.elem.bytes()]);
    let mut machine = Machine {
        kernel,
        buffers,
        bind,
        scratch: scratch.collect(),
        regs: vec![0; lanes * invocations as usize],
        lanes,
        grid: [0; 3],
        point: 0,
        moved: vec![],
    };
    let active: Vec<u32> = (0..invocations).collect();
    for point in points.start..points.end.min(kernel.grid_points()) {
        let [x, y] = [kernel.grid[0] as u64, kernel.grid[1] as u64];
        machine.grid = [point % x, point / x % y, point / x / y];
        machine.point = point;
        machine.scratch.iter_mut().for_each(|s| s.fill(0xff));
        machine.block(&block, &active)?;
    }
    Ok(())
}

/// Runs the whole grid; parameter `i` is buffer `i`.
pub fn run_all(kernel: &Kernel, buffers: &mut [Vec<u8>]) -> Result<(), Fault> {
    let bind: Vec<_> = (0..buffers.len()).map(|buffer| Slice { buffer, offset: 0 }).collect();
    let mut buffers: Vec<&mut [u8]> = buffers.iter_mut().map(|b| &mut b[..]).collect();
    run(kernel, &mut buffers, &bind, 0..kernel.grid_points())
}

fn check_buffers(kernel: &Kernel, buffers: &[&mut [u8]], bind: &[Slice]) -> Result<(), Fault> {
    let fault = |what: String| Err(Fault::Buffers { kernel: kernel.name.clone(), what });
    if bind.len() != kernel.params.len() {
        return fault(format!("{} buffers for {} parameters", bind.len(), kernel.params.len()));
    }
    for (p, slice) in kernel.params.iter().zip(bind) {
        let have = buffers.get(slice.buffer).and_then(|b| b.len().checked_sub(slice.offset));
        let want = p.len as u128 * p.elem.bytes() as u128;
        if have.is_none_or(|have| (have as u128) < want) {
            return fault(format!("`{}` has {have:?} bytes, not {want}", p.name));
        }
    }
    let scratch = kernel.scratch.iter().map(|s| s.len as u128 * s.elem.bytes() as u128);
    if scratch.sum::<u128>() > 1 << 32 {
        return fault("more than 4 GiB of scratch".into());
    }
    Ok(())
}

struct Machine<'a, 'b> {
    kernel: &'a Kernel,
    buffers: &'a mut [&'b mut [u8]],
    bind: &'a [Slice],
    scratch: Vec<Vec<u8>>,
    /// The register files of the invocations, one after the other.
    regs: Vec<u64>,
    lanes: usize,
    grid: [u64; 3],
    point: u64,
    /// Values on their way from yields to the registers that carry them.
    moved: Vec<u64>,
}

impl Machine<'_, '_> {
    /// Runs a block for the invocations that are in it.
    fn block(&mut self, block: &Block, active: &[u32]) -> Result<(), Fault> {
        for code in &block.code {
            match code {
                Code::For(l) => self.repeat(l, active)?,
                Code::If { cond, then, els, results } => {
                    self.branch(*cond, [then, els], results, active)?;
                }
                Code::Barrier => self.barrier(active)?,
                Code::GroupFold { f, nan, dst, v } => {
                    self.barrier(active)?;
                    self.group_fold(*f, *nan, (*dst, *v));
                }
                straight => {
                    for &invocation in active {
                        self.step(straight, invocation)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn barrier(&self, active: &[u32]) -> Result<(), Fault> {
        match (active.len() as u32) < self.kernel.local.iter().product::<u32>() {
            false => Ok(()),
            true => {
                let (kernel, point) = (self.kernel.name.clone(), self.point);
                Err(Fault::Barrier { kernel, point })
            }
        }
    }

    /// A halving tree along local axis 1.
    fn group_fold(&mut self, f: ElementFn, nan: Option<ElementFn>, (dst, v): (u32, u32)) {
        let [across, along, deep] = self.kernel.local.map(|n| n as usize);
        let f = |a: u64, b: u64| match nan {
            Some(nan) if nan(a, a, 0) != 0 => a,
            Some(_) | None => f(a, b, 0),
        };
        for (z, x) in (0..deep).flat_map(|z| (0..across).map(move |x| (z, x))) {
            let register =
                |y: usize, at: u32| ((z * along + y) * across + x) * self.lanes + at as usize;
            let mut column: Vec<u64> = (0..along).map(|y| self.regs[register(y, v)]).collect();
            let mut n = along;
            while n > 1 {
                n /= 2;
                for y in 0..n {
                    column[y] = f(column[y], column[y + n]);
                }
            }
            for y in 0..along {
                self.regs[register(y, dst)] = column[0];
            }
        }
    }

    fn repeat(&mut self, l: &Loop, active: &[u32]) -> Result<(), Fault> {
        for &i in active {
            let r = i as usize * self.lanes;
            self.regs[r + l.counter as usize] = self.regs[r + l.lo as usize];
            self.transfer(r, &l.init, &l.carried);
        }
        let mut live = active.to_vec();
        loop {
            live.retain(|&i| {
                let r = i as usize * self.lanes;
                (self.regs[r + l.counter as usize] as i64) < self.regs[r + l.hi as usize] as i64
            });
            if live.is_empty() {
                break;
            }
            self.block(&l.body, &live)?;
            live.retain(|&i| {
                let r = i as usize * self.lanes;
                self.transfer(r, &l.body.yields, &l.carried);
                let counter = &mut self.regs[r + l.counter as usize];
                let next = (*counter as i64).checked_add(l.step);
                *counter = next.unwrap_or(i64::MAX) as u64;
                next.is_some()
            });
        }
        for &i in active {
            self.transfer(i as usize * self.lanes, &l.carried, &l.results);
        }
        Ok(())
    }

    fn branch(
        &mut self,
        cond: u32,
        blocks: [&Block; 2],
        results: &[Place],
        active: &[u32],
    ) -> Result<(), Fault> {
        let taken = |i: &&u32| self.regs[**i as usize * self.lanes + cond as usize] != 0;
        let (yes, no): (Vec<u32>, Vec<u32>) = active.iter().partition(taken);
        for (block, side) in blocks.into_iter().zip([yes, no]) {
            if !side.is_empty() {
                self.block(block, &side)?;
            }
            for i in side {
                self.transfer(i as usize * self.lanes, &block.yields, results);
            }
        }
        Ok(())
    }

    /// Copies registers to others, all at once: a yield may be another carried value.
    fn transfer(&mut self, r: usize, from: &[Place], to: &[Place]) {
        self.moved.clear();
        for p in from {
            let at = r + p.at as usize;
            self.moved.extend_from_slice(&self.regs[at..at + p.n as usize]);
        }
        let mut done = 0;
        for p in to {
            let (at, n) = (r + p.at as usize, p.n as usize);
            self.regs[at..at + n].copy_from_slice(&self.moved[done..done + n]);
            done += n;
        }
    }

    fn step(&mut self, code: &Code, invocation: u32) -> Result<(), Fault> {
        let r = invocation as usize * self.lanes;
        let regs = &mut self.regs[r..r + self.lanes];
        match code {
            Code::Fill { dst, bits } => {
                regs[dst.at as usize..][..dst.n as usize].fill(*bits);
            }
            Code::Grid { dst, axis } => regs[*dst as usize] = self.grid[*axis as usize],
            Code::Local { dst, axis } => {
                let [x, y] = [self.kernel.local[0], self.kernel.local[1]];
                let at = [invocation % x, invocation / x % y, invocation / x / y];
                regs[*dst as usize] = at[*axis as usize] as u64;
            }
            Code::Map { f, dst, args } => {
                for l in 0..dst.n as usize {
                    let [a, b, c] = args.map(|at| regs[at as usize + l]);
                    regs[dst.at as usize + l] = f(a, b, c);
                }
            }
            Code::Fold { f, dst, v } => {
                let mut lanes = [0; 64];
                let mut n = v.n as usize;
                lanes[..n].copy_from_slice(&regs[v.at as usize..][..n]);
                while n > 1 {
                    n /= 2;
                    for l in 0..n {
                        lanes[l] = f(lanes[l], lanes[l + n], 0);
                    }
                }
                regs[*dst as usize] = lanes[0];
            }
            Code::Move { dst, from } => {
                for (l, at) in from.iter().enumerate() {
                    regs[*dst as usize + l] = regs[*at as usize];
                }
            }
            Code::Convert { dst, v, from, to } => {
                for l in 0..dst.n as usize {
                    regs[dst.at as usize + l] = convert(regs[*v as usize + l], *from, *to);
                }
            }
            Code::Load { dst, mem, mode, fill } => self.load(r, *dst, mem, mode, *fill)?,
            Code::Store { v, mem } => self.store(r, *v, mem)?,
            Code::For(_) | Code::If { .. } | Code::Barrier | Code::GroupFold { .. } => {}
        }
        Ok(())
    }

    fn load(
        &mut self,
        r: usize,
        dst: Place,
        mem: &Access1,
        mode: &Mode,
        fill: u64,
    ) -> Result<(), Fault> {
        let base = self.regs[r + mem.base as usize] as i64 as i128 + mem.plus as i128;
        for l in 0..dst.n as usize {
            let element = match mode {
                Mode::Contig => base + l as i128,
                Mode::Splat => base,
                Mode::Gather(idx) => base + self.regs[r + *idx as usize + l] as i64 as i128,
            };
            let bits = match l < mem.valid as usize {
                true => read(self.element(mem, element)?, mem.elem),
                false => fill,
            };
            self.regs[r + dst.at as usize + l] = bits;
        }
        Ok(())
    }

    fn store(&mut self, r: usize, v: u32, mem: &Access1) -> Result<(), Fault> {
        let base = self.regs[r + mem.base as usize] as i64 as i128 + mem.plus as i128;
        for l in 0..mem.valid as usize {
            let bits = self.regs[r + v as usize + l];
            let bytes = self.element(mem, base + l as i128)?;
            bytes.copy_from_slice(&bits.to_le_bytes()[..mem.elem.bytes()]);
        }
        Ok(())
    }

    /// The bytes of one element of a buffer.
    fn element(&mut self, mem: &Access1, element: i128) -> Result<&mut [u8], Fault> {
        let (name, len) = match mem.buf {
            Buf::Param(i) => {
                let p = &self.kernel.params[i as usize];
                (&p.name, p.len)
            }
            Buf::Scratch(i) => (&self.kernel.name, self.kernel.scratch[i as usize].len),
        };
        if element < 0 || element >= len as i128 {
            let buffer = match mem.buf {
                Buf::Param(_) => name.clone(),
                Buf::Scratch(i) => format!("scratch {i}"),
            };
            let (kernel, point) = (self.kernel.name.clone(), self.point);
            return Err(Fault::Bounds { kernel, point, buffer, element, len });
        }
        let (size, element) = (mem.elem.bytes(), element as usize);
        Ok(match mem.buf {
            Buf::Param(i) => {
                let slice = self.bind[i as usize];
                &mut self.buffers[slice.buffer][slice.offset + element * size..][..size]
            }
            Buf::Scratch(i) => &mut self.scratch[i as usize][element * size..][..size],
        })
    }
}

fn read(bytes: &[u8], elem: DType) -> u64 {
    let mut bits = [0; 8];
    bits[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(bits);
    if elem == DType::Bool { (bits != 0) as u64 } else { bits }
}

#[cfg(test)]
mod tests;
