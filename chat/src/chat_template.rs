//! Chat templates, which render a conversation as the text that a model was trained on, like transformers' `apply_chat_template`.

use std::fmt::Write as _;

use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde_json::Value as Json;

pub use crate::generation::Marked;
use crate::{Message, Role, generation};

/// Names of the two variants of the template: as rendered, and with the model's turns marked.
const PLAIN: &str = "chat";
const MARKED: &str = "chat, with the model's turns marked";

/// A conversation that cannot be rendered, or a template that does not compile.
#[derive(Debug, thiserror::Error)]
#[error("chat template: {0}")]
pub struct TemplateError(String);

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        Self(format!("{error:#}"))
    }
}

/// A compiled chat template with the special tokens that it may reference.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    special: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Compiles the Jinja template `source`; `special` contains the tokenizer's named tokens (`bos_token`, `eos_token`, …).
    ///
    /// # Errors
    /// [`TemplateError`] with the line for a syntax error.
    pub fn new(source: &str, special: Vec<(String, String)>) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        // The settings of transformers' Jinja environment.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(PLAIN, generation::rewrite(source, false))?;
        if generation::has_blocks(source) {
            environment.add_template_owned(MARKED, generation::rewrite(source, true))?;
        }
        Ok(Self { environment, source: source.into(), special })
    }

    /// Returns the source of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the special tokens that the template may reference, as pairs of name and text.
    pub fn special(&self) -> &[(String, String)] {
        &self.special
    }

    /// Renders a conversation. With `add_generation_prompt`, the text ends with the opening of an assistant turn. `thinking` is the
    /// template's `enable_thinking` (undefined if `None`).
    ///
    /// # Errors
    /// [`TemplateError`] if the template rejects the conversation.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        thinking: Option<bool>,
    ) -> Result<String, TemplateError> {
        self.render_as(PLAIN, messages, add_generation_prompt, thinking)
    }

    /// Renders a conversation, with the byte ranges that the template marks as the model's with `{% generation %}` blocks. Returns
    /// `None` if the template has no such blocks.
    ///
    /// # Errors
    /// Same as [`Self::render`], and if a message contains the noncharacters U+FDD0 or U+FDD1, which mark the blocks internally.
    pub fn render_marked(&self, messages: &[Message]) -> Result<Option<Marked>, TemplateError> {
        if !generation::has_blocks(&self.source) {
            return Ok(None);
        }
        if generation::in_the_way(messages) {
            return Err(TemplateError("a message has U+FDD0 or U+FDD1, which are not characters; remove them".into()));
        }
        Ok(Some(generation::strip(&self.render_as(MARKED, messages, false, None)?)))
    }

    fn render_as(
        &self,
        name: &str,
        messages: &[Message],
        add_generation_prompt: bool,
        thinking: Option<bool>,
    ) -> Result<String, TemplateError> {
        let mut variables = context! { messages, add_generation_prompt };
        for (name, token) in &self.special {
            variables = context! { ..variables, ..Value::from_iter([(name.clone(), token.clone())]) };
        }
        if let Some(enable_thinking) = thinking {
            variables = context! { enable_thinking, ..variables };
        }
        Ok(self.environment.get_template(name)?.render(variables)?)
    }

    /// Returns the text that a model continues: the conversation and the opening of an assistant turn. If the last message is the
    /// assistant's, its text starts that turn.
    ///
    /// # Errors
    /// Same as [`Self::render`].
    pub fn open(&self, messages: &[Message], thinking: Option<bool>) -> Result<String, TemplateError> {
        match messages.split_last() {
            Some((last, before)) if last.role == Role::Assistant => {
                Ok(self.render(before, true, thinking)? + &last.content)
            }
            _ => self.render(messages, true, thinking),
        }
    }
}

