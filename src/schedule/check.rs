//! The memory plan's proof, independent of the planner: a simulation that follows every byte.
//!
//! In: a [`Trace`]: which launch reads and writes which bytes, and which *value* each read must
//! see. The values come from the graph's data flow, the bytes from the plan. Out: nothing, or the
//! faults. The simulation keeps for every byte which value it holds and which byte of it, and
//! accepts a plan only if, whatever the number of threads,
//!
//! - every buffer of the arena is aligned and inside it, every access inside its buffer;
//! - every read finds exactly the bytes of its value, and outputs and states hold theirs at the end;
//! - inputs and constants are never written;
//! - steps of one wave, which may run side by side, share no byte that one of them writes;
//! - within a launch a write overlaps a read only where the kernel declares the pair to be in place.
//!
//! A repeat is simulated for up to three rounds; its memory is the same after the second and the
//! third, so further rounds see what the third saw. At the start of a round the values of the round
//! before become *old*, and only a carried read may see them. Accesses that move on with the rounds
//! (slices of a sequence) count as their whole hull: reads need all of it, and a hull that is
//! written belongs to that access alone while the repeat runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::check_memory::{Content, Memory};
use super::program::LaunchId;

/// Offsets in the arena are multiples of this.
pub const ALIGN: u64 = 64;
/// Faults beyond this number are not collected.
const FAULT_LIMIT: usize = 20;

/// One version of a tensor: what one writer (or the caller) puts into memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ValueId(pub u32);

/// Address spaces; the number counts within the class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Space {
    Arena,
    Input(u32),
    Output(u32),
    Const(u32),
    State(u32),
}

/// Where a buffer lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    pub space: Space,
    pub start: u64,
    pub bytes: u64,
}

/// What a read must see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Value(ValueId),
    /// A carry of the repeat at this depth (0 is the outermost): `first` in its first round, later
    /// what the round before has written as `then`.
    Carried {
        first: ValueId,
        then: ValueId,
        depth: usize,
    },
}

/// Bytes that a launch touches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    pub expect: Expect,
    /// The byte of the value at which the access begins.
    pub skip: u64,
    /// Index into [`Trace::homes`].
    pub buffer: usize,
    /// Within the buffer.
    pub offset: u64,
    pub bytes: u64,
    /// Bytes to move on for each round of the enclosing repeats, the outermost first.
    pub steps: Vec<i64>,
}

impl Access {
    /// A whole buffer that holds a whole value.
    pub fn whole(value: ValueId, buffer: usize, bytes: u64) -> Access {
        let expect = Expect::Value(value);
        Access { expect, skip: 0, buffer, offset: 0, bytes, steps: vec![] }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    pub id: LaunchId,
    pub reads: Vec<Access>,
    /// `expect` is the value that is written.
    pub writes: Vec<Access>,
    /// Pairs (index of the write, index of the read) that may begin at the same byte.
    pub in_place: Vec<(usize, usize)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Launch(Launch),
    Repeat {
        times: u64,
        body: Vec<Wave>,
    },
    /// One of the arms runs. What both write under the same value is there afterwards.
    Branch {
        cond: Access,
        arms: Vec<Vec<Wave>>,
    },
}

/// Steps that may run side by side.
pub type Wave = Vec<Step>;

/// A program as the checker sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    pub arena_bytes: u64,
    pub homes: Vec<Home>,
    /// What is in memory when a run begins: inputs, constants, states.
    pub start: Vec<Access>,
    pub body: Vec<Wave>,
    /// What must be in memory when it ends: outputs, the states' next values.
    pub end: Vec<Access>,
}

