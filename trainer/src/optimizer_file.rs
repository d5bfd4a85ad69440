//! Optimizer state on disk. Any number of ranks may write it, and any other number may read it.
//!
//! Each file holds elements of every optimizer tensor and their ranges in the buffer of the whole model (or adapter). A
//! resuming rank reads its own ranges from the files that contain them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use lm::LmError;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use tch::{Device, Kind, Tensor};
use torch_ext::MappedFile;

use crate::TrainError;
use crate::optimizer::Optimizer;

/// Name of the file that holds all elements.
pub const WHOLE: &str = "optimizer.safetensors";
/// Metadata key of a file's ranges, as JSON.
const RANGES: &str = "ranges";

/// Ranges as (first element in the whole buffer, first element in this file or shard, length).
type Ranges = Vec<[u64; 3]>;

/// Returns the name of the file of one of several ranks.
pub fn share(rank: usize, ranks: usize) -> String {
    format!("optimizer-{:05}-of-{ranks:05}.safetensors", rank + 1)
}

fn stored(kind: Kind) -> safetensors::Dtype {
    match kind {
        Kind::BFloat16 => safetensors::Dtype::BF16,
        Kind::Half => safetensors::Dtype::F16,
        _ => safetensors::Dtype::F32,
    }
}

/// Writes the optimizer state of this rank. `own` gives its ranges; `None` means all elements.
///
/// # Errors
/// [`LmError::Write`] if the file cannot be written.
pub fn write(path: &Path, optimizer: &Optimizer, own: Option<&Ranges>) -> Result<(), LmError> {
    let at = |e: String| LmError::Write { path: path.into(), message: e };
    let tensors: Vec<(&str, Tensor)> =
        optimizer.numbers().into_iter().map(|(name, t)| (name, t.to_device(Device::Cpu))).collect();
    let mut views = BTreeMap::new();
    for (name, t) in &tensors {
        let view = TensorView::new(stored(t.kind()), vec![t.numel()], torch_ext::bytes(t)?);
        views.insert(*name, view.map_err(|e| at(e.to_string()))?);
    }
    let metadata = match own {
        None => None,
        Some(own) => {
            let text = serde_json::to_string(own).map_err(|e| at(e.to_string()))?;
            Some(HashMap::from([(RANGES.to_owned(), text)]))
        }
    };
    safetensors::serialize_to_file(views, metadata, path).map_err(|e| at(e.to_string()))?;
    std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(|e| at(e.to_string()))
}

/// Reads the elements in `own` (`None`: all) from the files in `folder`.
///
/// # Errors
/// [`TrainError::Data`] if elements are missing or have another dtype.
pub fn read(folder: &Path, own: Option<Ranges>, optimizer: &Optimizer) -> Result<(), TrainError> {
    let places = optimizer.numbers();
    let total = places.first().map_or(0, |(_, t)| t.numel() as u64);
    let own = own.unwrap_or_else(|| vec![[0, 0, total]]);
    let mut missing = own.iter().map(|[.., length]| length).sum::<u64>() * places.len() as u64;
    for path in files(folder)? {
        let at = |message: String| TrainError::Data(format!("{}: {message}", path.display()));
        let bytes = MappedFile::open(&path).map_err(|e| at(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| at(e.to_string()))?;
        if tensors.len() != places.len() {
            return Err(at(
                "was written with another optimizer.state or optimizer.ema_decay; resume with the same values".into(),
            ));
        }
        for (name, place) in &places {
            let there = tensors.tensor(name).map_err(|e| at(e.to_string()))?;
            if there.dtype() != stored(place.kind()) {
                return Err(at(format!(
                    "`{name}` has dtype {:?}; resume with the optimizer.state of that run",
                    there.dtype()
                )));
            }
            let held = ranges(&bytes, there.shape()[0] as u64).map_err(at)?;
            for (from, to, length) in overlaps(&held, &own) {
                let width = place.kind().elt_size_in_bytes();
                let data = there.data().get(from as usize * width..(from + length) as usize * width);
                let data =
                    data.ok_or_else(|| at(format!("`{name}` is shorter than its ranges; the file is damaged")))?;
                let value = Tensor::f_from_data_size(data, &[length as i64], place.kind())?;
                tch::no_grad(|| place.narrow(0, to as i64, length as i64).copy_(&value));
                missing = missing.saturating_sub(length);
            }
        }
    }
    if missing > 0 {
        return Err(TrainError::Data(format!(
            "{}: the checkpoint lacks {missing} optimizer-state elements of this run; it was written by a run of \
             another model or adapter, or a file is missing",
            folder.display()
        )));
    }
    Ok(())
}

/// Returns the optimizer-state files in a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let at = |e: std::io::Error| TrainError::Data(format!("{}: {e}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("optimizer") && name.ends_with(".safetensors") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the ranges in a file's metadata.
fn ranges(bytes: &[u8], numel: u64) -> Result<Ranges, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    match metadata.metadata().as_ref().and_then(|m| m.get(RANGES)) {
        None => Ok(vec![[0, 0, numel]]),
        Some(text) => serde_json::from_str(text).map_err(|e| format!("invalid ranges: {e}")),
    }
}

/// Returns the overlaps of two lists of ranges, as (first element in the first buffer, first element in the second buffer,
/// length).
fn overlaps(held: &[[u64; 3]], own: &[[u64; 3]]) -> Vec<(u64, u64, u64)> {
    let mut found = Vec::new();
    for [held_from, held_at, held_length] in held {
        for [own_from, own_at, own_length] in own {
            let begin = held_from.max(own_from);
            let end = (held_from + held_length).min(own_from + own_length);
            if *begin < end {
                found.push((held_at + begin - held_from, own_at + begin - own_from, end - begin));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_where_both_have_a_number() {
        // Owned: 10..20 at 0 and 40..50 at 16. Wanted: 15..45 at 100.
        assert_eq!(overlaps(&[[10, 0, 10], [40, 16, 10]], &[[15, 100, 30]]), [(5, 100, 5), (16, 125, 5)]);
        assert_eq!(overlaps(&[[0, 0, 8]], &[[8, 0, 8]]), []);
    }
}
