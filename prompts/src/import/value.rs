//! The values of Python expressions that make prompts.

use std::collections::BTreeMap;

use super::text::Text;

/// A list that varies, and how templates iterate over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Items {
    /// The template field.
    pub list: &'static str,
    /// The name of an element in the template.
    pub item: &'static str,
    /// An element.
    pub element: Box<PythonValue>,
}

/// A value that is known but for template fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PythonValue {
    /// A string.
    Text(Text),
    /// An integer.
    Integer(i64),
    /// The position of an element in the list of the loop, counted from this number.
    Index(i64),
    /// The past summary, or `None`.
    Past,
    /// A dictionary with string keys.
    Dict(BTreeMap<String, PythonValue>),
    /// A list of known length.
    List(Vec<PythonValue>),
    /// A list that varies.
    Items(Items),
    /// A list of one string per element of a list that varies.
    Each { items: Items, body: Text },
}

impl PythonValue {
    /// Creates a string that a template expression gives.
    pub fn field(expression: impl Into<String>) -> Self {
        Self::Text(Text::field(expression))
    }

    /// Creates a dictionary of strings that template expressions give.
    pub fn fields(fields: &[(&str, &str)]) -> Self {
        Self::Dict(fields.iter().map(|(key, expression)| ((*key).to_owned(), Self::field(*expression))).collect())
    }

    /// Names the kind of the value, for errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) | Self::Index(_) => "an integer",
            Self::Past => "the past summary",
            Self::Dict(_) => "a dictionary",
            Self::List(_) | Self::Items(_) | Self::Each { .. } => "a list",
        }
    }

    /// Returns the text that `str` gives; `None` for lists and dictionaries.
    pub fn into_text(self) -> Option<Text> {
        match self {
            Self::Text(text) => Some(text),
            Self::Integer(number) => Some(Text::constant(number.to_string())),
            Self::Index(0) => Some(Text::field("loop.index0")),
            Self::Index(1) => Some(Text::field("loop.index")),
            Self::Index(start) if start < 0 => Some(Text::field(format!("loop.index0 - {}", start.unsigned_abs()))),
            Self::Index(start) => Some(Text::field(format!("loop.index0 + {start}"))),
            Self::Past => Some(Text::field("past")),
            Self::Dict(_) | Self::List(_) | Self::Items(_) | Self::Each { .. } => None,
        }
    }
}
