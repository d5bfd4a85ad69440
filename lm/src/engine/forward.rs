//! One forward pass over whatever the rows need next: whole prompts, parts of long ones, single new tokens.

use tch::Tensor;
use torch_ext::PagedQueries;

use crate::decoder::{finish, project, scale};
use crate::engine::cache::Cache;
use crate::engine::row::Row;
use crate::params::LayerWeights;
use crate::{Decoder, LmError};

/// Tokens `from..from + count` of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub row: usize,
    pub from: usize,
    pub count: usize,
}

/// Last layer's output, [tokens, hidden], of all chunks end to end. Chunks that begin a sequence must come first: they
/// attend within themselves, by the kernel that training uses; the others attend to the cache.
pub(super) fn forward(
    model: &Decoder,
    layers: &[LayerWeights],
    cache: &Cache,
    rows: &[Row],
    chunks: &[Chunk],
) -> Result<Tensor, LmError> {
    let spec = model.spec();
    let (mut ids, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    let (mut borders, mut queries) = (vec![0], PagedQueries::default());
    for chunk in chunks {
        let row = &rows[chunk.row];
        let range = chunk.from..chunk.from + chunk.count;
        ids.extend(row.tokens[range.clone()].iter().map(|&id| i64::from(id)));
        positions.extend(range.clone().map(|p| p as i64));
        slots.extend(range.clone().map(|p| row.slot(p)));
        if chunk.from == 0 {
            borders.push(ids.len() as i64);
        } else {
            queries.push_row(&row.blocks, range);
        }
    }
    let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(model.device());
    let rotations = model
        .rotary()
        .at(&tensor(&positions), chunks.iter().map(|c| (c.count as i64, rows[c.row].tokens.len() as i64)));
    let rotations = (&rotations.0, &rotations.1);
    let (alone, width) = (borders[borders.len() - 1], spec.num_attention_heads * spec.head_dim);
    let mut x = model.embed(&tensor(&ids));
    for (layer, weights) in layers.iter().enumerate() {
        let (q, k, v) = project(spec, weights, &x, rotations)?;
        let (keys, values) = cache.layer(layer);
        torch_ext::write_paged(keys, values, &k, &v, &slots)?;
        let mut attended = Vec::new();
        if alone > 0 {
            let part = |t: &Tensor| t.narrow(0, 0, alone);
            attended.push(torch_ext::varlen_attention(&part(&q), &part(&k), &part(&v), &borders, scale(spec))?);
        }
        if !queries.is_empty() {
            let rest = q.narrow(0, alone, q.size()[0] - alone);
            attended.push(torch_ext::paged_attention(&rest, keys, values, &queries, scale(spec))?);
        }
        let attended = if attended.len() == 1 { attended.remove(0) } else { Tensor::cat(&attended, 0) };
        x = finish(spec, weights, &x, &attended.view([-1, width]))?;
    }
    Ok(x)
}
