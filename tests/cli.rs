//! Calls of the command line, from a folder that is not the repository.
//!
//! A file `tests/golden/cli/NAME.calls` holds calls (`$ dlc …`), one after the other in one folder,
//! each followed by its exit status, its standard output and (behind `! `) its standard error.
//! `[..]` in an expectation stands for any text in a line; blessing (`DLC_BLESS=1`) puts it where
//! times and the processor are printed. The folder has the examples in `examples/` and
//! `tests/golden/cli/files/`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of its own with the examples and the test's files.
fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("dlc-cli-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    copy(&root().join("examples"), &dir.join("examples"));
    copy(&root().join("tests/golden/cli/files"), &dir);
    dir
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => std::fs::copy(&path, &target).map(drop).unwrap(),
        }
    }
}

struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
}

/// Runs `dlc` with words split at spaces; single quotes hold a word together, `< TEXT` at the end
/// is standard input. There is no place for a key, so that files hold nothing of this machine.
fn call(dir: &Path, line: &str) -> Outcome {
    call_with_data(dir, line, &dir.join("small.dl"))
}

/// As [`call`], with the folder of the user's data.
fn call_with_data(dir: &Path, line: &str, data: &Path) -> Outcome {
    let (line, input) = line.split_once(" < ").map_or((line, ""), |(l, i)| (l, i));
    let mut words = vec![];
    for (i, part) in line.split('\'').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_string)),
            _ => words.push(part.to_string()),
        }
    }
    assert_eq!(words.remove(0), "dlc", "calls begin with dlc");
    let mut child = Command::new(env!("CARGO_BIN_EXE_dlc"))
        .args(words)
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .env("XDG_DATA_HOME", data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dlc starts");
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, input.as_bytes()).ok();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Outcome {
        status: out.status.code().unwrap_or(-1),
        stdout: text(&out.stdout),
        stderr: text(&out.stderr),
    }
}

fn transcript(dir: &Path, line: &str) -> String {
    let o = call(dir, line);
    let mut text = format!("$ {line}\nexit {}\n", o.status);
    for l in o.stdout.lines() {
        let _ = writeln!(text, "{}", without_times(l));
    }
    for l in o.stderr.lines() {
        let _ = writeln!(text, "! {}", without_times(l));
    }
    text
}

/// What the processor is and numbers before a unit of time are `[..]`.
fn without_times(line: &str) -> String {
    if let Some((before, _)) = line.split_once("note: it is ") {
        return format!("{before}note: it is [..]");
    }
    let words: Vec<&str> = line.split(' ').collect();
    let timed =
        |i: usize| words.get(i + 1).is_some_and(|w| w.starts_with("ms") || w.starts_with("µs"));
    let shown = (0..words.len()).map(|i| if timed(i) { "[..]" } else { words[i] });
    shown.collect::<Vec<_>>().join(" ")
}

/// Line by line, with `[..]` for any text.
fn matches(expected: &str, found: &str) -> bool {
    let (e, f): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    e.len() == f.len() && e.iter().zip(&f).all(|(e, f)| line_matches(e, f))
}

fn line_matches(expected: &str, found: &str) -> bool {
    let mut rest = found;
    let mut parts = expected.split("[..]");
    let first = parts.next().unwrap_or("");
    let Some(r) = rest.strip_prefix(first) else { return false };
    rest = r;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || expected.ends_with("[..]")
}

