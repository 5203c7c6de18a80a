//! A light lexer: what the grammar does not do well.
//!
//! It counts brackets before pest runs (so that depth is refused with one stable message and never
//! by the stack), trims the white space that pest leaves at the end of spans, finds where to go on
//! after a syntax error, and gives `fmt` the tokens and comments of a file. It accepts any text:
//! what is not a token comes out as [`Kind::Unknown`].

use std::ops::Range;

use crate::base::diag::Diagnostic;
use crate::base::source::{FileId, Span};

use crate::base::codes;

/// Brackets may nest this deep.
pub const MAX_DEPTH: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Word,
    Number,
    Str,
    Comment,
    Open,
    Close,
    Punct,
    /// `%x` or `$a.b` of the core form.
    Value,
    Unknown,
}

/// A token or a comment; `start..end` are bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn text(self, text: &str) -> &str {
        &text[self.start..self.end]
    }

    pub fn span(self, file: FileId) -> Span {
        Span::new(file, self.start, self.end)
    }
}

/// The tokens of a text, comments included, white space left out.
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    pub fn from(text: &'a str, at: usize) -> Lexer<'a> {
        Lexer { text, at }
    }
}

const PUNCT: [&str; 21] = [
    "...", "..=", "|>", "**", "==", "!=", "<=", ">=", ":=", "..", "=", "<", ">", "+", "-", "*",
    "/", "@", ":", ",", ".",
];

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let bytes = self.text.as_bytes();
        while let Some(c) = self.text[self.at..].chars().next() {
            if !matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{FEFF}') {
                break;
            }
            self.at += c.len_utf8();
        }
        let start = self.at;
        let rest = &self.text[start..];
        let first = rest.chars().next()?;
        let run = |from: usize, ok: &dyn Fn(u8) -> bool| {
            bytes[from..].iter().position(|b| !ok(*b)).map_or(bytes.len(), |n| from + n)
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let (kind, end) = match first {
            _ if rest.starts_with("//") => (Kind::Comment, run(start, &|b| b != b'\n')),
            'a'..='z' | 'A'..='Z' | '_' => (Kind::Word, run(start, &word)),
            '0'..='9' => (Kind::Number, number_end(bytes, start)),
            '"' => (Kind::Str, string_end(bytes, start)),
            '(' | '[' | '{' => (Kind::Open, start + 1),
            ')' | ']' | '}' => (Kind::Close, start + 1),
            '%' | '$' if bytes.get(start + 1) == Some(&b'"') => {
                (Kind::Value, string_end(bytes, start + 1))
            }
            '%' | '$' => (Kind::Value, run(start + 1, &|b| word(b) || b == b'.')),
            '|' if !rest.starts_with("|>") => (Kind::Punct, start + 1),
            _ => match PUNCT.iter().find(|p| rest.starts_with(**p)) {
                Some(p) => (Kind::Punct, start + p.len()),
                None => (Kind::Unknown, start + first.len_utf8()),
            },
        };
        // A comment of a file with Windows line ends does not own the carriage return.
        let end = match kind {
            Kind::Comment => start + self.text[start..end].trim_end().len(),
            _ => end,
        };
        self.at = end;
        Some(Token { kind, start, end })
    }
}

/// Digits, a point only where a digit follows, an exponent with its sign.
fn number_end(bytes: &[u8], start: usize) -> usize {
    let word = |i: usize| bytes.get(i).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let hex = bytes[start..].starts_with(b"0x");
    let mut i = start;
    loop {
        let exponent = !hex && i > start && matches!(bytes[i - 1], b'e' | b'E');
        if word(i)
            || (bytes.get(i) == Some(&b'.') && digit(i + 1) && !hex)
            || (exponent && matches!(bytes.get(i), Some(b'+' | b'-')) && digit(i + 1))
        {
            i += 1;
        } else {
            return i;
        }
    }
}

/// Behind the closing quote; an open string ends with its line.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while let Some(b) = bytes.get(i) {
        match b {
            b'"' => return i + 1,
            b'\n' => return i,
            b'\\' if !matches!(bytes.get(i + 1), None | Some(b'\n')) => i += 2,
            _ => i += 1,
        }
    }
    // An escape may have jumped into the middle of a character only past the end of the text.
    i.min(bytes.len())
}

