//! Threads that share the grid of one launch.
//!
//! A pool has a fixed number of workers, which wait for work: awake for a moment, then parked. The
//! caller works too. Each thread has a contiguous part of the grid, the same one in every launch of
//! the same grid, so that it finds in its own cache what it wrote in the launch before; who is done
//! takes from the ends of the others' parts. So which thread runs a point depends on timing, and what
//! it computes does not. A launch takes no lock and allocates nothing.
//!
//! Protocol: the word `state` holds an epoch, an open flag and the number of workers inside. A worker
//! enters by a compare-and-swap that counts it in, only while the flag is set; the caller clears the
//! flag and waits until nobody is inside. So a worker that wakes late finds the door closed, and the
//! job is never changed under a worker.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};

/// What all threads do: `run(worker, first point, end)`, until the points are used up.
pub type Work<'a> = &'a (dyn Fn(usize, u64, u64) + Sync);

/// Rounds that a worker looks for work before it sleeps: about a hundred microseconds, so that it is
/// still awake after a launch or two that are not shared.
const SPINS: u32 = 2000;

/// What becomes of workers that sleep while there is work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sleepers {
    /// They are woken, which costs the caller some microseconds, and them some tens.
    Wake,
    /// They sleep on: the work would be done before they come.
    Leave,
}

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

/// A fixed set of threads, the caller's among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Whether some caller uses the pool; another one then works alone.
    busy: AtomicBool,
}

struct Shared {
    state: AtomicU64,
    /// The chunks that are left of each thread's part.
    parts: Vec<Part>,
    job: UnsafeCell<Job>,
    stop: AtomicBool,
    /// For each worker, whether it sleeps.
    asleep: Vec<AtomicBool>,
}

/// Chunks `first .. end`, as `first << 32 | end`; in a cache line of its own. While a job runs, `first`
/// only grows and `end` only shrinks, so a value never comes back.
#[repr(align(128))]
struct Part(AtomicU64);

#[derive(Clone, Copy)]
struct Job {
    /// Points at the caller's closure, which outlives the time that the door is open.
    work: Option<*const (dyn Fn(usize, u64, u64) + Sync)>,
    points: u64,
    chunk: u64,
}

// SAFETY: `job` is written only by the one caller that holds `busy`, while nobody is inside; workers
// read it only while they are inside. The acquire and release operations on `state` order both.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used as `Sync` says.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads in all; the system may grant fewer.
    pub fn new(threads: usize) -> Pool {
        let extra = threads.clamp(1, 1024) - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            parts: (0..=extra).map(|_| Part(AtomicU64::new(0))).collect(),
            job: UnsafeCell::new(Job { work: None, points: 0, chunk: 1 }),
            stop: AtomicBool::new(false),
            asleep: (0..extra).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut workers = vec![];
        for worker in 1..=extra {
            let shared = shared.clone();
            let name = format!("dlc-{worker}");
            let thread = std::thread::Builder::new().name(name);
            match thread.spawn(move || shared.serve(worker)) {
                Ok(handle) => workers.push(handle),
                Err(_) => break,
            }
        }
        Pool { shared, workers, busy: AtomicBool::new(false) }
    }

    /// Threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work` over the points `0 .. points`, in chunks of `chunk`, and returns when all are
    /// done. The caller is worker 0.
    pub fn run(&self, points: u64, chunk: u64, sleepers: Sleepers, work: Work) {
        let asleep = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let nobody = || sleepers == Sleepers::Leave && self.shared.asleep.iter().all(asleep);
        let alone = self.workers.is_empty() || points <= chunk || nobody();
        if alone || self.busy.swap(true, Ordering::Acquire) {
            work(0, 0, points);
            return;
        }
        let shared = &*self.shared;
        let state = shared.state.load(Ordering::Relaxed);
        debug_assert_eq!(state & (OPEN | INSIDE), 0, "the door is closed and nobody is inside");
        // SAFETY: only the lifetime is changed. Workers use the pointer only while they are inside,
        // and this function returns after the last one has left.
        let work_pointer = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize, u64, u64) + Sync + '_),
                *const (dyn Fn(usize, u64, u64) + Sync + 'static),
            >(work)
        };
        // So that the number of a chunk fits half a word.
        let chunk = chunk.max(points.div_ceil(u64::from(u32::MAX)));
        // SAFETY: `busy` makes this the only writer, and nobody is inside.
        unsafe { *shared.job.get() = Job { work: Some(work_pointer), points, chunk } };
        let threads = self.threads() as u64;
        let chunks = points.div_ceil(chunk);
        for (i, part) in (0..).zip(&shared.parts) {
            // Those that the system did not grant have empty parts.
            let at = |i: u64| chunks * i.min(threads) / threads;
            part.0.store(at(i) << 32 | at(i + 1), Ordering::Relaxed);
        }
        // The guard closes the door and waits even where `work` panics.
        let door = Door { pool: self };
        shared.state.store((state + (1 << 32)) | OPEN, Ordering::SeqCst);
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers) {
            if sleepers == Sleepers::Wake && asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.take(0, points, chunk, work);
        drop(door);
    }
}

