//! Tokens to a tree of statements, brackets and bodies.

use super::{Comment, Kind, Source};

/// A part of a statement.
#[derive(Debug)]
pub(super) enum Piece {
    Token(usize),
    /// `(…)` or `[…]`; each item ends with its comma.
    Group {
        open: usize,
        items: Vec<Vec<Piece>>,
        close: usize,
    },
    /// `{…}`, with the names of a region's inputs behind the brace.
    Body {
        open: usize,
        header: Vec<usize>,
        lines: Vec<Line>,
        close: usize,
    },
}

/// A statement with the comments around it; without pieces, comments at the end of a body.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub before: Vec<Comment>,
    pub blank_before: bool,
    pub pieces: Vec<Piece>,
    pub behind: Option<Comment>,
}

pub(super) struct Tree<'s, 't> {
    source: &'s Source<'t>,
    at: usize,
}

impl<'s, 't> Tree<'s, 't> {
    pub fn build(source: &'s Source<'t>) -> Vec<Line> {
        Tree { source, at: 0 }.lines()
    }

    /// Statements up to a closing brace or the end of the text.
    fn lines(&mut self) -> Vec<Line> {
        let mut lines: Vec<Line> = vec![];
        loop {
            let mut comments = self.source.comments[self.at].clone();
            // What stands behind the last token of a statement belongs to it.
            if comments.first().is_some_and(|c| c.same_line) && !lines.is_empty() {
                let behind = comments.remove(0);
                lines.last_mut().expect("not empty").behind = Some(behind);
            }
            let ended = self.at >= self.source.tokens.len() || self.source.word(self.at) == "}";
            if ended {
                if !comments.is_empty() {
                    lines.push(Line { before: comments, ..Line::default() });
                }
                return lines;
            }
            let blank_before = self.source.blank_before[self.at];
            let pieces = self.pieces(None);
            lines.push(Line { before: comments, blank_before, pieces, behind: None });
        }
    }

    /// The parts of one statement, or of one item of a group.
    fn pieces(&mut self, group: Option<usize>) -> Vec<Piece> {
        let mut pieces = vec![];
        while let Some(token) = self.source.tokens.get(self.at) {
            let is_start = self.source.starts.contains(&token.start);
            if is_start && !pieces.is_empty() && group.is_none() {
                break;
            }
            let word = self.source.word(self.at);
            match (token.kind, word) {
                (Kind::Close, _) => break,
                (Kind::Open, "{") => pieces.push(self.body()),
                (Kind::Open, _) => pieces.push(self.group()),
                _ => {
                    pieces.push(Piece::Token(self.at));
                    self.at += 1;
                    if word == "," && group.is_some() {
                        break;
                    }
                }
            }
        }
        pieces
    }

    fn group(&mut self) -> Piece {
        let open = self.at;
        self.at += 1;
        let mut items = vec![];
        while self.source.tokens.get(self.at).is_some_and(|t| t.kind != Kind::Close) {
            items.push(self.pieces(Some(open)));
        }
        let close = self.at;
        self.at += 1;
        Piece::Group { open, items, close }
    }

    fn body(&mut self) -> Piece {
        let open = self.at;
        self.at += 1;
        let mut header = vec![];
        if self.at < self.source.tokens.len() && self.source.word(self.at) == "|" {
            loop {
                header.push(self.at);
                self.at += 1;
                if self.source.word(self.at - 1) == "|" && header.len() > 1 {
                    break;
                }
            }
        }
        let lines = self.lines();
        let close = self.at;
        self.at += 1;
        Piece::Body { open, header, lines, close }
    }
}
