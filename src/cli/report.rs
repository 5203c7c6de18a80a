//! Diagnostics on standard error, in the form that was asked for.

use std::io::Write;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value as Json, json};

use super::args::{Color, Global, MessageFormat};
use crate::base::diag::{Diagnostic, Severity};
use crate::base::source::{SourceMap, Span};
use crate::import::FormatError;
use crate::model::Diagnostics;

/// Why a command ends, and its exit status.
#[derive(Debug)]
pub struct Failure {
    pub diagnostics: Diagnostics,
    pub status: u8,
}

impl Failure {
    /// Wrong usage, or a file that the system refused: status 2.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { diagnostics: Diagnostic::error("E0001", None, message).into(), status: 2 }
    }

    /// An expectation that failed, or nothing more to say: status 1.
    pub fn fault(message: impl Into<String>) -> Failure {
        Failure { diagnostics: Diagnostic::error("E0002", None, message).into(), status: 1 }
    }

    pub fn help(mut self, help: impl Into<String>) -> Failure {
        if let Some(d) = self.diagnostics.list.last_mut() {
            d.help = Some(help.into());
        }
        self
    }
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Failure {
        let status = diagnostics.list.iter().map(|d| status(d.code)).max().unwrap_or(1);
        Failure { diagnostics, status }
    }
}

impl From<Diagnostic> for Failure {
    fn from(d: Diagnostic) -> Failure {
        Diagnostics::from(d).into()
    }
}

impl From<FormatError> for Failure {
    fn from(e: FormatError) -> Failure {
        Failure { status: e.exit_status(), diagnostics: e.diagnostic().into() }
    }
}

/// The exit status for a code: 101 for what no model and no data can be at fault for, 2 for targets
/// that do not exist or do not run here and for files that the system refused.
fn status(code: &str) -> u8 {
    match code {
        "E0390" | "E0702" | "E0705" | "E0851" | "E0852" => BUG,
        "E0801" | "E0802" | "E0803" | "E0870" | "E0871" | "E0872" | "E0901" => 2,
        _ => 1,
    }
}

/// The exit status of a bug in dlc.
pub const BUG: u8 = 101;

/// Why the system refused a file, without the names of temporary files.
pub fn reason(e: &std::io::Error) -> std::io::Error {
    match e.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => e.kind().into(),
    }
}

/// Draws diagnostics.
pub struct Reporter {
    format: MessageFormat,
    color: bool,
    quiet: bool,
    /// Times of passes, unasked.
    pub verbose: bool,
}

