//! The tree of a text to lines.
//!
//! A statement stands on one line where it fits. Else its pipe breaks before each `|>` (all under
//! the first), then brackets break with one item a line.

use super::tree::{Line, Piece, Tree};
use super::{Comment, Kind, Source};

const WIDTH: usize = 100;
const STEP: usize = 4;
/// A pipe hangs under its first `|>`, unless that stands further right than this.
const HANG: usize = 40;

pub(super) fn layout(source: &Source<'_>) -> String {
    let lines = Tree::build(source);
    let mut writer =
        Writer { source, out: String::new(), column: 0, line_indent: 0, last: None, bar: false };
    writer.lines(&lines, 0, true);
    writer.out
}

struct Writer<'s, 't> {
    source: &'s Source<'t>,
    out: String,
    column: usize,
    /// Indentation of the line at hand.
    line_indent: usize,
    /// The token written last on this line.
    last: Option<usize>,
    /// Inside `|…|`.
    bar: bool,
}

impl Writer<'_, '_> {
    fn lines(&mut self, lines: &[Line], indent: usize, outermost: bool) {
        for (i, line) in lines.iter().enumerate() {
            let first = i == 0;
            for (k, comment) in line.before.iter().enumerate() {
                let blank = comment.blank_before && !(first && k == 0);
                self.fresh(indent, blank, first && k == 0 && outermost);
                self.raw(&comment.text);
            }
            if line.pieces.is_empty() {
                continue;
            }
            let alone = first && line.before.is_empty();
            self.fresh(indent, line.blank_before && !alone, alone && outermost);
            self.pieces(&line.pieces);
            if let Some(c) = &line.behind {
                self.raw(" ");
                self.raw(&c.text);
            }
        }
        if outermost && !self.out.is_empty() {
            self.out.push('\n');
        }
    }

    /// Begins a line.
    fn fresh(&mut self, indent: usize, blank: bool, very_first: bool) {
        if !very_first {
            self.out.push_str(if blank { "\n\n" } else { "\n" });
        }
        self.out.push_str(&" ".repeat(indent));
        (self.column, self.line_indent, self.last) = (indent, indent, None);
    }

    fn raw(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    /// One statement, or one item of a broken group.
    fn pieces(&mut self, pieces: &[Piece]) {
        let indent = self.line_indent;
        let flat = self.flat(pieces, self.last);
        let too_long = flat.as_ref().is_some_and(|f| self.column + width(f) > WIDTH);
        if let (Some(text), false) = (&flat, too_long) {
            self.raw(text);
            self.last = last_token(pieces);
            return;
        }
        let mut pipe: Option<usize> = None;
        let count = pieces.len();
        for (i, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Token(t) => {
                    if self.source.word(*t) == "|>" {
                        self.pipe(*t, &mut pipe, indent, too_long);
                    }
                    self.token(*t);
                    if i + 1 < count {
                        self.inner_comments(*t + 1, indent);
                    }
                }
                Piece::Group { open, items, close } => {
                    self.group(*open, items, *close);
                    if i + 1 < count {
                        self.inner_comments(*close + 1, indent);
                    }
                }
                Piece::Body { open, header, lines, close } => {
                    self.body(*open, header, lines, *close);
                    if i + 1 < count {
                        self.inner_comments(*close + 1, indent);
                    }
                }
            }
        }
    }

    /// Breaks the line before `|>` where the writer did, or everywhere if the line is too long.
    fn pipe(&mut self, token: usize, pipe: &mut Option<usize>, indent: usize, too_long: bool) {
        let broken = self.source.newline_before[token] && self.last.is_some();
        let here = self.column + 1;
        let far = here > indent + HANG;
        let column = match *pipe {
            Some(c) => c,
            None if broken || far => indent + STEP,
            None => here,
        };
        let break_here = broken || (too_long && (pipe.is_some() || far));
        *pipe = Some(column);
        if break_here && self.last.is_some() {
            self.fresh(column, false, false);
        }
    }

    fn token(&mut self, t: usize) {
        if self.last.is_some_and(|l| self.space(l, t)) {
            self.raw(" ");
        }
        self.note_bar(t);
        self.raw(self.source.word(t));
        self.last = Some(t);
    }

