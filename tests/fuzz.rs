//! The fuzz functions of the library, each for about a second, on a stable compiler.
//!
//! A seeded mutator starts from valid files, so a failure repeats: it names the round, and the input
//! is kept in the system's folder for temporary files. The targets under `fuzz/` run the same
//! functions for as long as one likes.

use std::io::{Cursor, Write};
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use dlc::artifact::dlm;
use dlc::base::{DType, Tensor};
use dlc::import::{Weights, npy, safetensors, value};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// Seconds for each function; `DLC_FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 1;
/// Inputs grow no longer than this.
const LIMIT: usize = 1 << 15;

#[test]
fn dl() {
    let words = "model block return repeat if else layer state import weights train dim in as with \
                 |> := ** // -> [ ] ( ) { } f32[2] 0..4 x.shape[0] \"a\" 1e400 99999999999999999999";
    let seeds =
        ["expr/expr.dl", "iris/iris.dl", "digits/digits.dl", "resnet/resnet.dl", "gru/gru.dl"];
    run("dl", &seeds.map(example), words, dlc::front::fuzz);
}

#[test]
fn npy() {
    let big = Tensor::from_slice(&[2, 3], &[1i16, 2, 3, 4, 5, 6]);
    let swapped = replaced(
        &npy::write(&big).unwrap(),
        b"'<i2', 'fortran_order': False",
        b"'>i2', 'fortran_order': True ",
    );
    let array = npy::write(&Tensor::from_bools(&[2], &[true, false])).unwrap();
    let archive = |method| zip_of(&[("a.npy", array.clone()), ("b.npy", swapped.clone())], method);
    let seeds = [
        example("iris/iris_y.npy"),
        npy::write(&Tensor::zeros(DType::F64, &[0, 3]).unwrap()).unwrap(),
        archive(CompressionMethod::Stored),
        archive(CompressionMethod::Deflated),
        swapped,
    ];
    let words =
        "'descr' 'shape' 'fortran_order' True False (1,) (0,99999999999) '>f8' '|b1' '|O' { }";
    run("npy", &seeds, words, npy::fuzz);
}

#[test]
fn safetensors() {
    let mut all = Weights::default();
    for dtype in DType::ALL {
        all.insert(dtype.name(), Tensor::zeros(dtype, &[3]).unwrap());
    }
    all.insert("empty", Tensor::zeros(DType::F32, &[0, 7]).unwrap());
    let seeds = [example("iris/iris.safetensors"), safetensors::write(&all)];
    let words = "\"dtype\" \"shape\" \"data_offsets\" \"F32\" \"BOOL\" \"F8_E5M2\" [0,4] [0,0] \
                 [18446744073709551615] {} [[[[[ __metadata__ -1 1e9";
    run("safetensors", &seeds, words, safetensors::fuzz);
}

#[test]
fn dlm() {
    let mut parts = dlm::Parts { graph: "graph m() { }\n".into(), ..dlm::Parts::default() };
    parts.manifest.inputs.push(dlm::Port {
        name: "x".into(),
        dtype: "f32".into(),
        shape: vec!["batch".into(), "4".into()],
    });
    let small = dlm::write(&parts, None).unwrap();
    parts.weights.insert("w", Tensor::from_slice(&[2], &[1.0f32, 2.0]));
    parts.constants.insert("c", Tensor::from_slice(&[1], &[7i64]));
    let words = "PK\u{1}\u{2} PK\u{3}\u{4} PK\u{5}\u{6} graph.dl manifest.json \"f32\" \"sha256\" ../x [[[[ {{{{";
    run("dlm", &[small, dlm::write(&parts, None).unwrap()], words, dlm::fuzz);
}

/// The entries of a compiled model, under checksums that agree with them: what lies behind these.
#[test]
fn dlm_entries() {
    fn weights(data: &[u8]) {
        dlm::fuzz(&container(b"graph m() { }", data));
    }
    fn manifest(data: &[u8]) {
        let graph = b"graph m() { }".to_vec();
        let weights = safetensors::write(&Weights::default());
        let entries = [
            ("manifest.json", data.to_vec()),
            ("graph.dl", graph),
            ("weights.safetensors", weights),
        ];
        dlm::fuzz(&zip_of(&entries, CompressionMethod::Stored));
    }
    let text = container(b"graph m() { }", &safetensors::write(&Weights::default()));
    let shared = dlc::base::tensor::AlignedBytes::copy_of(&text);
    assert!(dlm::read(std::sync::Arc::new(shared)).is_ok());
    let (from, to) =
        (text.windows(2).position(|w| w == b"{\n"), text.windows(4).position(|w| w == b"\n}\nP"));
    let text = text[from.unwrap()..to.unwrap() + 3].to_vec();
    assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
    run(
        "dlm-weights",
        &[example("iris/iris.safetensors")],
        "[0,0] \"F32\" {} 18446744073709551615",
        weights,
    );
    run(
        "dlm-manifest",
        &[text],
        "\"dims\" null [] {} -1 1e9 \"high\" \"shape\" 99999999999999999999",
        manifest,
    );
}

