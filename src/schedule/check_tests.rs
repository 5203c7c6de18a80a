use super::*;
use crate::schedule::memory::{Effort, Request, plan};
use crate::schedule::memory_place::SplitMix;
use crate::schedule::program::BufferId;

/// A random program over one input, one state and one output, with a plan of its own.
struct Model {
    trace: Trace,
    /// Wave of each launch; launch k writes value k into buffer k.
    wave: Vec<u32>,
    /// Launches that read value k.
    readers: Vec<Vec<usize>>,
    bytes: Vec<u64>,
    /// Values that take over another's bytes.
    heirs: Vec<Option<usize>>,
    requests: Vec<Request>,
}

const INPUT: u32 = 1000;
const STATE: u32 = 1001;
const NEXT: u32 = 1002;
const OUT: u32 = 1003;

fn buffer_of(value: u32, n: usize) -> usize {
    match value {
        INPUT => n,
        STATE | NEXT => n + 1,
        OUT => n + 2,
        v => v as usize,
    }
}

/// `n` launches in waves, each reading up to three earlier values; then one that writes the output,
/// and a last wave with the copy of value 0 into the state.
fn model(seed: u64) -> Model {
    let mut random = SplitMix(seed);
    let n = 6 + random.below(20) as usize;
    let mut wave: Vec<u32> = vec![];
    let mut reads: Vec<Vec<usize>> = vec![];
    for k in 0..n {
        let mut mine: Vec<usize> =
            (0..random.below(4).min(k as u64)).map(|_| random.below(k as u64) as usize).collect();
        mine.sort_unstable();
        mine.dedup();
        let after = mine.iter().map(|&p| wave[p] + 1).max().unwrap_or(0);
        wave.push(after + random.below(2) as u32);
        reads.push(mine);
    }
    let waves = wave.iter().max().unwrap() + 1;
    let bytes: Vec<u64> =
        (0..n).map(|_| 64 * (1 + random.below(4)) - 8 * random.below(2)).collect();
    let mut readers: Vec<Vec<usize>> = vec![vec![]; n];
    for (k, mine) in reads.iter().enumerate() {
        mine.iter().for_each(|&p| readers[p].push(k));
    }
    // The output reads the last value and the state, one wave after all others.
    let last: Vec<u32> = (0..n)
        .map(|k| match readers[k].iter().map(|&r| wave[r]).max() {
            _ if k == 0 || k == n - 1 => waves + 1,
            Some(w) => w,
            None => wave[k],
        })
        .collect();
    let mut requests: Vec<Request> = (0..n)
        .map(|k| Request {
            id: BufferId(k as u32),
            bytes: bytes[k],
            first: wave[k],
            last: last[k],
            in_place: None,
        })
        .collect();
    for k in 0..n {
        // In place over a value of the same size that this launch alone reads last.
        let heir = reads[k].iter().find(|&&p| {
            let alone = readers[p].iter().filter(|&&r| wave[r] >= wave[k]).count() == 1;
            last[p] == wave[k] && alone && bytes[p] == bytes[k]
        });
        requests[k].in_place = heir.map(|&p| BufferId(p as u32));
    }
    let planned = plan(&requests, Effort { seed, steps: 20_000 }).unwrap();
    let heirs: Vec<Option<usize>> =
        planned.spots.iter().map(|s| s.alias_of.map(|b| b.0 as usize)).collect();
    let mut homes: Vec<Home> = planned
        .spots
        .iter()
        .zip(&bytes)
        .map(|(s, &bytes)| Home { space: Space::Arena, start: s.offset, bytes })
        .collect();
    let size = bytes[0];
    homes.push(Home { space: Space::Input(0), start: 0, bytes: 64 });
    homes.push(Home { space: Space::State(0), start: 0, bytes: size });
    homes.push(Home { space: Space::Output(0), start: 0, bytes: bytes[n - 1] });
    let whole = |v: u32| {
        let buffer = buffer_of(v, n);
        Access::whole(ValueId(v), buffer, homes[buffer].bytes)
    };
    let mut body: Vec<Wave> = vec![vec![]; waves as usize + 2];
    for k in 0..n {
        let mut inputs: Vec<Access> = reads[k].iter().map(|&p| whole(p as u32)).collect();
        if inputs.is_empty() {
            inputs.push(whole(INPUT));
        }
        let in_place = heirs[k].map(|p| {
            (0, reads[k].iter().position(|&r| r == p).expect("an heir reads what it replaces"))
        });
        body[wave[k] as usize].push(Step::Launch(Launch {
            id: LaunchId(k as u32),
            reads: inputs,
            writes: vec![whole(k as u32)],
            in_place: in_place.into_iter().collect(),
        }));
    }
    let launch = |id: usize, reads: &[u32], write: u32| {
        Step::Launch(Launch {
            id: LaunchId(id as u32),
            reads: reads.iter().map(|&v| whole(v)).collect(),
            writes: vec![whole(write)],
            in_place: vec![],
        })
    };
    body[waves as usize].push(launch(n, &[n as u32 - 1, STATE], OUT));
    body[waves as usize + 1].push(launch(n + 1, &[0], NEXT));
    let trace = Trace {
        arena_bytes: planned.arena_bytes,
        start: vec![whole(INPUT), whole(STATE)],
        end: vec![whole(OUT), whole(NEXT)],
        homes,
        body,
    };
    Model { trace, wave, readers, bytes, heirs, requests }
}

