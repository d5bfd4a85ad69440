//! The typed run configuration and the prompt templates.
//!
//! A run is described by one TOML file and by overrides on the command line. From the weakest to the strongest:
//!
//! 1. the defaults of the type ([`SftConfig`], [`RlConfig`], [`EvalConfig`], [`QuickstartConfig`]), which are the
//!    published AlignXplore+ recipe wherever it says something;
//! 2. the file named by `extends = "other.toml"` (relative to the file that says so; chains are allowed);
//! 3. the file itself;
//! 4. `--set a.b.c=value`, in order.
//!
//! Tables are merged key by key, everything else is replaced. Unknown keys are refused everywhere. [`load`] reads and
//! checks; [`RunConfig::resolved`] writes the result with every default, as a file that loads to an equal value.
//! Paths in a config are relative to the folder the program is started in.
//!
//! Every failure is a [`ConfigError`]: it says where (file and line, or the override), which key, what was expected and
//! what to do.
//!
//! ```
//! let config: configs::SftConfig = configs::parse(
//!     "my.toml",
//!     "[model]\npath = \"Qwen/Qwen3-8B\"\n[data]\ntrain = \"sft.jsonl\"",
//!     &["optimizer.lr=1e-5".into()],
//! )?;
//! assert_eq!((config.optimizer.lr, config.train.epochs), (1e-5, 4));
//! # Ok::<(), configs::ConfigError>(())
//! ```

mod check;
pub mod checkpoint;
pub mod endpoint;
pub mod error;
pub mod eval;
pub mod judge;
mod keys;
mod load;
pub mod lora;
mod merge;
pub mod metrics;
pub mod model;
pub mod optimizer;
mod overrides;
pub mod parallel;
pub mod presets;
pub mod prompts;
pub mod quickstart;
pub mod rl;
pub mod run;
pub mod sampling;
pub mod sft;
mod source;
pub mod validation;

pub use check::Defect;
pub use checkpoint::{Best, CheckpointConfig};
pub use error::{ConfigError, Origin};
pub use eval::{EvalConfig, EvalJudge, EvalModel, Setting};
pub use judge::{ItemOrders, JudgeConfig, JudgeMode, JudgePlacement};
pub use load::{load, parse};
pub use lora::{LoraConfig, Projection};
pub use metrics::MetricsConfig;
pub use model::{Device, Dtype, Family, ModelShape, ModelSource, ModelStart, Start, TokenizerConfig};
pub use optimizer::{MuonConfig, OptimizerConfig, OptimizerKind, ParameterKind, Schedule, StateDtype};
pub use parallel::{ParallelConfig, Sharding};
pub use quickstart::{
    EMBEDDED as QUICKSTART, PruningConfig, QuickstartConfig, SynthesisConfig, TINY as QUICKSTART_TINY, WorldConfig,
};
pub use rl::{
    AlgorithmConfig, CurriculumConfig, LogConfig, RewardConfig, RlConfig, RlData, RlTrain, RolloutConfig, TermConfig,
};
pub use run::RunConfig;
pub use sampling::SamplingConfig;
pub use sft::{LossOn, SftConfig, SftData, SftSet, SftTrain, Truncation, Unusable};
pub use validation::{SummaryValidation, ValidationConfig};
