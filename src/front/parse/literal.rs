//! Literals: numbers and strings as they are written, to values.

/// A number as written.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
    Bits(u64),
    /// It does not fit 64 bits.
    TooLarge,
}

/// The value of a `number` of the grammar.
pub(crate) fn number(text: &str) -> Number {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    if let Some(hex) = digits.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).map_or(Number::TooLarge, Number::Bits);
    }
    if digits.contains(['.', 'e', 'E']) {
        return match digits.parse::<f64>() {
            Ok(v) if v.is_finite() => Number::Float(v),
            _ => Number::TooLarge,
        };
    }
    digits.parse().map_or(Number::TooLarge, Number::Int)
}

/// The text of a `string` of the grammar, quotes removed and escapes resolved. An escape that names
/// no character becomes the replacement character.
pub(crate) fn unescape(quoted: &str) -> String {
    let inner = quoted.strip_prefix('"').and_then(|s| s.strip_suffix('"')).unwrap_or(quoted);
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('0') => out.push('\0'),
            Some('u') => {
                let hex: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                out.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::text::quoted;

    #[test]
    fn numbers() {
        assert_eq!(number("1_000"), Number::Int(1000));
        assert_eq!(number("1.5e-3"), Number::Float(0.0015));
        assert_eq!(number("0x7fc00000"), Number::Bits(0x7fc0_0000));
        assert_eq!(number("9223372036854775808"), Number::TooLarge);
        assert_eq!(number("1e999"), Number::TooLarge);
    }

    #[test]
    fn strings_round_trip() {
        for text in ["", "a b", "\"\\\n\t\r\0", "é\u{1}/layer4/Relu"] {
            assert_eq!(unescape(&quoted(text)), text);
        }
        assert_eq!(unescape("\"\\u{e9}\\u{d800}\""), "é\u{fffd}");
    }
}
