//! Prompts whose values are known, and how an interaction is rendered in them.

use chat::Interaction;

use super::shape::{Absent, Field, Pattern, fill};

/// A prompt with its values.
pub(crate) struct KnownRow<'s> {
    pub place: &'s str,
    pub text: &'s str,
    pub past: &'s str,
    pub items: &'s [Interaction],
}

/// The value of a field of an interaction; an empty one counts as absent, as in a template.
pub(crate) fn value_of(item: &Interaction, field: Field) -> Option<&str> {
    let value = match field {
        Field::Query => item.query.as_deref(),
        Field::Rejected => item.rejected.as_deref(),
        _ => Some(item.chosen.as_str()),
    };
    value.filter(|value| !value.is_empty())
}

/// The block of an interaction: its fields in order, and the text before each one. The first text stands between
/// interactions only; its numbers are relative to the interaction that follows.
#[derive(Clone, Debug)]
pub(crate) struct InteractionBlock {
    pub fields: Vec<Field>,
    pub texts: Vec<Pattern>,
    pub absent: Vec<Option<Absent>>,
}

impl InteractionBlock {
    /// Renders interactions from the first value on. `None` if a value is absent of which no row shows what replaces
    /// it.
    pub(crate) fn render(&self, items: &[Interaction]) -> Option<String> {
        let mut text = String::new();
        for (index, item) in items.iter().enumerate() {
            let number = index as i64 + 1;
            for (place, field) in self.fields.iter().enumerate() {
                if index + place > 0 {
                    text += &fill(&self.texts[place], number);
                }
                match (value_of(item, *field), &self.absent[place]) {
                    (Some(value), None) => text += value,
                    (Some(value), Some(absent)) => {
                        text += &fill(&absent.before, number);
                        text += value;
                        text += &fill(&absent.after, number);
                    }
                    (None, absent) => text += &absent.as_ref()?.text,
                }
            }
        }
        Some(text)
    }
}
