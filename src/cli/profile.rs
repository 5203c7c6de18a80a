//! `dlc bench --profile`: what each launch takes, and how fast it is.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::model::Diagnostics;
use crate::schedule::program::Program;
use crate::session::Session;

/// What one launch took, over all its executions in a run.
pub struct Row {
    id: usize,
    kernel: String,
    generator: Cow<'static, str>,
    ops: Vec<Cow<'static, str>>,
    /// Executions in a run: more than one inside a repeat.
    times: u64,
    /// Median over the runs.
    us: f64,
    /// The shortest: what other work on the machine touches least.
    least: f64,
    /// Of the sum of all medians.
    share: f64,
    /// In a run.
    flops: u64,
    bytes: u64,
}

impl Row {
    /// 10⁹ a second.
    fn rate(&self, count: u64) -> f64 {
        if self.us > 0.0 { count as f64 / self.us / 1e3 } else { 0.0 }
    }

    pub fn json(&self) -> Value {
        json!({
            "id": self.id, "kernel": self.kernel, "generator": self.generator, "ops": self.ops,
            "times": self.times, "us": self.us, "min_us": self.least, "share": self.share,
            "flops": self.flops, "bytes": self.bytes, "gflops": self.rate(self.flops), "gbytes": self.rate(self.bytes),
        })
    }
}

/// The rows as a table, the longest first.
pub fn text(mut rows: Vec<Row>) -> String {
    rows.sort_by(|a, b| b.us.total_cmp(&a.us));
    let mut text = format!(
        "{:>6} {:>12} {:>12} {:>9} {:>9} {:>7}  {:<10} {:<24} ops\n",
        "share", "µs", "min µs", "GFLOP/s", "GB/s", "launch", "generator", "kernel"
    );
    for r in &rows {
        text.push_str(&format!(
            "{:>5.1}% {:>12.2} {:>12.2} {:>9.2} {:>9.2} {:>7}  {:<10} {:<24} {}\n",
            r.share * 100.0,
            r.us,
            r.least,
            r.rate(r.flops),
            r.rate(r.bytes),
            r.id,
            r.generator,
            r.kernel,
            r.ops.join(" "),
        ));
    }
    text
}

/// Runs for so many seconds, at least three times, and times each launch by itself: by the device's clock
/// on a GPU, elsewhere by one that takes some tens of nanoseconds, which are in each figure. Engines without
/// machine code time nothing.
pub fn launches(
    program: &Program,
    session: &mut Session,
    seconds: f64,
) -> Result<Vec<Row>, Diagnostics> {
    let count = program.launches.len();
    let mut samples: Vec<Vec<f64>> = vec![vec![]; count];
    let mut executions = vec![0u64; count];
    let mut times = vec![];
    let start = Instant::now();
    let mut runs = 0;
    while runs < 3 || start.elapsed() < Duration::from_secs_f64(seconds) {
        session.run_timed(&mut times)?;
        if times.is_empty() {
            return Ok(vec![]);
        }
        let mut sums = vec![0.0; count];
        executions.fill(0);
        for (id, t) in &times {
            sums[id.0 as usize] += t.as_secs_f64() * 1e6;
            executions[id.0 as usize] += 1;
        }
        samples.iter_mut().zip(sums).for_each(|(s, us)| s.push(us));
        runs += 1;
    }
    samples.iter_mut().for_each(|s| s.sort_by(f64::total_cmp));
    let medians: Vec<f64> = samples.iter().map(|s| s[s.len() / 2]).collect();
    let total: f64 = medians.iter().sum();
    let row = |(id, l): (usize, &crate::schedule::program::Launch)| Row {
        id,
        kernel: program.kernel(l.kernel).name.to_string(),
        generator: l.generator.clone(),
        ops: l.ops.clone(),
        times: executions[id],
        us: medians[id],
        least: samples[id][0],
        share: if total > 0.0 { medians[id] / total } else { 0.0 },
        flops: l.flops.saturating_mul(executions[id]),
        bytes: l.bytes.saturating_mul(executions[id]),
    };
    Ok(program.launches.iter().enumerate().map(row).collect())
}
