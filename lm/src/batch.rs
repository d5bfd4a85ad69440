//! Packed batches: sequences laid end to end, with their borders.

use tch::{Device, Tensor};

use crate::LmError;

/// Sequences laid end to end. Attention never crosses a border, positions begin anew at each.
#[derive(Debug)]
pub struct Packed {
    /// Token ids, [tokens], int64.
    pub ids: Tensor,
    /// Position of each token in its sequence, [tokens], int64.
    pub positions: Tensor,
    /// 0, end of the first sequence, …, tokens.
    pub cu_seqlens: Vec<i64>,
}

impl Packed {
    /// Packs `sequences` for a model on `device`.
    ///
    /// # Errors
    /// If there is none, or one is empty or longer than `max_positions`.
    pub fn new<S: AsRef<[u32]>>(sequences: &[S], max_positions: usize, device: Device) -> Result<Self, LmError> {
        let mut ids = Vec::new();
        let mut positions = Vec::new();
        let mut cu_seqlens = vec![0];
        for (index, sequence) in sequences.iter().enumerate() {
            let sequence = sequence.as_ref();
            if sequence.is_empty() || sequence.len() > max_positions {
                let length = sequence.len();
                return Err(LmError::Request(format!(
                    "sequence {index} of the batch has {length} tokens; the model takes 1 to {max_positions}"
                )));
            }
            ids.extend(sequence.iter().map(|&id| i64::from(id)));
            positions.extend(0..sequence.len() as i64);
            cu_seqlens.push(ids.len() as i64);
        }
        if ids.is_empty() {
            return Err(LmError::Request("a batch needs at least one sequence".into()));
        }
        let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        Ok(Self { ids: tensor(&ids), positions: tensor(&positions), cu_seqlens })
    }

    /// Tokens in all.
    pub fn tokens(&self) -> i64 {
        self.cu_seqlens[self.cu_seqlens.len() - 1]
    }

    /// Index of each sequence's last token, [sequences], int64.
    pub fn last_tokens(&self) -> Tensor {
        let last: Vec<i64> = self.cu_seqlens[1..].iter().map(|end| end - 1).collect();
        Tensor::from_slice(&last).to_device(self.ids.device())
    }
}
