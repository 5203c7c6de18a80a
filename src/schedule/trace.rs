//! From a Program to the checker's trace.
//!
//! In: a finished Program. Out: for every launch the bytes that it touches, and for every read the
//! value that it must see. The data flow is the Program's `depends_on`, not its plan: a read sees
//! what the launches that it depends on have written to that buffer, or the buffer's first contents
//! where none of them has; inside a repeat, a buffer that the same body writes only later is a carry.
//! All launches of one branch that write a buffer write one value: its result.

use std::collections::BTreeMap;

use super::check::{self, Access, Expect, Fault, Home, Space, Step, Trace, ValueId, Wave};
use super::program::{self, Arg, Block, BufferId, LaunchId, Place, Program};
use crate::kernel::ir::Access as Mode;

/// Proves that the program's memory plan is sound, or lists what is wrong with it.
pub fn check_program(program: &Program) -> Result<(), Vec<Fault>> {
    check::check(&trace(program))
}

/// The program as the checker sees it.
pub fn trace(program: &Program) -> Trace {
    let mut t = Tracer::new(program);
    t.place(&program.body, &Nest::default());
    t.writers();
    let homes = program.buffers.iter().map(home).collect();
    let mut start = vec![];
    for port in program.inputs.iter().chain(&program.consts).chain(&program.states) {
        start.push(t.first_content(port.buffer));
    }
    let mut end = vec![];
    for port in program.outputs.iter().chain(&program.states) {
        let all: Vec<LaunchId> = t.writers_of(port.buffer).iter().map(|w| w.launch).collect();
        let whole = Arg::whole(port.buffer);
        let bytes = program.buffer(port.buffer).bytes();
        t.reads(None, &whole, bytes, &all, &mut end);
    }
    let body = t.block(&program.body);
    Trace { arena_bytes: program.arena_bytes, homes, start, body, end }
}

/// The repeats and branches around a launch, the outermost first, by number.
#[derive(Clone, Default)]
struct Nest {
    repeats: Vec<(usize, u64)>,
    /// The outermost branch.
    branch: Option<usize>,
}

/// One launch's write into a buffer, as the hull over the repeats around it.
#[derive(Clone, Copy)]
struct Writer {
    launch: LaunchId,
    start: u64,
    end: u64,
}

struct Tracer<'a> {
    program: &'a Program,
    /// Of each launch.
    nests: Vec<Nest>,
    /// Repeats and branches so far.
    count: usize,
    /// Ascending by launch.
    writers: BTreeMap<BufferId, Vec<Writer>>,
    values: BTreeMap<(BufferId, Option<usize>), ValueId>,
}

fn home(b: &program::Buffer) -> Home {
    let (space, start) = match b.place {
        Place::Input(n) => (Space::Input(n), 0),
        Place::Output(n) => (Space::Output(n), 0),
        Place::Const(n) => (Space::Const(n), 0),
        Place::State(n) => (Space::State(n), 0),
        Place::Arena { offset } => (Space::Arena, offset),
    };
    Home { space, start, bytes: b.bytes() }
}

