//! Trains a small randomly initialized model from a configuration value, and writes it as a Hugging Face folder.
//!
//!     cargo run --release -p xplore --example finetune -- ROWS OUT
//!
//! ROWS: a file of rows, such as examples/sft.jsonl. The run's folder is OUT/finetune; the model is written to OUT/model.

use std::error::Error;
use std::path::PathBuf;

use xplore::configs::{
    BatchSize, Device, Dtype, ModelShape, ModelStart, OptimizerConfig, SftConfig, SftData, SftTrain,
};
use xplore::{Silent, runtime, sft};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [rows, out] = &arguments[..] else { return Err("usage: finetune ROWS OUT".into()) };
    let config = SftConfig {
        name: "finetune".into(),
        out: out.clone(),
        model: ModelStart {
            shape: Some(ModelShape { layers: 2, hidden_size: 64, intermediate_size: 192, ..ModelShape::default() }),
            dtype: Dtype::Fp32,
            device: Device::Cpu,
            ..ModelStart::default()
        },
        data: SftData { train: rows.clone(), max_length: 2048, ..SftData::default() },
        train: SftTrain { epochs: 1, batch_size: BatchSize::Sequences(4), ..SftTrain::default() },
        optimizer: OptimizerConfig { lr: 1e-3, ..OptimizerConfig::default() },
        ..SftConfig::default()
    };
    let context = runtime::init_distributed(config.threads, config.model.device, &config.parallel)?;
    let trained = sft::run(&config, context, false, &Silent)?;
    xplore::generate::save(&out.join("model"), &trained.into_model()?)?;
    println!("{}", out.join("model").display());
    Ok(())
}
