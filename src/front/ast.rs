//! The syntax tree of one `.dl` file in source form.
//!
//! Expressions live in one arena and refer to each other by [`ExprId`]; chains (infix operators,
//! pipes, trailing calls and indices) are flat lists, so no chain, however long, nests. What does
//! nest is bounded by the bracket limit of the parser. Every part knows its [`Span`].

use crate::base::source::{FileId, Span};

/// An expression in the arena of its [`Ast`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExprId(pub u32);

/// One file: its items in order, and the arena of their expressions.
#[derive(Debug)]
pub struct Ast {
    pub file: FileId,
    pub items: Vec<Item>,
    exprs: Vec<Expr>,
}

impl Ast {
    pub fn new(file: FileId) -> Ast {
        Ast { file, items: vec![], exprs: vec![] }
    }

    pub fn push(&mut self, expr: Expr) -> ExprId {
        self.exprs.push(expr);
        ExprId(self.exprs.len() as u32 - 1)
    }

    pub fn expr(&self, id: ExprId) -> &Expr {
        &self.exprs[id.0 as usize]
    }
}

/// A name and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    pub text: String,
    pub span: Span,
}

#[derive(Debug)]
pub enum Item {
    Model(Callable),
    Block(Callable),
    Import(Import),
    Weights(Weights),
    Train(Train),
    Dim(DimDecl),
    Const(ConstDecl),
}

/// A model or a block: parameters, then a body.
#[derive(Debug)]
pub struct Callable {
    pub name: Name,
    pub params: Vec<ParamDecl>,
    pub body: Body,
    pub span: Span,
}

/// `name: type = default`, of which a model's input has the type and a block's parameter may have
/// either.
#[derive(Debug)]
pub struct ParamDecl {
    pub name: Name,
    pub ty: Option<TypeExpr>,
    pub default: Option<ExprId>,
}

/// `f32[batch, 4]`; `member` for a dtype that is computed (`x.dtype[…]`).
#[derive(Debug)]
pub struct TypeExpr {
    pub dtype: Name,
    pub member: Option<Name>,
    pub dims: Vec<ExprId>,
    pub span: Span,
}

/// `import "path" as name`.
#[derive(Debug)]
pub struct Import {
    pub path: String,
    pub path_span: Span,
    pub name: Name,
    pub span: Span,
}

/// `weights MODEL from "FILE" { ours = theirs, … }`.
#[derive(Debug)]
pub struct Weights {
    pub model: Name,
    pub file: String,
    pub file_span: Span,
    pub renames: Vec<Rename>,
    pub span: Span,
}

/// One line of a rename table; the right side is a string, possibly with stages that transpose.
#[derive(Debug)]
pub struct Rename {
    pub ours: Name,
    pub theirs: ExprId,
}

/// `train MODEL { … }`.
#[derive(Debug)]
pub struct Train {
    pub model: Name,
    pub entries: Vec<TrainEntry>,
    pub span: Span,
}

#[derive(Debug)]
pub enum TrainEntry {
    Label {
        name: Name,
        ty: TypeExpr,
        span: Span,
    },
    Loss {
        value: ExprId,
        span: Span,
    },
    Metrics {
        values: Vec<ExprId>,
        span: Span,
    },
    Optimizer {
        value: ExprId,
        span: Span,
    },
    /// `epochs = 100`, or a value that the following entries use.
    Setting {
        name: Name,
        value: ExprId,
    },
    Step {
        name: Option<Name>,
        entries: Vec<TrainEntry>,
        span: Span,
    },
    Update {
        patterns: Vec<Name>,
        span: Span,
    },
}

/// `dim batch in 1..=1024`.
#[derive(Debug)]
pub struct DimDecl {
    pub name: Name,
    pub bounds: Option<DimBounds>,
    pub span: Span,
}

#[derive(Debug)]
pub struct DimBounds {
    pub low: ExprId,
    pub high: ExprId,
    pub inclusive: bool,
}

/// `const name = value`.
#[derive(Debug)]
pub struct ConstDecl {
    pub name: Name,
    pub value: ExprId,
    pub span: Span,
}

/// Statements in braces; `tail` is the value of an `if` arm or of a region.
#[derive(Debug)]
pub struct Body {
    pub stmts: Vec<Stmt>,
    pub tail: Vec<ExprId>,
    pub span: Span,
}

#[derive(Debug)]
pub enum Stmt {
    Return {
        values: Vec<ExprId>,
        span: Span,
    },
    Repeat {
        var: Name,
        range: Range,
        body: Body,
        span: Span,
    },
    /// An `if`; the expression is an [`ExprKind::If`].
    If {
        value: ExprId,
        span: Span,
    },
    Layer {
        name: Name,
        value: ExprId,
        span: Span,
    },
    State {
        name: Name,
        ty: Option<TypeExpr>,
        init: ExprId,
        span: Span,
    },
    Param {
        name: Name,
        ty: TypeExpr,
        init: Option<ExprId>,
        span: Span,
    },
    Assign {
        targets: Vec<Name>,
        update: bool,
        value: ExprId,
        span: Span,
    },
}