/// What one pass over the tokens of a file finds out.
#[derive(Debug)]
pub struct Outline {
    /// Where each token ends, in order; comments are not tokens here.
    ends: Vec<u32>,
    /// Starts of lines that begin with the keyword of an item.
    items: Vec<u32>,
    /// Brackets that are never closed.
    pub unclosed: Vec<Token>,
}

const ITEM_WORDS: [&str; 8] =
    ["model", "block", "import", "weights", "train", "dim", "const", "graph"];

/// Counts the brackets of a part of the text and notes the places that the parser asks for.
///
/// # Errors
/// One diagnostic where brackets nest deeper than [`MAX_DEPTH`].
pub fn outline(file: FileId, text: &str, range: Range<usize>) -> Result<Outline, Box<Diagnostic>> {
    let mut open: Vec<Token> = vec![];
    let mut unclosed = vec![];
    let (mut ends, mut items) = (vec![], vec![]);
    for token in Lexer::from(&text[..range.end], range.start) {
        match token.kind {
            Kind::Comment => continue,
            Kind::Open => {
                open.push(token);
                if open.len() > MAX_DEPTH {
                    let message = format!("brackets nest deeper than {MAX_DEPTH}");
                    return Err(Box::new(
                        Diagnostic::error(codes::TOO_DEEP, token.span(file), message)
                            .help("give inner parts names of their own"),
                    ));
                }
            }
            Kind::Close => {
                let want = match token.text(text) {
                    ")" => "(",
                    "]" => "[",
                    _ => "{",
                };
                // A bracket that closes another kind: what lies between was never closed.
                if open.iter().any(|t| t.text(text) == want) {
                    while let Some(t) = open.pop() {
                        if t.text(text) == want {
                            break;
                        }
                        unclosed.push(t);
                    }
                }
            }
            Kind::Word => {
                let at_line_start = token.start == 0 || text.as_bytes()[token.start - 1] == b'\n';
                if at_line_start && ITEM_WORDS.contains(&token.text(text)) {
                    items.push(token.start as u32);
                }
            }
            Kind::Number | Kind::Str | Kind::Punct | Kind::Value | Kind::Unknown => {}
        }
        ends.push(token.end as u32);
    }
    unclosed.extend(open);
    unclosed.sort_by_key(|t| t.start);
    Ok(Outline { ends, items, unclosed })
}

impl Outline {
    /// The end of the last token that ends at or before `end`, but not before `start`.
    pub fn trim(&self, start: usize, end: usize) -> usize {
        let n = self.ends.partition_point(|e| *e as usize <= end);
        match n.checked_sub(1) {
            Some(i) if self.ends[i] as usize > start => self.ends[i] as usize,
            _ => start,
        }
    }

    /// Where the next item seems to begin after `at`.
    pub fn next_item(&self, at: usize) -> Option<usize> {
        let i = self.items.partition_point(|s| *s as usize <= at);
        self.items.get(i).map(|s| *s as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        Lexer::new(text).map(|t| t.text(text)).collect()
    }

    #[test]
    fn tokens() {
        assert_eq!(words("0..4 1.5e-3 2.x ..="), ["0", "..", "4", "1.5e-3", "2", ".", "x", "..="]);
        assert_eq!(
            words("a|>b |c| // d |> e\n\"x\\\"y\" f"),
            ["a", "|>", "b", "|", "c", "|", "// d |> e", "\"x\\\"y\"", "f"]
        );
        assert_eq!(words("%0:f32 $a.b.c ** -1"), ["%0", ":", "f32", "$a.b.c", "**", "-", "1"]);
        assert_eq!(words("\"open\nnext é"), ["\"open", "next", "é"]);
        assert_eq!(words("\"\\"), ["\"\\"]);
        assert_eq!(words("\"\\é\" é"), ["\"\\é\"", "é"]);
    }

    #[test]
    fn depth_is_refused_without_recursion() {
        let deep = "(".repeat(1 << 20);
        let error = outline(FileId(0), &deep, 0..deep.len()).unwrap_err();
        assert_eq!(error.code, codes::TOO_DEEP);
        assert_eq!(error.span.unwrap().start as usize, MAX_DEPTH);
        let wide = "([]) ".repeat(10_000);
        assert!(outline(FileId(0), &wide, 0..wide.len()).is_ok());
    }
}
