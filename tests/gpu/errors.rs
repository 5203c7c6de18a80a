//! What goes wrong on a GPU is an error with a code: names and limits of adapters, devices that are lost,
//! files that are no pipelines. What is only unusual computes: nothing at all, NaN, several devices.

use std::sync::{Arc, Mutex};

use dlc::base::diag::Diagnostic;
use dlc::base::machine::Tiles;
use dlc::base::{Bindings, Tensor};
use dlc::model::Model;
use dlc::pipeline::Level;
use dlc::runtime::dispatch::{Dispatches, Limits};
use dlc::runtime::gpu::device::{Device, adapters};
use dlc::runtime::gpu::session::{Compiled, Session};
use dlc::runtime::keep::Keep;
use dlc::schedule::program::Program;
use dlc::target::wgsl::{Features, Matmul};

use super::{here, options};

fn model(text: &str) -> Model {
    dlc::compile(text, &options(Level::O2)).unwrap()
}

fn program(text: &str) -> Arc<Program> {
    let model = model(text);
    model.plan(&Bindings::new()).unwrap().ready(model.weights()).unwrap()
}

const DOUBLE: &str = "model m(x: f32[4]) { return x + x as y }";

/// A device of its own, and a session of `DOUBLE` on it.
fn doubling(keep: Option<&dyn Keep>) -> (Arc<Device>, Session) {
    let device = Device::open(None).unwrap();
    let compiled =
        Compiled::new(program(DOUBLE), device.clone(), (Matmul::Auto, &Tiles::default()), keep)
            .unwrap();
    (device, Session::new(Arc::new(compiled)).unwrap())
}

fn doubles(session: &mut Session, x: f32) {
    session.set_input(0, Tensor::from_slice(&[4], &[x; 4]).bytes()).unwrap();
    session.run().unwrap();
    assert_eq!(session.output_tensor(0).unwrap().as_slice::<f32>(), [2.0 * x; 4]);
}

fn code<T>(result: Result<T, Box<Diagnostic>>) -> &'static str {
    result.err().expect("an error").code
}

#[test]
fn adapters_that_are_not_there() {
    let error = Device::open(Some("no such adapter")).err().expect("there is none");
    assert_eq!(error.code, "E0860");
    match adapters().first() {
        Some(adapter) => assert!(error.notes[0].contains(&adapter.name), "{error:?}"),
        None => {
            let error = Device::open(None).err().expect("there is none");
            assert_eq!(error.code, "E0860");
            assert!(error.help.expect("what to do").contains("--target cpu"));
        }
    }
}

#[test]
fn limits_are_named() {
    let text = "model m(x: f32[64], y: f32[64], z: f32[64]) { return x * y + z as a }";
    let program = program(text);
    let refused = |limits: Limits| *Dispatches::of(&program, &limits).expect_err("too small");
    assert!(Dispatches::of(&program, &Limits::default()).is_ok());
    let error = refused(Limits { buffer: 255, ..Limits::default() });
    assert_eq!(error.code, "E0865");
    assert!(error.message.contains("`x` has 256 bytes"), "{}", error.message);
    assert!(error.message.contains("at most 255"), "{}", error.message);
    let error = refused(Limits { binding: 255, ..Limits::default() });
    assert_eq!(error.code, "E0865");
    assert!(error.message.contains("takes 256 bytes"), "{}", error.message);
    assert!(error.message.contains("at most 255"), "{}", error.message);
    let error = refused(Limits { bindings: 3, ..Limits::default() });
    assert_eq!(error.code, "E0863");
    assert!(error.message.contains("takes 4 buffers, the adapter allows 3"), "{}", error.message);
}

#[test]
fn types_that_an_adapter_lacks() {
    for (text, dtype) in [
        ("model m(x: i64[4]) { return x + x as y }", "i64"),
        ("model m(x: f64[4]) { return x + x as y }", "f64"),
    ] {
        let program = program(text);
        let error = *Dispatches::of(&program, &Limits::default()).expect_err("it has no such type");
        assert_eq!(error.code, "E0862");
        assert!(error.message.contains(dtype), "{}", error.message);
        let integers = Features { int64: true, ..Features::default() };
        let features = Features { float64: true, ..integers };
        assert!(Dispatches::of(&program, &Limits { features, ..Limits::default() }).is_ok());
    }
}

/// Repeats are written out, and a run has so many launches at most.
#[test]
fn too_many_launches() {
    let text = "model m(xs: f32[1100000]) {\n\
                last, all = scan(xs, init = zeros([])) { |sum, x|\n\
                next = sum * 0.5 + x\n\
                return next, next\n}\n\
                return all as y\n}";
    let error = *Dispatches::of(&program(text), &Limits::default()).expect_err("too many");
    assert_eq!(error.code, "E0867");
}

