//! Templates of shaders.
//!
//! `${name}` stands for a value. Lines between `//each name` and `//end` are repeated for every item of a
//! list, whose own values go before the others. There is nothing more to the language: what depends on a
//! condition is two templates.

use std::collections::BTreeMap;

use super::Coop;
use super::stmt::Role;
use crate::kernel::ir::Kernel;

/// A template for a kernel, filled in.
pub struct Filled<'k> {
    /// Functions that it calls: their names, and what they compute.
    pub parts: Vec<(&'static str, &'k Kernel, Role)>,
    /// What stands behind the declarations and these functions.
    pub text: String,
    /// What the shader enables.
    pub enables: &'static str,
    /// Of a workgroup.
    pub invocations: u32,
    /// Workgroups that have a tile each.
    pub tiles: u64,
    pub coop: Option<Coop>,
}

/// Values by name.
pub type Values = BTreeMap<&'static str, String>;

#[derive(Default)]
pub struct Holes {
    pub values: Values,
    pub lists: BTreeMap<&'static str, Vec<Values>>,
}

impl Holes {
    pub fn value(&mut self, name: &'static str, value: impl ToString) {
        self.values.insert(name, value.to_string());
    }

    /// The text of a template. Its faults are those of this program, so they panic: a name that nothing
    /// is known of.
    pub fn fill(&self, template: &str) -> String {
        let (mut out, mut lines) = (String::new(), template.lines());
        while let Some(line) = lines.next() {
            let Some(name) = line.strip_prefix("//each ") else {
                self.line(line, &Values::new(), &mut out);
                continue;
            };
            let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "//end").collect();
            let list = self.lists.get(name).unwrap_or_else(|| panic!("no list `{name}`"));
            for item in list {
                body.iter().for_each(|line| self.line(line, item, &mut out));
            }
        }
        out
    }

    fn line(&self, line: &str, item: &Values, out: &mut String) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').expect("a hole has an end");
            let value = item.get(name).or_else(|| self.values.get(name));
            out.push_str(before);
            out.push_str(value.unwrap_or_else(|| panic!("no value `{name}`")));
            rest = after;
        }
        out.push_str(rest);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_repetitions() {
        let mut holes = Holes::default();
        holes.value("n", 3);
        let item = |i: usize| Values::from([("i", i.to_string())]);
        holes.lists.insert("all", vec![item(0), item(1)]);
        let text = "a ${n}\n//each all\n  x${i} = ${n} + ${i};\n//end\nb";
        assert_eq!(holes.fill(text), "a 3\n  x0 = 3 + 0;\n  x1 = 3 + 1;\nb\n");
    }
}
