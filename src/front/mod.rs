//! The front end: `.dl` text to graphs.

pub mod ast;
mod lex;
pub mod parse;