#[test]
fn scripts() {
    let bless = std::env::var_os("DLC_BLESS").is_some();
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(root().join("tests/golden/cli"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "calls"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let mut failures = vec![];
    for path in scripts {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let dir = folder(&name);
        let text = std::fs::read_to_string(&path).unwrap();
        let calls: Vec<String> =
            text.lines().filter_map(|l| l.strip_prefix("$ ")).map(str::to_string).collect();
        let found: Vec<String> = calls.iter().map(|c| transcript(&dir, c)).collect();
        let _ = std::fs::remove_dir_all(&dir);
        if bless {
            std::fs::write(&path, found.join("\n")).unwrap();
            continue;
        }
        let expected: Vec<String> = text
            .split("\n$ ")
            .enumerate()
            .map(|(i, b)| if i == 0 { b.to_string() } else { format!("$ {b}") })
            .collect();
        for (e, f) in expected.iter().zip(&found) {
            if !matches(e.trim_end(), f.trim_end()) {
                failures.push(format!("== {name}\n-- expected\n{e}\n-- found\n{f}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn json(dir: &Path, line: &str) -> Json {
    let o = call(dir, line);
    assert_eq!(o.status, 0, "{line}: {}", o.stderr);
    serde_json::from_str(&o.stdout).unwrap_or_else(|e| panic!("{line}: {e}\n{}", o.stdout))
}

fn has(value: &Json, keys: &[&str]) {
    for k in keys {
        assert!(value.get(k).is_some(), "`{k}` is missing in {value}");
    }
}

#[test]
fn json_documents_have_their_keys() {
    let dir = folder("json");
    let iris = "examples/iris/iris.dl";
    let memory = json(&dir, &format!("dlc inspect {iris} memory --format json --set batch=8"));
    has(
        &memory,
        &[
            "arena_bytes",
            "scratch_per_worker_bytes",
            "max_live_bytes",
            "weights_bytes",
            "state_bytes",
            "inputs_bytes",
            "outputs_bytes",
            "buffers",
            "order",
        ],
    );
    for b in memory["buffers"].as_array().unwrap() {
        has(b, &["id", "name", "offset", "bytes", "first", "last", "alias_of"]);
        assert_eq!(b["bytes"].as_u64().unwrap() % 64, 0);
    }
    let schedule = json(&dir, &format!("dlc inspect {iris} schedule --format json --set batch=8"));
    for l in schedule["launches"].as_array().unwrap() {
        has(
            l,
            &[
                "id",
                "kernel",
                "ops",
                "queue",
                "wave",
                "root",
                "depends_on",
                "flops",
                "bytes",
                "estimate_us",
            ],
        );
        let root = l["depends_on"].as_array().unwrap().is_empty();
        assert_eq!(l["root"].as_bool(), Some(root));
    }
    has(&schedule, &["queues"]);
    let fusion = json(&dir, &format!("dlc inspect {iris} fusion --format json --set batch=8"));
    for g in fusion["groups"].as_array().unwrap() {
        has(g, &["id", "anchor", "ops"]);
    }
    for d in fusion["decisions"].as_array().unwrap() {
        has(d, &["producer", "consumer", "fused", "reason"]);
        assert!(!d["reason"].as_str().unwrap().is_empty());
    }
    let inputs = json(&dir, &format!("dlc inspect {iris} inputs --format json"));
    assert_eq!(inputs["inputs"][0]["name"], "x");
    assert_eq!(inputs["dims"][0]["name"], "batch");
    let summary = json(&dir, &format!("dlc inspect {iris} summary --json --set batch=1"));
    assert_eq!(summary["params"], 4 * 20 + 20 + 20 * 10 + 10 + 10 * 3 + 3);
    for p in
        json(&dir, &format!("dlc inspect {iris} passes --json --set batch=1")).as_array().unwrap()
    {
        has(p, &["pass", "ms", "nodes_before", "nodes_after", "rewrites"]);
    }
    let bench =
        json(&dir, &format!("dlc bench {iris} --json --set batch=1 --duration 0.02 --warmup 0"));
    has(
        &bench,
        &[
            "median_us",
            "min_us",
            "p90_us",
            "runs",
            "first_run_us",
            "compile_ms",
            "load_ms",
            "arena_bytes",
            "weights_bytes",
            "peak_rss_bytes",
            "flops",
            "gflops",
        ],
    );
    let gru = "dlc bench examples/gru/gru.dl --set batch=2 --set seq=5 --duration 0.02 --warmup 0";
    let profile = json(&dir, &format!("{gru} --profile --json"));
    let launches = profile["launches"].as_array().unwrap();
    let sum = |key: &str| launches.iter().map(|l| l[key].as_f64().unwrap()).sum::<f64>();
    assert!((sum("share") - 1.0).abs() < 1e-9);
    // Launches inside the loop over five steps count five times, in both.
    assert!(launches.iter().any(|l| l["times"] == 5));
    assert_eq!(sum("flops"), profile["flops"].as_f64().unwrap());
    for l in launches {
        has(l, &["id", "kernel", "generator", "ops", "us", "bytes", "gflops", "gbytes"]);
    }
    let run = json(&dir, "dlc run examples/expr/expr.dl --json -i a=1 -i b=2 -i c=3 -i d=1");
    assert_eq!(run["outputs"]["z"]["data"][0], 6.0);
    assert_eq!(run["outputs"]["z"]["dtype"], "f32");
    let _ = std::fs::remove_dir_all(&dir);
}

/// The document of shaders says where each constant's values are in the file beside it.
#[test]
fn values_beside_shaders() {
    let dir = folder("values");
    let iris = "examples/iris/iris.dl --set batch=5";
    let document = json(&dir, &format!("dlc emit wgsl {iris} --json --values values"));
    let values = std::fs::read(dir.join("values")).unwrap();
    let mut end = 0;
    for buffer in document["buffers"].as_array().unwrap() {
        let role = buffer["role"].as_str().unwrap();
        if role == "arena" {
            continue;
        }
        has(buffer, &["name", "bytes", "dtype", "shape"]);
        if role == "const" {
            assert_eq!(buffer["values"], end);
            end += buffer["bytes"].as_u64().unwrap();
        }
    }
    assert_eq!(values.len() as u64, end);
    assert!(values.chunks(4).filter(|word| word.iter().any(|b| *b != 0)).count() > 50);
    for wrong in
        [format!("dlc emit ir {iris} --values v"), format!("dlc emit wgsl {iris} --values v")]
    {
        assert_eq!(call(&dir, &wrong).status, 2, "{wrong}");
    }
    let missing = "dlc emit wgsl examples/resnet/resnet.dl --set batch=1 --json --values v";
    assert_eq!(call(&dir, missing).status, 1);
    let _ = std::fs::remove_dir_all(&dir);
}

/// Two builds in two processes, with one thread and with two, are equal to the byte.
#[test]
fn builds_are_equal() {
    let dir = folder("equal");
    for (model, name) in
        [("examples/iris/iris.dl", "iris"), ("examples/digits/digits.dl", "digits")]
    {
        for threads in ["1", "2"] {
            let o = call(
                &dir,
                &format!("dlc compile {model} -o {name}{threads}.dlm --threads {threads}"),
            );
            assert_eq!(o.status, 0, "{}", o.stderr);
        }
        let read = |t: &str| std::fs::read(dir.join(format!("{name}{t}.dlm"))).unwrap();
        assert_eq!(read("1"), read("2"));
        let dump = |t: &str| {
            call(&dir, &format!("dlc emit kernels {model} --set batch=4 --threads {t}")).stdout
        };
        assert_eq!(dump("1"), dump("2"));
        let run = |t: &str, m: &str| {
            call(&dir, &format!("dlc run {m} --random --set batch=4 --threads {t}")).stdout
        };
        assert_eq!(run("1", model), run("2", model));
        assert_eq!(run("1", model), run("1", &format!("{name}1.dlm")));
    }
    let _ = std::fs::remove_dir_all(&dir);
}

/// A `.dlm` keeps the precision that it was compiled with, unless another one is given.
#[test]
fn dlm_keeps_the_precision() {
    let dir = folder("precision");
    let dense = "model m(x: f32[3, 40]) { return x |> dense(8) as d }";
    std::fs::write(dir.join("dense.dl"), dense).unwrap();
    let stdout = |line: &str| {
        let o = call(&dir, line);
        assert_eq!(o.status, 0, "{line}: {}", o.stderr);
        o.stdout
    };
    stdout("dlc compile dense.dl -o dense.dlm --weights random --precision bf16");
    let run = |p: &str| stdout(&format!("dlc run dense.dl --weights random --random{p}"));
    let (wide, narrow) = (run(""), run(" --precision bf16"));
    assert_ne!(wide, narrow);
    assert_eq!(stdout("dlc run dense.dlm --random"), narrow);
    assert_eq!(stdout("dlc run dense.dlm --random --precision f32"), wide);
    // Its machine code is that of its precision.
    #[cfg(feature = "cpu")]
    {
        let key = dir.join("key");
        let call = |line: &str| call_with_data(&dir, line, &key);
        call("dlc compile dense.dl -o sealed.dlm --weights random --precision bf16");
        let anew = |o: Outcome| o.stderr.contains("compiled anew");
        assert!(!anew(call("dlc run sealed.dlm --random -v")));
        assert!(anew(call("dlc run sealed.dlm --random -v --precision f32")));
    }
    let _ = std::fs::remove_dir_all(&dir);
}

/// Machine code in a `.dlm` is used under the key that sealed it, and else made anew.
#[cfg(feature = "cpu")]
#[test]
fn code_is_used_under_its_own_key() {
    let dir = folder("sealed");
    let (mine, yours) = (dir.join("mine"), dir.join("yours"));
    let compile = |name: &str, threads: u8, data: &Path| {
        let line = format!("dlc compile small.dl -o {name} --threads {threads}");
        let o = call_with_data(&dir, &line, data);
        assert_eq!(o.status, 0, "{}", o.stderr);
        std::fs::read(dir.join(name)).unwrap()
    };
    let bytes = compile("mine.dlm", 1, &mine);
    assert_eq!(bytes, compile("again.dlm", 2, &mine));
    assert!(bytes != compile("yours.dlm", 1, &yours));
    let run = |name: &str, data: &Path| {
        let line = format!("dlc run {name} -v --input x=f32[2,3]:1,2,3,4,5,6 --input s=2");
        let o = call_with_data(&dir, &line, data);
        assert_eq!(o.status, 0, "{}", o.stderr);
        (o.stdout, o.stderr)
    };
    let (want, said) = run("mine.dlm", &mine);
    assert!(want.contains("12"), "{want}");
    assert_eq!(said, "", "nothing is compiled");
    for (name, data, why) in [
        ("mine.dlm", &yours, "not sealed by this user"),
        ("yours.dlm", &mine, "not sealed by this user"),
        ("mine.dlm", &dir.join("nobody"), "not sealed by this user"),
    ] {
        let (found, said) = run(name, data);
        assert_eq!(found, want);
        assert!(said.contains(why), "{said}");
    }
    // One byte of the code, which ends before the container's directory.
    let at = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap() - 8;
    let mut altered = bytes.clone();
    altered[at] ^= 1;
    std::fs::write(dir.join("altered.dlm"), altered).unwrap();
    let (found, said) = run("altered.dlm", &mine);
    assert_eq!(found, want);
    assert!(said.contains("not sealed by this user"), "{said}");
    let _ = std::fs::remove_dir_all(&dir);
}

/// What `--tune` finds is used on this machine, and ignored with a warning where it is another's.
#[cfg(feature = "cpu")]
#[test]
fn tuned_models_compute_the_same() {
    use dlc::artifact::dlm;
    let dir = folder("tuned");
    let data = dir.join("data");
    let digits = "examples/digits/digits.dl:cnn --set batch=4";
    let ok = |line: &str| {
        let o = call_with_data(&dir, line, &data);
        assert_eq!(o.status, 0, "{line}: {}", o.stderr);
        (o.stdout, o.stderr)
    };
    ok(&format!("dlc compile {digits} -o plain.dlm"));
    ok(&format!("dlc compile {digits} -o tuned.dlm --tune 0.5"));
    let want = ok("dlc run plain.dlm --random");
    assert_eq!(ok("dlc run tuned.dlm --random"), want);
    assert_eq!(ok("dlc run tuned.dlm --random -v"), want, "nothing is compiled");
    assert_eq!(ok("dlc run plain.dlm --random --tune 0"), want);
    let mut parts = dlm::read_file(&dir.join("plain.dlm")).unwrap();
    parts.manifest.tuned =
        Some(dlm::Tuned { machine: "another".into(), tiles: Default::default() });
    dlm::write_file(&dir.join("foreign.dlm"), &parts).unwrap();
    let (found, said) = ok("dlc run foreign.dlm --random");
    assert_eq!(found, want.0);
    assert!(said.contains("W0102"), "{said}");
    for wrong in ["-1", "nan", "1e9"] {
        let o = call(&dir, &format!("dlc compile {digits} --tune={wrong}"));
        assert_eq!(o.status, 2, "{}", o.stderr);
    }
    let open = call(&dir, "dlc compile examples/digits/digits.dl:cnn --tune 1");
    assert!(open.stderr.contains("E0706"), "{}", open.stderr);
    let _ = std::fs::remove_dir_all(&dir);
}

/// A trace of `run` holds everything from the first pass to the launches.
#[test]
fn traces_hold_passes_code_and_launches() {
    let dir = folder("trace");
    let line = "dlc run examples/iris/iris.dl --input f32[1,4]:6,2,4,1 --trace t.json";
    let o = call(&dir, line);
    assert_eq!(o.status, 0, "{}", o.stderr);
    let text = std::fs::read_to_string(dir.join("t.json")).unwrap();
    let trace: Json = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for category in ["pass", "lowering", "schedule", "code", "launch"] {
        assert!(events.iter().any(|e| e["cat"] == category), "no {category} in {text}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}
