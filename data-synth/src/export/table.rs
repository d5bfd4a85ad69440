//! Writes rows as a Parquet table. Nested values are split into primitive columns with definition and repetition levels, as in
//! Melnik et al., "Dremel: interactive analysis of web-scale datasets", VLDB 2010.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value as Json;

use super::schema::{Field, Kind, parquet_schema};

/// The number of rows of a row group, which is held in memory.
const ROW_GROUP: usize = 1000;

/// A primitive column of the current row group.
struct Leaf {
    values: Values,
    definition: Vec<i16>,
    repetition: Vec<i16>,
    /// Whether the column lies in a list.
    repeated: bool,
}

enum Values {
    Text(Vec<ByteArray>),
    Integer(Vec<i64>),
    Float(Vec<f64>),
}

/// The position of a value: its repetition level, the definition level of its parent, and the number of lists around it.
#[derive(Clone, Copy)]
struct Level {
    repetition: i16,
    definition: i16,
    lists: i16,
}

/// A Parquet table that is written one row group at a time.
pub(super) struct Table<W: Write + Send> {
    columns: &'static [Field],
    writer: SerializedFileWriter<W>,
    leaves: Vec<Leaf>,
    buffered: usize,
}

impl<W: Write + Send> Table<W> {
    /// Creates an empty table that is written to `out`.
    pub fn new(out: W, columns: &'static [Field]) -> Result<Self, ParquetError> {
        let schema = Arc::new(parse_message_type(&parquet_schema(columns))?);
        let compression = Compression::ZSTD(parquet::basic::ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let writer = SerializedFileWriter::new(out, schema, Arc::new(properties))?;
        let mut table = Self { columns, writer, leaves: Vec::new(), buffered: 0 };
        table.clear();
        Ok(table)
    }

    fn clear(&mut self) {
        self.leaves.clear();
        self.buffered = 0;
        for (_, kind) in self.columns {
            add_leaves(kind, false, &mut self.leaves);
        }
    }

    /// Adds a row, a JSON object. Fields that are no column are left out.
    pub fn push(&mut self, row: &Json) -> Result<(), ParquetError> {
        let start = Level { repetition: 0, definition: 0, lists: 0 };
        put_fields(self.columns, row, start, &mut self.leaves);
        self.buffered += 1;
        if self.buffered == ROW_GROUP { self.flush() } else { Ok(()) }
    }

    /// Writes the buffered rows as a row group.
    fn flush(&mut self) -> Result<(), ParquetError> {
        if self.buffered == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for leaf in &self.leaves {
            let mut column = group
                .next_column()?
                .ok_or_else(|| ParquetError::General("the schema has fewer columns than the rows".into()))?;
            match &leaf.values {
                Values::Text(values) => leaf.write(values, column.typed::<ByteArrayType>())?,
                Values::Integer(values) => leaf.write(values, column.typed::<Int64Type>())?,
                Values::Float(values) => leaf.write(values, column.typed::<DoubleType>())?,
            }
            column.close()?;
        }
        group.close()?;
        self.clear();
        Ok(())
    }

    /// Writes the end of the table, and returns what it was written to.
    pub fn finish(mut self) -> Result<W, ParquetError> {
        self.flush()?;
        self.writer.into_inner()
    }
}

impl Leaf {
    fn write<T: DataType>(&self, values: &[T::T], column: &mut ColumnWriterImpl<'_, T>) -> Result<(), ParquetError> {
        let repetition = self.repeated.then_some(self.repetition.as_slice());
        column.write_batch(values, Some(&self.definition), repetition).map(drop)
    }

