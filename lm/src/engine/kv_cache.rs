//! The KV cache: keys and values of all layers, in blocks.

use tch::{Device, Kind, Tensor};

use crate::engine::block_pool::BLOCK;
use crate::{LmError, ModelConfig};

/// Blocks of every layer. Keys have shape [blocks, kv_heads, head_dim, BLOCK], so that one instruction multiplies a channel of
/// many positions. Values have shape [blocks, kv_heads, BLOCK, head_dim].
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    room: usize,
    shape: [i64; 2],
    kind: Kind,
    device: Device,
}

impl KvCache {
    /// Creates an empty cache.
    pub fn new(spec: &ModelConfig, kind: Kind, device: Device) -> Self {
        let shape = [spec.num_key_value_heads, spec.head_dim];
        let empty = || Tensor::empty([0], (kind, device));
        let layers = (0..spec.num_hidden_layers).map(|_| (empty(), empty())).collect();
        Self { layers, room: 0, shape, kind, device }
    }

    /// Returns the size of one block over all layers, in bytes.
    pub fn block_bytes(spec: &ModelConfig, kind: Kind) -> usize {
        let numbers = 2 * spec.num_key_value_heads * spec.head_dim * BLOCK as i64;
        numbers as usize * spec.num_hidden_layers * kind.elt_size_in_bytes()
    }

    /// Grows the cache to at least `blocks` blocks. It grows by doubling, and never beyond `limit`.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn make_room(&mut self, blocks: usize, limit: usize) -> Result<(), LmError> {
        const FIRST: usize = 64;
        if blocks <= self.room {
            return Ok(());
        }
        let room = (self.room * 2).max(FIRST).max(blocks).min(limit);
        let [heads, dim] = self.shape;
        let options = (self.kind, self.device);
        for (k, v) in &mut self.layers {
            for (t, inner) in [(k, [dim, BLOCK as i64]), (v, [BLOCK as i64, dim])] {
                let larger = Tensor::f_empty([room as i64, heads, inner[0], inner[1]], options)?;
                if self.room > 0 {
                    larger.narrow(0, 0, self.room as i64).copy_(t);
                }
                *t = larger;
            }
        }
        self.room = room;
        Ok(())
    }

    /// Returns the keys and values of one layer.
    pub fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (k, v) = &self.layers[layer];
        (k, v)
    }

    /// Copies the contents of block `from` to block `to`, in every layer.
    pub fn copy(&mut self, from: u32, to: u32) {
        for (k, v) in &self.layers {
            for t in [k, v] {
                t.get(i64::from(to)).copy_(&t.get(i64::from(from)));
            }
        }
    }
}
