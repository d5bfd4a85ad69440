//! The values of Python's string literals.

use std::str::Chars;

/// The prefix of a literal, as in `rf"…"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prefix {
    /// Backslashes have no meaning.
    pub raw: bool,
    /// Braces enclose expressions.
    pub format: bool,
}

/// Reads the prefix from what precedes the text of a literal: letters and quotes.
///
/// # Errors
/// What is not supported about the literal.
pub(super) fn prefix(start: &str) -> Result<Prefix, String> {
    let mut prefix = Prefix::default();
    for letter in start.chars().take_while(|c| !matches!(c, '"' | '\'')) {
        match letter.to_ascii_lowercase() {
            'r' => prefix.raw = true,
            'f' => prefix.format = true,
            'u' => {}
            'b' => return Err("is a bytes literal; expected a string".into()),
            other => return Err(format!("has the prefix `{other}`; expected a string with f, r, u or no prefix")),
        }
    }
    Ok(prefix)
}

/// Decodes the text of a literal, or of an f-string between two interpolations.
///
/// # Errors
/// The escape sequence that has no character.
pub(super) fn decode(source: &str, prefix: Prefix) -> Result<String, String> {
    let mut text = String::with_capacity(source.len());
    let mut rest = source.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' if !prefix.raw => escape(&mut rest, &mut text)?,
            '{' | '}' if prefix.format => {
                // Single braces belong to interpolations, so this one is doubled.
                rest.next();
                text.push(c);
            }
            _ => text.push(c),
        }
    }
    Ok(text)
}

/// Decodes an escape sequence, without its backslash.
fn escape(rest: &mut Chars<'_>, text: &mut String) -> Result<(), String> {
    let Some(c) = rest.next() else {
        text.push('\\');
        return Ok(());
    };
    let decoded = match c {
        '\n' => return Ok(()),
        '\\' | '\'' | '"' => c,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '0'..='7' => octal(c, rest),
        'x' => hexadecimal(rest, 2)?,
        'u' => hexadecimal(rest, 4)?,
        'U' => hexadecimal(rest, 8)?,
        'N' => return Err("has an escape by character name; expected \\x, \\u or \\U".into()),
        _ => {
            text.push('\\');
            c
        }
    };
    text.push(decoded);
    Ok(())
}

fn octal(first: char, rest: &mut Chars<'_>) -> char {
    let mut code = first.to_digit(8).unwrap_or_default();
    for _ in 0..2 {
        let Some(digit) = rest.clone().next().and_then(|c| c.to_digit(8)) else { break };
        rest.next();
        code = 8 * code + digit;
    }
    char::from_u32(code).unwrap_or_default() // at most 0o777
}

fn hexadecimal(rest: &mut Chars<'_>, digits: usize) -> Result<char, String> {
    let code: String = rest.by_ref().take(digits).collect();
    let complete = code.len() == digits && code.chars().all(|c| c.is_ascii_hexdigit());
    complete
        .then(|| u32::from_str_radix(&code, 16).ok().and_then(char::from_u32))
        .flatten()
        .ok_or_else(|| format!("has the escape `{code}`; expected {digits} hexadecimal digits of a character"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_have_the_values_that_python_gives_them() {
        let plain = Prefix::default();
        let cases = [
            (r#"a\nb\tc\\d\'e\"f"#, "a\nb\tc\\d'e\"f"),
            (r"\x41\u00e9\U0001F600", "A\u{e9}\u{1f600}"),
            (r"\0\12\1234\8", "\0\n\u{53}4\\8"),
            ("one \\\n  line", "one   line"),
            (r"\a\b\f\v\r", "\x07\x08\x0c\x0b\r"),
            (r"\d {{x}} \", "\\d {{x}} \\"),
        ];
        for (source, value) in cases {
            assert_eq!(decode(source, plain).as_deref(), Ok(value), "{source}");
        }
        let raw = Prefix { raw: true, format: false };
        assert_eq!(decode(r"a\n{{b}}", raw).as_deref(), Ok(r"a\n{{b}}"));
        let format = Prefix { raw: false, format: true };
        assert_eq!(decode(r#"{{"a": 1}}\n"#, format).as_deref(), Ok("{\"a\": 1}\n"));
        assert_eq!(decode(r"\x7b", format).as_deref(), Ok("{"));
    }

    #[test]
    fn characters_that_do_not_exist_are_errors() {
        for source in [r"\x4", r"\ud83d", r"\U00110000", r"\u12g4", r"\N{BULLET}"] {
            assert!(decode(source, Prefix::default()).is_err(), "{source}");
        }
    }

    #[test]
    fn prefixes_may_be_in_any_case_and_order() {
        assert_eq!(prefix("\"\"\""), Ok(Prefix::default()));
        assert_eq!(prefix("Rf'"), Ok(Prefix { raw: true, format: true }));
        assert_eq!(prefix("u'"), Ok(Prefix::default()));
        assert!(prefix("b\"").unwrap_err().contains("bytes"));
        assert!(prefix("t\"").is_err());
    }
}
