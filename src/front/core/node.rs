//! Nodes of the core form: operands, attributes and regions, checked by the op's row.

use pest::iterators::Pair;

use super::{Names, Own, PART, Reader, Stop};
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::Span;
use crate::base::{TensorType, codes};
use crate::front::parse::Rule;
use crate::ir::op::{self, Arity, Op, OpRow};
use crate::ir::{Attr, Builder, Graph, NodeId, Value};

impl<'t> Reader<'t> {
    pub(super) fn node(
        &mut self,
        graph: &mut Graph,
        names: &mut Names<'t>,
        pair: Pair<'t, Rule>,
    ) -> Result<(), Stop> {
        let span = self.span(&pair);
        if self.nodes >= self.node_limit {
            let message = format!("the graph has more than {} ops", self.node_limit);
            self.error(codes::NODE_LIMIT, span, message);
            return Err(Stop::Limit);
        }
        self.nodes += 1;
        let mut inner = pair.into_inner().peekable();
        let mut results = vec![];
        while let Some(r) = inner.next_if(|p| p.as_rule() == Rule::core_result) {
            let mut parts = r.into_inner();
            results.push((parts.next().expect(PART), parts.next().expect(PART)));
        }
        let op_name = inner.nth(1).expect(PART);
        let operands = inner.next().expect(PART);
        let attrs = inner.next_if(|p| p.as_rule() == Rule::core_attrs);
        let mut regions = vec![];
        while let Some(r) = inner.next_if(|p| p.as_rule() == Rule::core_region) {
            regions.push(r);
        }
        let node = self.try_node(graph, names, &op_name, operands, attrs, regions, span)?;
        let inferred = node.map(|id| graph.node(id).results.clone());
        if let Some(types) = &inferred
            && types.len() != results.len()
        {
            let message = format!(
                "`{}` has {} results, {} are written",
                op_name.as_str(),
                types.len(),
                results.len()
            );
            self.error(codes::CORE, span, message);
        }
        for (i, (token, written)) in results.into_iter().enumerate() {
            let at = self.span(&written);
            let written = self.core_type(written);
            let inferred = inferred.as_ref().and_then(|types| types.get(i));
            if let (Some(w), Some(t)) = (&written, inferred)
                && w != t
            {
                let message = format!("`{}` gives {t}, not {w}", op_name.as_str());
                self.error(codes::CORE_TYPE, at, message);
            }
            let value = node.filter(|_| inferred.is_some());
            let value = value.map(|node| Value { node, result: i as u16 });
            self.define(names, token, value);
        }
        if let Some(id) = node {
            self.names_and_place(graph, id, inner);
        }
        Ok(())
    }

    /// The node, or `None` where something of it is wrong (reported) or unknown.
    #[expect(clippy::too_many_arguments, reason = "the parts of one statement, all needed")]
    fn try_node(
        &mut self,
        graph: &mut Graph,
        names: &Names<'t>,
        op_name: &Pair<'t, Rule>,
        operands: Pair<'t, Rule>,
        attrs: Option<Pair<'t, Rule>>,
        region_pairs: Vec<Pair<'t, Rule>>,
        span: Span,
    ) -> Result<Option<NodeId>, Stop> {
        let at = self.span(op_name);
        let row = op::find(op_name.as_str());
        let Some(row) = row.filter(|r| !matches!(r.name, "input" | "param" | "state")) else {
            let message = format!("there is no op `{}`", op_name.as_str());
            let near = did_you_mean(op_name.as_str(), op::table().map(|r| r.name));
            let mut d = Diagnostic::error(codes::UNKNOWN_CALLEE, at, message);
            d.help = near.map(|n| format!("did you mean `{n}`?"));
            self.diags.push(d);
            return Ok(None);
        };
        let (mut given, mut captures) = (vec![], vec![]);
        for p in operands.into_inner() {
            match p.as_rule() {
                Rule::core_captures => captures = p.into_inner().collect(),
                Rule::absent => given.push(None),
                _ => given.push(Some(p)),
            }
        }
        let values = self.operands(names, row, given, span);
        let mut outer = vec![];
        for c in &captures {
            outer.push(self.value(names, c.clone()));
        }
        let attributes = self.attributes(row, attrs, span);
        let outer: Option<Vec<Value>> = outer.into_iter().collect();
        let (Some((present, mut flat)), Some(attributes), Some(outer)) =
            (values, attributes, outer)
        else {
            return Ok(None);
        };
        let mut regions = vec![];
        for pair in region_pairs {
            let types: Vec<TensorType> = outer.iter().map(|v| graph.ty(*v).clone()).collect();
            regions.push(self.region(pair, &captures, &types)?);
        }
        flat.extend(outer);
        let op = Op { row, attrs: attributes, present };
        match Builder::new(graph).push(op, flat, regions) {
            Ok(id) => Ok(Some(id)),
            Err(e) => {
                self.op_error(e, span);
                Ok(None)
            }
        }
    }