/// What is wrong with a plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    #[error("buffer {buffer} begins at {start}, which is no multiple of {ALIGN}")]
    Misaligned { buffer: usize, start: u64 },
    #[error("buffer {buffer} ends at {end} in an arena of {arena} bytes")]
    OutOfArena { buffer: usize, end: u64, arena: u64 },
    #[error("{who} touches bytes {start}..{end} of buffer {buffer}, which has {bytes}")]
    OutOfBuffer { who: Who, buffer: usize, start: i128, end: i128, bytes: u64 },
    #[error("{who} wants {wanted} at {at}, where {found} lies")]
    Stale { who: Who, wanted: String, at: String, found: String },
    #[error("{who} writes {at}, which is read only")]
    ReadOnly { who: Who, at: String },
    #[error("{who} writes {at} while it reads it, and declares no such pair")]
    NotInPlace { who: Who, at: String },
    #[error("{who} writes {at} twice")]
    WrittenTwice { who: Who, at: String },
    #[error("{first} and {second} may run side by side, and both touch {at}")]
    Race { first: Who, second: Who, at: String },
    #[error("a repeat does not settle: its third round begins with other contents than its second")]
    Unsettled,
}

/// Who touches memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    Caller,
    Launch(LaunchId),
    Branch,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Caller => f.write_str("the caller"),
            Who::Launch(id) => write!(f, "launch {}", id.0),
            Who::Branch => f.write_str("the condition of a branch"),
        }
    }
}

/// Proves the plan of a program, or lists what is wrong with it.
pub fn check(trace: &Trace) -> Result<(), Vec<Fault>> {
    let mut checker =
        Checker { trace, memory: Memory::default(), faults: vec![], rounds: vec![], arms: vec![] };
    checker.homes();
    for a in &trace.start {
        if let Some(at) = checker.locate(Who::Caller, a) {
            checker.memory.write(at.space, at.start, at.bytes, content(a));
        }
    }
    if checker.faults.is_empty() {
        checker.waves(&trace.body);
        for a in &trace.end {
            checker.read(Who::Caller, a);
        }
    }
    if checker.faults.is_empty() { Ok(()) } else { Err(checker.faults) }
}

/// What an access writes.
fn content(a: &Access) -> Content {
    let value = match a.expect {
        Expect::Value(v) | Expect::Carried { then: v, .. } => v,
    };
    Content { value, skip: a.skip, old: false }
}

/// An access in its address space, as the hull over the rounds of the repeats around it.
#[derive(Clone, Copy)]
struct Place {
    space: Space,
    start: u64,
    bytes: u64,
    moves: bool,
}

impl Place {
    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    fn meets(&self, other: &Place) -> bool {
        self.space == other.space && self.start < other.end() && other.start < self.end()
    }

    fn text(&self) -> String {
        let space = match self.space {
            Space::Arena => "the arena".to_string(),
            Space::Input(n) => format!("input {n}"),
            Space::Output(n) => format!("output {n}"),
            Space::Const(n) => format!("constant {n}"),
            Space::State(n) => format!("state {n}"),
        };
        format!("bytes {}..{} of {space}", self.start, self.end())
    }
}

/// One access of a step, for the comparison with other steps.
struct Touch<'t> {
    access: &'t Access,
    /// How often the repeats around it run, the outermost first.
    times: Vec<u64>,
    place: Place,
    step: usize,
    who: Who,
    writes: bool,
    /// The branches around it, by their places, and which of their arms.
    arms: Vec<(usize, usize)>,
}