fn launches(trace: &mut Trace) -> impl Iterator<Item = &mut Launch> {
    trace.body.iter_mut().flatten().filter_map(|s| match s {
        Step::Launch(l) => Some(l),
        Step::Repeat { .. } | Step::Branch { .. } => None,
    })
}

fn rejected(trace: &Trace, what: &str) {
    let faults = check(trace).expect_err(what);
    assert!(faults.iter().all(|f| !f.to_string().is_empty()));
}

#[test]
fn plans_of_the_planner_are_accepted() {
    let mut in_place = 0;
    for seed in 0..150 {
        let m = model(seed);
        in_place += m.heirs.iter().flatten().count();
        assert_eq!(check(&m.trace), Ok(()), "seed {seed}");
    }
    assert!(in_place > 20, "the plans have pairs in place: {in_place}");
}

/// Every kind of mutation is certain to break the plan, and is rejected for every seed that has a
/// place for it.
#[test]
fn mutated_plans_are_rejected() {
    let mut tried = BTreeMap::<&str, usize>::new();
    for seed in 0..60 {
        let m = model(seed);
        let n = m.wave.len();
        let mut mutate = |what: &'static str, change: &dyn Fn(&mut Trace) -> bool| {
            let mut trace = m.trace.clone();
            if change(&mut trace) {
                *tried.entry(what).or_default() += 1;
                rejected(&trace, &format!("seed {seed}: {what}"));
            }
        };
        mutate("buffers alive together overlap", &|t| {
            let clash = (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).find(|&(a, b)| {
                let read_later = m.readers[a].iter().any(|&r| m.wave[r] > m.wave[b]);
                m.wave[a] < m.wave[b] && read_later
            });
            clash.is_some_and(|(a, b)| {
                t.homes[b].start = t.homes[a].start;
                t.arena_bytes += m.bytes[b];
                true
            })
        });
        mutate("a lifetime is cut short", &|t| {
            // The last reader of a value finds another one in its place.
            let victim = (0..n).find(|&a| m.readers[a].iter().any(|&r| m.wave[r] > m.wave[a] + 1));
            victim.is_some_and(|a| {
                let at = m.wave[a] as usize + 1;
                let place = Access::whole(ValueId(5000), a, t.homes[a].bytes);
                let id = LaunchId(5000);
                let write = Launch { id, reads: vec![], writes: vec![place], in_place: vec![] };
                t.body.insert(at, vec![Step::Launch(write)]);
                true
            })
        });
        mutate("the copy into the state is dropped", &|t| t.body.pop().is_some());
        mutate("launches change places", &|t| {
            let pair = (0..n).find_map(|a| m.readers[a].first().map(|&r| (a, r)));
            pair.is_some_and(|(a, r)| {
                t.body.swap(m.wave[a] as usize, m.wave[r] as usize);
                true
            })
        });
        mutate("a pair in place is not declared", &|t| {
            launches(t).find(|l| !l.in_place.is_empty()).is_some_and(|l| {
                l.in_place.clear();
                true
            })
        });
        mutate("the state is written before it is read", &|t| {
            let copy = t.body.pop().unwrap();
            t.body.insert(t.body.len() - 1, copy);
            true
        });
        mutate("the output lies over the state", &|t| {
            t.homes[n + 2].space = Space::State(0);
            true
        });
        mutate("a buffer is misaligned", &|t| {
            t.homes[0].start += 4;
            t.arena_bytes += 64;
            true
        });
        mutate("a buffer leaves the arena", &|t| {
            t.arena_bytes -= 64;
            true
        });
        mutate("waves are merged", &|t| {
            let pair = (0..n).find_map(|a| {
                m.readers[a].iter().find(|&&r| m.wave[r] == m.wave[a] + 1).map(|_| a)
            });
            pair.is_some_and(|a| {
                let next = t.body.remove(m.wave[a] as usize + 1);
                t.body[m.wave[a] as usize].extend(next);
                true
            })
        });
        mutate("a launch is missing", &|t| {
            let used = (0..n).find(|&a| !m.readers[a].is_empty());
            used.is_some_and(|a| {
                let keep = |s: &Step| !matches!(s, Step::Launch(l) if l.id.0 as usize == a);
                t.body.iter_mut().for_each(|w| w.retain(keep));
                true
            })
        });
        mutate("an access is longer than its buffer", &|t| {
            launches(t).next().is_some_and(|l| {
                l.writes[0].bytes += 1;
                true
            })
        });
        mutate("an input is written", &|t| {
            launches(t).next().is_some_and(|l| {
                l.writes.push(Access::whole(ValueId(6000), n, 64));
                true
            })
        });
        mutate("a read begins at a wrong byte", &|t| {
            launches(t).next().is_some_and(|l| {
                l.reads[0].skip += 4;
                true
            })
        });
    }
    assert_eq!(tried.len(), 14, "{tried:?}");
    assert!(tried.values().all(|&n| n >= 5), "{tried:?}");
}