impl Stmt {
    pub fn span(&self) -> Span {
        match self {
            Stmt::Return { span, .. }
            | Stmt::Repeat { span, .. }
            | Stmt::If { span, .. }
            | Stmt::Layer { span, .. }
            | Stmt::State { span, .. }
            | Stmt::Param { span, .. }
            | Stmt::Assign { span, .. } => *span,
        }
    }
}

/// What a `repeat` runs over.
#[derive(Debug)]
pub enum Range {
    FromTo { low: ExprId, high: ExprId, inclusive: bool },
    List(ExprId),
}

#[derive(Debug)]
pub struct Expr {
    pub kind: ExprKind,
    pub span: Span,
}

#[derive(Debug)]
pub enum ExprKind {
    Int(i64),
    Float(f64),
    /// `0x7fc00000`: the bits of a float, or an integer.
    Bits(u64),
    Str(String),
    Bool(bool),
    Name(String),
    List(Vec<ExprId>),
    Paren(ExprId),
    /// `operands[0] ops[0] operands[1] …`, precedence not applied yet.
    Infix {
        operands: Vec<Operand>,
        ops: Vec<(InfixOp, Span)>,
    },
    /// A value with its trailing calls, indices and members.
    Postfix {
        base: ExprId,
        trailers: Vec<Trailer>,
    },
    /// `head |> stage |> stage`; each part with its `as` and `with`.
    Pipe {
        parts: Vec<Part>,
    },
    If {
        arms: Vec<(ExprId, Body)>,
        otherwise: Option<Body>,
    },
    Region {
        kind: RegionKind,
        args: Vec<Arg>,
        lambdas: Vec<Lambda>,
    },
    /// What could not be made sense of; already reported.
    Error,
}

/// An operand of an infix chain with the prefix operators before it, outermost first.
#[derive(Debug)]
pub struct Operand {
    pub prefixes: Vec<(PrefixOp, Span)>,
    pub value: ExprId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrefixOp {
    Neg,
    Not,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum InfixOp {
    Or,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Add,
    Sub,
    Mul,
    Div,
    MatMul,
    Pow,
}

impl InfixOp {
    /// Binding strength; larger binds tighter.
    pub fn strength(self) -> u8 {
        match self {
            InfixOp::Or => 1,
            InfixOp::And => 2,
            InfixOp::Eq | InfixOp::Ne | InfixOp::Lt | InfixOp::Le | InfixOp::Gt | InfixOp::Ge => 3,
            InfixOp::Add | InfixOp::Sub => 4,
            InfixOp::Mul | InfixOp::Div | InfixOp::MatMul => 5,
            InfixOp::Pow => 7,
        }
    }

    /// Between `*` and `**`: `-x ** 2` is `-(x ** 2)` and `-x * y` is `(-x) * y`.
    pub const PREFIX_STRENGTH: u8 = 6;

    pub fn is_comparison(self) -> bool {
        self.strength() == 3
    }

    pub fn symbol(self) -> &'static str {
        match self {
            InfixOp::Or => "or",
            InfixOp::And => "and",
            InfixOp::Eq => "==",
            InfixOp::Ne => "!=",
            InfixOp::Lt => "<",
            InfixOp::Le => "<=",
            InfixOp::Gt => ">",
            InfixOp::Ge => ">=",
            InfixOp::Add => "+",
            InfixOp::Sub => "-",
            InfixOp::Mul => "*",
            InfixOp::Div => "/",
            InfixOp::MatMul => "@",
            InfixOp::Pow => "**",
        }
    }
}

#[derive(Debug)]
pub enum Trailer {
    Call { args: Vec<Arg>, span: Span },
    Index { items: Vec<Slice>, span: Span },
    Member { name: Name },
}

/// `value` or `name = value`.
#[derive(Debug)]
pub struct Arg {
    pub name: Option<Name>,
    pub value: ExprId,
    pub span: Span,
}

/// One item between the brackets of an index.
#[derive(Debug)]
pub enum Slice {
    At(ExprId),
    Range { low: Option<ExprId>, high: Option<ExprId>, step: Option<ExprId>, span: Span },
    Ellipsis(Span),
}

/// A stage of a pipe: for the first part the value itself, for the others what is called with it.
#[derive(Debug)]
pub struct Part {
    pub value: ExprId,
    pub suffixes: Vec<Suffix>,
}

#[derive(Debug)]
pub enum Suffix {
    As { name: Name, indices: Vec<ExprId>, span: Span },
    With { name: Name, span: Span },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    Scan,
    Cond,
}

/// The body of a region; `header` are its parameters where it has any written down.
#[derive(Debug)]
pub struct Lambda {
    pub header: Option<Vec<Name>>,
    pub body: Body,
}