impl Touch<'_> {
    /// Whether each round does one of the two only, at the same place: they are in different arms of a branch.
    fn excludes(&self, other: &Touch) -> bool {
        let opposite = |(at, arm): &(usize, usize)| {
            other.arms.iter().any(|(place, of)| at == place && arm != of)
        };
        let place = |t: &Touch| (t.access.offset, t.access.bytes, t.access.steps.clone());
        self.arms.iter().any(opposite) && place(self) == place(other)
    }

    /// Whether it reads, in each round of the repeat at `depth`, of what a write has put there in that round.
    fn reads_in_round(&self, write: &Touch, depth: usize) -> bool {
        let moves = |t: &Touch| (0..=depth).map(|d| t.moves(d)).collect::<Vec<_>>();
        let value = matches!(self.access.expect, Expect::Value(_));
        let (mine, theirs) = (self.within(depth), write.within(depth));
        !self.writes
            && value
            && self.access.expect == write.access.expect
            && self.access.buffer == write.access.buffer
            && moves(self) == moves(write)
            && theirs.0 <= mine.0
            && mine.1 <= theirs.1
    }

    fn moves(&self, depth: usize) -> i64 {
        self.access.steps.get(depth).copied().unwrap_or(0)
    }

    /// The first byte and the end of what it touches in the first round at `depth`, in its buffer.
    fn within(&self, depth: usize) -> (i128, i128) {
        let start = i128::from(self.access.offset);
        let (mut low, mut high) = (start, start + i128::from(self.access.bytes));
        for (d, times) in self.times.iter().enumerate().skip(depth + 1) {
            let reach = i128::from(self.moves(d)) * i128::from(times.saturating_sub(1));
            (low, high) = (low + reach.min(0), high + reach.max(0));
        }
        (low, high)
    }
}

struct Checker<'a> {
    trace: &'a Trace,
    memory: Memory,
    faults: Vec<Fault>,
    /// Of the repeats around the present step, the outermost first: times, and the present round.
    rounds: Vec<(u64, u64)>,
    /// The branches around what is looked at, and their arms.
    arms: Vec<(usize, usize)>,
}

