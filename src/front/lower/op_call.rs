//! Calls of ops: arguments to operands and attributes, literals to constants, errors to messages
//! with places.

use std::rc::Rc;

use super::args::Args;
use super::call::Applied;
use super::literal::{literal_dtypes, natural_dtype};
use super::scope::Purpose;
use super::value::{Results, TensorVal, Val};
use super::{Lowerer, STD};
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::Span;
use crate::base::{DType, Dim, codes};
use crate::ir::op::{Arity, Op, OpError, OpRow};
use crate::ir::{Attr, AttrKind, AttrSpec, Builder, Graph, Value};

/// Arguments sorted into a row's operands and attributes.
struct Bound {
    operands: Vec<Vec<(Val, Span)>>,
    attrs: Vec<Option<(Val, Span)>>,
}

impl Lowerer<'_> {
    pub(super) fn call_op(
        &mut self,
        row: &'static OpRow,
        args: &Args,
        applied: &Applied,
        span: Span,
    ) -> Val {
        if args.poisoned() {
            return Val::Poison;
        }
        let Some(bound) = self.bind_op(row, args, span) else { return Val::Poison };
        let mut given: Vec<(&'static str, Attr)> = vec![];
        let mut sound = true;
        for (spec, slot) in row.attrs.iter().zip(bound.attrs) {
            match slot {
                Some((v, at)) => match self.attr(row, spec, &v, at) {
                    Some(attr) => given.push((spec.name, attr)),
                    None => sound = false,
                },
                None if spec.name == "stream" => {
                    given.push((spec.name, self.stream(row, spec, applied, span)));
                }
                None if spec.default.value().is_none() => {
                    let message = format!("`{}` needs `{}` ({})", row.name, spec.name, spec.doc);
                    self.report(
                        Diagnostic::error(codes::MISSING_ARG, span, message).help(signature(row)),
                    );
                    sound = false;
                }
                None => {}
            }
        }
        if !sound {
            return Val::Poison;
        }
        let mut present = 0u32;
        let mut flat = vec![];
        for (i, (spec, values)) in row.operands.iter().zip(bound.operands).enumerate() {
            if !values.is_empty() || spec.arity == Arity::Variadic {
                present |= 1 << i;
            }
            flat.extend(values);
        }
        let op = Op::with_operands(row, present, &given);
        self.emit(op, flat, span)
    }

    /// An infix or prefix operator: the first of the names that the table has.
    pub(super) fn operator(&mut self, names: &[&str], args: Vec<(Val, Span)>, span: Span) -> Val {
        match names.iter().find_map(|n| crate::ir::op::find(n)) {
            Some(row) => {
                let args = Args { positional: args, named: vec![] };
                self.call_op(row, &args, &Applied::default(), span).first()
            }
            None => {
                let message = format!("there is no op `{}`", names[0]);
                self.error(codes::UNKNOWN_CALLEE, span, message);
                Val::Poison
            }
        }
    }

    /// `/` on tensors is float: integers are converted first.
    pub(super) fn divide(&mut self, a: (Val, Span), b: (Val, Span), span: Span) -> Val {
        let mut sides = [a, b];
        let float = sides.iter().find_map(|(v, _)| match v {
            Val::Tensor(t) if t.ty.dtype.is_float() => Some(t.ty.dtype),
            _ => None,
        });
        for (v, at) in &mut sides {
            if let Val::Tensor(t) = v
                && t.ty.dtype.is_int()
                && float.is_none()
            {
                *v = self.cast(v.clone(), DType::F32, *at);
            }
        }
        self.operator(&["div"], sides.to_vec(), span)
    }

    pub(super) fn cast(&mut self, v: Val, dtype: DType, span: Span) -> Val {
        let dtype_arg = crate::front::ast::Name { text: "dtype".into(), span };
        let args =
            Args { positional: vec![(v, span)], named: vec![(dtype_arg, Val::DType(dtype), span)] };
        match crate::ir::op::find("cast") {
            Some(row) => self.call_op(row, &args, &Applied::default(), span).first(),
            None => Val::Poison,
        }
    }

    // ---- binding --------------------------------------------------------------------------------

    /// Positional arguments fill the operands in order (optional ones only with tensors, a last
    /// variadic one with all tensors that follow), then the attributes in order.
    fn bind_op(&mut self, row: &'static OpRow, args: &Args, span: Span) -> Option<Bound> {
        let mut bound = Bound {
            operands: vec![vec![]; row.operands.len()],
            attrs: vec![None; row.attrs.len()],
        };
        let (mut operand, mut attr) = (0, 0);
        let mut sound = true;
        for (v, at) in &args.positional {
            let tensors = holds_tensors(v);
            while operand < row.operands.len()
                && row.operands[operand].arity != Arity::One
                && !tensors
            {
                operand += 1;
            }
            if let Some(spec) = row.operands.get(operand) {
                match spec.arity {
                    Arity::One | Arity::Optional => {
                        bound.operands[operand].push((v.clone(), *at));
                        operand += 1;
                    }
                    Arity::Variadic => match v {
                        Val::List(items) => {
                            bound.operands[operand].extend(items.iter().map(|v| (v.clone(), *at)));
                        }
                        _ => bound.operands[operand].push((v.clone(), *at)),
                    },
                }
            } else if attr < row.attrs.len() {
                bound.attrs[attr] = Some((v.clone(), *at));
                attr += 1;
            } else {
                let message = format!("`{}` does not take so many arguments", row.name);
                self.report(
                    Diagnostic::error(codes::TOO_MANY_ARGS, *at, message).help(signature(row)),
                );
                sound = false;
                break;
            }
        }
        for (name, v, at) in &args.named {
            let twice = if let Some(i) = row.operand_index(&name.text) {
                let twice = !bound.operands[i].is_empty();
                match v {
                    Val::List(items) if row.operands[i].arity == Arity::Variadic => {
                        bound.operands[i] = items.iter().map(|v| (v.clone(), *at)).collect();
                    }
                    _ => bound.operands[i] = vec![(v.clone(), *at)],
                }
                twice
            } else if let Some(i) = row.attr_index(&name.text) {
                bound.attrs[i].replace((v.clone(), *at)).is_some()
            } else {
                let message = format!("`{}` has no argument `{}`", row.name, name.text);
                let names = row.operands.iter().map(|o| o.name);
                let names = names.chain(row.attrs.iter().map(|a| a.name));
                let help = match did_you_mean(&name.text, names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => signature(row),
                };
                self.report(Diagnostic::error(codes::UNKNOWN_ARG, name.span, message).help(help));
                sound = false;
                continue;
            };
            if twice {
                let message = format!("the argument `{}` is given twice", name.text);
                self.error(codes::TOO_MANY_ARGS, name.span, message);
                sound = false;
            }
        }
        let missing: Vec<&str> = row
            .operands
            .iter()
            .zip(&bound.operands)
            .filter(|(spec, values)| spec.arity == Arity::One && values.is_empty())
            .map(|(spec, _)| spec.name)
            .collect();
        if sound && !missing.is_empty() {
            let message = format!("`{}` needs `{}`", row.name, missing.join("`, `"));
            self.report(Diagnostic::error(codes::MISSING_ARG, span, message).help(signature(row)));
            sound = false;
        }
        sound.then_some(bound)
    }

    /// A value as an attribute of this kind.
    fn attr(&mut self, row: &OpRow, spec: &AttrSpec, v: &Val, span: Span) -> Option<Attr> {
        let v = v.clone().first();
        if let (Val::Word(w), true) = (&v, spec.default == crate::ir::Preset::None)
            && w.text == "none"
        {
            return Some(Attr::None);
        }
        let found = match (spec.kind, &v) {
            (_, Val::Poison) => return None,
            (AttrKind::Int, Val::Int(i)) => Some(Attr::Int(*i)),
            (AttrKind::Float, Val::Int(i)) => Some(Attr::Float(*i as f64)),
            (AttrKind::Float, Val::Float(f)) => Some(Attr::Float(*f)),
            (AttrKind::Float, Val::Bits(b)) => bits_as_float(*b).map(Attr::Float),
            (AttrKind::Bool, Val::Bool(b)) => Some(Attr::Bool(*b)),
            (AttrKind::Word(words) | AttrKind::IntsOr(words), Val::Word(_) | Val::Str(_)) => {
                return self.word(row, spec, words, &v, span);
            }
            (AttrKind::Str, Val::Str(s)) => Some(Attr::Str(s.to_string())),
            (AttrKind::Str, Val::Recipe(s)) => Some(Attr::Str(s.to_string())),
            (AttrKind::Ints | AttrKind::IntsOr(_), Val::Int(i)) => Some(Attr::Int(*i)),
            (AttrKind::Ints | AttrKind::IntsOr(_), Val::List(items)) => {
                let ints = items.iter().map(|v| match v {
                    Val::Int(i) => Some(*i),
                    _ => None,
                });
                ints.collect::<Option<Vec<i64>>>().map(Attr::Ints)
            }
            (AttrKind::Dims, Val::Int(_) | Val::Dim(_)) => {
                super::function::as_dim(&v).map(|d| Attr::Dims(vec![d]))
            }
            (AttrKind::Dims, Val::List(items)) => {
                let dims = items.iter().map(super::function::as_dim);
                dims.collect::<Option<Vec<Dim>>>().map(Attr::Dims)
            }
            (AttrKind::DType, Val::DType(d)) => Some(Attr::DType(*d)),
            (AttrKind::Tensor, v) if v.is_constant() => {
                let dtype = natural_dtype(v);
                return self.literal(v, dtype, span).map(Attr::Tensor);
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        if let Val::Word(w) = &v {
            self.unknown_name(&w.text, w.span, w.near.clone());
            return None;
        }
        let wanted = match spec.kind {
            AttrKind::Int => "an integer",
            AttrKind::Float => "a number",
            AttrKind::Bool => "`true` or `false`",
            AttrKind::Word(_) => "a word",
            AttrKind::Str => "a text in quotes",
            AttrKind::Ints => "an integer or a list of integers",
            AttrKind::IntsOr(_) => "an integer, a list of integers or a word",
            AttrKind::Dims => "a list of integers or dimensions",
            AttrKind::DType => "a dtype",
            AttrKind::Tensor => "numbers known at compile time",
        };
        let message =
            format!("`{}` of `{}` is {wanted}, not {}", spec.name, row.name, v.describe());
        let code = match &v {
            Val::Tensor(_) | Val::Dim(_) => codes::NOT_CONSTANT,
            _ => codes::ATTRIBUTE,
        };
        let mut d = Diagnostic::error(code, span, message);
        if matches!(v, Val::Dim(_)) {
            d = d.help("the dimension is open; bind it with `--set`");
        }
        self.report(d);
        None
    }

    fn word(
        &mut self,
        row: &OpRow,
        spec: &AttrSpec,
        words: &'static [&'static str],
        v: &Val,
        span: Span,
    ) -> Option<Attr> {
        let text = match v {
            Val::Word(w) => w.text.as_str(),
            Val::Str(s) => s,
            _ => return None,
        };
        if words.contains(&text) {
            return Some(Attr::Str(text.to_string()));
        }
        let message = format!("`{}` of `{}` cannot be `{text}`", spec.name, row.name);
        let help = match did_you_mean(text, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the words are {}", words.join(", ")),
        };
        self.report(Diagnostic::error(codes::ATTRIBUTE, span, message).help(help));
        None
    }

    /// The stream of a random op: its dotted name, or a hash of it where the row wants numbers.
    fn stream(&mut self, row: &OpRow, spec: &AttrSpec, applied: &Applied, span: Span) -> Attr {
        let owner = self.owner();
        let mut scope = self.frames[owner].scope;
        // The block of the standard library stands for the op: its scope is the op's.
        let stands_for_it = self.frames[owner].unit == STD && self.frames[owner].name == row.name;
        if !stands_for_it {
            scope = self.scopes.open(scope, applied.naming.as_ref(), row.name, span, false);
        }
        let path = self.scope_path(scope, Purpose::Stream);
        if let AttrKind::Str = spec.kind {
            return Attr::Str(path);
        }
        use sha2::Digest;
        let hash = sha2::Sha256::digest(path.as_bytes());
        let word = |i: usize| {
            i64::from(u32::from_le_bytes([hash[i], hash[i + 1], hash[i + 2], hash[i + 3]]))
        };
        match spec.kind {
            AttrKind::Ints => Attr::Ints(vec![word(0), word(4)]),
            _ => Attr::Int(word(0)),
        }
    }

    // ---- operands -------------------------------------------------------------------------------

    /// Adds an op to the current graph. Literals among the operands take the dtype of the tensors
    /// beside them. Returns the results.
    pub(super) fn emit(&mut self, op: Op, operands: Vec<(Val, Span)>, span: Span) -> Val {
        let operands: Vec<(Val, Span)> =
            operands.into_iter().map(|(v, s)| (v.first(), s)).collect();
        let choices = literal_dtypes(&operands);
        let mut failure: Option<(OpError, Vec<(TensorVal, Span)>)> = None;
        for (i, choice) in choices.iter().enumerate() {
            let mut tensors = vec![];
            let mut values = vec![];
            for (v, at) in &operands {
                let Some(t) = self.tensor(v, *at, Some(choice.of(v))) else { return Val::Poison };
                let Some(local) = self.local(&t, *at) else { return Val::Poison };
                values.push(local);
                tensors.push((t, *at));
            }
            match self.push(op.clone(), values, vec![], span) {
                Ok(v) => return v,
                Err(None) => return Val::Poison,
                Err(Some(e)) => {
                    let again = e.code == codes::DTYPE && i + 1 < choices.len();
                    failure.get_or_insert((e, tensors));
                    if !again {
                        break;
                    }
                }
            }
        }
        if let Some((error, tensors)) = failure {
            self.op_error(op.row, error, &tensors, span);
        }
        Val::Poison
    }

    /// Pushes a node; `Err(None)` is a limit that has been reported.
    pub(super) fn push(
        &mut self,
        op: Op,
        operands: Vec<Value>,
        regions: Vec<Graph>,
        span: Span,
    ) -> Result<Val, Option<OpError>> {
        let row = op.row;
        if self.nodes >= self.mode.limits.nodes {
            self.stopped = true;
            let message = format!("the model has more than {} ops", self.mode.limits.nodes);
            self.error(codes::NODE_LIMIT, span, message);
            return Err(None);
        }
        let loc = self.loc(span);
        let region = self.regions.last_mut().expect("the top graph is always open");
        let id = region.id;
        let mut builder = Builder::new(&mut region.graph);
        builder.loc = loc;
        let node = builder.push(op, operands, regions).map_err(Some)?;
        self.nodes += 1;
        let results = region.graph.node(node).results.clone();
        let mut values = vec![];
        for (i, ty) in results.into_iter().enumerate() {
            if !self.countable(&ty, span) {
                return Err(None);
            }
            let value = Value { node, result: i as u16 };
            let name = row.results.get(i).map(|n| n.to_string());
            values.push((name, Val::Tensor(TensorVal { region: id, value, ty: Rc::new(ty) })));
        }
        Ok(match values.len() {
            1 => values.remove(0).1,
            _ => Val::Results(Rc::new(Results {
                values,
                names: Default::default(),
                exact: false,
                callee: row.name.into(),
            })),
        })
    }

    pub(super) fn op_error(
        &mut self,
        row: &OpRow,
        error: OpError,
        operands: &[(TensorVal, Span)],
        span: Span,
    ) {
        let mut d = Diagnostic::error(error.code, span, error.message);
        for (t, at) in operands {
            if *at != span {
                d = d.label(*at, t.ty.to_string());
            }
        }
        d.notes = error.notes;
        d.help = error.help.or_else(|| {
            let floats = operands.iter().find(|(t, _)| t.ty.dtype.is_float());
            match (error.code, floats) {
                (codes::DTYPE, Some((t, _))) if operands.len() > 1 => {
                    Some(format!("convert with `cast(x, {})`", t.ty.dtype))
                }
                _ => None,
            }
        });
        if d.labels.is_empty() && d.notes.is_empty() && !operands.is_empty() {
            let types: Vec<String> = operands.iter().map(|(t, _)| t.ty.to_string()).collect();
            d = d.note(format!("`{}` was given {}", row.name, types.join(", ")));
        }
        self.report(d);
    }
}

/// Bits as an attribute: 8 digits are an f32, more an f64.
fn bits_as_float(bits: u64) -> Option<f64> {
    match u32::try_from(bits) {
        Ok(b) => Some(f64::from(f32::from_bits(b))),
        Err(_) => Some(f64::from_bits(bits)),
    }
}

fn holds_tensors(v: &Val) -> bool {
    match v {
        Val::Tensor(_) => true,
        Val::Results(_) => matches!(v.clone().first(), Val::Tensor(_)),
        Val::List(items) => items.iter().any(holds_tensors),
        _ => false,
    }
}

/// `max_pool(x, kernel, stride = …)`.
fn signature(row: &OpRow) -> String {
    let mut parts: Vec<String> = vec![];
    for o in row.operands {
        parts.push(match o.arity {
            Arity::One => o.name.to_string(),
            Arity::Optional => format!("{} = …", o.name),
            Arity::Variadic => format!("{}, …", o.name),
        });
    }
    for a in row.attrs.iter().filter(|a| a.name != "stream") {
        parts.push(match a.default.value() {
            None => a.name.to_string(),
            Some(_) => format!("{} = …", a.name),
        });
    }
    format!("the arguments are {}({})", row.name, parts.join(", "))
}
