//! The standard library: blocks that every file sees.
//!
//! Its text is part of dlc. A scan finds where each block stands; a block is parsed when a model
//! first calls it, so that a small model does not pay for what it does not name.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use super::ast::Ast;
use super::parse::parse_range;
use super::project::Decl;
use crate::base::source::FileId;

/// The standard library, in the order of its files.
pub(super) const TEXT: &str = concat!(
    include_str!("std/layers.dl"),
    include_str!("std/blocks.dl"),
    include_str!("std/losses.dl"),
    include_str!("std/optimizers.dl"),
);

/// What begins an item of the library: there are blocks only, each at the start of a line.
const BLOCK: &str = "block ";

/// The blocks, each a tree of its own.
#[derive(Debug)]
pub(super) struct Standard {
    file: FileId,
    blocks: Vec<(Range<usize>, OnceLock<Ast>)>,
}

impl Standard {
    /// Finds the blocks; what they are named stands for their places.
    pub fn new(file: FileId) -> (Standard, BTreeMap<String, Decl>) {
        let starts: Vec<usize> = TEXT
            .match_indices(BLOCK)
            .map(|(at, _)| at)
            .filter(|at| *at == 0 || TEXT.as_bytes()[at - 1] == b'\n')
            .collect();
        let ends = starts.iter().skip(1).copied().chain([TEXT.len()]);
        let mut names = BTreeMap::new();
        for (i, at) in starts.iter().enumerate() {
            let rest = &TEXT[at + BLOCK.len()..];
            let end = rest.find('(').unwrap_or(rest.len());
            names.insert(rest[..end].trim().to_string(), Decl::Block(i));
        }
        let blocks = starts.iter().zip(ends).map(|(s, e)| (*s..e, OnceLock::new())).collect();
        (Standard { file, blocks }, names)
    }

    /// The tree whose only item is the block.
    pub fn block(&self, i: usize) -> &Ast {
        let (range, ast) = &self.blocks[i];
        ast.get_or_init(|| parse_range(self.file, TEXT, range.clone(), &mut vec![]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::source::SourceMap;
    use crate::front::ast::Item;
    use crate::front::parse::parse;

    /// Block by block gives what the whole text gives: the same items, names and places.
    #[test]
    fn blocks_are_those_of_the_whole_text() {
        let mut sources = SourceMap::default();
        let file = sources.add("<standard library>", TEXT);
        let mut diagnostics = vec![];
        let whole = parse(file, TEXT, &mut diagnostics);
        let (standard, names) = Standard::new(file);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        assert_eq!(whole.items.len(), standard.blocks.len());
        assert_eq!(names.len(), standard.blocks.len(), "two blocks of one name");
        for (i, item) in whole.items.iter().enumerate() {
            let alone = standard.block(i);
            let (Item::Block(a), [Item::Block(b)]) = (item, &alone.items[..]) else {
                panic!("the library holds blocks only: {item:?}");
            };
            assert_eq!(names[&a.name.text], Decl::Block(i));
            assert_eq!((&a.name, a.span), (&b.name, b.span));
        }
    }
}
