//! Cells that hold a list or an object as text: JSON, or a literal as Python's `repr` writes it.

use std::str::Chars;

use serde_json::{Map, Number, Value as Json};

/// Maximum number of nested lists and objects.
const MAX_DEPTH: usize = 32;

/// Parses a cell as JSON or, if it is none, as a Python literal of lists, tuples, dictionaries, strings, numbers, `True`, `False` and
/// `None`.
///
/// # Errors
/// What was expected, and the character where it is missing.
pub(super) fn parse(text: &str) -> Result<Json, String> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    let mut parser = Parser { text, rest: text };
    let value = parser.value(0)?;
    parser.rest = parser.rest.trim_start();
    if parser.rest.is_empty() { Ok(value) } else { Err(parser.expected("the end of the value")) }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Parser<'_> {
    fn expected(&self, what: &str) -> String {
        let at = self.text[..self.text.len() - self.rest.len()].chars().count() + 1;
        format!("is neither JSON nor a Python literal; expected {what} at character {at}")
    }

    /// Consumes `sign`, with the whitespace before it, and returns whether it is there.
    fn eat(&mut self, sign: char) -> bool {
        self.rest = self.rest.trim_start();
        let behind = self.rest.strip_prefix(sign);
        self.rest = behind.unwrap_or(self.rest);
        behind.is_some()
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > MAX_DEPTH {
            return Err(self.expected(&format!("at most {MAX_DEPTH} nested lists")));
        }
        if self.eat('[') {
            self.list(']', depth)
        } else if self.eat('(') {
            self.list(')', depth)
        } else if self.eat('{') {
            self.object(depth)
        } else if self.rest.starts_with(['\'', '"']) {
            self.string().map(Json::String)
        } else {
            self.word()
        }
    }

    fn list(&mut self, close: char, depth: usize) -> Result<Json, String> {
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.value(depth + 1)?);
            if !self.eat(',') && !self.rest.starts_with(close) {
                return Err(self.expected(&format!("`,` or `{close}`")));
            }
        }
        Ok(Json::Array(items))
    }

    fn object(&mut self, depth: usize) -> Result<Json, String> {
        let mut fields = Map::new();
        while !self.eat('}') {
            if !self.rest.starts_with(['\'', '"']) {
                return Err(self.expected("a key in quotation marks"));
            }
            let key = self.string()?;
            if !self.eat(':') {
                return Err(self.expected("`:`"));
            }
            let value = self.value(depth + 1)?;
            fields.insert(key, value);
            if !self.eat(',') && !self.rest.starts_with('}') {
                return Err(self.expected("`,` or `}`"));
            }
        }
        Ok(Json::Object(fields))
    }

    fn string(&mut self) -> Result<String, String> {
        let mut rest = self.rest.chars();
        let quote = rest.next();
        let mut text = String::new();
        loop {
            let before = rest.as_str();
            match rest.next() {
                None => {
                    self.rest = "";
                    return Err(self.expected("a closing quotation mark"));
                }
                mark if mark == quote => break,
                Some('\\') => {
                    if escape(&mut rest, &mut text).is_none() {
                        self.rest = before;
                        return Err(self.expected("an escape sequence of a character"));
                    }
                }
                Some(other) => text.push(other),
            }
        }
        self.rest = rest.as_str();
        Ok(text)
    }

    fn word(&mut self) -> Result<Json, String> {
        let ends = |c: char| !c.is_ascii_alphanumeric() && !"+-._".contains(c);
        let (word, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        let value = match word {
            "None" | "null" | "nan" | "NaN" => Json::Null,
            "True" | "true" => Json::Bool(true),
            "False" | "false" => Json::Bool(false),
            number => match (number.parse::<i64>(), number.parse::<f64>()) {
                (Ok(whole), _) => Json::from(whole),
                (_, Ok(real)) => Number::from_f64(real).map_or(Json::Null, Json::Number),
                _ => return Err(self.expected("a list, an object, a string or a number")),
            },
        };
        self.rest = rest;
        Ok(value)
    }
}

/// Decodes an escape sequence, without its backslash, at the end of `text`; `None` if it stands for no character.
fn escape(rest: &mut Chars<'_>, text: &mut String) -> Option<()> {
    let decoded = match rest.next()? {
        '\n' => return Some(()),
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '0' => '\0',
        'x' => hexadecimal(rest, 2)?,
        'u' => hexadecimal(rest, 4)?,
        'U' => hexadecimal(rest, 8)?,
        same @ ('\\' | '\'' | '"') => same,
        other => {
            text.push('\\');
            other
        }
    };
    text.push(decoded);
    Some(())
}

fn hexadecimal(rest: &mut Chars<'_>, digits: usize) -> Option<char> {
    let code: String = rest.by_ref().take(digits).collect();
    let complete = code.len() == digits && code.bytes().all(|c| c.is_ascii_hexdigit());
    complete.then(|| u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_read_as_json_and_as_python_writes_them() {
        let expected = json!(["it's", "a \"b\"", "c\nd\u{e9}\\"]);
        for text in [
            r#"["it's", "a \"b\"", "c\nd\u00e9\\"]"#,
            r#"["it's", 'a "b"', 'c\nd\xe9\\']"#,
            r#" ( "it's" ,'a "b"', 'c\nd\U000000e9\\', ) "#,
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        let messages = r#"[{'role': 'user', 'content': "I'm in"}, {'role': 'assistant', 'content': 'Say "so".', 'n': [1, -2.5, None, True]}]"#;
        assert_eq!(
            parse(messages).unwrap(),
            json!([
                {"role": "user", "content": "I'm in"},
                {"role": "assistant", "content": "Say \"so\".", "n": [1, -2.5, null, true]}
            ])
        );
        assert_eq!(parse("[]").unwrap(), json!([]));
        assert_eq!(parse("{}").unwrap(), json!({}));
    }

    #[test]
    fn an_invalid_cell_says_where() {
        for (text, words) in [
            ("['a', 'b", "a closing quotation mark at character 9"),
            ("['a' 'b']", "`,` or `]` at character 6"),
            ("{'a' 1}", "`:` at character 6"),
            ("{1: 2}", "a key in quotation marks at character 2"),
            ("['a'] x", "the end of the value at character 7"),
            (r"['\x4']", "an escape sequence of a character at character 3"),
            ("plain words", "a list, an object, a string or a number at character 1"),
            ("", "at character 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("is neither JSON nor a Python literal") && error.contains(words), "{error}");
        }
        assert!(parse(&"[".repeat(40)).unwrap_err().contains("at most 32 nested lists"));
    }
}