/// A plan made for a lifetime that is too short, exactly where the bytes are taken by another.
#[test]
fn lifetimes_that_are_too_short_are_found() {
    let (mut broken, mut harmless) = (0, 0);
    for seed in 0..150 {
        let m = model(seed);
        for a in 0..m.wave.len() {
            let mut requests = m.requests.clone();
            requests.iter_mut().for_each(|r| r.in_place = None);
            let last = requests[a].last;
            requests[a].last = m.wave[a];
            let planned = plan(&requests, Effort { seed, steps: 0 }).unwrap();
            let mut trace = m.trace.clone();
            trace.arena_bytes = planned.arena_bytes;
            launches(&mut trace).for_each(|l| l.in_place.clear());
            for (home, spot) in trace.homes.iter_mut().zip(&planned.spots) {
                home.start = spot.offset;
            }
            let end = |k: usize| planned.spots[k].offset + m.bytes[k];
            let taken = (0..m.wave.len()).any(|b| {
                let meets = planned.spots[a].offset < end(b) && planned.spots[b].offset < end(a);
                b != a && meets && m.wave[b] > m.wave[a] && m.wave[b] <= last
            });
            assert_eq!(check(&trace).is_err(), taken, "seed {seed}, buffer {a}");
            if taken { broken += 1 } else { harmless += 1 }
        }
    }
    assert!(broken > 100 && harmless > 100, "{broken} {harmless}");
}

