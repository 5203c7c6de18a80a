//! Instructions as text, in Intel's syntax.

use std::fmt::Write;

use iced_x86::{Instruction, OpKind, Register};

/// One line for an instruction.
pub fn line(text: &mut String, i: &Instruction) {
    let name = format!("{:?}", i.mnemonic()).to_lowercase();
    let name = if i.code() == iced_x86::Code::Retnq { "ret" } else { &name };
    let operands: Vec<String> = (0..i.op_count()).map(|n| operand(i, n)).collect();
    let _ = writeln!(text, "    {} {}", name, operands.join(", "));
    let end = text.trim_end().len();
    text.truncate(end);
    text.push('\n');
}

fn operand(i: &Instruction, n: u32) -> String {
    let mut text = match i.op_kind(n) {
        OpKind::Register => name(i.op_register(n)),
        OpKind::Memory => memory(i),
        OpKind::Immediate8
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32
        | OpKind::Immediate32to64
        | OpKind::Immediate64 => format!("{}", i.immediate(n) as i64),
        other => format!("{other:?}"),
    };
    if n == 0 && i.op_mask() != Register::None {
        let _ = write!(text, "{{{}}}", name(i.op_mask()));
        if i.zeroing_masking() {
            text.push_str("{z}");
        }
    }
    text
}

fn memory(i: &Instruction) -> String {
    if i.memory_base() == Register::RIP {
        return if i.is_broadcast() { "[constant]{bcst}" } else { "[constant]" }.into();
    }
    let mut text = format!("[{}", name(i.memory_base()));
    if i.memory_index() != Register::None {
        let _ = write!(text, " + {}*{}", name(i.memory_index()), i.memory_index_scale());
    }
    let disp = i.memory_displacement64() as i64;
    if disp != 0 {
        let sign = if disp < 0 { '-' } else { '+' };
        let _ = write!(text, " {sign} {}", disp.unsigned_abs());
    }
    text.push(']');
    if i.is_broadcast() {
        text.push_str("{bcst}");
    }
    text
}

fn name(reg: Register) -> String {
    format!("{reg:?}").to_lowercase()
}

/// The letters of a condition, by its number.
pub fn cc(number: u8) -> &'static str {
    ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"]
        [number as usize & 15]
}