    /// Comments in the middle of a statement: behind the token before them, then a new line.
    fn inner_comments(&mut self, gap: usize, indent: usize) {
        let comments: Vec<Comment> = self.source.comments[gap].clone();
        for (i, c) in comments.iter().enumerate() {
            if i == 0 && self.last.is_some() {
                self.raw(" ");
            }
            self.raw(&c.text);
            self.fresh(indent + STEP, false, false);
        }
    }

    fn group(&mut self, open: usize, items: &[Vec<Piece>], close: usize) {
        if let Some(text) = self.flat_group(open, items, close, self.last)
            && self.column + width(&text) <= WIDTH
        {
            self.raw(&text);
            self.last = Some(close);
            return;
        }
        let indent = self.line_indent;
        self.token(open);
        // What stands behind the bracket goes to the line of the first item.
        for item in items {
            let first = item.first().map_or(close, first_token);
            self.fresh_with_comments(first, indent + STEP);
            self.pieces(item);
        }
        self.fresh_with_comments(close, indent);
        self.token(close);
    }

    /// A new line, and the comments before a token on lines of their own.
    fn fresh_with_comments(&mut self, token: usize, indent: usize) {
        let comments: Vec<Comment> = self.source.comments[token].clone();
        for c in comments {
            if c.same_line {
                self.raw(" ");
            } else {
                self.fresh(indent, false, false);
            }
            self.raw(&c.text);
        }
        self.fresh(indent, false, false);
    }

    fn body(&mut self, open: usize, header: &[usize], lines: &[Line], close: usize) {
        if let Some(text) = self.flat_body(open, header, lines, close) {
            let spaced = format!(" {text}");
            if self.column + width(&spaced) <= WIDTH {
                self.raw(if self.last.is_some() { &spaced } else { &text });
                self.last = Some(close);
                return;
            }
        }
        let indent = self.line_indent;
        self.token(open);
        for t in header {
            self.token(*t);
        }
        self.lines(lines, indent + STEP, false);
        self.fresh(indent, false, false);
        self.token(close);
        // What follows (`else`) goes on behind the brace.
        self.line_indent = indent;
    }

    // ---- on one line ----------------------------------------------------------------------------

    /// The parts on one line, the space before them included; `None` where that cannot be.
    fn flat(&mut self, pieces: &[Piece], before: Option<usize>) -> Option<String> {
        let mut out = String::new();
        let mut last = before;
        for (i, piece) in pieces.iter().enumerate() {
            let first = first_token(piece);
            if i > 0 && !self.source.comments[first].is_empty() {
                return None;
            }
            match piece {
                Piece::Token(t) => {
                    let word = self.source.word(*t);
                    if word == "|>" && self.source.newline_before[*t] && i > 0 {
                        return None;
                    }
                    if last.is_some_and(|l| self.space(l, *t)) {
                        out.push(' ');
                    }
                    self.note_bar(*t);
                    out.push_str(word);
                    last = Some(*t);
                }
                Piece::Group { open, items, close } => {
                    out.push_str(&self.flat_group(*open, items, *close, last)?);
                    last = Some(*close);
                }
                Piece::Body { open, header, lines, close } => {
                    if last.is_some() {
                        out.push(' ');
                    }
                    out.push_str(&self.flat_body(*open, header, lines, *close)?);
                    last = Some(*close);
                }
            }
        }
        Some(out)
    }

    fn flat_group(
        &mut self,
        open: usize,
        items: &[Vec<Piece>],
        close: usize,
        before: Option<usize>,
    ) -> Option<String> {
        let mut out = String::new();
        if before.is_some_and(|l| self.space(l, open)) {
            out.push(' ');
        }
        out.push_str(self.source.word(open));
        let mut last = open;
        for item in items {
            let first = item.first().map_or(close, first_token);
            if !self.source.comments[first].is_empty() {
                return None;
            }
            out.push_str(&self.flat(item, Some(last))?);
            last = last_token(item).unwrap_or(last);
        }
        if !self.source.comments[close].is_empty() {
            return None;
        }
        out.push_str(self.source.word(close));
        Some(out)
    }

