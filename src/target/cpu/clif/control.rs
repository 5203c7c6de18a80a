//! Control flow: the frame of the function, the loop over grid points, loops and branches.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, MemFlagsData, Value};

use super::emit::{Emitter, Fact, Res, clif_type, reject};
use crate::kernel::ir::{Lit, Region, Scope, Val};

impl Emitter<'_> {
    /// Buffer pointers, then the loop over grid points around the body.
    pub(super) fn frame(&mut self, abi: &[Value]) -> Res<()> {
        let &[buffers, begin, end, scratch] = abi else { unreachable!("the ABI has 4 parameters") };
        let flags = MemFlagsData::trusted().with_readonly().with_can_move();
        for i in 0..self.kernel.params.len() {
            let pointer = self.b.ins().load(types::I64, flags, buffers, 8 * i as i32);
            self.params.push(pointer);
        }
        let mut offset = 0u64;
        for s in &self.kernel.scratch {
            if s.scope != Scope::Worker {
                return reject("memory shared by a workgroup");
            }
            let at = self.b.ins().iadd_imm_s(scratch, offset as i64);
            self.scratch.push(at);
            let bytes = s.len.checked_mul(s.elem.bytes() as u64);
            let next = bytes.and_then(|n| n.checked_next_multiple_of(64)?.checked_add(offset));
            match next.filter(|n| *n < 1 << 48) {
                Some(next) => offset = next,
                None => return reject("scratch beyond 2^48 bytes"),
            }
        }
        let exit = self.b.create_block();
        let body = self.b.create_block();
        let some = self.b.ins().icmp(IntCC::UnsignedLessThan, begin, end);
        let start = self.first_point(begin);
        let point = self.b.append_block_param(body, types::I64);
        let mut args = vec![BlockArg::Value(begin)];
        for (axis, coordinate) in start.into_iter().enumerate() {
            if let Some(coordinate) = coordinate {
                args.push(BlockArg::Value(coordinate));
                self.grid[axis] = self.b.append_block_param(body, types::I64);
            }
        }
        self.b.ins().brif(some, body, &args, exit, &[]);
        self.b.switch_to_block(body);
        self.region(&self.kernel.body)?;
        let next = self.b.ins().iadd_imm_s(point, 1);
        let mut args = vec![BlockArg::Value(next)];
        args.extend(self.next_point().into_iter().map(BlockArg::Value));
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, end);
        self.b.ins().brif(more, body, &args, exit, &[]);
        self.b.switch_to_block(exit);
        self.b.ins().return_(&[]);
        Ok(())
    }

    /// The coordinates of a grid point, along the axes that have more than one.
    fn first_point(&mut self, point: Value) -> [Option<Value>; 3] {
        let [n0, n1, n2] = self.kernel.grid.map(|n| n.max(1) as i64);
        let long = [n0 > 1, n1 > 1, n2 > 1];
        let mut rest = point;
        let mut coordinates = [None; 3];
        for (axis, n) in [n0, n1, n2].into_iter().enumerate() {
            if long[axis] {
                let last = !long[axis + 1..].contains(&true);
                coordinates[axis] =
                    Some(if last { rest } else { self.b.ins().urem_imm_u(rest, n) });
                if !last {
                    rest = self.b.ins().udiv_imm_u(rest, n);
                }
            }
        }
        coordinates
    }

    /// The next point's coordinates along the long axes: axis 0 moves on, full axes wrap.
    fn next_point(&mut self) -> Vec<Value> {
        let long: Vec<usize> = (0..3).filter(|a| self.kernel.grid[*a] > 1).collect();
        let mut next = vec![];
        let mut carry = None;
        for (i, &axis) in long.iter().enumerate() {
            let at = self.grid[axis];
            let stepped = match carry {
                None => self.b.ins().iadd_imm_s(at, 1),
                Some(carry) => self.b.ins().iadd(at, carry),
            };
            if i + 1 == long.len() {
                next.push(stepped);
            } else {
                let n = self.kernel.grid[axis] as i64;
                let full = self.b.ins().icmp_imm_u(IntCC::Equal, stepped, n);
                let zero = self.b.ins().iconst(types::I64, 0);
                next.push(self.b.ins().select(full, zero, stepped));
                carry = Some(self.b.ins().uextend(types::I64, full));
            }
        }
        next
    }

    /// A loop with its test at the top, whose block holds the counter and the carried values.
    ///
    /// A test at the end would pass each yield to two blocks, and Cranelift folds no load into what
    /// leads to a value with two uses.
    pub(super) fn for_loop(
        &mut self,
        results: &[Val],
        (lo, hi, step): (Val, Val, i64),
        init: &[Val],
        body: &Region,
    ) -> Res<()> {
        let literal = |e: &Self, v: Val| e.facts[v.0 as usize].literal.and_then(Lit::as_int);
        let surely = matches!((literal(self, lo), literal(self, hi)), (Some(a), Some(b)) if a < b);
        let (first, limit) = (self.get(lo)?, self.get(hi)?);
        let start = [&[BlockArg::Value(first)], &self.args(init)?[..]].concat();
        let [top, inside, exit] = [(); 3].map(|()| self.b.create_block());
        let counter = self.b.append_block_param(top, types::I64);
        let carried = self.block_params(top, &body.params[1..])?;
        self.b.ins().jump(top, &start);
        self.b.switch_to_block(top);
        let more = self.b.ins().icmp(IntCC::SignedLessThan, counter, limit);
        self.b.ins().brif(more, inside, &[], exit, &[]);
        self.b.switch_to_block(inside);
        self.certain.push(surely);
        let depth = self.certain.len();
        let nonnegative = self.facts[lo.0 as usize].nonnegative;
        self.facts[body.params[0].0 as usize] = Fact { nonnegative, depth, ..Fact::default() };
        self.set(body.params[0], counter);
        self.define(&body.params[1..], &carried, depth);
        let yields = self.region(body)?;
        let next = self.b.ins().iadd_imm_s(counter, step);
        let again: Vec<BlockArg> =
            std::iter::once(next).chain(yields).map(BlockArg::Value).collect();
        self.b.ins().jump(top, &again);
        self.certain.pop();
        self.b.switch_to_block(exit);
        self.define(results, &carried, self.certain.len());
        Ok(())
    }

    pub(super) fn branch(
        &mut self,
        results: &[Val],
        cond: Val,
        then: &Region,
        els: &Region,
    ) -> Res<()> {
        let cond = self.get(cond)?;
        let [yes, no, exit] = [(); 3].map(|()| self.b.create_block());
        let out = self.block_params(exit, results)?;
        self.b.ins().brif(cond, yes, &[], no, &[]);
        for (block, region) in [(yes, then), (no, els)] {
            self.b.switch_to_block(block);
            self.certain.push(false);
            let yields = self.region(region)?;
            self.certain.pop();
            let yields: Vec<BlockArg> = yields.into_iter().map(BlockArg::Value).collect();
            self.b.ins().jump(exit, &yields);
        }
        self.b.switch_to_block(exit);
        self.define(results, &out, self.certain.len());
        Ok(())
    }

    fn args(&self, vals: &[Val]) -> Res<Vec<BlockArg>> {
        vals.iter().map(|v| Ok(BlockArg::Value(self.get(*v)?))).collect()
    }

    fn block_params(&mut self, block: Block, vals: &[Val]) -> Res<Vec<Value>> {
        let one = |v: &Val| Ok(self.b.append_block_param(block, clif_type(self.kernel.ty(*v))?));
        vals.iter().map(one).collect()
    }
}
