//! Control at run time: `scan` and `cond`, whose bodies become regions.
//!
//! A region is a closed graph. What its body reads from outside is captured: it becomes a trailing
//! input of the region and a trailing operand of the node. Names bound in the body stay there.

use super::args::Args;
use super::index::{axis_of, to_front};
use super::stmt::{Flow, Returned};
use super::value::{RegionId, TensorVal, Val};
use super::{Frame, Lowerer, RegionFrame, finish};
use crate::base::diag::Diagnostic;
use crate::base::source::Span;
use crate::base::{Shape, TensorType, codes};
use crate::front::ast::*;
use crate::ir::op::{self, Op};
use crate::ir::{Attr, Builder, Graph, Value};

type Captures = Vec<(TensorVal, Value)>;

/// The graph of a body, the types of its results with their places, and what it captured.
type BodyRegion = (Graph, Vec<(TensorType, Span)>, Captures);

impl<'p> Lowerer<'p> {
    /// A call of `scan` or `cond` with its bodies.
    pub(super) fn region(
        &mut self,
        kind: RegionKind,
        args: &'p [Arg],
        lambdas: &'p [Lambda],
        input: Option<(Val, Span)>,
        span: Span,
    ) -> Val {
        // Names of plain variables stand for the region's inputs where no header is written.
        let names: Vec<Option<String>> =
            args.iter().filter(|a| a.name.is_none()).map(|a| self.plain_name(a.value)).collect();
        let init = args.iter().find(|a| a.name.as_ref().is_some_and(|n| n.text == "init"));
        let init_names: Vec<Option<String>> = match init.map(|a| &self.expr(a.value).kind) {
            Some(ExprKind::List(items)) => items.iter().map(|id| self.plain_name(*id)).collect(),
            Some(_) => init.map(|a| self.plain_name(a.value)).into_iter().collect(),
            None => vec![],
        };
        let mut given = self.args(args);
        let piped = input.is_some();
        if let Some((v, at)) = input {
            given = Args::piped(v, at, given);
        }
        if given.poisoned() {
            return Val::Poison;
        }
        match kind {
            RegionKind::Scan => {
                let piped = piped.then_some(None);
                let names = init_names.into_iter().chain(piped).chain(names).collect();
                self.scan(given, names, lambdas, span)
            }
            RegionKind::Cond => self.cond(given, lambdas, span),
        }
    }

    fn plain_name(&self, id: ExprId) -> Option<String> {
        match &self.expr(id).kind {
            ExprKind::Name(n) => Some(n.clone()),
            _ => None,
        }
    }

    // ---- scan -----------------------------------------------------------------------------------

    fn scan(
        &mut self,
        args: Args,
        names: Vec<Option<String>>,
        lambdas: &'p [Lambda],
        span: Span,
    ) -> Val {
        let [lambda] = lambdas else {
            self.error(codes::MISPLACED, span, "`scan` has one body, without `else`");
            return Val::Poison;
        };
        let Some(setup) = self.scan_setup(&args, span) else { return Val::Poison };
        let ScanSetup { carries, sequences, axis, reverse } = setup;
        let Some(names) = self.header(lambda, names, carries.len() + sequences.len()) else {
            return Val::Poison;
        };
        let mut types: Vec<TensorType> = carries.iter().map(|(t, _)| (*t.ty).clone()).collect();
        for (t, _) in &sequences {
            let TensorType { dtype, shape: Shape(dims) } = (*t.ty).clone();
            types.push(TensorType::new(dtype, Shape(dims[1..].to_vec())));
        }
        let inputs: Vec<(String, TensorType)> = names.into_iter().zip(types).collect();
        let Some((graph, results, captures)) =
            self.body_region(&lambda.body, &inputs, vec![], &carries, span)
        else {
            return Val::Poison;
        };
        if !self.carries_fit(&carries, &results, span) {
            return Val::Poison;
        }
        let stacked: Vec<TensorType> =
            results[carries.len()..].iter().map(|(t, _)| t.clone()).collect();
        let Some(row) = op::find("scan") else {
            self.error(codes::UNKNOWN_CALLEE, span, "there is no op `scan`");
            return Val::Poison;
        };
        let mut attrs = vec![];
        for (name, value) in [
            ("carries", Attr::Int(carries.len() as i64)),
            ("sequences", Attr::Int(sequences.len() as i64)),
            ("reverse", Attr::Bool(reverse)),
        ] {
            if row.attr_index(name).is_some() {
                attrs.push((name, value));
            }
        }
        let count = carries.len();
        let operands: Vec<(TensorVal, Span)> = carries.into_iter().chain(sequences).collect();
        let value = self.region_node(Op::new(row, &attrs), operands, captures, vec![graph], span);
        // Outputs come stacked along axis 0; the axis of the sequences is theirs too.
        let Val::Results(r) = &value else { return self.one_result(value, count, axis, span) };
        let mut out = vec![];
        for (i, (_, v)) in r.values.iter().enumerate() {
            let mut v = v.clone();
            if let Some(ty) = i.checked_sub(count).and_then(|k| stacked.get(k)) {
                v = self.stacked_back(v, ty.rank() + 1, axis, span);
            }
            out.push((None, v));
        }
        tuple(out, "scan")
    }