impl<'a> Tracer<'a> {
    fn new(program: &'a Program) -> Tracer<'a> {
        let (writers, values) = (BTreeMap::new(), BTreeMap::new());
        let nests = vec![Nest::default(); program.launches.len()];
        Tracer { program, nests, count: 0, writers, values }
    }

    /// Notes what is around each launch.
    fn place(&mut self, block: &Block, nest: &Nest) {
        for step in block.waves.iter().flatten() {
            match step {
                program::Step::Launch(id) => self.nests[id.0 as usize] = nest.clone(),
                program::Step::Repeat { times, body } => {
                    self.count += 1;
                    let mut inner = nest.clone();
                    inner.repeats.push((self.count, *times));
                    self.place(body, &inner);
                }
                program::Step::Branch { then, els, .. } => {
                    self.count += 1;
                    let mut inner = nest.clone();
                    inner.branch.get_or_insert(self.count);
                    self.place(then, &inner);
                    self.place(els, &inner);
                }
            }
        }
    }

    fn writers(&mut self) {
        for (i, launch) in self.program.launches.iter().enumerate() {
            let kernel = self.program.kernel(launch.kernel);
            for (arg, param) in launch.args.iter().zip(&kernel.params) {
                match param.access {
                    Mode::Read => continue,
                    Mode::Write | Mode::ReadWrite => {}
                }
                let (mut low, mut high) = (i128::from(arg.offset), i128::from(arg.offset));
                for (step, (_, times)) in arg.steps.iter().zip(&self.nests[i].repeats) {
                    let reach = i128::from(*step) * i128::from(times.saturating_sub(1));
                    (low, high) = (low + reach.min(0), high + reach.max(0));
                }
                let bytes = param.len.saturating_mul(param.elem.bytes() as u64);
                let (start, end) = (low.max(0) as u64, high.max(0) as u64 + bytes);
                let writer = Writer { launch: LaunchId(i as u32), start, end };
                self.writers.entry(arg.buffer).or_default().push(writer);
            }
        }
    }

    fn writers_of(&self, buffer: BufferId) -> &[Writer] {
        self.writers.get(&buffer).map_or(&[], Vec::as_slice)
    }

    fn value(&mut self, buffer: BufferId, writer: Option<LaunchId>) -> ValueId {
        // Branches count from 1, launches come after all of them.
        let key = writer
            .map(|id| self.nests[id.0 as usize].branch.unwrap_or(self.count + 1 + id.0 as usize));
        let next = ValueId(self.values.len() as u32);
        *self.values.entry((buffer, key)).or_insert(next)
    }

    fn first_content(&mut self, buffer: BufferId) -> Access {
        let value = self.value(buffer, None);
        Access::whole(value, buffer.0 as usize, self.program.buffer(buffer).bytes())
    }

    /// The reads of `bytes` bytes at `arg` by a launch (or, at the end, by the caller), cut where
    /// several of the launches in `of` have written.
    fn reads(
        &mut self,
        reader: Option<LaunchId>,
        arg: &Arg,
        bytes: u64,
        of: &[LaunchId],
        out: &mut Vec<Access>,
    ) {
        let moves = arg.steps.iter().any(|s| *s != 0);
        let writers: Vec<Writer> = self
            .writers_of(arg.buffer)
            .iter()
            .rev()
            .filter(|w| of.contains(&w.launch))
            .copied()
            .collect();
        // The latest writer first; what is left over goes to the ones before it.
        let mut left = vec![(arg.offset, arg.offset + bytes)];
        for w in writers {
            let mut rest = vec![];
            for (start, end) in left {
                let (low, high) = (start.max(w.start), end.min(w.end));
                if low >= high && !moves {
                    rest.push((start, end));
                    continue;
                }
                let (low, high) = if moves { (start, end) } else { (low, high) };
                let expect = self.expect(reader, arg.buffer, Some(w.launch));
                out.push(access(arg, expect, low, high));
                rest.extend([(start, low), (high, end)].into_iter().filter(|(a, b)| a < b));
            }
            left = rest;
        }
        for (start, end) in left {
            let expect = self.expect(reader, arg.buffer, None);
            out.push(access(arg, expect, start, end));
        }
    }

    /// What a read of a buffer sees, if `writer` is the last that it depends on.
    fn expect(
        &mut self,
        reader: Option<LaunchId>,
        buffer: BufferId,
        writer: Option<LaunchId>,
    ) -> Expect {
        let first = self.value(buffer, writer);
        let Some(reader) = reader else { return Expect::Value(first) };
        // The innermost repeat whose body writes the buffer at the reader's place or after it.
        let later = self.writers_of(buffer).iter().rev().filter(|w| w.launch >= reader);
        let common = |id: LaunchId| {
            let (a, b) = (&self.nests[reader.0 as usize], &self.nests[id.0 as usize]);
            a.repeats.iter().zip(&b.repeats).take_while(|(x, y)| x.0 == y.0).count()
        };
        let carry = later.map(|w| (common(w.launch), w.launch)).filter(|(n, _)| *n > 0).max();
        let Some((depth, then)) = carry else { return Expect::Value(first) };
        if writer.is_some_and(|w| common(w) >= depth) {
            return Expect::Value(first);
        }
        let then = self.value(buffer, Some(then));
        Expect::Carried { first, then, depth: depth - 1 }
    }

    fn block(&mut self, block: &Block) -> Vec<Wave> {
        block.waves.iter().map(|w| w.iter().map(|s| self.step(s)).collect()).collect()
    }

    fn step(&mut self, step: &program::Step) -> Step {
        match step {
            program::Step::Launch(id) => Step::Launch(self.launch(*id)),
            program::Step::Repeat { times, body } => {
                Step::Repeat { times: *times, body: self.block(body) }
            }
            program::Step::Branch { cond, then, els } => {
                let before = first_launch(then).into_iter().chain(first_launch(els)).min();
                let writers = self.writers_of(*cond).iter().map(|w| w.launch);
                let last = writers.filter(|w| before.is_none_or(|b| *w < b)).max();
                let value = self.value(*cond, last);
                let cond = Access::whole(value, cond.0 as usize, 1);
                Step::Branch { cond, arms: vec![self.block(then), self.block(els)] }
            }
        }
    }

    fn launch(&mut self, id: LaunchId) -> check::Launch {
        let launch = self.program.launch(id);
        let kernel = self.program.kernel(launch.kernel);
        let (mut reads, mut writes, mut in_place) = (vec![], vec![], vec![]);
        // Where the accesses of each parameter stand in the two lists.
        let mut at = vec![];
        for (arg, param) in launch.args.iter().zip(&kernel.params) {
            let bytes = param.len.saturating_mul(param.elem.bytes() as u64);
            let (from, mut written) = (reads.len(), None);
            if param.access == Mode::Read || param.access == Mode::ReadWrite && self.given(id, arg)
            {
                self.reads(Some(id), arg, bytes, &launch.depends_on, &mut reads);
            }
            if param.access != Mode::Read {
                let value = Expect::Value(self.value(arg.buffer, Some(id)));
                writes.push(access(arg, value, arg.offset, arg.offset + bytes));
                written = Some(writes.len() - 1);
            }
            if let Some(w) = written {
                in_place.extend((from..reads.len()).map(|r| (w, r)));
            }
            at.push((from..reads.len(), written));
        }
        for (out, input) in &kernel.inplace {
            let (Some((_, Some(w))), Some((from, _))) =
                (at.get(*out as usize), at.get(*input as usize))
            else {
                continue;
            };
            in_place.extend(from.clone().map(|r| (*w, r)));
        }
        check::Launch { id, reads, writes, in_place }
    }

    /// Whether a buffer that a kernel reads and writes has contents before: a kernel may also read
    /// only what it has written itself.
    fn given(&self, id: LaunchId, arg: &Arg) -> bool {
        let depends_on = &self.program.launch(id).depends_on;
        let written = self.writers_of(arg.buffer).iter().any(|w| depends_on.contains(&w.launch));
        match self.program.buffer(arg.buffer).place {
            Place::Input(_) | Place::Const(_) | Place::State(_) => true,
            Place::Output(_) | Place::Arena { .. } => written,
        }
    }
}

fn access(arg: &Arg, expect: Expect, start: u64, end: u64) -> Access {
    let (buffer, steps) = (arg.buffer.0 as usize, arg.steps.clone());
    Access { expect, skip: start, buffer, offset: start, bytes: end - start, steps }
}

fn first_launch(block: &Block) -> Option<LaunchId> {
    let first = |step: &program::Step| match step {
        program::Step::Launch(id) => Some(*id),
        program::Step::Repeat { body, .. } => first_launch(body),
        program::Step::Branch { then, els, .. } => {
            first_launch(then).into_iter().chain(first_launch(els)).min()
        }
    };
    block.waves.iter().flatten().filter_map(first).min()
}
