//! Hand-built Programs through machine code and through the kernel interpreter.

use std::sync::Arc;

use dlc::base::machine::Numerics;
use dlc::base::{DType, Tensor};
use dlc::kernel::build::KernelBuilder;
use dlc::kernel::ir::{Access, Addr, Kernel, Op};
use dlc::runtime::RunError;
use dlc::runtime::cpu::{Executable, Session};
use dlc::runtime::interpreter::Interpreter;
use dlc::runtime::pool::Pool;
use dlc::schedule::program::*;
use dlc::target::Target;
use dlc::target::cpu::Options;

use super::allocations::allocations_of;

const N: usize = 1024;

/// A Program that grows buffer by buffer and launch by launch.
#[derive(Default)]
struct Build {
    program: Program,
}

impl Build {
    fn buffer(&mut self, name: &str, dtype: DType, shape: &[usize], place: Place) -> BufferId {
        let id = BufferId(self.program.buffers.len() as u32);
        let (name, shape): (Arc<str>, Vec<usize>) = (name.into(), shape.to_vec());
        let port = Port { name: name.clone(), dtype, shape: shape.clone(), buffer: id };
        match place {
            Place::Input(_) => self.program.inputs.push(port),
            Place::Output(_) => self.program.outputs.push(port),
            Place::State(_) => self.program.states.push(port),
            Place::Const(_) => self.program.consts.push(port),
            Place::Arena { .. } => {}
        }
        let alias_of = None;
        let buffer = Buffer { name, dtype, shape, place, alias_of, first: 0, last: u32::MAX };
        if let Place::Arena { offset } = place {
            let end = offset + buffer.padded();
            self.program.arena_bytes = self.program.arena_bytes.max(end);
        }
        self.program.buffers.push(buffer);
        id
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> BufferId {
        let place = Place::Input(self.program.inputs.len() as u32);
        self.buffer(name, DType::F32, shape, place)
    }

    fn output(&mut self, name: &str, shape: &[usize]) -> BufferId {
        let place = Place::Output(self.program.outputs.len() as u32);
        self.buffer(name, DType::F32, shape, place)
    }

    fn arena(&mut self, shape: &[usize]) -> BufferId {
        let offset = self.program.arena_bytes;
        self.buffer("t", DType::F32, shape, Place::Arena { offset })
    }

    fn constant(&mut self, value: Tensor) -> BufferId {
        let place = Place::Const(self.program.consts.len() as u32);
        let id = self.buffer("c", value.dtype(), value.shape(), place);
        self.program.const_values.push(value);
        id
    }

    fn kernel(&mut self, kernel: Kernel) -> KernelId {
        self.program.kernels.push(kernel);
        KernelId(self.program.kernels.len() as u32 - 1)
    }

    fn launch(&mut self, kernel: KernelId, args: Vec<Arg>) -> Step {
        self.program.launches.push(Launch {
            kernel,
            args,
            ops: vec![],
            generator: "hand".into(),
            product: None,
            queue: Queue::Cpu,
            wave: 0,
            depends_on: vec![],
            flops: 1 << 20,
            bytes: 1 << 20,
            estimate_us: 0.0,
        });
        Step::Launch(LaunchId(self.program.launches.len() as u32 - 1))
    }

    fn finish(mut self, steps: Vec<Step>) -> Arc<Program> {
        self.program.body = in_order(steps);
        Arc::new(self.program)
    }
}

fn in_order(steps: Vec<Step>) -> Block {
    Block { waves: steps.into_iter().map(|s| vec![s]).collect() }
}

fn whole(ids: &[BufferId]) -> Vec<Arg> {
    ids.iter().map(|id| Arg::whole(*id)).collect()
}

/// `out[i] = a[i] op b[i]` over `len` elements, four at a time.
fn elementwise(op: Op, len: usize) -> Kernel {
    let mut b = KernelBuilder::new(&format!("{op:?}"), Numerics::Separate);
    let [x, y] = ["a", "b"].map(|n| b.param(n, DType::F32, len as u64, Access::Read));
    let out = b.param("out", DType::F32, len as u64, Access::Write);
    b.set_grid([len as u32 / 4, 1, 1]);
    let g = b.grid(0);
    let base = b.times(g, 4);
    let [p, q] = [x, y].map(|buf| b.load(Addr { buf, base, plus: 0 }, 4));
    let v = b.op(op, &[p, q]);
    b.store(Addr { buf: out, base, plus: 0 }, v);
    b.finish()
}

fn ramp(n: usize, start: f32) -> Tensor {
    let data: Vec<f32> = (0..n).map(|i| start + (i % 97) as f32 * 0.25).collect();
    Tensor::from_slice(&[n], &data)
}

fn compiled(program: &Arc<Program>) -> Arc<Executable> {
    let options = Options::default();
    Arc::new(Executable::compile(program.clone(), &Target::host(), options).unwrap())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// (x + y) · c, with the sum in the arena.
fn sum_times_constant() -> Arc<Program> {
    let mut b = Build::default();
    let [x, y] = ["x", "y"].map(|n| b.input(n, &[N]));
    let z = b.output("z", &[N]);
    let t = b.arena(&[N]);
    let c = b.constant(ramp(N, -3.0));
    let add = b.kernel(elementwise(Op::Add, N));
    let mul = b.kernel(elementwise(Op::Mul, N));
    let first = b.launch(add, whole(&[x, y, t]));
    let second = b.launch(mul, whole(&[t, c, z]));
    b.finish(vec![first, second])
}

#[test]
fn inputs_by_copy_and_by_reference() {
    let program = sum_times_constant();
    let mut session = Session::new(compiled(&program)).unwrap();
    let mut interpreter = Interpreter::new(program.clone()).unwrap();
    let (x, y) = (ramp(N, 1.0), ramp(N, 100.0));
    session.set_input(0, x.bytes()).unwrap();
    session.bind_input(1, y.clone()).unwrap();
    session.run();
    interpreter.set_input(0, x.bytes()).unwrap();
    interpreter.set_input(1, y.bytes()).unwrap();
    interpreter.run().unwrap();
    let sum = |i: usize| x.as_slice::<f32>()[i] + y.as_slice::<f32>()[i];
    let expected: Vec<f32> = (0..N).map(|i| sum(i) * ramp(N, -3.0).as_slice::<f32>()[i]).collect();
    assert_eq!(floats(session.output(0)), expected);
    assert_eq!(session.output_tensor(0), interpreter.output_tensor(0));
    // Back to the session's own bytes.
    session.input_mut(1).copy_from_slice(x.bytes());
    session.run();
    assert_ne!(floats(session.output(0)), expected);
    let error = session.set_input(0, &[0; 3]).unwrap_err();
    assert!(matches!(error, RunError::Bytes { want: 4096, got: 3, .. }), "{error}");
}

#[test]
fn a_run_allocates_nothing() {
    let program = sum_times_constant();
    let executable = compiled(&program);
    let mut alone = Session::new(executable.clone()).unwrap();
    let pool = Arc::new(Pool::new(2));
    let mut shared = Session::with_pool(executable, Some(pool)).unwrap();
    for session in [&mut alone, &mut shared] {
        session.run();
        assert_eq!(allocations_of(|| (0..10).for_each(|_| session.run())), 0);
    }
}

#[test]
fn sessions_move_between_threads_and_threads_change_nothing() {
    let program = sum_times_constant();
    let executable = compiled(&program);
    let run = |threads: usize| {
        let pool = Arc::new(Pool::new(threads));
        let mut session = Session::with_pool(executable.clone(), Some(pool)).unwrap();
        session.set_input(0, ramp(N, 5.0).bytes()).unwrap();
        session.set_input(1, ramp(N, 7.0).bytes()).unwrap();
        std::thread::spawn(move || {
            (0..20).for_each(|_| session.run());
            session.output(0).to_vec()
        })
        .join()
        .unwrap()
    };
    let expected = run(1);
    assert_eq!(run(2), expected);
    assert_eq!(run(3), expected);
}

/// state += rows of the input, row by row; nested: each row twice.
#[test]
fn repeats_move_arguments_and_state_stays() {
    const ROWS: usize = 5;
    let mut b = Build::default();
    let x = b.input("x", &[ROWS, 64]);
    let copies = b.output("sums", &[ROWS, 2, 64]);
    let state = b.buffer("s", DType::F32, &[64], Place::State(0));
    let add = {
        let mut k = KernelBuilder::new("accumulate", Numerics::Separate);
        let x = k.param("x", DType::F32, 64, Access::Read);
        let s = k.param("s", DType::F32, 64, Access::ReadWrite);
        let out = k.param("out", DType::F32, 64, Access::Write);
        k.set_grid([16, 1, 1]);
        let g = k.grid(0);
        let base = k.times(g, 4);
        let [p, q] = [x, s].map(|buf| k.load(Addr { buf, base, plus: 0 }, 4));
        let v = k.add(p, q);
        k.store(Addr { buf: s, base, plus: 0 }, v);
        k.store(Addr { buf: out, base, plus: 0 }, v);
        b.kernel(k.finish())
    };
    let row = Arg { buffer: x, offset: 0, steps: vec![256] };
    let place = Arg { buffer: copies, offset: 0, steps: vec![512, 256] };
    let launch = b.launch(add, vec![row, Arg::whole(state), place]);
    let inner = Step::Repeat { times: 2, body: in_order(vec![launch]) };
    let outer = Step::Repeat { times: ROWS as u64, body: in_order(vec![inner]) };
    let program = b.finish(vec![outer]);

    let mut session = Session::new(compiled(&program)).unwrap();
    let mut interpreter = Interpreter::new(program).unwrap();
    let data: Vec<f32> = (0..ROWS * 64).map(|i| i as f32).collect();
    let x = Tensor::from_slice(&[ROWS, 64], &data);
    session.set_input(0, x.bytes()).unwrap();
    interpreter.set_input(0, x.bytes()).unwrap();
    for round in 1..=3 {
        session.run();
        interpreter.run().unwrap();
        let total: f32 = (0..ROWS).map(|r| 2.0 * data[r * 64 + 1]).sum();
        assert_eq!(floats(session.state(0))[1], round as f32 * total);
        assert_eq!(session.output_tensor(0), interpreter.output_tensor(0));
        assert_eq!(session.state_tensor(0), interpreter.state_tensor(0));
    }
    session.reset_states();
    assert!(session.state(0).iter().all(|b| *b == 0));
    session.set_state(0, ramp(64, 2.0).bytes()).unwrap();
    session.run();
    assert_eq!(floats(session.output(0))[1], 2.25 + data[1]);
}

#[test]
fn branches_by_a_bool() {
    let mut b = Build::default();
    let flag = b.buffer("flag", DType::Bool, &[], Place::Input(0));
    let [x, y] = ["x", "y"].map(|n| b.input(n, &[N]));
    let z = b.output("z", &[N]);
    let add = b.kernel(elementwise(Op::Add, N));
    let sub = b.kernel(elementwise(Op::Sub, N));
    let yes = b.launch(add, whole(&[x, y, z]));
    let no = b.launch(sub, whole(&[x, y, z]));
    let (then, els) = (in_order(vec![yes]), in_order(vec![no]));
    let program = b.finish(vec![Step::Branch { cond: flag, then, els }]);
    let mut session = Session::new(compiled(&program)).unwrap();
    let mut interpreter = Interpreter::new(program).unwrap();
    for (flag, expected) in [(1u8, 11.0), (0, -9.0)] {
        for i in 0..3 {
            let bytes = [&[flag][..], ramp(N, 1.0).bytes(), ramp(N, 10.0).bytes()][i].to_vec();
            session.set_input(i, &bytes).unwrap();
            interpreter.set_input(i, &bytes).unwrap();
        }
        session.run();
        interpreter.run().unwrap();
        assert_eq!(floats(session.output(0))[0], expected);
        assert_eq!(session.output(0), interpreter.output(0));
    }
}

#[test]
fn empty_buffers_and_no_launches() {
    let mut b = Build::default();
    b.input("x", &[0, 3]);
    b.output("y", &[0]);
    let program = b.finish(vec![]);
    let mut session = Session::new(compiled(&program)).unwrap();
    session.set_input(0, &[]).unwrap();
    session.run();
    assert!(session.output(0).is_empty());
    assert_eq!(session.output_tensor(0).shape(), [0]);
}

#[test]
fn launches_can_be_timed_and_observed() {
    let program = sum_times_constant();
    let mut session = Session::new(compiled(&program)).unwrap();
    let mut times = vec![];
    session.run_timed(&mut times);
    let ids: Vec<u32> = times.iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [0, 1]);
    session.set_input(0, ramp(N, f32::NAN).bytes()).unwrap();
    let mut seen = vec![];
    session.run_observed(&mut |launch, buffer, bytes| {
        seen.push((launch, buffer, floats(bytes).iter().any(|v| v.is_nan())));
        false
    });
    assert_eq!(seen, [(LaunchId(0), BufferId(3), true)]);
}

#[test]
fn programs_that_are_not_well_formed_are_refused() {
    type Change = fn(&mut Program);
    let changes: [(&str, Change); 8] = [
        ("argument beyond its buffer", |p| p.launches[0].args[0].offset = 16),
        ("argument inside an element", |p| p.launches[0].args[0].offset = 2),
        ("buffer beyond the arena", |p| p.buffers[3].place = Place::Arena { offset: 64 }),
        ("unaligned buffer", |p| {
            p.arena_bytes += 64;
            p.buffers[3].place = Place::Arena { offset: 4 };
        }),
        ("a written input", |p| p.launches[0].args[2] = Arg::whole(BufferId(0))),
        ("a missing buffer", |p| p.launches[0].args[0].buffer = BufferId(77)),
        ("too few arguments", |p| drop(p.launches[0].args.pop())),
        ("steps without a repeat", |p| p.launches[0].args[0].steps = vec![4]),
    ];
    for (what, change) in changes {
        let mut program = Program::clone(&sum_times_constant());
        change(&mut program);
        let program = Arc::new(program);
        let result = Executable::compile(program.clone(), &Target::host(), Options::default());
        assert!(matches!(result, Err(RunError::Program(_))), "{what}");
        assert!(matches!(Interpreter::new(program), Err(RunError::Program(_))), "{what}");
    }
}
