//! What a kernel computes as a whole, where a target may have a template for it.
//!
//! The kernel's body computes the same: a target that has no template, or none for this size, prints
//! that. What is special of a kernel (how operands are read, what is made of results) is said by its parts,
//! kernels themselves: a template calls them. So they print, are verified and can be run like every
//! other kernel.

use super::attention::Attention;
use super::ir::Kernel;
use super::product::Product;

#[derive(Clone, PartialEq, Debug)]
pub enum Pattern {
    Product(Box<Product>),
    Attention(Box<Attention>),
}

impl Pattern {
    /// The kernels that a template calls.
    pub fn parts(&self) -> Vec<&Kernel> {
        match self {
            Pattern::Product(p) => vec![&p.left.kernel, &p.right.kernel, &p.finish],
            Pattern::Attention(a) => {
                let parts = [&a.query.kernel, &a.key.kernel, &a.value.kernel, &a.score, &a.finish];
                parts.into_iter().chain(&a.of_rows).collect()
            }
        }
    }
}
