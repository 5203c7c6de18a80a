//! Syntax errors: from what pest says to what a reader needs.

use pest::error::{Error, ErrorVariant, InputLocation};

use super::Rule;
use crate::base::codes;
use crate::base::diag::Diagnostic;
use crate::base::source::{FileId, Span};
use crate::front::lex::{Kind, Lexer, Outline, Token};

/// The place of a syntax error and its diagnostic. `base` is where the text that pest saw begins.
pub(crate) fn syntax_error(
    file: FileId,
    text: &str,
    base: usize,
    error: &Error<Rule>,
    outline: &Outline,
) -> (usize, Diagnostic) {
    let offset = match error.location {
        InputLocation::Pos(p) | InputLocation::Span((p, _)) => base + p,
    };
    let found = Lexer::from(text, offset).find(|t| t.kind != Kind::Comment);
    let span = match found {
        Some(t) => t.span(file),
        None => Span::new(file, text.len(), text.len()),
    };
    let open = outline.unclosed.iter().rfind(|t| t.start >= base && t.start < offset);
    let expected = match &error.variant {
        ErrorVariant::ParsingError { positives, .. } => expected(positives, text, base, offset),
        ErrorVariant::CustomError { .. } => vec![],
    };
    let found_text =
        found.map_or("the end of the file".to_string(), |t| format!("`{}`", shorten(t.text(text))));
    let message = match expected.split_last() {
        None => format!("unexpected {found_text}"),
        Some((only, [])) => format!("expected {only}, found {found_text}"),
        Some((last, rest)) => {
            format!("expected {} or {last}, found {found_text}", rest.join(", "))
        }
    };
    let mut diagnostic = Diagnostic::error(codes::SYNTAX, span, message);
    if let Some(t) = open {
        diagnostic = diagnostic.label(t.span(file), "this bracket is not closed");
    }
    if let Some(help) = found.and_then(|t| hint(t, text, &expected)) {
        diagnostic = diagnostic.help(help);
    }
    (offset.max(found.map_or(offset, |t| t.start)), diagnostic)
}

/// What could stand there, in words; the bracket that is open closes what pest does not name.
fn expected(positives: &[Rule], text: &str, base: usize, offset: usize) -> Vec<String> {
    let mut words: Vec<String> = vec![];
    let mut add = |word: String| {
        if !words.contains(&word) {
            words.push(word);
        }
    };
    for rule in positives {
        if let Some(word) = describe(*rule) {
            add(word);
        }
    }
    // Behind a value almost anything goes on; an operator stands for all of it.
    if words.iter().any(|w| w == "an operator") {
        words.retain(|w| !matches!(w.as_str(), "`as`" | "`with`" | "`(`" | "an argument"));
    }
    if words.len() > 6 {
        words.retain(|w| !w.starts_with('`'));
    }
    let mut add = |word: String| {
        if !words.contains(&word) {
            words.push(word);
        }
    };
    let closer = match innermost_open(text, base, offset) {
        Some("(") => Some("`)`"),
        Some("[") => Some("`]`"),
        Some("{") => Some("`}`"),
        _ => None,
    };
    let after_value =
        positives.iter().any(|r| matches!(r, Rule::infix_op | Rule::args | Rule::name));
    if let Some(c) = closer.filter(|_| after_value || positives.is_empty()) {
        add(c.to_string());
    }
    words
}

fn innermost_open(text: &str, base: usize, offset: usize) -> Option<&str> {
    let mut open = vec![];
    for t in Lexer::from(text, base).take_while(|t| t.start < offset) {
        match t.kind {
            Kind::Open => open.push(t.text(text)),
            Kind::Close => {
                open.pop();
            }
            _ => {}
        }
    }
    open.pop()
}

/// Advice for the slips that people make.
fn hint(found: Token, text: &str, expected: &[String]) -> Option<String> {
    let wants_name = expected.iter().any(|e| e == "a name");
    Some(match found.text(text) {
        "=" => "`=` gives a value a name; to compare, write `==`".into(),
        "(" | "[" | "-" => {
            format!("no statement begins with `{}`: give the value a name", found.text(text))
        }
        ";" => "statements need no separator".into(),
        "#" => "comments begin with `//`".into(),
        "%" => "for the remainder, write `mod(a, b)`".into(),
        "&" | "&&" => "write `and`".into(),
        "|" => "write `or`".into(),
        "!" => "write `not`".into(),
        word if wants_name && RESERVED.contains(&word) => {
            format!("`{word}` is a keyword and cannot be a name")
        }
        "for" => "to unroll, write `repeat i in 0..n { … }`".into(),
        "def" | "fn" | "class" => "a network is a `model`, a reusable part a `block`".into(),
        _ => return None,
    })
}

pub(crate) const RESERVED: [&str; 12] =
    ["if", "else", "repeat", "return", "and", "or", "not", "true", "false", "as", "with", "in"];

fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}

/// A rule in words; `None` for the rules that other rules already stand for.
fn describe(rule: Rule) -> Option<String> {
    let keyword = format!("{rule:?}").strip_prefix("kw_").map(|k| format!("`{k}`"));
    if keyword.is_some() {
        return keyword;
    }
    let word = match rule {
        Rule::name | Rule::any_word => "a name",
        Rule::string => "a string in quotes",
        Rule::number => "a number",
        Rule::infix_op => "an operator",
        Rule::eq => "`=`",
        Rule::update => "`:=`",
        Rule::range_to => "`..`",
        Rule::colon => "`:`",
        Rule::type_ => "a type such as `f32[batch, 4]`",
        Rule::body | Rule::lambda | Rule::train_body => "`{`",
        Rule::params | Rule::args => "`(`",
        Rule::pipe | Rule::infix | Rule::postfix | Rule::tail | Rule::slice => "an expression",
        Rule::param_decl => "a parameter",
        Rule::pattern => "a parameter path",
        Rule::arg => "an argument",
        Rule::model | Rule::block | Rule::import | Rule::weights | Rule::train => {
            "`model`, `block`, `import`, `weights`, `train`, `dim` or `const`"
        }
        _ => return None,
    };
    Some(word.to_string())
}
