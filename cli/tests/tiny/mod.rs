//! A tiny model for inference tests.

use std::path::PathBuf;

use chat::tokenizer::Tokenizer;
use configs::ModelShape;
use lm::checkpoint;

/// Writes a randomly initialized model whose logits vary, to a folder named "tiny".
pub fn folder() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let texts = ["likes warm stories about space and avoids long dry reports about finance"; 20];
    let tokenizer = Tokenizer::train(texts.into_iter(), 400).unwrap();
    let shape = ModelShape {
        hidden_size: 64,
        intermediate_size: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        max_position_embeddings: 256,
        init_std: 0.3,
        ..ModelShape::default()
    };
    let model =
        trainer::start::random("tiny", &shape, tokenizer, 3, (configs::Device::Cpu, configs::model::Dtype::Fp32))
            .unwrap();
    let folder = place.path().join("tiny");
    checkpoint::save(&folder, &model.decoder, &model.tokenizer, |_| Ok(())).unwrap();
    (place, folder)
}
