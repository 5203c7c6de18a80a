//! `inspect graph`: the graph, before or after a pass.

use super::super::load::{self, Missing};
use super::super::out;
use super::super::report::{Failure, Reporter};
use super::{Args, Format};
use crate::ir::Graph;
use crate::ir::draw::{print_dot, print_json};
use crate::ir::print::print_graph;
use crate::model::{Diagnostics, Model};

pub fn run(args: &Args, format: Format, reporter: &Reporter) -> Result<(), Failure> {
    let loaded = load::load(&args.model.model, &args.compile, Missing::Ignore)?;
    reporter.warnings(&loaded.sources, &loaded.warnings);
    let mut seen: Vec<(&'static str, Graph)> = vec![];
    let wanted = args.before.is_some() || args.after.is_some();
    let sources = loaded.sources;
    let model = Model::new(loaded.graph, loaded.weights, loaded.options, &mut |pass, graph| {
        if wanted {
            seen.push((pass, graph.clone()));
        }
    })
    .map_err(|d| Diagnostics { sources, list: d.list })?;
    let graph = match (&args.before, &args.after) {
        (Some(_), Some(_)) => return Err(Failure::usage("either `--before` or `--after`")),
        (None, None) => model.graph()?.clone(),
        (None, Some(pass)) => seen[position(&seen, pass)?].1.clone(),
        (Some(pass), None) => match position(&seen, pass)? {
            0 => model.source().clone(),
            i => seen[i - 1].1.clone(),
        },
    };
    if args.diff {
        return out::text(&diff(&print_graph(model.source()).text, &print_graph(&graph).text));
    }
    match format {
        Format::Json => out::json(&print_json(&graph)),
        Format::Dot => out::text(&print_dot(&graph)),
        Format::Text | Format::Svg | Format::Html => out::text(&print_graph(&graph).text),
    }
}

fn position(seen: &[(&'static str, Graph)], pass: &str) -> Result<usize, Failure> {
    seen.iter().position(|(name, _)| *name == pass).ok_or_else(|| {
        let names: Vec<&str> = crate::pass::TABLE.iter().map(|r| r.name).collect();
        Failure::usage(format!("pass `{pass}` does not run on the graph at this level"))
            .help(format!("passes: {}", names.join(", ")))
    })
}

/// Lines that are only in one of two texts, `-` and `+`, in order; common lines between them.
fn diff(before: &str, after: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    // Places and numbers differ everywhere, so only whole lines count; greedy resynchronization.
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            text.push_str(&format!("  {}\n", a[i]));
            (i, j) = (i + 1, j + 1);
            continue;
        }
        let ahead = |from: usize, lines: &[&str], line: Option<&&str>| {
            line.and_then(|l| lines[from..].iter().take(200).position(|x| x == l))
        };
        match (ahead(i, &a, b.get(j)), ahead(j, &b, a.get(i))) {
            (Some(skip), None) => {
                a[i..i + skip].iter().for_each(|l| text.push_str(&format!("- {l}\n")));
                i += skip;
            }
            (None, Some(skip)) | (Some(_), Some(skip)) => {
                b[j..j + skip].iter().for_each(|l| text.push_str(&format!("+ {l}\n")));
                j += skip;
            }
            (None, None) => {
                if let Some(line) = a.get(i) {
                    text.push_str(&format!("- {line}\n"));
                    i += 1;
                }
                if let Some(line) = b.get(j) {
                    text.push_str(&format!("+ {line}\n"));
                    j += 1;
                }
            }
        }
    }
    text
}
