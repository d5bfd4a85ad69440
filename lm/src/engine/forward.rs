//! One forward pass over the tokens that each sequence needs next: whole prompts, chunks of long prompts, single new tokens.

use tch::Tensor;
use torch_ext::{PagedLayer, PagedQueries, Slots, most_paged_tokens, paged_layers};

use crate::engine::kv_cache::KvCache;
use crate::engine::sequence::Sequence;
use crate::layer::{finish, project, scale};
use crate::packed::{PackedMatrices, PackedModel};
use crate::params::LayerWeights;
use crate::{Decoder, LmError};

/// Tokens `from..from + count` of a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub seq: usize,
    pub from: usize,
    pub count: usize,
}

/// Weights of a forward pass. `packed` is set if the CPU has kernels for whole passes.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub model: &'a Decoder,
    pub layers: &'a [LayerWeights],
    pub packed: Option<&'a PackedModel>,
}

/// Computes the output of the last layer, [outputs, hidden], for the tokens `outputs` (ascending indices into the concatenated
/// chunks). Chunks that begin a sequence must come first: on a GPU they attend only within themselves, and use the kernel of
/// training.
pub(super) fn forward(
    weights: Weights<'_>,
    cache: &KvCache,
    seqs: &[Sequence],
    chunks: &[Chunk],
    outputs: &[i64],
) -> Result<Tensor, LmError> {
    let Weights { model, layers, packed } = weights;
    let spec = model.spec();
    let (mut ids, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bounds, mut queries) = (vec![0], PagedQueries::default());
    let tokens: usize = chunks.iter().map(|chunk| chunk.count).sum();
    let packed =
        packed.filter(|_| tokens <= most_paged_tokens(model.device(), model.params.flat.kind(), spec.head_dim));
    for chunk in chunks {
        let row = &seqs[chunk.seq];
        let range = chunk.from..chunk.from + chunk.count;
        ids.extend(row.tokens[range.clone()].iter().map(|&id| i64::from(id)));
        positions.extend(range.clone().map(|p| p as i64));
        slots.extend(range.clone().map(|p| row.slot(p)));
        if chunk.from == 0 && packed.is_none() {
            bounds.push(ids.len() as i64);
        } else {
            queries.push_row(&row.blocks, range);
        }
    }
    let slots = Slots::from(slots);
    let tensor = |values: &[i64]| torch_ext::upload(values, model.device());
    let rotations = model
        .rotary()
        .at(&tensor(&positions), chunks.iter().map(|c| (c.count as i64, seqs[c.seq].tokens.len() as i64)));
    let rotations = (&rotations.0, &rotations.1);
    let mut x = model.embed(&tensor(&ids))?;
    if let Some(packed) = packed {
        let layers: Vec<_> = layers
            .iter()
            .zip(&packed.layers)
            .enumerate()
            .map(|(l, (weights, matrices))| paged(weights, matrices, cache.layer(l)))
            .collect();
        let (heads, eps) = (spec.num_attention_heads, spec.rms_norm_eps);
        return Ok(paged_layers(&x, &layers, rotations, &slots, &queries, outputs, heads, eps, scale(spec))?);
    }
    let (alone, width) = (bounds[bounds.len() - 1], spec.num_attention_heads * spec.head_dim);
    let pick =
        |t: &Tensor| if outputs.len() == ids.len() { t.shallow_clone() } else { t.index_select(0, &tensor(outputs)) };
    let last = layers.len() - 1;
    for (layer, weights) in layers.iter().enumerate() {
        let [q, k, v] = project(spec, weights.into(), &x, rotations)?;
        let (keys, values) = cache.layer(layer);
        torch_ext::write_paged(keys, values, &k, &v, &slots)?;
        if layer == last && outputs.len() < ids.len() {
            // Once the last keys and values are written, the outputs of the other tokens are not needed.
            if outputs.is_empty() {
                return Ok(pick(&x));
            }
            let queries = single(seqs, chunks, outputs);
            let attended = torch_ext::paged_attention(&pick(&q), keys, values, &queries, scale(spec))?;
            return finish(spec, weights.into(), &pick(&x), &attended.view([-1, width]));
        }
        let mut attended = Vec::new();
        if alone > 0 {
            let part = |t: &Tensor| t.narrow(0, 0, alone);
            attended.push(torch_ext::varlen_attention(&part(&q), &part(&k), &part(&v), &bounds, scale(spec))?);
        }
        if !queries.is_empty() {
            let rest = q.narrow(0, alone, q.size()[0] - alone);
            attended.push(torch_ext::paged_attention(&rest, keys, values, &queries, scale(spec))?);
        }
        let attended = if attended.len() == 1 { attended.remove(0) } else { Tensor::cat(&attended, 0) };
        x = finish(spec, weights.into(), &x, &attended.view([-1, width]))?;
    }
    Ok(x)
}

/// Returns the tokens `outputs` of the concatenated chunks as queries.
fn single(seqs: &[Sequence], chunks: &[Chunk], outputs: &[i64]) -> PagedQueries {
    let mut queries = PagedQueries::default();
    let mut outputs = outputs.iter().map(|&at| at as usize).peekable();
    let mut begin = 0;
    for chunk in chunks {
        while let Some(at) = outputs.next_if(|&at| at < begin + chunk.count) {
            let position = chunk.from + at - begin;
            queries.push_row(&seqs[chunk.seq].blocks, position..position + 1);
        }
        begin += chunk.count;
    }
    queries
}

fn paged<'a>(
    weights: &'a LayerWeights,
    matrices: &'a PackedMatrices,
    (keys, values): (&'a Tensor, &'a Tensor),
) -> PagedLayer<'a> {
    PagedLayer {
        input_norm: &weights.input_norm,
        qkv: &matrices.qkv,
        qkv_bias: weights.qkv_bias.as_ref(),
        qk_norm: weights.qk_norm.as_ref().map(|(q, k)| (q, k)),
        o: &matrices.o,
        o_bias: weights.o_bias.as_ref(),
        post_norm: &weights.post_norm,
        gate_up: &matrices.gate_up,
        down: &matrices.down,
        mlp_bias: weights.mlp_bias.as_ref().map(|(gate_up, down)| (gate_up, down)),
        keys,
        values,
    }
}