    /// A body stays on one line where the writer put it on one and it is a single statement.
    fn flat_body(
        &mut self,
        open: usize,
        header: &[usize],
        lines: &[Line],
        close: usize,
    ) -> Option<String> {
        let inner = header.last().copied().unwrap_or(open) + 1;
        let broken = self.source.newline_before[inner] && inner != close;
        let comments = |l: &Line| !l.before.is_empty() || l.behind.is_some();
        let gaps = (open + 1..=inner).any(|t| !self.source.comments[t].is_empty());
        if broken || gaps || lines.len() > 1 || lines.iter().any(comments) {
            return None;
        }
        let mut out = String::from("{");
        let mut last = open;
        for t in header {
            if self.space(last, *t) {
                out.push(' ');
            }
            self.note_bar(*t);
            out.push_str(self.source.word(*t));
            last = *t;
        }
        for line in lines {
            out.push_str(&self.flat(&line.pieces, Some(last))?);
        }
        out.push_str(if lines.is_empty() && header.is_empty() { "}" } else { " }" });
        Some(out)
    }

    // ---- spaces ---------------------------------------------------------------------------------

    fn note_bar(&mut self, t: usize) {
        if self.source.word(t) == "|" {
            self.bar = !self.bar;
        }
    }

    /// Whether a space stands between two tokens of a line.
    fn space(&self, a: usize, b: usize) -> bool {
        let (left, right) = (self.source.word(a), self.source.word(b));
        let (ta, tb) = (self.source.tokens[a], self.source.tokens[b]);
        if self.source.signs.contains(&ta.start) {
            return false;
        }
        match (left, right) {
            ("(" | "[" | "." | ".." | "..=", _) => false,
            (_, ")" | "]" | "," | "." | ".." | "..=") => false,
            (",", _) => true,
            (":", _) => !self.in_index(a),
            (_, ":") => false,
            ("|", _) => !self.bar,
            (_, "|") => !self.bar,
            (_, "(" | "[") => {
                let called = match ta.kind {
                    Kind::Word => !is_reserved(left) && !self.source.keywords.contains(&ta.start),
                    Kind::Close => left != "}",
                    Kind::Str => true,
                    Kind::Number
                    | Kind::Comment
                    | Kind::Open
                    | Kind::Punct
                    | Kind::Value
                    | Kind::Unknown => false,
                };
                !called
            }
            // A pattern such as `head.*` is written together.
            ("*", _) | (_, "*") if self.is_pattern_star(a, b) => false,
            _ => tb.kind != Kind::Comment,
        }
    }

    /// Whether this `:` separates the bounds of a slice.
    fn in_index(&self, colon: usize) -> bool {
        let mut depth = 0;
        for t in (0..colon).rev() {
            match self.source.word(t) {
                ")" | "]" | "}" => depth += 1,
                "(" | "[" | "{" if depth > 0 => depth -= 1,
                open @ ("(" | "[" | "{") => return open == "[",
                _ => {}
            }
        }
        false
    }

    /// Whether two tokens belong to one pattern: nothing lay between them in the text, and a dot or
    /// a star joins them.
    fn is_pattern_star(&self, a: usize, b: usize) -> bool {
        let (ta, tb) = (self.source.tokens[a], self.source.tokens[b]);
        let star = |t: usize| self.source.word(t) == "*";
        let dotted = |t: usize| t > 0 && self.source.word(t - 1) == ".";
        ta.end == tb.start && ((star(b) && self.source.word(a) == ".") || (star(a) && dotted(a)))
    }
}

fn is_reserved(word: &str) -> bool {
    crate::front::parse::RESERVED.contains(&word)
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn first_token(piece: &Piece) -> usize {
    match piece {
        Piece::Token(t) => *t,
        Piece::Group { open, .. } | Piece::Body { open, .. } => *open,
    }
}

fn last_token(pieces: &[Piece]) -> Option<usize> {
    Some(match pieces.last()? {
        Piece::Token(t) => *t,
        Piece::Group { close, .. } | Piece::Body { close, .. } => *close,
    })
}