    fn one_result(&mut self, v: Val, carries: usize, axis: i64, span: Span) -> Val {
        match &v {
            Val::Tensor(t) if carries == 0 => {
                let rank = t.ty.rank();
                self.stacked_back(v, rank, axis, span)
            }
            _ => v,
        }
    }

    /// Moves the stacked axis from the front to where the sequences have it.
    fn stacked_back(&mut self, v: Val, rank: usize, axis: i64, span: Span) -> Val {
        let at = if axis < 0 { axis + rank as i64 } else { axis };
        let at = usize::try_from(at).unwrap_or(0).min(rank.saturating_sub(1));
        let (_, back) = to_front(rank, at);
        self.permuted(v, &back, span)
    }

    fn scan_setup(&mut self, args: &Args, span: Span) -> Option<ScanSetup> {
        let (mut axis, mut reverse, mut init) = (0i64, false, None);
        for (name, v, at) in &args.named {
            match (name.text.as_str(), v.clone().first()) {
                ("axis", Val::Int(a)) => axis = a,
                ("reverse", Val::Bool(b)) => reverse = b,
                ("init", v) => init = Some((v, *at)),
                ("axis" | "reverse", v) => {
                    let message = format!("`{}` of `scan` cannot be {}", name.text, v.describe());
                    self.error(codes::ATTRIBUTE, *at, message);
                    return None;
                }
                (other, _) => {
                    let message = format!("`scan` has no argument `{other}`");
                    self.report(Diagnostic::error(codes::UNKNOWN_ARG, name.span, message).help(
                        "the arguments are scan(xs, …, axis = 0, init = …, reverse = false)",
                    ));
                    return None;
                }
            }
        }
        let carries: Vec<(Val, Span)> = match init {
            Some((Val::List(items), at)) => items.iter().map(|v| (v.clone(), at)).collect(),
            Some(one) => vec![one],
            None => vec![],
        };
        let mut out = ScanSetup { carries: vec![], sequences: vec![], axis, reverse };
        for (v, at) in carries {
            let t = self.tensor(&v, at, None)?;
            out.carries.push((t, at));
        }
        if args.positional.is_empty() {
            let message = "`scan` needs a sequence: `scan(xs, axis = 0, init = h) { … }`";
            self.error(codes::MISSING_ARG, span, message);
            return None;
        }
        for (v, at) in &args.positional {
            let t = self.tensor(v, *at, None)?;
            let Some(front) = axis_of(axis, t.ty.shape.dims()) else {
                let message = format!("`scan` along axis {axis} of {}", t.ty);
                self.error(codes::ATTRIBUTE, *at, message);
                return None;
            };
            let (forth, _) = to_front(t.ty.rank(), front);
            let v = self.permuted(Val::Tensor(t), &forth, *at);
            out.sequences.push((self.tensor(&v, *at, None)?, *at));
        }
        let extents: Vec<_> = out.sequences.iter().map(|(t, _)| &t.ty.shape.dims()[0]).collect();
        if let Some(i) = extents.iter().position(|e| *e != extents[0]) {
            let message = format!(
                "the sequences of `scan` differ in length: {} and {}",
                extents[0], extents[i]
            );
            let d = Diagnostic::error(codes::SHAPE, span, message)
                .label(out.sequences[0].1, format!("{} along the axis", extents[0]))
                .label(out.sequences[i].1, format!("{} along the axis", extents[i]));
            self.report(d);
            return None;
        }
        Some(out)
    }