    /// Adds a level without a value.
    fn absent(&mut self, level: Level) {
        self.definition.push(level.definition);
        self.repetition.push(level.repetition);
    }
}

fn add_leaves(kind: &Kind, repeated: bool, leaves: &mut Vec<Leaf>) {
    let values = match kind {
        Kind::Text => Values::Text(Vec::new()),
        Kind::Integer => Values::Integer(Vec::new()),
        Kind::Float => Values::Float(Vec::new()),
        Kind::List(element) => return add_leaves(element, true, leaves),
        Kind::Struct(fields) => return fields.iter().for_each(|(_, kind)| add_leaves(kind, repeated, leaves)),
    };
    leaves.push(Leaf { values, definition: Vec::new(), repetition: Vec::new(), repeated });
}

fn put_fields(fields: &[Field], value: &Json, level: Level, mut leaves: &mut [Leaf]) {
    for (name, kind) in fields {
        let (own, rest) = leaves.split_at_mut(kind.leaves());
        put(kind, value.get(*name).unwrap_or(&Json::Null), level, own);
        leaves = rest;
    }
}

/// Adds a value to the columns below `kind`.
fn put(kind: &Kind, value: &Json, level: Level, leaves: &mut [Leaf]) {
    let present = Level { definition: level.definition + 1, ..level };
    match kind {
        Kind::List(element) => match value.as_array().filter(|list| !list.is_empty()) {
            None => leaves.iter_mut().for_each(|leaf| leaf.absent(present)),
            Some(list) => {
                for (index, value) in list.iter().enumerate() {
                    let repetition = if index == 0 { level.repetition } else { level.lists + 1 };
                    let inside = Level { repetition, definition: level.definition + 2, lists: level.lists + 1 };
                    put(element, value, inside, leaves);
                }
            }
        },
        Kind::Struct(fields) if value.is_object() => put_fields(fields, value, present, leaves),
        Kind::Struct(_) => leaves.iter_mut().for_each(|leaf| leaf.absent(level)),
        Kind::Text | Kind::Integer | Kind::Float => put_primitive(value, level, &mut leaves[0]),
    }
}

fn put_primitive(value: &Json, level: Level, leaf: &mut Leaf) {
    let found = match &mut leaf.values {
        Values::Text(values) => value.as_str().map(|text| values.push(ByteArray::from(text))),
        Values::Integer(values) => value.as_i64().map(|number| values.push(number)),
        Values::Float(values) => value.as_f64().map(|number| values.push(number)),
    };
    let definition = level.definition + i16::from(found.is_some());
    leaf.absent(Level { definition, ..level });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::{RL, SFT};
    use super::*;

    /// Writes rows and reads them with the reader of `corpus`.
    fn read_back(columns: &'static [Field], rows: &[Json]) -> Vec<Json> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        let mut table = Table::new(Vec::<u8>::new(), columns).unwrap();
        rows.iter().for_each(|row| table.push(row).unwrap());
        std::fs::write(&path, table.finish().unwrap()).unwrap();
        corpus::raw::open(&path).unwrap().map(|row| serde_json::from_str(&row.unwrap().json).unwrap()).collect()
    }

    #[test]
    fn nested_lists_are_read_as_they_were_written() {
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        let rows = [
            json!({"prompt": [turn("system", ""), turn("user", "é\n")], "completion": [turn("assistant", "a")]}),
            json!({"prompt": [turn("user", "b")], "completion": [turn("assistant", "c"), turn("user", "d")]}),
        ];
        assert_eq!(read_back(SFT, &rows), rows);
    }

    #[test]
    fn absent_lists_are_empty_and_absent_values_null() {
        let choice = json!({"query": null, "chosen": "a", "rejected": "b", "domain": "news", "task": null});
        let row = json!({"uid": "u", "history": [choice, {"chosen": "c"}], "mid_position": 1, "signal_gap": -0.5,
                         "mid_record": {"logprob1": -1.0, "logprob2": -2, "signal": 1.0}, "references": ["r", "s"],
                         "left_out": 7});
        let found = &read_back(RL, &[row])[0];
        let second = json!({"query": null, "chosen": "c", "rejected": null, "domain": null, "task": null});
        assert_eq!(found["history"], json!([choice, second]));
        assert_eq!((&found["mid_record"]["logprob2"], &found["last_record"]), (&json!(-2.0), &Json::Null));
        assert_eq!((&found["references"], &found["transfer"]), (&json!(["r", "s"]), &json!([])));
        assert!(found.get("left_out").is_none());
    }

    #[test]
    fn more_rows_than_a_row_group_keep_their_order() {
        let rows: Vec<Json> =
            (0..2 * ROW_GROUP + 1).map(|i| json!({"uid": i.to_string(), "references": vec!["x"; i % 3]})).collect();
        let found = read_back(RL, &rows);
        assert_eq!(found.len(), rows.len());
        for (found, row) in found.iter().zip(&rows) {
            assert_eq!((&found["uid"], &found["references"]), (&row["uid"], &row["references"]));
        }
        assert!(read_back(SFT, &[]).is_empty());
    }
}