/// A compiled model of this graph and these bytes of weights.
fn container(graph: &[u8], weights: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let entry = |name: &str, bytes: &[u8]| {
        let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        serde_json::json!({ "name": name, "bytes": bytes.len(), "sha256": hash })
    };
    let manifest = serde_json::json!({
        "format": "dlm", "format_version": dlm::FORMAT_VERSION, "dlc_version": "0.1.0", "model": "m",
        "options": {}, "inputs": [], "outputs": [], "dims": [],
        "entries": [entry("graph.dl", graph), entry("weights.safetensors", weights)],
    });
    let manifest = format!("{manifest:#}\n").into_bytes();
    let entries = [
        ("manifest.json", manifest),
        ("graph.dl", graph.to_vec()),
        ("weights.safetensors", weights.to_vec()),
    ];
    zip_of(&entries, CompressionMethod::Stored)
}

#[test]
fn values() {
    let texts = [
        "f32[2,3]:1,2,3,4,5,6",
        "1,2,3,4",
        "[[1,2],[3,4]]",
        "u8[2]:[0x10,255]",
        "f16[3]:nan,-inf,0x7e01",
        "f32[2,0]:[[],[]]",
        "bool[]:true",
        "i64[1]:-9",
    ];
    let words = "f32[ bf16 f64[2]: ] [ , : nan inf -inf 0x7fc00000 1e-45 1e39 -0.0 true [[[[ ]]]]";
    run("value", &texts.map(|t| t.as_bytes().to_vec()), words, value::fuzz);
}

/// Runs `target` on the seeds and on mutations of them until the time is over.
fn run(name: &str, seeds: &[Vec<u8>], words: &str, target: fn(&[u8])) {
    let words: Vec<&[u8]> = words.split_ascii_whitespace().map(str::as_bytes).collect();
    let asked = std::env::var("DLC_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let (begin, time) = (Instant::now(), Duration::from_secs(asked.unwrap_or(SECONDS)));
    let mut rounds = 0;
    while rounds < 4 * seeds.len() as u64 || begin.elapsed() < time {
        let mut input = seeds[rounds as usize % seeds.len()].clone();
        if rounds >= seeds.len() as u64 {
            // The round alone is the seed, so that it can be run by itself.
            let mut random = SplitMix(rounds);
            for _ in 0..1 + random.below(6) {
                let other = &seeds[random.below(seeds.len())];
                mutate(&mut input, other, &words, &mut random);
            }
            input.truncate(LIMIT);
        }
        if catch_unwind(|| target(&input)).is_err() {
            let path = std::env::temp_dir().join(format!("dlc-fuzz-{name}-{rounds}"));
            std::fs::write(&path, &input).unwrap();
            panic!("{name}: round {rounds} fails; its input is {}", path.display());
        }
        rounds += 1;
    }
}

fn mutate(input: &mut Vec<u8>, other: &[u8], words: &[&[u8]], random: &mut SplitMix) {
    let at = random.below(input.len() + 1);
    let rest = input.len() - at;
    let length = random.below(rest.min(64) + 1);
    match random.below(9) {
        0 if rest > 0 => input[at] ^= 1 << random.below(8),
        1 if rest > 0 => input[at] = [0, 1, 0x7f, 0x80, 0xff, b' ', b'0', b'9'][random.below(8)],
        2 => drop(input.drain(at..at + length)),
        3 => {
            let copy = input[at..at + length].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, copy);
        }
        4 => input.truncate(at),
        5 => {
            let numbers = [0u64, 1, 64, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX];
            let bytes = numbers[random.below(numbers.len())].to_le_bytes();
            let width = [2, 4, 8][random.below(3)].min(rest);
            input[at..at + width].copy_from_slice(&bytes[..width]);
        }
        6 => {
            let from = random.below(other.len() + 1);
            let length = random.below((other.len() - from).min(256) + 1);
            input.splice(at..at, other[from..from + length].iter().copied());
        }
        7 => {
            // Many brackets in a row, as no one writes them.
            let word = words[random.below(words.len())];
            let times = if random.below(20) == 0 { 5000 / word.len() } else { 1 };
            input.splice(at..at, word.repeat(times));
        }
        _ => {
            let word = words[random.below(words.len())];
            let end = (at + word.len()).min(input.len());
            input.splice(at..end, word.iter().copied());
        }
    }
}

/// Steele, Lea and Flood, OOPSLA 2014.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * n as u128) >> 64) as usize
    }
}

fn example(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).expect("the text is there");
    let mut out = bytes.to_vec();
    out[at..at + to.len()].copy_from_slice(to);
    out
}

fn zip_of(entries: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    for (name, bytes) in entries {
        let options = SimpleFileOptions::default().compression_method(method).with_alignment(64);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}