struct Door<'a> {
    pool: &'a Pool,
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        let shared = &*self.pool.shared;
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0u32;
        while shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            rounds += 1;
            if rounds > SPINS {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        self.pool.busy.store(false, Ordering::Release);
    }
}

impl Shared {
    /// Takes chunks until none is left: those of its own part from the front, then those of others
    /// from the back.
    fn take(&self, worker: usize, points: u64, chunk: u64, work: Work) {
        let run = |at: u64| work(worker, at * chunk, ((at + 1) * chunk).min(points));
        while let Some(at) = self.parts[worker].first() {
            run(at);
        }
        let (before, after) = self.parts.split_at(worker);
        for other in after[1..].iter().chain(before) {
            while let Some(at) = other.last() {
                run(at);
            }
        }
    }

    /// The life of a worker.
    fn serve(&self, worker: usize) {
        let mut seen = 0;
        let mut rounds = 0;
        while !self.stop.load(Ordering::Acquire) {
            let state = self.state.load(Ordering::Acquire);
            let fresh = state & OPEN != 0 && state >> 32 != seen;
            if fresh {
                let enter = self.state.compare_exchange_weak(
                    state,
                    state + 1,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                );
                if enter.is_ok() {
                    seen = state >> 32;
                    let inside = Inside { shared: self };
                    // SAFETY: this worker is inside, so the job does not change.
                    let job = unsafe { *self.job.get() };
                    if let Some(work) = job.work {
                        // SAFETY: the caller waits for this worker before the closure ends.
                        self.take(worker, job.points, job.chunk, unsafe { &*work });
                    }
                    drop(inside);
                    rounds = 0;
                }
            } else if rounds < SPINS {
                rounds += 1;
                std::hint::spin_loop();
            } else {
                self.sleep(worker, seen);
            }
        }
    }

    /// Parks until the state changes. The flag is set before the state is looked at again, and the
    /// caller changes the state before it looks at the flag, so no wake-up is lost.
    fn sleep(&self, worker: usize, seen: u64) {
        let asleep = &self.asleep[worker - 1];
        asleep.store(true, Ordering::SeqCst);
        let state = self.state.load(Ordering::SeqCst);
        let fresh = state & OPEN != 0 && state >> 32 != seen;
        if !fresh && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
    }
}

impl Part {
    /// Takes the first chunk.
    fn first(&self) -> Option<u64> {
        self.cut(|first, end| (first + 1, end)).map(|(first, _)| first)
    }

    /// Takes the last chunk.
    fn last(&self) -> Option<u64> {
        self.cut(|first, end| (first, end - 1)).map(|(_, end)| end - 1)
    }

    /// Replaces `(first, end)`, which is returned, unless nothing is left.
    fn cut(&self, less: impl Fn(u64, u64) -> (u64, u64)) -> Option<(u64, u64)> {
        let unpack = |word: u64| (word >> 32, word & u64::from(u32::MAX));
        let shorter = |word: u64| {
            let (first, end) = unpack(word);
            (first < end).then(|| less(first, end)).map(|(first, end)| first << 32 | end)
        };
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        self.0.fetch_update(set, get, shorter).ok().map(unpack)
    }
}

struct Inside<'a> {
    shared: &'a Shared,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.shared.state.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let wake = |t: &Thread| t.unpark();
        self.workers.iter().for_each(|w| wake(w.thread()));
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_runs_once() {
        let pool = Pool::new(3);
        for (points, chunk) in [(0u64, 4), (1, 4), (1000, 7), (4096, 1)] {
            for _ in 0..50 {
                let hits: Vec<AtomicU64> = (0..points).map(|_| AtomicU64::new(0)).collect();
                let sleepers = if chunk == 7 { Sleepers::Leave } else { Sleepers::Wake };
                pool.run(points, chunk, sleepers, &|worker, begin, end| {
                    assert!(worker < 3);
                    for p in begin..end {
                        hits[p as usize].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn the_part_of_a_slow_thread_is_done_by_others() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            let done = AtomicU64::new(0);
            pool.run(64, 1, Sleepers::Wake, &|worker, begin, end| {
                let late = std::time::Instant::now() + std::time::Duration::from_secs(10);
                while worker == 1 && done.load(Ordering::Relaxed) < 63 {
                    assert!(std::time::Instant::now() < late, "nobody took its part");
                    std::thread::yield_now();
                }
                done.fetch_add(end - begin, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 64);
        }
    }

    #[test]
    fn two_callers_share_a_pool() {
        let pool = Pool::new(2);
        let total = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(64, 4, Sleepers::Wake, &|_, begin, end| {
                            total.fetch_add(end - begin, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 2 * 200 * 64);
    }
}
