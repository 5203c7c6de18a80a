//! Machine code in `.dlm` files: restored where its seal holds and the machine is the same, and
//! compiled anew everywhere else, with the same results.

use std::collections::BTreeMap;
use std::sync::Arc;

use dlc::artifact::code::{self, Unused};
use dlc::artifact::dlm::{self, File, Sealed};
use dlc::artifact::model_file;
use dlc::artifact::seal::Seal;
use dlc::base::Tensor;
use dlc::base::tensor::AlignedBytes;
use dlc::load::{Files, model};
use dlc::model::{Model, Options, WeightSource};
use dlc::target::Target;

/// Folded batch normalization, packed weights, attention to tails, and a state.
const NET: &str = "model net(x: f32[2, 3, 10, 10]) {
    state calls: f32[] = 1
    calls := calls * 2
    h = x |> conv2d(16, 3, pad = 1, bias = false) as conv |> batch_norm as bn |> relu
    p = h |> max_pool(2, 2) |> flatten |> dense(33) as hidden |> relu |> dense(7) as last
    return softmax(p) * calls as y
}";

fn options() -> Options {
    Options { weights: WeightSource::Random, ..Options::default() }
}

fn compiled(options: Options) -> Model {
    let text = |_: &str| Err("no imports".to_string());
    let bytes = |_: &str| unreachable!("no weights files");
    model("net", NET, None, options, &Files { text: &text, bytes: &bytes }).unwrap()
}

fn seal(key: u8) -> Seal {
    Seal::new([key; 32], "test")
}

fn file_of(model: &Model, seal: &Seal) -> Vec<u8> {
    let made = code::compiled(model).unwrap().expect("the model is closed");
    let sealed = Sealed { code: &made.code, prepared: &made.prepared, seal };
    dlm::write(&model_file::parts(model), Some(sealed)).unwrap()
}

fn open(bytes: &[u8]) -> File {
    File::open(Arc::new(AlignedBytes::copy_of(bytes))).unwrap()
}

fn restore(bytes: &[u8], key: &Seal, options: &Options) -> Result<Model, Unused> {
    code::restore(&open(bytes), key, options)
}

fn restored(bytes: &[u8]) -> Model {
    restore(bytes, &seal(1), &Options::default()).unwrap()
}

fn refused(bytes: &[u8], key: &Seal, options: &Options) -> Unused {
    restore(bytes, key, options).err().expect("it is not used")
}

/// Outputs of two runs of one session.
fn results(model: &Model) -> Vec<Tensor> {
    let values: Vec<f32> = (0..600).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
    let input = Tensor::from_slice(&[2, 3, 10, 10], &values);
    let mut session = model.session().unwrap();
    session.set_input(0, &input).unwrap();
    let mut run = || {
        session.run().unwrap();
        session.output(0).unwrap()
    };
    vec![run(), run()]
}

#[test]
fn what_is_stored_comes_back() {
    let made = compiled(options());
    let bytes = file_of(&made, &seal(1));
    let back = restored(&bytes);
    assert_eq!(results(&back), results(&made));
    assert_ne!(results(&back)[0], results(&back)[1], "the state moves on");
    assert!(back.plans().is_empty() && back.passes().is_empty(), "nothing is compiled");
    assert_eq!((back.inputs(), back.outputs()), (made.inputs(), made.outputs()));
    let dims = Default::default();
    assert_eq!(
        back.program(&dims).unwrap().arena_bytes,
        made.plan(&dims).unwrap().program.arena_bytes
    );
    // Whoever asks for the plan gets one.
    assert_eq!(
        back.plan(&dims).unwrap().program.launches.len(),
        back.program(&dims).unwrap().launches.len()
    );
    assert_eq!(
        dlm::read(Arc::new(AlignedBytes::copy_of(&bytes))).unwrap(),
        model_file::parts(&made)
    );
    let threads = Options { threads: 2, ..Options::default() };
    assert_eq!(results(&restore(&bytes, &seal(1), &threads).unwrap()), results(&made));
}

#[test]
fn equal_builds_give_equal_bytes() {
    let threads = |threads| Options { threads, ..options() };
    let one = file_of(&compiled(threads(1)), &seal(1));
    assert!(one == file_of(&compiled(threads(3)), &seal(1)));
    assert!(one != file_of(&compiled(threads(1)), &seal(2)));
}

#[test]
fn without_a_key_there_is_no_code() {
    let model = compiled(options());
    let plain = dlm::write(&model_file::parts(&model), None).unwrap();
    assert!(!open(&plain).has_code());
    assert_eq!(refused(&plain, &seal(1), &Options::default()), Unused::None);
}