    /// The names of a region's inputs: written in a header, or those of the operands.
    fn header(
        &mut self,
        lambda: &Lambda,
        names: Vec<Option<String>>,
        wanted: usize,
    ) -> Option<Vec<String>> {
        let span = lambda.body.span;
        if let Some(header) = &lambda.header {
            if header.len() == wanted {
                return Some(header.iter().map(|n| n.text.clone()).collect());
            }
            let message = format!("the body has {} names for {wanted} values", header.len());
            let at = header.first().map_or(span, |n| n.span);
            self.report(
                Diagnostic::error(codes::RESULT_COUNT, at, message)
                    .help("first the carried values, then one element of each sequence"),
            );
            return None;
        }
        let all: Option<Vec<String>> = names.into_iter().collect();
        match all {
            Some(all) if all.len() == wanted => Some(all),
            _ => {
                let message = "the body needs names for what it is given";
                self.report(
                    Diagnostic::error(codes::MISSING_ARG, span, message)
                        .help("write them first: `{ |h, x| … }`"),
                );
                None
            }
        }
    }

    fn carries_fit(
        &mut self,
        carries: &[(TensorVal, Span)],
        results: &[(TensorType, Span)],
        span: Span,
    ) -> bool {
        if results.len() < carries.len() {
            let message = format!(
                "the body returns {} values, fewer than the {} that it carries",
                results.len(),
                carries.len()
            );
            self.report(
                Diagnostic::error(codes::RESULT_COUNT, span, message)
                    .help("first the next carried values, then the outputs"),
            );
            return false;
        }
        for ((t, at), (ty, to)) in carries.iter().zip(results) {
            if *t.ty != *ty {
                let message = format!("the carried value is {} and becomes {ty}", t.ty);
                self.report(
                    Diagnostic::error(codes::TYPE_MISMATCH, *to, message)
                        .label(*at, format!("begins as {}", t.ty)),
                );
                return false;
            }
        }
        true
    }

    // ---- cond -----------------------------------------------------------------------------------