/// Serializes a value like transformers' `tojson` filter: `json.dumps(ensure_ascii=False)`, with Python's spaces after , and :.
fn to_json(value: Value) -> Result<Value, Error> {
    let json: Json =
        serde_json::to_value(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let mut text = String::new();
    dump(&json, &mut text);
    Ok(Value::from_safe_string(text))
}

fn dump(json: &Json, out: &mut String) {
    let between = |out: &mut String, first: bool| {
        if !first {
            out.push_str(", ");
        }
    };
    match json {
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                between(out, i == 0);
                dump(item, out);
            }
            out.push(']');
        }
        Json::Object(fields) => {
            out.push('{');
            for (i, (key, item)) in fields.iter().enumerate() {
                between(out, i == 0);
                out.push_str(&Json::from(key.as_str()).to_string());
                out.push_str(": ");
                dump(item, out);
            }
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

/// Formats the local date and time, like the function of this name in transformers.
fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    // An unknown specifier is an error of `write!`, and a panic of `to_string`.
    write!(text, "{}", chrono::Local::now().format(format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now: \"{format}\" is not a format of dates"))
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}<{{ m.role }}>{{ m['content'].strip() }}{{ eos_token }}\n{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}!{% endif %}\
        {% endif %}";

    fn template() -> ChatTemplate {
        ChatTemplate::new(CHATML, vec![("eos_token".into(), "<end>".into())]).unwrap()
    }

    #[test]
    fn renders_turns_special_tokens_and_the_opened_turn() {
        let chat = [Message::system("s "), Message::user("hi")];
        let t = template();
        assert_eq!(t.render(&chat, false, None).unwrap(), "<system>s<end>\n<user>hi<end>\n");
        assert_eq!(t.open(&chat, None).unwrap(), "<system>s<end>\n<user>hi<end>\n<assistant>");
        assert_eq!(t.open(&chat[1..], Some(false)).unwrap(), "<user>hi<end>\n<assistant>!");
    }

    #[test]
    fn a_final_assistant_message_is_continued() {
        let chat = [Message::user("hi"), Message::assistant("answer ")];
        assert_eq!(template().open(&chat, None).unwrap(), "<user>hi<end>\n<assistant>answer ");
    }

    #[test]
    fn json_has_pythons_spacing() {
        let t = ChatTemplate::new("{{ messages | tojson }}", vec![]).unwrap();
        assert_eq!(t.render(&[Message::user("é\"")], false, None).unwrap(), r#"[{"role": "user", "content": "é\""}]"#);
    }

    #[test]
    fn generation_blocks_print_nothing_and_are_found() {
        let source = "{% for m in messages %}
<{{ m.role }}>
{% if m.role == 'assistant' %}
    {%- generation -%}
    {{ m.content }}<end>
    {% endgeneration %}
{% else %}
{{ m.content }}
{% endif %}
{% endfor %}";
        let t = ChatTemplate::new(source, vec![]).unwrap();
        let chat = [Message::user("hi"), Message::assistant("é"), Message::user("so"), Message::assistant("b")];
        // The text and the ranges that transformers renders.
        let text = "<user>\nhi\n<assistant>\né<end>\n<user>\nso\n<assistant>\nb<end>\n";
        assert_eq!(t.render(&chat, false, None).unwrap(), text);
        let marked = t.render_marked(&chat).unwrap().unwrap();
        assert_eq!(marked.text, text);
        let parts: Vec<&str> = marked.turns.into_iter().map(|r| &text[r]).collect();
        assert_eq!(parts, ["é<end>\n", "b<end>\n"]);
        assert_eq!(template().render_marked(&chat).unwrap(), None);
        let refused = t.render_marked(&[Message::user("a\u{FDD0}")]).unwrap_err().to_string();
        assert!(refused.contains("U+FDD0"), "{refused}");
    }

    /// Templates of Llama 3 and gpt-oss put the date into the system turn.
    #[test]
    fn strftime_now_formats_the_date() {
        let render = |source: &str| ChatTemplate::new(source, vec![]).unwrap().render(&[], false, None);
        let date = render("{{ strftime_now('%d %b %Y') }}").unwrap();
        assert!(chrono::NaiveDate::parse_from_str(&date, "%d %b %Y").is_ok(), "{date}");
        assert_eq!(date.len(), "30 Nov 2026".len());
        let refused = render("{{ strftime_now('%!') }}").unwrap_err().to_string();
        assert!(refused.contains("\"%!\" is not a format of dates"), "{refused}");
    }

    #[test]
    fn a_template_can_refuse() {
        let t = ChatTemplate::new("{{ raise_exception('no system turns') }}", vec![]).unwrap();
        assert!(t.render(&[], false, None).unwrap_err().to_string().contains("no system turns"));
    }
}