#[test]
fn side_by_side_for_every_number_of_threads() {
    // Two launches of one wave whose buffers overlap, although neither reads the other's.
    let home = |start| Home { space: Space::Arena, start, bytes: 128 };
    let write = |id: u32, buffer: usize| {
        let writes = vec![Access::whole(ValueId(id), buffer, 128)];
        Step::Launch(Launch { id: LaunchId(id), reads: vec![], writes, in_place: vec![] })
    };
    let mut trace = Trace {
        arena_bytes: 256,
        homes: vec![home(0), home(64)],
        start: vec![],
        body: vec![vec![write(0, 0), write(1, 1)]],
        end: vec![],
    };
    assert!(matches!(check(&trace).unwrap_err()[0], Fault::Race { .. }));
    trace.homes[1].start = 128;
    assert_eq!(check(&trace), Ok(()));
}

/// A row of the output is written in each round by a repeat inside, and read in whole behind it.
#[test]
fn rows_are_read_in_the_round_that_writes_them() {
    let access = |value: u32, buffer: usize, (offset, bytes): (u64, u64), steps: &[i64]| Access {
        skip: offset,
        offset,
        steps: steps.to_vec(),
        ..Access::whole(ValueId(value), buffer, bytes)
    };
    let launch = |id: u32, reads: Vec<Access>, writes: Vec<Access>| {
        Step::Launch(Launch { id: LaunchId(id), reads, writes, in_place: vec![] })
    };
    let trace = |read: Access, last: usize| {
        let writes = launch(0, vec![], vec![access(0, 0, (0, 64), &[256, 64])]);
        let inner = Step::Repeat { times: 4, body: vec![vec![writes]] };
        let reads = launch(1, vec![read], vec![access(1, 1, (0, 64), &[])]);
        let mut body = vec![vec![inner], vec![reads]];
        body.rotate_left(last);
        let home = |space, bytes| Home { space, start: 0, bytes };
        Trace {
            arena_bytes: 64,
            homes: vec![home(Space::Output(0), 768), home(Space::Arena, 64)],
            start: vec![],
            body: vec![vec![Step::Repeat { times: 3, body }]],
            end: vec![access(0, 0, (0, 768), &[])],
        }
    };
    let row = access(0, 0, (0, 256), &[256]);
    assert_eq!(check(&trace(row.clone(), 0)), Ok(()));
    assert_eq!(check(&trace(access(0, 0, (64, 128), &[256, 0]), 0)), Ok(()));
    // Before it is written; the first row in each round; beyond the row; the value of the round before.
    assert!(check(&trace(row.clone(), 1)).is_err());
    assert!(check(&trace(access(0, 0, (0, 256), &[]), 0)).is_err());
    assert!(check(&trace(access(0, 0, (64, 256), &[256]), 0)).is_err());
    let expect = Expect::Carried { first: ValueId(0), then: ValueId(0), depth: 0 };
    assert!(check(&trace(Access { expect, ..row }, 0)).is_err());
}