#[test]
fn lost_devices_are_errors() {
    if !here() {
        return;
    }
    let (device, mut session) = doubling(None);
    doubles(&mut session, 1.5);
    device.give_up();
    assert_eq!(code(session.run().and_then(|()| session.wait())), "E0866");
    assert_eq!(code(session.output_tensor(0)), "E0866");
    assert_eq!(code(session.run_timed(&mut vec![])), "E0866");
    assert_eq!(code(session.set_input(0, &[0; 16])), "E0866");
    assert!(
        Compiled::new(program(DOUBLE), device, (Matmul::Auto, &Tiles::default()), None).is_err()
    );
    // Others go on.
    doubles(&mut doubling(None).1, 2.5);
}

#[test]
fn several_devices_at_once() {
    if !here() {
        return;
    }
    let mut sessions = [doubling(None).1, doubling(None).1, doubling(None).1];
    for round in 0..3 {
        for (i, session) in sessions.iter_mut().enumerate() {
            doubles(session, (10 * round + i) as f32);
        }
    }
}

/// One that remembers what it was given, and gives what it has.
#[derive(Debug, Default)]
struct Memory(Mutex<Option<Vec<u8>>>);

impl Keep for Memory {
    fn load(&self, _: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().clone()
    }

    fn store(&self, name: &str, bytes: &[u8]) {
        assert!(!name.contains(['/', '\\']), "{name}");
        *self.0.lock().unwrap() = Some(bytes.to_vec());
    }
}

/// What is kept is used again, and what is nothing of the kind does no harm: wgpu looks at its header.
#[test]
fn pipelines_are_kept() {
    if !here() {
        return;
    }
    let memory = Memory::default();
    doubles(&mut doubling(Some(&memory)).1, 1.0);
    let kept = memory.0.lock().unwrap().clone();
    // Not every backend has something to keep.
    let Some(kept) = kept else { return };
    doubles(&mut doubling(Some(&memory)).1, 2.0);
    let mut other = kept.clone();
    other[20] ^= 0xff;
    for damaged in [vec![], b"nothing of the kind".to_vec(), kept[..kept.len() - 1].to_vec(), other]
    {
        *memory.0.lock().unwrap() = Some(damaged);
        doubles(&mut doubling(Some(&memory)).1, 3.0);
        assert_eq!(memory.0.lock().unwrap().as_ref(), Some(&kept));
    }
}

#[test]
fn nothing_to_compute() {
    if !here() {
        return;
    }
    let text = "model m(x: f32[0, 4], y: f32[3, 0]) {\n\
                return exp(x) as a, sum(x, axis = 0) as b, y @ x as c }";
    let mut session = model(text).session().unwrap();
    for _ in 0..2 {
        session.run().unwrap();
        let out = |i: usize| session.output(i).unwrap();
        assert_eq!(out(0).shape(), [0, 4]);
        assert_eq!(out(1), Tensor::from_slice(&[4], &[0.0f32; 4]));
        assert_eq!(out(2), Tensor::from_slice(&[3, 4], &[0.0f32; 12]));
    }
}

#[test]
fn values_that_are_not_finite() {
    if !here() {
        return;
    }
    let text = "model m(x: f32[5]) { return relu(x) as a, x * 0 as b, maximum(x, 1) as c, x == x as d, \
                x - x as e, x / x as f, 0 / x as g }";
    let mut session = model(text).session().unwrap();
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    session.set_input(0, &Tensor::from_slice(&[5], &[nan, inf, -inf, -0.0, 2.0])).unwrap();
    session.run().unwrap();
    let floats = |i: usize| session.output(i).unwrap().as_slice::<f32>().to_vec();
    let same = |got: Vec<f32>, want: [f32; 5]| {
        let equal = got.iter().zip(&want).all(|(g, w)| g == w || (g.is_nan() && w.is_nan()));
        assert!(equal, "{got:?} instead of {want:?}");
    };
    same(floats(0), [nan, inf, 0.0, 0.0, 2.0]);
    same(floats(1), [nan, nan, nan, 0.0, 0.0]);
    same(floats(2), [nan, inf, 1.0, 1.0, 2.0]);
    same(floats(4), [nan, nan, nan, 0.0, 0.0]);
    same(floats(5), [nan, nan, nan, nan, 1.0]);
    same(floats(6), [nan, 0.0, 0.0, nan, 0.0]);
    assert_eq!(session.output(3).unwrap().as_bools(), [0, 1, 1, 1, 1]);
}
