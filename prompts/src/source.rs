//! Writes MiniJinja templates in the dialect that [`chat::PromptSet`] compiles: `trim_blocks`, `lstrip_blocks`, no trailing
//! newline, strict undefined values.

/// The source of a template.
#[derive(Default)]
pub(crate) struct TemplateSource {
    text: String,
    /// Whether the text ends with a block tag and the newline that `trim_blocks` removes.
    after_tag: bool,
}

impl TemplateSource {
    /// Writes text in which template syntax has no meaning: it renders as itself.
    pub(crate) fn constant(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find(['{', '\r']) {
            self.push(&rest[..at]);
            let length = rest[at..].find(|c: char| !matches!(c, '{' | '\r')).unwrap_or(rest.len() - at);
            let (run, after) = rest[at..].split_at(length);
            // A brace can begin a tag together with what follows, and a carriage return can be read as part of a line end.
            if run == "{" && !matches!(after.chars().next(), None | Some('%' | '#')) {
                self.push("{");
            } else {
                self.variable(&quoted(run));
            }
            rest = after;
        }
        self.push(rest);
    }

    /// Writes the value of an expression.
    pub(crate) fn variable(&mut self, expression: &str) {
        self.push(&format!("{{{{ {expression} }}}}"));
    }

    /// Writes a block tag.
    pub(crate) fn tag(&mut self, statement: &str) {
        // `lstrip_blocks` would remove spaces before the tag; `+` keeps them.
        let spaces = self.text.ends_with(|c: char| c.is_whitespace() && c != '\n');
        self.push(&format!("{{%{} {statement} %}}\n", if spaces { "+" } else { "" }));
        self.after_tag = true;
    }

    /// Returns the source. Unless a block tag ends it, it ends with the newline that MiniJinja drops.
    pub(crate) fn finish(self) -> String {
        if self.after_tag { self.text } else { self.text + "\n" }
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.after_tag &= text.is_empty();
    }
}

/// Returns a string literal of the template language.
pub(crate) fn quoted(text: &str) -> String {
    let mut literal = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => literal.push_str("\\\""),
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            _ => literal.push(c),
        }
    }
    literal.push('"');
    literal
}