impl Reporter {
    pub fn new(global: &Global) -> Reporter {
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                use std::io::IsTerminal;
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
            }
        };
        Reporter {
            format: global.message_format,
            color,
            quiet: global.quiet,
            verbose: global.verbose > 0,
        }
    }

    pub fn failure(&self, failure: Failure) {
        self.show(&failure.diagnostics.sources, &failure.diagnostics.list);
    }

    /// Warnings of something that went well.
    pub fn warnings(&self, sources: &SourceMap, list: &[Diagnostic]) {
        if !self.quiet {
            self.show(sources, list);
        }
    }

    /// Something to know under `-v` only.
    pub fn note(&self, text: &str) {
        if self.verbose {
            eprintln!("note: {text}");
        }
    }

    fn show(&self, sources: &SourceMap, list: &[Diagnostic]) {
        let text: String = match self.format {
            MessageFormat::Human => {
                list.iter().map(|d| self.human(sources, d) + "\n").collect::<Vec<_>>().join("\n")
            }
            MessageFormat::Short => list.iter().map(|d| short(sources, d) + "\n").collect(),
            MessageFormat::Json => {
                list.iter().map(|d| as_json(sources, d).to_string() + "\n").collect()
            }
            MessageFormat::Sarif => {
                let text = serde_json::to_string_pretty(&sarif(sources, list));
                text.expect("a JSON value is printable") + "\n"
            }
        };
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn human(&self, sources: &SourceMap, d: &Diagnostic) -> String {
        let level = match d.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&d.message).id(d.code);
        let mut group = Group::with_title(title);
        if let Some(span) = d.span {
            let mut files = vec![span.file];
            files.extend(d.labels.iter().map(|l| l.span.file));
            files.sort();
            files.dedup();
            files.sort_by_key(|f| *f != span.file);
            for file in files {
                let source = sources.file(file);
                let mut snippet = Snippet::source(&*source.text).path(&source.name);
                if file == span.file {
                    snippet =
                        snippet.annotation(AnnotationKind::Primary.span(range(sources, span)));
                }
                for label in d.labels.iter().filter(|l| l.span.file == file) {
                    let at = AnnotationKind::Context.span(range(sources, label.span));
                    snippet = snippet.annotation(at.label(&label.text));
                }
                group = group.element(snippet);
            }
        }
        for note in &d.notes {
            group = group.element(Level::NOTE.message(note));
        }
        if let Some(help) = &d.help {
            group = group.element(Level::HELP.message(help));
        }
        let renderer = if self.color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

/// The span inside its text, on character boundaries.
fn range(sources: &SourceMap, span: Span) -> std::ops::Range<usize> {
    let text = &sources.file(span.file).text;
    let mut start = (span.start as usize).min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = (span.end as usize).clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

fn short(sources: &SourceMap, d: &Diagnostic) -> String {
    let place = d.span.map_or(String::new(), |s| {
        let file = sources.file(s.file);
        let at = file.line_col(s.start);
        format!("{}:{}:{}: ", file.name, at.line, at.column)
    });
    format!("{place}{}[{}]: {}", d.severity.name(), d.code, d.message)
}

fn as_json(sources: &SourceMap, d: &Diagnostic) -> Json {
    let place = d.span.map(|s| {
        let file = sources.file(s.file);
        (file.name.clone(), file.line_col(s.start), file.line_col(s.end))
    });
    let mut object = json!({
        "code": d.code,
        "severity": d.severity.name(),
        "message": d.message,
        "file": place.as_ref().map(|p| &p.0),
        "line": place.as_ref().map(|p| p.1.line),
        "column": place.as_ref().map(|p| p.1.column),
        "end_line": place.as_ref().map(|p| p.2.line),
        "end_column": place.as_ref().map(|p| p.2.column),
        "notes": d.notes,
        "help": d.help,
    });
    if !d.labels.is_empty() {
        let label = |l: &crate::base::diag::Label| {
            let file = sources.file(l.span.file);
            let at = file.line_col(l.span.start);
            json!({ "file": file.name, "line": at.line, "column": at.column, "text": l.text })
        };
        object["labels"] = d.labels.iter().map(label).collect();
    }
    object
}

/// SARIF 2.1.0, as code-scanning services read it.
fn sarif(sources: &SourceMap, list: &[Diagnostic]) -> Json {
    let result = |d: &Diagnostic| {
        let mut result = json!({
            "ruleId": d.code,
            "level": d.severity.name(),
            "message": { "text": d.message },
        });
        if let Some(s) = d.span {
            let file = sources.file(s.file);
            let (start, end) = (file.line_col(s.start), file.line_col(s.end));
            result["locations"] = json!([{ "physicalLocation": {
                "artifactLocation": { "uri": file.name },
                "region": {
                    "startLine": start.line, "startColumn": start.column,
                    "endLine": end.line, "endColumn": end.column,
                },
            }}]);
        }
        result
    };
    json!({
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{
            "tool": { "driver": { "name": "dlc", "version": env!("CARGO_PKG_VERSION") } },
            "results": list.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_have_a_status_of_their_own() {
        let status = |code| Failure::from(Diagnostic::error(code, None, "")).status;
        for code in ["E0702", "E0705", "E0851", "E0852"] {
            assert_eq!(status(code), 101, "{code}");
        }
        assert_eq!([status("E0803"), status("E0301"), status("E0853")], [2, 1, 1]);
        assert_eq!(Failure::from(Diagnostics::default()).status, 1);
    }
}