    fn cond(&mut self, args: Args, lambdas: &'p [Lambda], span: Span) -> Val {
        let [yes, no] = lambdas else {
            let message = "`cond` needs both ways: `cond(c) { … } else { … }`";
            self.error(codes::MISSING_RETURN, span, message);
            return Val::Poison;
        };
        let (1, []) = (args.positional.len(), args.named.as_slice()) else {
            let message = "`cond` takes one bool: `cond(c) { … } else { … }`";
            self.error(codes::MISSING_ARG, span, message);
            return Val::Poison;
        };
        let (value, at) = args.positional[0].clone();
        if let Some(header) = [yes, no].iter().find_map(|l| l.header.as_ref()) {
            let at = header.first().map_or(span, |n| n.span);
            self.error(codes::MISPLACED, at, "the bodies of `cond` take no values of their own");
            return Val::Poison;
        }
        let Some(condition) = self.tensor(&value, at, None) else { return Val::Poison };
        if *condition.ty != TensorType::scalar(crate::base::DType::Bool) {
            let message = format!("`cond` takes a bool scalar, not {}", condition.ty);
            let code = match condition.ty.dtype == crate::base::DType::Bool {
                true => codes::SHAPE,
                false => codes::DTYPE,
            };
            self.report(
                Diagnostic::error(code, at, message).help("element by element: `where(c, a, b)`"),
            );
            return Val::Poison;
        }
        let Some((mut first, left, captures)) = self.body_region(&yes.body, &[], vec![], &[], span)
        else {
            return Val::Poison;
        };
        let shared: Vec<TensorVal> = captures.iter().map(|(t, _)| t.clone()).collect();
        let Some((second, right, all)) = self.body_region(&no.body, &[], shared, &[], span) else {
            return Val::Poison;
        };
        // Both regions take the captures of both, in one order.
        for (t, _) in &all[captures.len()..] {
            let name = format!("capture.{}", first.inputs.len());
            Builder::new(&mut first).input(&name, (*t.ty).clone());
        }
        first.compact();
        if left.len() != right.len() || left.iter().zip(&right).any(|(a, b)| a.0 != b.0) {
            let types = |v: &[(TensorType, Span)]| {
                v.iter().map(|(t, _)| t.to_string()).collect::<Vec<_>>().join(", ")
            };
            self.report(
                Diagnostic::error(codes::TYPE_MISMATCH, span, "the two ways of `cond` differ")
                    .note(format!("if true:  {}", types(&left)))
                    .note(format!("if false: {}", types(&right))),
            );
            return Val::Poison;
        }
        let Some(row) = op::find("cond") else {
            self.error(codes::UNKNOWN_CALLEE, span, "there is no op `cond`");
            return Val::Poison;
        };
        let operands = vec![(condition, at)];
        let value = self.region_node(Op::new(row, &[]), operands, all, vec![first, second], span);
        match &value {
            Val::Results(r) => {
                tuple(r.values.iter().map(|(_, v)| (None, v.clone())).collect(), "cond")
            }
            _ => value,
        }
    }

    // ---- regions --------------------------------------------------------------------------------

    /// Evaluates a body in a graph of its own. Gives the graph, the types of its results, and what
    /// it captured (`seeds` first).
    fn body_region(
        &mut self,
        body: &'p Body,
        inputs: &[(String, TensorType)],
        seeds: Vec<TensorVal>,
        hints: &[(TensorVal, Span)],
        span: Span,
    ) -> Option<BodyRegion> {
        if self.frames.len() >= 4 * super::MAX_CALLS {
            self.error(codes::CALL_DEPTH, span, "regions nest too deep");
            return None;
        }
        let id = RegionId(self.next_region);
        self.next_region += 1;
        self.regions.push(RegionFrame { id, graph: Graph::new(""), captures: vec![] });
        let mut vars = std::collections::BTreeMap::new();
        for (name, ty) in inputs {
            let region = self.regions.last_mut().expect("pushed above");
            let value = Builder::new(&mut region.graph).input(name, ty.clone());
            let tensor = TensorVal { region: id, value, ty: std::rc::Rc::new(ty.clone()) };
            vars.insert(name.clone(), Val::Tensor(tensor));
        }
        for seed in &seeds {
            self.local(seed, span);
        }
        let outer = self.frames.len() - 1;
        let parent = self.top();
        let frame = Frame {
            unit: parent.unit,
            ast: parent.ast,
            name: parent.name.clone(),
            outer: Some(outer),
            vars,
            stages: Default::default(),
            scope: parent.scope,
            training: parent.training,
            frozen: parent.frozen,
            repeats: 0,
            states: Default::default(),
            call: parent.call,
        };
        self.frames.push(frame);
        let returned = self.region_results(body);
        let results = returned.and_then(|values| self.region_outputs(values, hints));
        self.frames.pop();
        let mut region = self.regions.pop().expect("pushed above");
        let results = results?;
        finish::prune(&mut region.graph);
        let map = region.graph.compact();
        for (_, inner) in &mut region.captures {
            inner.node = map[&inner.node];
        }
        Some((region.graph, results, region.captures))
    }

