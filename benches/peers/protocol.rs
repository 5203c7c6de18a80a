//! The worker's side of `run.py`: one request a line on standard input, one answer a line on
//! standard output, both JSON. `worker.py` speaks the same for the peers in Python.
//!
//! - `{"do": "load", "model": FOLDER, "threads": N, "outputs": PREFIX}`: reads the model, runs it
//!   once, writes output I to `PREFIX_I.bin` as f32. Answer: `load_s` (until it can be called),
//!   `first_s` (until the first result), both from the model's files on; `base_rss`, `version`.
//! - `{"do": "measure", "seconds": S}`: calls it for S seconds. Answer: `median_us`, `min_us`,
//!   `calls`.
//! - `{"do": "quit"}`. Answer: `peak_rss`.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

pub type Fallible<T> = Result<T, Box<dyn Error>>;

/// A network that is ready to be called.
pub trait Ready {
    /// Runs once on the inputs that it was loaded with.
    fn call(&mut self);
    /// What the last call computed.
    fn outputs(&self) -> Vec<Vec<f32>>;
}

/// An input: its shape and elements.
pub struct Input {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// Answers requests until there are no more. `load` takes the model's folder, threads and inputs.
pub fn serve<R: Ready>(
    version: &str,
    load: impl Fn(&Path, usize, &[Input]) -> Fallible<R>,
) -> Fallible<()> {
    let mut ready = None;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = match request["do"].as_str() {
            Some("load") => match first(&request, &load) {
                Ok((r, mut answer)) => {
                    ready = Some(r);
                    answer["version"] = version.into();
                    answer
                }
                Err(e) => json!({ "error": e.to_string() }),
            },
            Some("measure") => match &mut ready {
                Some(r) => measure(r, request["seconds"].as_f64().unwrap_or(0.1)),
                None => json!({ "error": "nothing is loaded" }),
            },
            _ => json!({ "peak_rss": status("VmHWM:") }),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
        if request["do"] == "quit" {
            break;
        }
    }
    Ok(())
}

fn first<R: Ready>(
    request: &Value,
    load: &impl Fn(&Path, usize, &[Input]) -> Fallible<R>,
) -> Fallible<(R, Value)> {
    let folder = Path::new(request["model"].as_str().ok_or("`model` is missing")?);
    let threads = request["threads"].as_u64().unwrap_or(1) as usize;
    let inputs = inputs(folder)?;
    let base = status("VmRSS:");
    let start = Instant::now();
    let mut ready = load(folder, threads, &inputs)?;
    let load_s = start.elapsed().as_secs_f64();
    ready.call();
    let first_s = start.elapsed().as_secs_f64();
    let prefix = request["outputs"].as_str().ok_or("`outputs` is missing")?;
    for (i, values) in ready.outputs().iter().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(format!("{prefix}_{i}.bin"), bytes)?;
    }
    Ok((ready, json!({ "load_s": load_s, "first_s": first_s, "base_rss": base })))
}

/// Calls under 20 µs are timed a thousand at a time.
fn measure(ready: &mut impl Ready, seconds: f64) -> Value {
    let start = Instant::now();
    ready.call();
    let group = if start.elapsed().as_secs_f64() < 20e-6 { 1000 } else { 1 };
    let mut times = vec![];
    while times.is_empty() || start.elapsed().as_secs_f64() < seconds {
        let t = Instant::now();
        for _ in 0..group {
            black_box(&mut *ready).call();
        }
        times.push(t.elapsed().as_secs_f64() * 1e6 / group as f64);
    }
    times.sort_by(f64::total_cmp);
    let calls = times.len() * group + 1;
    json!({ "median_us": times[times.len() / 2], "min_us": times[0], "calls": calls })
}

/// The inputs that `models.py` wrote: C-contiguous f32 in NumPy's format, version 1.
fn inputs(folder: &Path) -> Fallible<Vec<Input>> {
    let facts: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("facts.json"))?)?;
    let described = facts["inputs"].as_array().ok_or("facts.json lacks `inputs`")?;
    let read = |(i, d): (usize, &Value)| {
        let bytes = std::fs::read(folder.join(format!("input_{i}.npy")))?;
        let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let element = |c: &[u8]| f32::from_le_bytes([c[0], c[1], c[2], c[3]]);
        let extents = d["shape"].as_array().ok_or("an input lacks its shape")?;
        Ok(Input {
            shape: extents.iter().filter_map(Value::as_u64).map(|e| e as usize).collect(),
            data: bytes[start..].chunks_exact(4).map(element).collect(),
        })
    };
    described.iter().enumerate().map(read).collect()
}

/// A line of `/proc/self/status`, in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("0");
    let kib = line.trim().trim_end_matches(" kB").trim().parse::<u64>();
    kib.unwrap_or(0) * 1024
}
