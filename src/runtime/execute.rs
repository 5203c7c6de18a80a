//! The loop that runs a session's actions, and what may happen around each launch.

use std::time::{Duration, Instant};

use super::pool::{Pool, Sleepers};
use crate::kernel::ir::Access;
use crate::schedule::program::{BufferId, LaunchId, Program};
use crate::target::cpu::KernelFn;

/// A launch, a repeat or a branch; `table` positions count pointers.
pub(super) enum Action {
    Launch { function: KernelFn, args: usize, points: u64, share: Share, id: LaunchId },
    Repeat { times: u64, end: usize, moves: std::ops::Range<usize> },
    Branch { cond: usize, els: usize, end: usize },
}

/// How threads share a launch.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// Grid points that a thread takes at once: all of them where sharing does not pay.
    pub chunk: u64,
    pub sleepers: Sleepers,
}

/// What happens around a launch. `launch` returns whether to go on.
pub(super) trait Hook {
    fn launch(&mut self, id: LaunchId, args: &[*mut u8], run: impl FnOnce()) -> bool;
}

pub(super) struct Plain;

impl Hook for Plain {
    #[inline(always)]
    fn launch(&mut self, _: LaunchId, _: &[*mut u8], run: impl FnOnce()) -> bool {
        run();
        true
    }
}

pub(super) struct Timed<'a> {
    pub times: &'a mut Vec<(LaunchId, Duration)>,
}

impl Hook for Timed<'_> {
    fn launch(&mut self, id: LaunchId, _: &[*mut u8], run: impl FnOnce()) -> bool {
        let start = Instant::now();
        run();
        self.times.push((id, start.elapsed()));
        true
    }
}

pub(super) struct Observed<'a> {
    pub program: &'a Program,
    pub look: &'a mut dyn FnMut(LaunchId, BufferId, &[u8]) -> bool,
}

impl Hook for Observed<'_> {
    fn launch(&mut self, id: LaunchId, args: &[*mut u8], run: impl FnOnce()) -> bool {
        run();
        let launch = self.program.launch(id);
        let params = &self.program.kernel(launch.kernel).params;
        for ((arg, param), pointer) in launch.args.iter().zip(params).zip(args) {
            if param.access == Access::Read {
                continue;
            }
            let bytes = param.len as usize * param.elem.bytes();
            // SAFETY: the layout has checked that the parameter's bytes lie inside its buffer; the
            // launch is over, and nothing else runs until `look` returns.
            let bytes = unsafe { std::slice::from_raw_parts(*pointer, bytes) };
            if !(self.look)(id, arg.buffer, bytes) {
                return false;
            }
        }
        true
    }
}

/// The parts of a session that a run uses.
pub(super) struct Machine<'a> {
    pub actions: &'a [Action],
    pub table: &'a mut [*mut u8],
    pub moves: &'a [(usize, isize)],
    pub scratch: *mut u8,
    pub stride: usize,
    pub pool: Option<&'a Pool>,
}

impl Machine<'_> {
    /// The actions `at .. end`; false where the hook stopped. Repeats and branches recurse, no
    /// deeper than the layout allows.
    pub fn steps(&mut self, mut at: usize, end: usize, hook: &mut impl Hook) -> bool {
        while at < end {
            match &self.actions[at] {
                Action::Launch { function, args, points, share, id } => {
                    let args = &self.table[*args..];
                    if !hook.launch(*id, args, || self.launch(*function, args, *points, *share)) {
                        return false;
                    }
                    at += 1;
                }
                Action::Repeat { times, end, moves } => {
                    let moves = &self.moves[moves.clone()];
                    let mut go_on = true;
                    let mut done = 0isize;
                    while go_on && (done as u64) < *times {
                        go_on = self.steps(at + 1, *end, hook);
                        done += 1;
                        self.shift(moves, 1);
                    }
                    self.shift(moves, -done);
                    if !go_on {
                        return false;
                    }
                    at = *end;
                }
                Action::Branch { cond, els, end } => {
                    // SAFETY: the layout has checked that the condition is a bool inside its
                    // buffer, and nothing runs that writes it.
                    let taken = unsafe { *self.table[*cond] } != 0;
                    let (from, to) = if taken { (at + 1, *els) } else { (*els, *end) };
                    if !self.steps(from, to, hook) {
                        return false;
                    }
                    at = *end;
                }
            }
        }
        true
    }

    fn shift(&mut self, moves: &[(usize, isize)], times: isize) {
        for (position, by) in moves {
            let bytes = by.wrapping_mul(times);
            self.table[*position] = self.table[*position].wrapping_offset(bytes);
        }
    }

    #[inline(always)]
    fn launch(&self, function: KernelFn, args: &[*mut u8], points: u64, share: Share) {
        if points == 0 {
            return;
        }
        match self.pool {
            Some(pool) if share.chunk < points => {
                let Share { chunk, sleepers } = share;
                let shared = Shared { args: args.as_ptr(), scratch: self.scratch };
                let stride = self.stride;
                pool.run(points, chunk, sleepers, &move |worker, begin, end| {
                    let Shared { args, scratch } = shared.get();
                    // SAFETY: as below; each worker has scratch of its own, and grid points write
                    // disjoint bytes.
                    unsafe { function(args, begin, end, scratch.add(worker * stride)) };
                });
            }
            // SAFETY: the layout has checked that each argument's bytes lie inside a memory that
            // the session owns or keeps alive, aligned to the element, that nothing but state,
            // outputs and the arena is written, and that scratch is large enough. Kernels touch
            // nothing outside their parameters and scratch, which the kernel verifier proves. The
            // code lives as long as the session.
            _ => unsafe { function(args.as_ptr(), 0, points, self.scratch) },
        }
    }
}

/// Pointers on their way to the workers of a pool.
#[derive(Clone, Copy)]
struct Shared {
    args: *const *mut u8,
    scratch: *mut u8,
}

impl Shared {
    fn get(&self) -> Shared {
        *self
    }
}

// SAFETY: the pointers are read by all workers while the session is borrowed by the caller, who
// waits for them; what is behind them is written at disjoint places.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}