#[test]
fn other_keys_builds_machines_and_options() {
    let bytes = file_of(&compiled(options()), &seal(1));
    let plain = Options::default();
    assert_eq!(refused(&bytes, &seal(2), &plain), Unused::Seal);
    assert_eq!(refused(&bytes, &Seal::new([1; 32], "next"), &plain), Unused::Seal);
    let other = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        refused(&bytes, &seal(1), &options)
    };
    assert_eq!(other(|o| o.target.machine.caches[1] += 1), Unused::Other);
    assert_eq!(other(|o| o.target.machine.vector_bytes /= 2), Unused::Other);
    assert_eq!(other(|o| o.target = Target::parse("cpu:clif").unwrap()), Unused::Other);
    assert_eq!(other(|o| o.target = Target::parse("reference").unwrap()), Unused::Other);
    assert_eq!(other(|o| o.level = dlc::pipeline::Level::O1), Unused::Other);
    assert_eq!(other(|o| o.control.settings.strict = true), Unused::Other);
    assert_eq!(other(|o| o.control.limit = Some(1)), Unused::Other);
    assert_eq!(other(|o| o.weights = WeightSource::Random), Unused::Other);
    assert_eq!(other(|o| o.outputs = Some(vec!["y".into()])), Unused::Other);
    let x = Tensor::from_slice(&[2, 3, 10, 10], &[0.0f32; 600]);
    let options = Options { pins: BTreeMap::from([("x".into(), x)]), ..Options::default() };
    assert_eq!(refused(&bytes, &seal(1), &options), Unused::Other);
}

/// Where an entry's content begins and ends.
fn entry(bytes: &[u8], name: &str) -> std::ops::Range<usize> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let entry = zip.by_name(name).unwrap();
    let start = entry.data_start().unwrap() as usize;
    start..start + entry.size() as usize
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 << (at % 8);
    flipped
}

#[test]
fn altered_bytes_are_never_executed() {
    let bytes = file_of(&compiled(options()), &seal(1));
    let plain = Options::default();
    let code = entry(&bytes, "code.bin");
    let (head, tail) = (code.start..code.start + 48, code.end - 8..code.end);
    for at in head.chain(tail).chain(code.step_by(61)) {
        assert_eq!(refused(&flipped(&bytes, at), &seal(1), &plain), Unused::Seal, "at {at}");
    }
    for at in entry(&bytes, "prepared.bin").step_by(509) {
        assert_eq!(refused(&flipped(&bytes, at), &seal(1), &plain), Unused::Damaged, "at {at}");
    }
    let manifest = entry(&bytes, "manifest.json");
    let name = bytes[manifest.clone()].windows(5).position(|w| w == b"\"net\"").unwrap();
    let at = manifest.start + name + 1;
    assert!(File::open(Arc::new(AlignedBytes::copy_of(&flipped(&bytes, at)))).is_err());
}

/// Any byte changed, any end cut off: an error, code that is not used, or the same results.
#[test]
fn damaged_files_compute_the_same_or_nothing() {
    let model = compiled(options());
    let (parts, want) = (model_file::parts(&model), results(&model));
    let bytes = file_of(&model, &seal(1));
    for at in (0..bytes.len()).step_by(bytes.len() / 400) {
        for damaged in [flipped(&bytes, at), bytes[..at].to_vec()] {
            let shared = Arc::new(AlignedBytes::copy_of(&damaged));
            let Ok(file) = File::open(shared) else { continue };
            if let Ok(model) = code::restore(&file, &seal(1), &Options::default()) {
                assert_eq!(results(&model), want, "at {at}");
            }
            if let Ok(read) = file.parts() {
                assert_eq!(read, parts, "at {at}");
            }
        }
    }
}

/// Code and prepared weights of one model do not go with another graph.
#[test]
fn entries_of_two_files_do_not_mix() {
    let (one, seal) = (compiled(options()), seal(1));
    let two = compiled(Options { seed: 1, ..options() });
    let made = code::compiled(&one).unwrap().unwrap();
    let own = file_of(&two, &seal);
    // The code of the first file, as it stands there, in the place of the second file's.
    let theirs = file_of(&one, &seal);
    let (from, to) = (entry(&theirs, "code.bin"), entry(&own, "code.bin"));
    assert_eq!(from.len(), to.len());
    let mut mixed = own.clone();
    mixed[to].copy_from_slice(&theirs[from]);
    assert_eq!(refused(&mixed, &seal, &Options::default()), Unused::Seal);
    // Too few prepared bytes, though the seal holds.
    let sealed = Sealed { code: &made.code, prepared: &made.prepared[64..], seal: &seal };
    let short = dlm::write(&model_file::parts(&one), Some(sealed)).unwrap();
    assert_eq!(refused(&short, &seal, &Options::default()), Unused::Damaged);
}
