//! Rows of Parquet tables, read one row group at a time.

use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;

use crate::CorpusError;
use crate::raw_row::{RawRow, RawRows, RowLocation, unread};

/// Returns the rows as JSON objects; empty cells are null.
pub(crate) fn open(path: &Path) -> Result<RawRows, CorpusError> {
    let file = File::open(path).map_err(|e| unread(path, e))?;
    let bytes = file.metadata().map_err(|e| unread(path, e))?.len();
    let broken = |place: RowLocation, error: &ParquetError| CorpusError::Row {
        path: path.into(),
        place,
        message: format!("cannot be read as Parquet: {error}"),
    };
    let reader = SerializedFileReader::new(file).map_err(|e| broken(RowLocation::Row(1), &e))?;
    let count = u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0).max(1);
    let path = path.to_path_buf();
    let rows = RowIter::from_file_into(Box::new(reader)).zip(1u64..).map(move |(row, number)| {
        let place = RowLocation::Row(number);
        let read = (u128::from(bytes) * u128::from(number) / u128::from(count)) as u64;
        let json = row.map(|row| row.to_json_value().to_string());
        json.map(|json| RawRow { place, json, read }).map_err(|e| CorpusError::Row {
            path: path.clone(),
            place,
            message: format!("cannot be read as Parquet: {e}"),
        })
    });
    Ok(Box::new(rows))
}
