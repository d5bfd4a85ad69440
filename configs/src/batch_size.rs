//! The global batch size of supervised fine-tuning.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The value that stands for the batch size of the released run.
const PUBLISHED: &str = "published";

/// Sequences per update and device in the released run: one at a time, with 16 accumulation steps.
const SEQUENCES_PER_DEVICE: usize = 16;

/// Devices of a node of the released run.
const DEVICES_PER_NODE: usize = 8;

/// Updates per epoch of the released run: its 4 epochs end at step 2116.
const UPDATES_PER_EPOCH: usize = 529;

/// The number of sequences per update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BatchSize {
    /// This number of sequences.
    Sequences(usize),
    /// 16 sequences on each of the devices of the released run. Their number was not published. It follows from the number of
    /// updates per epoch of the released checkpoint, 529: ceil(rows / (16 · 529)).
    Published,
}

impl BatchSize {
    /// Returns the number of devices with which the released run makes at most 529 updates over `rows` rows.
    pub fn published_devices(rows: usize) -> usize {
        rows.div_ceil(SEQUENCES_PER_DEVICE * UPDATES_PER_EPOCH).max(1)
    }

    /// Returns the number of sequences per update of a run over `rows` rows.
    pub fn sequences(self, rows: usize) -> usize {
        match self {
            Self::Sequences(sequences) => sequences,
            Self::Published => SEQUENCES_PER_DEVICE * Self::published_devices(rows),
        }
    }

    /// Returns how the published batch size follows from `rows` rows, for display; `None` for a given number.
    pub fn explanation(self, rows: usize) -> Option<String> {
        if self != Self::Published {
            return None;
        }
        let (devices, sequences) = (Self::published_devices(rows), self.sequences(rows));
        let updates = rows.div_ceil(sequences);
        let released = updates == UPDATES_PER_EPOCH && devices.is_multiple_of(DEVICES_PER_NODE);
        Some(format!(
            "published: {SEQUENCES_PER_DEVICE} · {devices} = {sequences} sequences per update, with {devices} = \
             ceil({rows} rows / ({SEQUENCES_PER_DEVICE} · {UPDATES_PER_EPOCH})) devices; {updates} updates per epoch{}",
            if released {
                String::new()
            } else {
                format!(
                    "; the released run made {UPDATES_PER_EPOCH} on a multiple of {DEVICES_PER_NODE} devices, so these are \
                     not its rows"
                )
            }
        ))
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Sequences(sequences) => sequences.serialize(to),
            Self::Published => to.serialize_str(PUBLISHED),
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NumberOrName)
    }
}

/// Reads a number or the name, so that an error names both.
struct NumberOrName;

impl Visitor<'_> for NumberOrName {
    type Value = BatchSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number, 0 or more, or \"{PUBLISHED}\"")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<BatchSize, E> {
        let sequences = usize::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))?;
        Ok(BatchSize::Sequences(sequences))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<BatchSize, E> {
        let sequences = usize::try_from(value).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))?;
        Ok(BatchSize::Sequences(sequences))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<BatchSize, E> {
        match value {
            PUBLISHED => Ok(BatchSize::Published),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_follow_from_the_updates_of_an_epoch() {
        // One device makes 529 updates over 16 · 529 = 8464 rows; one more row takes a second device. The last of the 529 updates
        // of 256 devices may have a single row.
        for (rows, devices, updates) in
            [(8464, 1, 529), (8465, 2, 265), (24, 1, 2), (1, 1, 1), (64 * 8464, 64, 529), (528 * 4096 + 1, 256, 529)]
        {
            assert_eq!(BatchSize::published_devices(rows), devices, "{rows} rows");
            let sequences = BatchSize::Published.sequences(rows);
            assert_eq!((sequences, rows.div_ceil(sequences)), (16 * devices, updates), "{rows} rows");
        }
        assert_eq!(BatchSize::Sequences(5).sequences(8465), 5);
        let words = BatchSize::Published.explanation(8465).unwrap();
        assert!(words.contains("16 · 2 = 32 sequences") && words.contains("265 updates per epoch"), "{words}");
        assert!(words.ends_with("not its rows"), "{words}");
        // 63 devices fit 529 updates, too, but not whole nodes.
        let words = |rows: usize| BatchSize::Published.explanation(rows).unwrap();
        assert!(words(63 * 8464).ends_with("not its rows") && words(64 * 8464).ends_with("529 updates per epoch"));
        assert_eq!(BatchSize::Sequences(5).explanation(8465), None);
    }
}
