//! Outputs that are inputs of the next run, on every engine.

use dlc::base::{DType, Tensor};
use dlc::model::{Model, Options};
use dlc::session::Session;
use dlc::target::Target;

fn model(text: &str, target: &str) -> Model {
    let options = Options { target: Target::parse(target).unwrap(), ..Options::default() };
    dlc::compile(text, &options).unwrap()
}

fn floats(session: &Session, output: usize) -> Vec<f32> {
    session.output(output).unwrap().as_slice::<f32>().to_vec()
}

/// What must hold on a target.
pub fn check(target: &str) {
    steps(target);
    turns(target);
    narrow(target);
    refusals(target);
}

fn steps(target: &str) {
    let model = model("model m(x: f32[3], y: f32[3]) { return x * 2 + y as z }", target);
    let mut session = model.session().unwrap();
    session.set_input(0, &Tensor::from_slice(&[3], &[1.0f32, 2.0, 3.0])).unwrap();
    session.set_input(1, &Tensor::from_slice(&[3], &[1.0f32, 0.0, -1.0])).unwrap();
    session.run().unwrap();
    for _ in 0..3 {
        session.carry(0, 0).unwrap();
        session.run().unwrap();
    }
    assert_eq!(floats(&session, 0), [31.0, 32.0, 33.0], "{target}");
    // What was read does not change the next run; the other input has stayed.
    session.run().unwrap();
    assert_eq!(floats(&session, 0), [31.0, 32.0, 33.0], "{target}");
    // An input that is set afterwards is what counts, and so is the later one of two outputs.
    session.carry(0, 0).unwrap();
    session.set_input(0, &Tensor::from_slice(&[3], &[0.0f32, 0.5, 1.0])).unwrap();
    session.run().unwrap();
    assert_eq!(floats(&session, 0), [1.0, 1.0, 1.0], "{target}");
    session.set_input(0, &Tensor::from_slice(&[3], &[8.0f32; 3])).unwrap();
    session.carry(0, 0).unwrap();
    session.run().unwrap();
    assert_eq!(floats(&session, 0), [3.0, 2.0, 1.0], "{target}");
}

/// Two outputs change places.
fn turns(target: &str) {
    let text = "model m(a: f32[2], b: f32[2]) { return a + 1 as c, b - 1 as d }";
    let mut session = model(text, target).session().unwrap();
    session.set_input(0, &Tensor::from_slice(&[2], &[10.0f32, 20.0])).unwrap();
    session.set_input(1, &Tensor::from_slice(&[2], &[1.0f32, 2.0])).unwrap();
    session.run().unwrap();
    session.carry(0, 1).unwrap();
    session.carry(1, 0).unwrap();
    session.run().unwrap();
    assert_eq!(floats(&session, 0), [1.0, 2.0], "{target}");
    assert_eq!(floats(&session, 1), [10.0, 20.0], "{target}");
}

/// Elements that a GPU stores wider.
fn narrow(target: &str) {
    let text = "model m(a: bool[5], b: i8[5]) { return logical_not(a) as c, b * 3 as d }";
    let mut session = model(text, target).session().unwrap();
    session.set_input(0, &Tensor::from_bools(&[5], &[true, false, true, true, false])).unwrap();
    session.set_input(1, &Tensor::from_slice(&[5], &[1i8, -2, 3, -4, 50])).unwrap();
    session.run().unwrap();
    session.carry(0, 0).unwrap();
    session.carry(1, 1).unwrap();
    session.run().unwrap();
    let out = |i: usize| session.output(i).unwrap();
    assert_eq!(out(0), Tensor::from_bools(&[5], &[true, false, true, true, false]), "{target}");
    assert_eq!(out(1), Tensor::from_slice(&[5], &[9i8, -18, 27, -36, -62]), "{target}");
}

fn refusals(target: &str) {
    let text = "model m(a: f32[2, 3], b: f32[3, 2], c: i32[2, 3]) \
                { return a + cast(c, f32) as x, transpose(b) as y }";
    let mut session = model(text, target).session().unwrap();
    let refused = |session: &mut Session, output, input| {
        let error = session.carry(output, input).expect_err("it does not fit");
        assert!(error.to_string().contains("E0874"), "{error}");
        error.to_string()
    };
    let message = refused(&mut session, 0, 1);
    assert!(message.contains("output 0 is f32[2, 3], input 1 takes f32[3, 2]"), "{message}");
    refused(&mut session, 0, 2);
    assert!(refused(&mut session, 2, 0).contains("no output 2"));
    assert!(refused(&mut session, 0, 3).contains("no input 3"));
    session.carry(1, 0).unwrap();
    session.run().unwrap();
    assert_eq!(session.output(0).unwrap().dtype(), DType::F32);
}

#[test]
fn outputs_become_inputs() {
    check("reference");
    check("cpu:interpreter");
    #[cfg(feature = "cpu")]
    check("cpu");
}