    fn region_results(&mut self, body: &'p Body) -> Option<Returned> {
        let last_if = match body.stmts.last() {
            Some(Stmt::If { .. }) => body.tail.is_empty(),
            _ => false,
        };
        match self.block(&body.stmts) {
            Flow::Return(values) => Some(values),
            Flow::Stop => None,
            Flow::Next if !body.tail.is_empty() => Some(self.returned(&body.tail)),
            Flow::Next => {
                let message = "the body returns nothing";
                let help = match last_if {
                    true => "write `return` in the arms of its last `if`",
                    false => "end it with `return …`",
                };
                self.report(
                    Diagnostic::error(codes::MISSING_RETURN, body.span, message).help(help),
                );
                None
            }
        }
    }

    /// Makes the returned values outputs of the region at hand.
    fn region_outputs(
        &mut self,
        values: Returned,
        hints: &[(TensorVal, Span)],
    ) -> Option<Vec<(TensorType, Span)>> {
        let mut types = vec![];
        let mut sound = true;
        for (i, (_, v, span)) in values.into_iter().enumerate() {
            let hint = hints.get(i).map(|(t, _)| t.ty.dtype);
            let tensor = self.tensor(&v, span, hint);
            let local = tensor.and_then(|t| self.local(&t, span).map(|v| (t, v)));
            let Some((tensor, value)) = local else {
                sound = false;
                continue;
            };
            let region = self.regions.last_mut().expect("a region is open");
            Builder::new(&mut region.graph).output(&i.to_string(), value);
            types.push(((*tensor.ty).clone(), span));
        }
        sound.then_some(types)
    }

    fn region_node(
        &mut self,
        op: Op,
        operands: Vec<(TensorVal, Span)>,
        captures: Captures,
        regions: Vec<Graph>,
        span: Span,
    ) -> Val {
        let row = op.row;
        let mut values = vec![];
        for (t, at) in operands.iter().map(|(t, at)| (t, *at)) {
            let Some(v) = self.local(t, at) else { return Val::Poison };
            values.push(v);
        }
        for (t, _) in &captures {
            let Some(v) = self.local(t, span) else { return Val::Poison };
            values.push(v);
        }
        match self.push(op, values, regions, span) {
            Ok(v) => v,
            Err(None) => Val::Poison,
            Err(Some(e)) => {
                self.op_error(row, e, &operands, span);
                Val::Poison
            }
        }
    }

    /// The value that stands for a tensor in the graph under construction: its own, or a capture.
    pub(super) fn local(&mut self, t: &TensorVal, span: Span) -> Option<Value> {
        let Some(home) = self.regions.iter().position(|r| r.id == t.region) else {
            let message = "this value belongs to the body of a `scan` or `cond` and ends with it";
            self.report(
                Diagnostic::error(codes::MISPLACED, span, message).help("return it from the body"),
            );
            return None;
        };
        let mut from = t.clone();
        for region in &mut self.regions[home + 1..] {
            let known = region
                .captures
                .iter()
                .find(|(c, _)| c.region == from.region && c.value == from.value)
                .map(|(_, v)| *v);
            let value = known.unwrap_or_else(|| {
                let name = format!("capture.{}", region.graph.inputs.len());
                let value = Builder::new(&mut region.graph).input(&name, (*t.ty).clone());
                region.captures.push((from.clone(), value));
                value
            });
            from = TensorVal { region: region.id, value, ty: t.ty.clone() };
        }
        Some(from.value)
    }
}

struct ScanSetup {
    carries: Vec<(TensorVal, Span)>,
    /// With the axis in front.
    sequences: Vec<(TensorVal, Span)>,
    axis: i64,
    reverse: bool,
}

fn tuple(values: Vec<(Option<String>, Val)>, callee: &str) -> Val {
    Val::Results(std::rc::Rc::new(super::value::Results {
        values,
        names: Default::default(),
        exact: true,
        callee: callee.into(),
    }))
}
