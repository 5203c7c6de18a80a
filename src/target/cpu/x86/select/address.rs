//! Index arithmetic and addresses.
//!
//! An address is the linear form `buffer + Σ c · register + constant` in bytes. What does not depend
//! on the innermost loop becomes one base register, computed before the loop and shared by all
//! accesses that differ by a constant; the constant is the displacement. The loop's counter is an
//! index register where its factor is 1, 2, 4 or 8; else the base moves along as a pointer of its
//! own.

use super::{Memo, ScopeKind, Selector, Value};
use crate::kernel::ir::{Addr, Buf, Op, Scope, Ty, Val};
use crate::target::cpu::x86::codes::Alu;
use crate::target::cpu::x86::frame::RDX;
use crate::target::cpu::x86::inst::{Arg, Base, Code, Inst, Mem, PReg, RegClass, Src, VReg, View};
use crate::target::cpu::x86::linear::Linear;
use crate::target::cpu::x86::{Res, reject};

impl Selector<'_> {
    /// An index as a linear form.
    pub(super) fn linear(&mut self, v: Val) -> Res<Linear> {
        match &self.vals[v.0 as usize] {
            Value::Linear(l) => Ok(l.clone()),
            _ => Ok(Linear::register(self.reg(v)?)),
        }
    }

    pub(super) fn index_op(&mut self, dst: Val, op: Op, args: &[Val]) -> Res<()> {
        let mut forms = vec![];
        for v in args {
            forms.push(self.linear(*v)?);
        }
        let value = match (op, &forms[..]) {
            (Op::Add, [a, b]) => Some(a.add(b)),
            (Op::Sub, [a, b]) => Some(a.add(&b.scale(-1))),
            (Op::Neg, [a]) => Some(a.scale(-1)),
            (Op::Mul, [a, b]) => match (a.as_constant(), b.as_constant()) {
                (_, Some(c)) => Some(a.scale(c)),
                (Some(c), _) => Some(b.scale(c)),
                (None, None) => None,
            },
            _ => None,
        };
        if let Some(l) = value {
            self.set(dst, Value::Linear(l));
            return Ok(());
        }
        let reg = match (op, &forms[..]) {
            (Op::Div | Op::Rem, [a, b]) => {
                let Some(d) = b.as_constant().filter(|d| *d > 0) else {
                    return reject("an index divided by what is no positive constant");
                };
                let a = self.linear_reg(a);
                self.index_division(op, a, d)
            }
            _ => {
                let regs = forms.iter().map(|l| self.linear_reg(l)).collect::<Vec<_>>();
                self.int_on(op, &regs, Ty::Index)?
            }
        };
        self.set(dst, Value::Linear(Linear::register(reg)));
        Ok(())
    }

    /// Floor division by a positive constant, or its remainder.
    ///
    /// floor(a / d) = (|a| / d) for a ≥ 0 and ~(~a / d) else; both divide numbers of 63 bits, for
    /// which the high half of a product with a rounded-up reciprocal is exact (Granlund and
    /// Montgomery, "Division by invariant integers using multiplication", 1994).
    pub(super) fn index_division(&mut self, op: Op, a: VReg, d: i64) -> VReg {
        if d == 1 {
            return if op == Op::Div { a } else { self.int_constant(0) };
        }
        let shift = d.trailing_zeros() as u8;
        if d.count_ones() == 1 {
            return match op {
                Op::Div => self.shift_by(Code::Sar_rm64_imm8, View::R64, a, shift),
                _ => self.alu_imm(Alu::And, View::R64, a, d - 1),
            };
        }
        let quotient = self.quotient(a, d);
        if op == Op::Div {
            return quotient;
        }
        let product = self.times(quotient, d);
        self.alu(Alu::Sub, View::R64, a, product)
    }

    /// `a / d`, shared by the quotient and the remainder.
    fn quotient(&mut self, a: VReg, d: i64) -> VReg {
        let (memo, depth) = (Memo::Quotient(a, d), self.depth());
        if let Some(v) = self.known(&memo, depth) {
            return v;
        }
        let sign = self.shift_by(Code::Sar_rm64_imm8, View::R64, a, 63);
        let folded = self.alu(Alu::Xor, View::R64, a, sign);
        let bits = 64 - d.leading_zeros();
        let reciprocal = (1u128 << (63 + bits)) / d as u128 + 1;
        let reciprocal = self.int_constant(reciprocal as u64 as i64);
        let [high, low] = [(); 2].map(|()| self.vreg(RegClass::Int));
        self.push(
            Inst::new(Code::VEX_Mulx_r64_r64_rm64)
                .def(high, View::R64)
                .def(low, View::R64)
                .read(folded, View::R64)
                .implicit(reciprocal, PReg::new(RDX as usize, RegClass::Int), false),
        );
        let quotient = self.shift_by(Code::Shr_rm64_imm8, View::R64, high, bits as u8 - 1);
        let quotient = self.alu(Alu::Xor, View::R64, quotient, sign);
        self.remember(memo, depth, quotient);
        quotient
    }

    /// `v · c`.
    pub(super) fn times(&mut self, v: VReg, c: i64) -> VReg {
        if c == 1 {
            return v;
        }
        if c > 0 && c.count_ones() == 1 {
            return self.shift_by(Code::Shl_rm64_imm8, View::R64, v, c.trailing_zeros() as u8);
        }
        if let Some(scale) = [3, 5, 9].into_iter().find(|s| *s == c) {
            return self.lea(Mem {
                base: Base::Reg(v),
                index: Some((v, scale as u8 - 1)),
                disp: 0,
            });
        }
        let dst = self.vreg(RegClass::Int);
        match i32::try_from(c) {
            Ok(c) => self.push(
                Inst::new(Code::Imul_r64_rm64_imm32)
                    .def(dst, View::R64)
                    .read(v, View::R64)
                    .arg(Arg::Imm32Signed(c)),
            ),
            Err(_) => {
                let c = self.int_constant(c);
                self.push(
                    Inst::new(Code::Imul_r64_rm64).tied(dst, c, View::R64).read(v, View::R64),
                );
            }
        }
        dst
    }

    fn lea(&mut self, mem: Mem) -> VReg {
        let dst = self.vreg(RegClass::Int);
        self.push(Inst::new(Code::Lea_r64_m).def(dst, View::R64).mem(mem));
        dst
    }

    fn deepest(&self, l: &Linear) -> usize {
        l.terms.iter().map(|(v, _)| self.depths[v.vreg()] as usize).max().unwrap_or(0)
    }

    /// The value of a linear form, made as far out as it can be, once.
    pub(super) fn linear_reg(&mut self, l: &Linear) -> VReg {
        match &l.terms[..] {
            [] => return self.int_constant(l.plus),
            [(v, 1)] if l.plus == 0 => return *v,
            _ => {}
        }
        let depth = self.deepest(l);
        let memo = Memo::Linear(l.clone());
        if let Some(v) = self.known(&memo, depth) {
            return v;
        }
        let v = self.at_depth(depth, |s| s.sum(l, depth));
        self.remember(memo, depth, v);
        v
    }

    /// Adds up a form at the depth of its deepest registers.
    fn sum(&mut self, l: &Linear, depth: usize) -> VReg {
        let is_high = |s: &Self, v: VReg| s.depths[v.vreg()] as usize == depth;
        let (high, low): (Vec<_>, Vec<_>) =
            l.terms.iter().copied().partition(|(v, _)| is_high(self, *v));
        let mut acc = None;
        let mut plus = l.plus;
        if !low.is_empty() {
            let mut low = Linear { terms: low, plus: 0 };
            if i32::try_from(plus).is_err() {
                low.plus = std::mem::take(&mut plus);
            }
            acc = Some(self.linear_reg(&low));
        } else if i32::try_from(plus).is_err() {
            acc = Some(self.int_constant(std::mem::take(&mut plus)));
        }
        // Factors that no addressing mode has come first, so that the last step adds all the rest.
        let scalable = |c: i64| matches!(c, 1 | 2 | 4 | 8);
        let mut high = high;
        high.sort_by_key(|(v, c)| (scalable(*c), v.vreg()));
        for (i, (v, c)) in high.iter().enumerate() {
            let last = i + 1 == high.len();
            let (v, scale) = match (scalable(*c), acc) {
                (true, Some(_)) => (*v, *c),
                _ => (self.scaled(*v, *c, depth), 1),
            };
            let disp = if last { std::mem::take(&mut plus) as i32 } else { 0 };
            acc = Some(match acc {
                None if disp == 0 => v,
                None => self.lea(Mem::at(v, disp)),
                Some(a) => {
                    self.lea(Mem { base: Base::Reg(a), index: Some((v, scale as u8)), disp })
                }
            });
        }
        let sum = acc.expect("a form with registers has a sum");
        if plus == 0 { sum } else { self.lea(Mem::at(sum, plus as i32)) }
    }

    /// `v · c`, shared by all forms that hold it.
    fn scaled(&mut self, v: VReg, c: i64, depth: usize) -> VReg {
        if c == 1 {
            return v;
        }
        let memo = Memo::Linear(Linear { terms: vec![(v, c)], plus: 0 });
        if let Some(v) = self.known(&memo, depth) {
            return v;
        }
        let r = self.times(v, c);
        self.remember(memo, depth, r);
        r
    }

    /// A buffer's first byte.
    fn buffer(&mut self, buf: Buf) -> Res<(Linear, usize)> {
        match buf {
            Buf::Param(i) => {
                let memo = Memo::Param(i);
                let pointer = match self.known(&memo, 0) {
                    Some(v) => v,
                    None => {
                        let at = Mem::at(self.buffers, 8 * i as i32);
                        let v = self.at_depth(0, |s| {
                            s.unary(Code::Mov_r64_rm64, View::R64, View::R64, Src::Mem(at))
                        });
                        self.remember(memo, 0, v);
                        v
                    }
                };
                let bytes = self.kernel.params[i as usize].elem.bytes();
                Ok((Linear::register(pointer), bytes))
            }
            Buf::Scratch(i) => {
                let mut offset = 0u64;
                for s in &self.kernel.scratch[..i as usize] {
                    offset += s.len.saturating_mul(s.elem.bytes() as u64).next_multiple_of(64);
                }
                let s = &self.kernel.scratch[i as usize];
                if s.scope != Scope::Worker {
                    return reject("memory shared by a workgroup");
                }
                let base = Linear::register(self.scratch).offset(offset as i64);
                Ok((base, s.elem.bytes()))
            }
        }
    }

    /// The memory operand for an access.
    pub(super) fn address(&mut self, at: &Addr) -> Res<Mem> {
        let (buffer, bytes) = self.buffer(at.buf)?;
        let place = self.linear(at.base)?.offset(at.plus).scale(bytes as i64);
        let form = buffer.add(&place);
        let inner = self.scopes.iter().rposition(|s| matches!(s.kind, ScopeKind::Loop(_)));
        let inner = inner.unwrap_or(1);
        let (high, mut low): (Vec<_>, Vec<_>) =
            form.terms.iter().copied().partition(|(v, _)| self.depths[v.vreg()] as usize >= inner);
        low.sort_by_key(|(v, _)| v.vreg());
        let mut low = Linear { terms: low, plus: 0 };
        // Displacements have 32 bits; what is beyond goes to the base, in steps, so that it is
        // shared.
        const STEP: i64 = 1 << 30;
        let disp = match i32::try_from(form.plus) {
            Ok(disp) => disp,
            Err(_) => {
                low.plus = form.plus & !(STEP - 1);
                (form.plus & (STEP - 1)) as i32
            }
        };
        if high.is_empty() {
            return Ok(Mem::at(self.linear_reg(&low), disp));
        }
        if let [(v, c)] = high[..] {
            if matches!(c, 1 | 2 | 4 | 8) {
                let base = Base::Reg(self.linear_reg(&low));
                return Ok(Mem { base, index: Some((v, c as u8)), disp });
            }
            if let Some(pointer) = self.moving(&low, v, c, inner) {
                return Ok(Mem::at(pointer, disp));
            }
        }
        let index = self.linear_reg(&Linear { terms: high, plus: 0 });
        let base = Base::Reg(self.linear_reg(&low));
        Ok(Mem { base, index: Some((index, 1)), disp })
    }

    /// The pointer `low + c · counter` that moves along with the loop at depth `at`, if `v` is that
    /// loop's counter.
    fn moving(&mut self, low: &Linear, v: VReg, c: i64, at: usize) -> Option<VReg> {
        let ScopeKind::Loop(l) = &self.scopes[at].kind else { return None };
        let (counter, lo, step) = l.counter.clone()?;
        let by = c.checked_mul(step).filter(|by| i32::try_from(*by).is_ok())?;
        if counter != v {
            return None;
        }
        let memo = Memo::Pointer(low.add(&Linear { terms: vec![(v, c)], plus: 0 }));
        if let Some(pointer) = self.known(&memo, at) {
            return Some(pointer);
        }
        let start = low.add(&lo.scale(c));
        let start = self.at_depth(at - 1, |s| s.linear_reg(&start));
        let pointer = self.at_depth(at, |s| s.vreg(RegClass::Int));
        let ScopeKind::Loop(l) = &mut self.scopes[at].kind else { return None };
        l.pointers.push((pointer, start, by));
        self.remember(memo, at, pointer);
        Some(pointer)
    }
}
