//! A kernel as an attention, for targets that have a template for it.
//!
//! For every group `g`, row `r` and column `c`, with sums over the keys `k`:
//!
//! ```text
//! s[k]  = score(Σ_d query[g, r, d] · key[g, k, d])
//! top   = max s[k]
//! w[k]  = exp(s[k] - top), with 0 for top where that is −∞
//! finish(Σ w[k] · value[g, k, c], top, Σ w[k])
//! ```
//!
//! `finish` divides, so a row whose scores all are −∞ is its business. Parts are as those of a product
//! (`product`): their last parameters are matrices over their grid, row-major, of which each point reads or
//! writes its own element.

use super::ir::Kernel;
use super::product::Operand;

#[derive(Clone, PartialEq, Debug)]
pub struct Attention {
    pub groups: u32,
    /// Of queries.
    pub rows: u32,
    pub keys: u32,
    /// Elements of a query and of a key.
    pub depth: u32,
    /// Elements of a value: columns of the result.
    pub width: u32,
    /// Steps are those of the depth.
    pub query: Operand,
    /// The same, with keys for columns.
    pub key: Operand,
    /// Steps are keys.
    pub value: Operand,
    /// Grid: (key, row, group). Reads the sums of products, writes the scores.
    pub score: Kernel,
    /// Grid: (column, row, group). Reads the sums of weighted values, the tops and the sums of weights.
    pub finish: Kernel,
    /// What a row stores once, if it does (the logarithm of the sum). Grid: (0, row, group). Reads the
    /// tops and the sums of weights.
    pub of_rows: Option<Kernel>,
}