/// `h := f(h, x[i])` over four slices, then `y = g(h)`; `h` starts as value 0 (the input).
fn recurrence(order: [usize; 2]) -> Trace {
    let slice = |value: u32, buffer: usize| Access {
        steps: vec![64],
        ..Access::whole(ValueId(value), buffer, 64)
    };
    let carried = Access {
        expect: Expect::Carried { first: ValueId(1), then: ValueId(4), depth: 0 },
        ..Access::whole(ValueId(1), 2, 64)
    };
    let launch = |id: u32, reads: Vec<Access>, writes: Vec<Access>, in_place| {
        Step::Launch(Launch { id: LaunchId(id), reads, writes, in_place })
    };
    let whole = |v: u32, b: usize| Access::whole(ValueId(v), b, 64);
    // 0: copy the initial carry; 1: t = f(h, x[i]), also stacked into z; 2: h = t.
    let step = [
        vec![launch(1, vec![carried, slice(0, 0)], vec![whole(3, 3), slice(6, 5)], vec![])],
        vec![launch(2, vec![whole(3, 3)], vec![whole(4, 2)], vec![])],
    ];
    let space = |space, start, bytes| Home { space, start, bytes };
    Trace {
        arena_bytes: 128,
        homes: vec![
            space(Space::Input(0), 0, 256),
            space(Space::Input(1), 0, 64),
            space(Space::Arena, 0, 64),
            space(Space::Arena, 64, 64),
            space(Space::Output(0), 0, 64),
            space(Space::Output(1), 0, 256),
        ],
        start: vec![Access::whole(ValueId(0), 0, 256), whole(7, 1)],
        body: vec![
            vec![launch(0, vec![whole(7, 1)], vec![whole(1, 2)], vec![])],
            vec![Step::Repeat { times: 4, body: order.map(|k| step[k].clone()).to_vec() }],
            vec![launch(3, vec![whole(4, 2)], vec![whole(5, 4)], vec![])],
        ],
        end: vec![whole(5, 4), Access::whole(ValueId(6), 5, 256)],
    }
}

#[test]
fn repeats() {
    let good = recurrence([0, 1]);
    assert_eq!(check(&good), Ok(()));
    rejected(&recurrence([1, 0]), "the carry is replaced before it is read");
    let body_of = |t: &mut Trace, change: &dyn Fn(&mut u64, &mut Vec<Wave>)| match &mut t.body[1][0]
    {
        Step::Repeat { times, body } => change(times, body),
        Step::Launch(_) | Step::Branch { .. } => unreachable!("the second wave is the repeat"),
    };
    let mut t = good.clone();
    body_of(&mut t, &|times, _| *times = 5);
    rejected(&t, "a fifth slice is outside");
    let mut t = good.clone();
    body_of(&mut t, &|_, body| drop(body.pop()));
    rejected(&t, "the carry is never replaced");
    let mut t = good.clone();
    t.homes[3].start = 0;
    rejected(&t, "the temporary lies over the carry, undeclared");
    let mut t = good.clone();
    t.homes[5] = Home { space: Space::Arena, start: 0, bytes: 256 };
    t.arena_bytes = 256;
    rejected(&t, "the stacked slices lie over the carry");
    let mut t = good.clone();
    body_of(&mut t, &|times, _| *times = 1_000_000_000_000);
    t.homes[0].bytes = 64_000_000_000_000;
    t.homes[5].bytes = 64_000_000_000_000;
    t.start[0].bytes = 64_000_000_000_000;
    t.end[1].bytes = 64_000_000_000_000;
    assert_eq!(check(&t), Ok(()), "as many rounds as one likes");
}

#[test]
fn branches_keep_what_both_arms_write() {
    let home = |space, start| Home { space, start, bytes: 64 };
    let whole = |v: u32, b: usize| Access::whole(ValueId(v), b, 64);
    let arm = |id: u32, value: u32| {
        let (reads, writes) = (vec![whole(0, 0)], vec![whole(value, 1)]);
        vec![vec![Step::Launch(Launch { id: LaunchId(id), reads, writes, in_place: vec![] })]]
    };
    let trace = |other: u32| Trace {
        arena_bytes: 0,
        homes: vec![home(Space::Input(0), 0), home(Space::Output(0), 0)],
        start: vec![whole(0, 0)],
        body: vec![vec![Step::Branch { cond: whole(0, 0), arms: vec![arm(0, 1), arm(1, other)] }]],
        end: vec![whole(1, 1)],
    };
    assert_eq!(check(&trace(1)), Ok(()));
    rejected(&trace(2), "one arm leaves the result unwritten");
}