impl Checker<'_> {
    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < FAULT_LIMIT && !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    fn homes(&mut self) {
        let arena = self.trace.arena_bytes;
        for (buffer, home) in self.trace.homes.iter().enumerate() {
            if home.space != Space::Arena {
                continue;
            }
            if !home.start.is_multiple_of(ALIGN) {
                self.fault(Fault::Misaligned { buffer, start: home.start });
            }
            let end = home.start.saturating_add(home.bytes);
            if end > arena {
                self.fault(Fault::OutOfArena { buffer, end, arena });
            }
        }
    }

    /// The hull of an access; `None`, with a fault, where it leaves its buffer.
    fn locate(&mut self, who: Who, a: &Access) -> Option<Place> {
        let home = self.trace.homes[a.buffer];
        let (mut low, mut high) =
            (i128::from(a.offset), i128::from(a.offset) + i128::from(a.bytes));
        let mut moves = false;
        for (step, (times, _)) in a.steps.iter().zip(&self.rounds) {
            let reach = i128::from(*step) * i128::from(times.saturating_sub(1));
            (low, high) = (low + reach.min(0), high + reach.max(0));
            moves |= reach != 0;
        }
        if low < 0 || high > i128::from(home.bytes) {
            let (buffer, bytes) = (a.buffer, home.bytes);
            self.fault(Fault::OutOfBuffer { who, buffer, start: low, end: high, bytes });
            return None;
        }
        let start = home.start + low as u64;
        Some(Place { space: home.space, start, bytes: (high - low) as u64, moves })
    }

    fn read(&mut self, who: Who, a: &Access) {
        let Some(at) = self.locate(who, a) else { return };
        let (value, old) = match a.expect {
            Expect::Value(v) => (v, false),
            Expect::Carried { first, then, depth } => match self.rounds.get(depth) {
                Some((_, round)) if *round > 0 => (then, true),
                Some(_) | None => (first, false),
            },
        };
        let home = self.trace.homes[a.buffer];
        // The hull may begin before the access does, where steps are negative.
        let skip = i128::from(a.skip) + i128::from(at.start) - i128::from(home.start + a.offset);
        let wanted = Content { value, skip: u64::try_from(skip).unwrap_or(u64::MAX), old };
        if let Some(found) = self.memory.mismatch(at.space, at.start, at.bytes, wanted) {
            let found = found.map_or_else(|| "nothing".to_string(), |c| c.to_string());
            let (wanted, at) = (wanted.to_string(), at.text());
            self.fault(Fault::Stale { who, wanted, at, found });
        }
    }

    fn waves(&mut self, waves: &[Wave]) {
        for wave in waves {
            self.races(wave);
            for step in wave {
                self.step(step);
                if self.faults.len() >= FAULT_LIMIT {
                    return;
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Launch(launch) => self.launch(launch),
            Step::Repeat { times, body } => self.repeat(*times, body),
            Step::Branch { cond, arms } => {
                self.read(Who::Branch, cond);
                let before = self.memory.clone();
                let mut merged: Option<Memory> = None;
                for arm in arms {
                    self.memory = before.clone();
                    self.waves(arm);
                    let after = std::mem::take(&mut self.memory);
                    merged = Some(match merged {
                        Some(others) => others.common(&after),
                        None => after,
                    });
                }
                self.memory = merged.unwrap_or(before);
            }
        }
    }

    fn launch(&mut self, launch: &Launch) {
        let who = Who::Launch(launch.id);
        for a in &launch.reads {
            self.read(who, a);
        }
        let reads: Vec<Option<Place>> = launch.reads.iter().map(|a| self.locate(who, a)).collect();
        let writes: Vec<Option<Place>> =
            launch.writes.iter().map(|a| self.locate(who, a)).collect();
        for (w, place) in writes.iter().enumerate() {
            let Some(at) = place else { continue };
            match at.space {
                Space::Arena | Space::Output(_) | Space::State(_) => {}
                Space::Input(_) | Space::Const(_) => {
                    self.fault(Fault::ReadOnly { who, at: at.text() });
                }
            }
            for (r, read) in reads.iter().enumerate() {
                let Some(read) = read.filter(|r| r.meets(at)) else { continue };
                let same = read.start == at.start && !at.moves && !read.moves;
                if !same || !launch.in_place.contains(&(w, r)) {
                    self.fault(Fault::NotInPlace { who, at: at.text() });
                }
            }
            if writes[..w].iter().flatten().any(|other| other.meets(at)) {
                self.fault(Fault::WrittenTwice { who, at: at.text() });
            }
        }
        for (a, place) in launch.writes.iter().zip(&writes) {
            let Some(at) = place else { continue };
            let home = self.trace.homes[a.buffer];
            let back = (home.start + a.offset).saturating_sub(at.start);
            let mut content = content(a);
            content.skip = content.skip.saturating_sub(back);
            self.memory.write(at.space, at.start, at.bytes, content);
        }
    }

    fn repeat(&mut self, times: u64, body: &[Wave]) {
        let mut written = BTreeSet::new();
        written_by(body, &mut written);
        let depth = self.rounds.len();
        self.rounds.push((times, 0));
        if times > 0 {
            self.owned(body);
        }
        let mut second = None;
        for round in 0..times.min(3) {
            self.rounds[depth].1 = round;
            if round > 0 {
                self.memory.age(&written);
            }
            if round == 1 {
                second = Some(self.memory.clone());
            }
            if round == 2 && second.as_ref() != Some(&self.memory) && self.faults.is_empty() {
                self.fault(Fault::Unsettled);
            }
            self.waves(body);
        }
        self.rounds.pop();
    }

    /// Steps of a wave must not share bytes that one of them writes: one pass over the accesses by
    /// address, with the farthest end of two different steps before it.
    fn races(&mut self, wave: &[Step]) {
        if wave.len() < 2 {
            return;
        }
        let mut touches = vec![];
        for (i, step) in wave.iter().enumerate() {
            self.touches(step, i, &mut touches);
        }
        touches.sort_by_key(|t| (t.place.space, t.place.start, t.place.bytes, t.step));
        let (mut all, mut writes) = (Farthest::default(), Farthest::default());
        let mut space = None;
        for (i, t) in touches.iter().enumerate() {
            if space.replace(t.place.space) != Some(t.place.space) {
                (all, writes) = (Farthest::default(), Farthest::default());
            }
            if t.place.bytes == 0 {
                continue;
            }
            let before = if t.writes { &all } else { &writes };
            if let Some(other) = before.beyond(t.place.start, t.step, &touches) {
                let (first, second) = (touches[other].who, t.who);
                self.fault(Fault::Race { first, second, at: t.place.text() });
            }
            all.add(i, &touches);
            if t.writes {
                writes.add(i, &touches);
            }
        }
    }

    /// A hull that is written round by round belongs to that access alone, and to reads of what it wrote in
    /// the same round: the innermost of the rounds at hand.
    fn owned(&mut self, body: &[Wave]) {
        let depth = self.rounds.len() - 1;
        let mut touches = vec![];
        for step in body.iter().flatten() {
            // Every access counts as a step of its own.
            let from = touches.len();
            self.touches(step, 0, &mut touches);
            for (k, t) in touches[from..].iter_mut().enumerate() {
                t.step = from + k;
            }
        }
        let moving: Vec<usize> =
            (0..touches.len()).filter(|&i| touches[i].writes && touches[i].place.moves).collect();
        for i in moving {
            let mine = &touches[i];
            let meets =
                |t: &&Touch| t.step != mine.step && t.place.meets(&mine.place) && !t.excludes(mine);
            let mut others = touches.iter().filter(meets);
            let other = others.find(|t| !t.reads_in_round(mine, depth));
            if let Some(other) = other {
                let (first, second, at) = (mine.who, other.who, mine.place.text());
                self.fault(Fault::Race { first, second, at });
            }
        }
    }

    /// Everything that a step touches, repeats and branches included.
    fn touches<'t>(&mut self, step: &'t Step, index: usize, out: &mut Vec<Touch<'t>>) {
        let mut add = |checker: &mut Self, who, access: &'t Access, writes| {
            if let Some(place) = checker.locate(who, access) {
                let times = checker.rounds.iter().map(|(times, _)| *times).collect();
                let arms = checker.arms.clone();
                out.push(Touch { access, times, place, step: index, who, writes, arms });
            }
        };
        match step {
            Step::Launch(launch) => {
                let who = Who::Launch(launch.id);
                launch.reads.iter().for_each(|a| add(self, who, a, false));
                launch.writes.iter().for_each(|a| add(self, who, a, true));
            }
            Step::Repeat { times, body } => {
                self.rounds.push((*times, 0));
                for step in body.iter().flatten() {
                    self.touches(step, index, out);
                }
                self.rounds.pop();
            }
            Step::Branch { cond, arms } => {
                add(self, Who::Branch, cond, false);
                // Each branch is told apart by what comes before it.
                let at = out.len();
                for (i, arm) in arms.iter().enumerate() {
                    self.arms.push((at, i));
                    for step in arm.iter().flatten() {
                        self.touches(step, index, out);
                    }
                    self.arms.pop();
                }
            }
        }
    }
}

