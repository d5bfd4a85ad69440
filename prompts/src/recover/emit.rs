//! Writes a structure as MiniJinja templates.

use std::collections::BTreeMap;

use super::shape::{Absent, Glyph, Piece, TURN, TemplateShape, ValueSlot, literal};
use crate::source::TemplateSource;

/// Returns the templates of a task by file name: `<task>.j2`, and `<task>.system.j2` if the conversation has a system
/// turn.
pub(crate) fn emit(shape: &TemplateShape, task: &str) -> BTreeMap<String, String> {
    let mut turns = vec![TemplateSource::default()];
    outer(&mut turns, &shape.before);
    if let Some(items) = &shape.items {
        let source = last(&mut turns);
        source.tag("for i in interactions");
        if !items.lead.is_empty() {
            source.tag("if not loop.first");
            pattern(source, &items.lead);
            source.tag("endif");
        }
        for part in &items.body {
            piece(source, part, "i.");
        }
        source.tag("endfor");
    }
    outer(&mut turns, &shape.after);
    let texts = turns.into_iter().rev().map(TemplateSource::finish);
    let names = [format!("{task}.j2"), format!("{task}.system.j2")];
    names.into_iter().zip(texts).collect()
}

/// Writes pieces outside of the block; [`TURN`] begins the next template.
fn outer(turns: &mut Vec<TemplateSource>, pieces: &[Piece]) {
    for part in pieces {
        let Piece::Text(text) = part else {
            piece(last(turns), part, "");
            continue;
        };
        for (index, text) in text.split(|glyph| *glyph == Glyph::Char(TURN)).enumerate() {
            if index > 0 {
                turns.push(TemplateSource::default());
            }
            pattern(last(turns), text);
        }
    }
}

fn last(turns: &mut [TemplateSource]) -> &mut TemplateSource {
    turns.last_mut().expect("the list begins with one template and only grows")
}

fn pattern(source: &mut TemplateSource, pattern: &[Glyph]) {
    let mut text = String::new();
    for glyph in pattern {
        let offset = match glyph {
            Glyph::Char(c) => {
                text.push(*c);
                continue;
            }
            Glyph::Number(offset) => *offset,
        };
        source.constant(&std::mem::take(&mut text));
        match offset {
            0 => source.variable("loop.index"),
            -1 => source.variable("loop.index0"),
            1.. => source.variable(&format!("loop.index + {offset}")),
            _ => source.variable(&format!("loop.index - {}", -offset)),
        }
    }
    source.constant(&text);
}

fn piece(source: &mut TemplateSource, piece: &Piece, prefix: &str) {
    match piece {
        Piece::Text(text) => pattern(source, text),
        Piece::Slot(ValueSlot { field, absent }) => {
            let variable = format!("{prefix}{}", field.name());
            match absent {
                None => source.variable(&variable),
                Some(absent) if *absent == Absent::default() => source.variable(&format!("{variable} or \"\"")),
                Some(absent) => conditional(source, &variable, absent),
            }
        }
    }
}

fn conditional(source: &mut TemplateSource, variable: &str, absent: &Absent) {
    source.tag(&format!("if {variable}"));
    pattern(source, &absent.before);
    source.variable(variable);
    pattern(source, &absent.after);
    if !absent.text.is_empty() {
        source.tag("else");
        pattern(source, &literal(&absent.text));
    }
    source.tag("endif");
}

#[cfg(test)]
mod tests {
    use chat::{Interaction, PromptSet};

    use super::super::shape::{Field, Items};
    use super::*;

    fn render(shape: &TemplateShape) -> String {
        let set = PromptSet::new("test", &emit(shape, "summarize")).unwrap();
        let item = |query: Option<&str>| Interaction {
            query: query.map(Into::into),
            chosen: "c{{ x }}".into(),
            ..Interaction::default()
        };
        let messages = set.summarize(Some("past\r\n"), &[item(Some("q")), item(None)]).unwrap();
        messages.into_iter().map(|m| m.content).collect::<Vec<_>>().join("\u{FFFF}")
    }

    #[test]
    fn every_constant_text_renders_as_itself() {
        let texts = [
            "",
            "\n",
            "\n\n",
            "\r",
            "\r\n",
            "\r\n\r\n",
            " ",
            "  \t",
            "\n  ",
            "x  ",
            "{",
            "{{",
            "{{{",
            "{%",
            "{#",
            "{{%",
            "}}",
            "%}\n",
            "{% raw %}",
            "{{ past }}",
            "{\"a\": {",
            "#}",
            "\u{a0}",
            "\n\u{2028}",
            "\\n \"",
            "é{",
        ];
        for a in texts {
            for b in texts {
                let items =
                    Items { lead: literal(b), body: vec![Piece::text(a), Piece::slot(Field::Chosen), Piece::text(b)] };
                let shape = TemplateShape {
                    before: vec![Piece::text(a), Piece::slot(Field::Past), Piece::text(b)],
                    items: Some(items),
                    after: vec![Piece::text(a)],
                };
                let item = format!("{a}c{{{{ x }}}}{b}");
                assert_eq!(render(&shape), format!("{a}past\r\n{b}{item}{b}{item}{a}"), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn absent_values_and_numbers() {
        let numbered = |offset| Piece::Text(vec![Glyph::Number(offset)]);
        let slot = |absent| Piece::Slot(ValueSlot { field: Field::Query, absent: Some(absent) });
        let around = |text: &str| Absent { before: literal("\n ("), after: literal(") \n"), text: text.into() };
        for (absent, expected) in
            [(Absent::default(), "1q2"), (around(""), "1\n (q) \n2"), (around("\n none "), "1\n (q) \n2\n none ")]
        {
            let body = vec![numbered(0), slot(absent)];
            let shape = TemplateShape { before: vec![], items: Some(Items { lead: vec![], body }), after: vec![] };
            assert_eq!(render(&shape), expected);
        }
        let body = [0, -1, 2, -3].map(numbered).to_vec();
        let shape = TemplateShape { before: vec![], items: Some(Items { lead: vec![], body }), after: vec![] };
        assert_eq!(render(&shape), "103-2214-1");
    }

    #[test]
    fn a_turn_is_a_file_of_its_own() {
        let shape = TemplateShape { before: vec![Piece::text("a \n\u{FFFF}b")], items: None, after: vec![] };
        let files = emit(&shape, "judge");
        assert_eq!(files.keys().collect::<Vec<_>>(), ["judge.j2", "judge.system.j2"]);
        assert_eq!(files["judge.system.j2"], "a \n\n");
    }
}