    /// Operands in the row's order, with the bits of those that are there.
    fn operands(
        &mut self,
        names: &Names<'t>,
        row: &OpRow,
        given: Vec<Option<Pair<'t, Rule>>>,
        span: Span,
    ) -> Option<(u32, Vec<Value>)> {
        let mut present = 0u32;
        let mut values = vec![];
        let mut given = given.into_iter();
        let mut sound = true;
        for (i, spec) in row.operands.iter().enumerate() {
            match spec.arity {
                Arity::Variadic => {
                    present |= 1 << i;
                    for token in given.by_ref() {
                        let value = token.and_then(|t| self.value(names, t));
                        sound &= value.is_some();
                        values.extend(value);
                    }
                }
                Arity::One | Arity::Optional => match given.next().flatten() {
                    Some(token) => {
                        present |= 1 << i;
                        let value = self.value(names, token);
                        sound &= value.is_some();
                        values.extend(value);
                    }
                    None if spec.arity == Arity::One => {
                        let message = format!("`{}` needs `{}`", row.name, spec.name);
                        self.error(codes::MISSING_ARG, span, message);
                        sound = false;
                    }
                    None => {}
                },
            }
        }
        if given.next().is_some() {
            let message = format!("`{}` does not take so many operands", row.name);
            self.error(codes::TOO_MANY_ARGS, span, message);
            sound = false;
        }
        sound.then_some((present, values))
    }

    pub(super) fn value(&mut self, names: &Names<'t>, token: Pair<'t, Rule>) -> Option<Value> {
        match names.get(token.as_str()) {
            Some(v) => *v,
            None => {
                let span = self.span(&token);
                self.error(
                    codes::CORE,
                    span,
                    format!("`{}` is used before it is defined", token.as_str()),
                );
                None
            }
        }
    }

    /// Attributes in the order of the row's schema, defaults filled in.
    fn attributes(
        &mut self,
        row: &OpRow,
        pair: Option<Pair<'t, Rule>>,
        span: Span,
    ) -> Option<Vec<Attr>> {
        let mut slots: Vec<Option<Attr>> = row.attrs.iter().map(|a| a.default.value()).collect();
        let mut sound = true;
        for attr in pair.into_iter().flat_map(Pair::into_inner) {
            let at = self.span(&attr);
            let mut parts = attr.into_inner();
            let name = parts.next().expect(PART);
            let value = parts.nth(1).expect(PART);
            let Some(i) = row.attr_index(name.as_str()) else {
                let message = format!("`{}` has no attribute `{}`", row.name, name.as_str());
                self.error(codes::UNKNOWN_ARG, at, message);
                sound = false;
                continue;
            };
            match self.attr(&row.attrs[i], value) {
                Some(v) => slots[i] = Some(v),
                None => sound = false,
            }
        }
        for (spec, slot) in row.attrs.iter().zip(&slots) {
            if slot.is_none() && sound {
                let message = format!("`{}` needs the attribute `{}`", row.name, spec.name);
                self.error(codes::MISSING_ARG, span, message);
                sound = false;
            }
        }
        slots.into_iter().collect::<Option<Vec<Attr>>>().filter(|_| sound)
    }

    /// A region: its own inputs, then the captures under their outer names.
    fn region(
        &mut self,
        pair: Pair<'t, Rule>,
        captures: &[Pair<'t, Rule>],
        types: &[TensorType],
    ) -> Result<Graph, Stop> {
        let mut graph = Graph::new("");
        let mut names = Names::new();
        for p in pair.into_inner() {
            match p.as_rule() {
                Rule::core_inputs => {
                    self.inputs(&mut graph, &mut names, p, Own::WithoutNumbers);
                    for (i, (token, ty)) in captures.iter().zip(types).enumerate() {
                        let name = format!("capture.{i}");
                        let value = Builder::new(&mut graph).input(&name, ty.clone());
                        // One that is listed twice is read from the first.
                        names.entry(token.as_str()).or_insert(Some(value));
                    }
                }
                Rule::core_node => self.node(&mut graph, &mut names, p)?,
                Rule::core_yield => self.yields(&mut graph, &names, p),
                _ => {}
            }
        }
        graph.compact();
        Ok(graph)
    }
}