/// The accesses that reach farthest, of two different steps.
#[derive(Default)]
struct Farthest {
    ends: BTreeMap<usize, (u64, usize)>,
}

impl Farthest {
    fn add(&mut self, touch: usize, touches: &[Touch]) {
        let t = &touches[touch];
        let end = self.ends.entry(t.step).or_insert((0, touch));
        if t.place.end() > end.0 {
            *end = (t.place.end(), touch);
        }
        if self.ends.len() > 2 {
            let least = self.ends.iter().min_by_key(|(_, (end, _))| *end).map(|(step, _)| *step);
            least.and_then(|step| self.ends.remove(&step));
        }
    }

    /// An access of another step that ends beyond `start`.
    fn beyond(&self, start: u64, step: usize, touches: &[Touch]) -> Option<usize> {
        let others = self.ends.values().filter(|(end, t)| *end > start && touches[*t].step != step);
        others.map(|(_, t)| *t).next()
    }
}

fn written_by(body: &[Wave], out: &mut BTreeSet<ValueId>) {
    for step in body.iter().flatten() {
        match step {
            Step::Launch(launch) => out.extend(launch.writes.iter().map(|a| content(a).value)),
            Step::Repeat { body, .. } => written_by(body, out),
            Step::Branch { arms, .. } => arms.iter().for_each(|arm| written_by(arm, out)),
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
