//! The columns of the exported tables: one description for Parquet's schema and for the features of the dataset card.

/// The type of a column. A list that is absent is an empty list; any other value may be null.
#[derive(Debug)]
pub(super) enum Kind {
    /// A string.
    Text,
    /// A 64-bit integer.
    Integer,
    /// A 64-bit float.
    Float,
    /// A list.
    List(&'static Kind),
    /// A struct of named fields.
    Struct(&'static [Field]),
}

/// A named column, or a field of a struct.
pub(super) type Field = (&'static str, Kind);

const MESSAGE: Kind = Kind::Struct(&[("role", Kind::Text), ("content", Kind::Text)]);

const INTERACTION: Kind = Kind::Struct(&[
    ("query", Kind::Text),
    ("chosen", Kind::Text),
    ("rejected", Kind::Text),
    ("domain", Kind::Text),
    ("task", Kind::Text),
]);

const TEXT: Kind = Kind::Text;

const RECORD: &[Field] = &[("logprob1", Kind::Float), ("logprob2", Kind::Float), ("signal", Kind::Float)];

/// The columns of [`chat::SftRow`].
pub(super) const SFT: &[Field] = &[("prompt", Kind::List(&MESSAGE)), ("completion", Kind::List(&MESSAGE))];

/// The columns of [`chat::RlRow`].
pub(super) const RL: &[Field] = &[
    ("uid", Kind::Text),
    ("history", Kind::List(&INTERACTION)),
    ("mid_position", Kind::Integer),
    ("mid_record", Kind::Struct(RECORD)),
    ("last_record", Kind::Struct(RECORD)),
    ("signal_gap", Kind::Float),
    ("distance_to_end", Kind::Integer),
    ("targets", Kind::List(&INTERACTION)),
    ("transfer", Kind::List(&INTERACTION)),
    ("references", Kind::List(&TEXT)),
    ("messages", Kind::List(&MESSAGE)),
    ("stage_targets", Kind::List(&INTERACTION)),
];

impl Kind {
    /// Returns the number of primitive columns below this one.
    pub fn leaves(&self) -> usize {
        match self {
            Self::Text | Self::Integer | Self::Float => 1,
            Self::List(element) => element.leaves(),
            Self::Struct(fields) => fields.iter().map(|(_, kind)| kind.leaves()).sum(),
        }
    }
}

/// Returns the schema of a table in Parquet's message format. Lists have the three levels that Parquet prescribes.
pub(super) fn parquet_schema(columns: &[Field]) -> String {
    let mut text = String::from("message rows {\n");
    for (name, kind) in columns {
        group(&mut text, name, kind);
    }
    text + "}\n"
}

fn group(text: &mut String, name: &str, kind: &Kind) {
    match kind {
        Kind::Text => *text += &format!("optional byte_array {name} (STRING);\n"),
        Kind::Integer => *text += &format!("optional int64 {name};\n"),
        Kind::Float => *text += &format!("optional double {name};\n"),
        Kind::List(element) => {
            *text += &format!("optional group {name} (LIST) {{\nrepeated group list {{\n");
            group(text, "element", element);
            *text += "}\n}\n";
        }
        Kind::Struct(fields) => {
            *text += &format!("optional group {name} {{\n");
            for (name, kind) in *fields {
                group(text, name, kind);
            }
            *text += "}\n";
        }
    }
}

/// Returns the features of a table as YAML, indented by `indent` spaces.
pub(super) fn features(columns: &[Field], indent: usize) -> String {
    let space = " ".repeat(indent);
    let feature = |(name, kind): &Field| format!("{space}- name: {name}\n{}", feature_type(kind, indent + 2));
    columns.iter().map(feature).collect()
}

fn feature_type(kind: &Kind, indent: usize) -> String {
    let space = " ".repeat(indent);
    match kind {
        Kind::List(Kind::Struct(fields)) => format!("{space}list:\n{}", features(fields, indent)),
        Kind::List(Kind::List(_)) => unreachable!("no column is a list of lists"),
        Kind::List(element) => format!("{space}list: {}\n", dtype(element)),
        Kind::Struct(fields) => format!("{space}struct:\n{}", features(fields, indent)),
        primitive => format!("{space}dtype: {}\n", dtype(primitive)),
    }
}

/// Returns the name that the `datasets` library gives a primitive type.
fn dtype(kind: &Kind) -> &'static str {
    match kind {
        Kind::Integer => "int64",
        Kind::Float => "float64",
        _ => "string",
    }
}

#[cfg(test)]
mod tests {
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_schema_parses_and_has_the_leaves() {
        for (columns, expected) in [(SFT, 4), (RL, 1 + 5 + 1 + 6 + 2 + 5 + 5 + 1 + 2 + 5)] {
            let schema = SchemaDescriptor::new(Arc::new(parse_message_type(&parquet_schema(columns)).unwrap()));
            assert_eq!(schema.num_columns(), expected);
            assert_eq!(columns.iter().map(|(_, kind)| kind.leaves()).sum::<usize>(), expected);
        }
        let schema = SchemaDescriptor::new(Arc::new(parse_message_type(&parquet_schema(SFT)).unwrap()));
        assert_eq!(schema.column(0).path().string(), "prompt.list.element.role");
        assert_eq!((schema.column(0).max_def_level(), schema.column(0).max_rep_level()), (4, 1));
    }

    #[test]
    fn features_are_those_of_the_datasets_library() {
        let text = features(&RL[2..4], 0);
        let expected = "- name: mid_position\n  dtype: int64\n- name: mid_record\n  struct:\n  - name: logprob1\n    dtype: float64\n";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(features(&RL[9..10], 2), "  - name: references\n    list: string\n");
        assert!(features(SFT, 0).starts_with("- name: prompt\n  list:\n  - name: role\n    dtype: string\n"));
    }
}
