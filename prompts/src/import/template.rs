//! Writes a text with fields as a MiniJinja template.

use chat::prompts::NO_PAST;

use super::text::{Piece, Text};
use crate::source::{TemplateSource, quoted};

/// Returns the source of a template that renders as `text` in a [`chat::PromptSet`].
pub(super) fn source(text: &Text) -> String {
    let mut source = TemplateSource::default();
    write(&mut source, text);
    source.finish()
}

fn write(source: &mut TemplateSource, text: &Text) {
    for piece in text.pieces() {
        write_piece(source, piece);
    }
}

fn write_piece(source: &mut TemplateSource, piece: &Piece) {
    match piece {
        Piece::Constant(text) => source.constant(text),
        Piece::Field(expression) => source.variable(expression),
        Piece::Each { list, item, body, separator } => {
            source.tag(&format!("for {item} in {list}"));
            write(source, body);
            if !separator.is_empty() {
                source.tag("if not loop.last");
                source.constant(separator);
                source.tag("endif");
            }
            source.tag("endfor");
        }
        Piece::Replaced { text, from, to } => {
            let to = match &**to {
                Piece::Constant(constant) => quoted(constant),
                Piece::Field(expression) => expression.clone(),
                // `Text::replaced` makes no other.
                Piece::Each { .. } | Piece::Replaced { .. } | Piece::Past { .. } => String::new(),
            };
            source.tag(&format!("filter replace({}, {to})", quoted(from)));
            write(source, text);
            source.tag("endfilter");
        }
        Piece::Past { given, missing } => {
            source.tag(&format!("if past == {}", quoted(NO_PAST)));
            write(source, missing);
            source.tag("else");
            write(source, given);
            source.tag("endif");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chat::{Interaction, PromptSet};

    use super::*;

    fn rendered(text: &Text, past: Option<&str>, interactions: &[Interaction]) -> String {
        let sources = BTreeMap::from([("summarize.j2".to_owned(), source(text))]);
        let set = PromptSet::new("test", &sources).unwrap();
        set.summarize(past, interactions).unwrap().remove(0).content
    }

    fn chosen(chosen: &str) -> Interaction {
        Interaction { chosen: chosen.into(), ..Interaction::default() }
    }

    #[test]
    fn constants_render_as_they_are() {
        let cases = [
            "",
            "plain",
            "\n",
            "\n\n",
            "ends\r\n",
            "ends\r",
            "a\r\nb",
            "{",
            "{{",
            "{{{",
            "{% raw %}{{ x }}{# no #}{% endraw %}",
            "{\"a\": {\"b\": 1}}",
            "  \n\t ",
            "{%- if %}\n}}",
            "{\r{%",
        ];
        for text in cases {
            assert_eq!(rendered(&Text::constant(text), None, &[]), text, "{text:?}");
        }
    }

    #[test]
    fn white_space_around_tags_stays() {
        for edge in ["", " ", "\n", "\n\n", "\n  ", "  ", "\r\n", "{", "{%", "}", "-", "+"] {
            let mut body = Text::constant(edge);
            body.push(Piece::Field("i.chosen".into()));
            body.push(Piece::Constant(edge.into()));
            let mut text = Text::constant(edge);
            text.push(Piece::Each { list: "interactions", item: "i", body, separator: format!("{edge},{edge}") });
            text.push(Piece::Constant(edge.into()));
            let got = rendered(&text, None, &[chosen("one"), chosen("two")]);
            let wanted = format!("{edge}{edge}one{edge}{edge},{edge}{edge}two{edge}{edge}");
            assert_eq!(got, wanted, "{edge:?}");
            assert_eq!(rendered(&text, None, &[]), format!("{edge}{edge}"), "{edge:?}");
        }
    }

    #[test]
    fn a_replacement_reaches_the_items_too() {
        let mut body = Text::field("i.chosen");
        body.push(Piece::Constant(": Not Provided.\n".into()));
        let mut text = Text::default();
        text.push(Piece::Each { list: "interactions", item: "i", body, separator: String::new() });
        let text = text.replaced(NO_PAST, &Text::field("past")).unwrap();
        let items = [chosen("Not Provided. x")];
        assert_eq!(rendered(&text, Some("tea"), &items), "tea x: tea\n");
        assert_eq!(rendered(&text, None, &items), "Not Provided. x: Not Provided.\n");
    }

    #[test]
    fn the_past_selects_a_text() {
        let text = Text::by_past(Text::field("past"), Text::constant("\nnone\n"));
        assert_eq!(rendered(&text, Some("tea"), &[]), "tea");
        assert_eq!(rendered(&text, None, &[]), "\nnone\n");
        assert_eq!(Text::by_past(Text::field("past"), Text::constant(NO_PAST)), Text::field("past"));
    }
}
