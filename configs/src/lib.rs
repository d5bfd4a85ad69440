//! The typed run configuration and the prompt templates.
//!
//! One TOML file and command-line overrides describe a run. The sources, in increasing order of precedence:
//!
//! 1. the defaults of the type ([`SftConfig`], [`RlConfig`], [`EvalConfig`], [`AblateConfig`], [`SynthConfig`],
//!    [`QuickstartConfig`]), which follow the published AlignXplore+ recipe wherever it gives a value;
//! 2. the file named by `extends = "other.toml"` (relative to the file that contains the key; chains are allowed);
//! 3. the file itself;
//! 4. `--set a.b.c=value`, in order.
//!
//! Tables are merged key by key; all other values are replaced. Unknown keys are always an error. [`load`] reads and validates a
//! config. [`RunConfig::resolved`] writes the result with every default, as a file that loads to an equal value. Paths in a config
//! are relative to the current working directory.
//!
//! Every failure is a [`ConfigError`]. It reports the location (file and line, or the override), the key, what was expected, and
//! the fix.
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

pub mod ablate;
mod batch_size;
mod check;
pub mod checkpoint;
pub mod endpoint;
pub mod error;
pub mod eval;
pub mod judge;
mod key_path;
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
pub mod published;
pub mod quickstart;
pub mod rl;
pub mod run;
pub mod sampling;
pub mod sft;
mod source;
pub mod synth;
pub mod validation;
pub mod world;

pub use ablate::{AblateConfig, AblateEval};
pub use batch_size::BatchSize;
pub use check::Defect;
pub use checkpoint::{Best, CheckpointConfig};
pub use error::{ConfigError, Origin};
pub use eval::{EvalConfig, EvalJudge, EvalModel, Setting};
pub use judge::{ItemOrders, JudgeConfig, JudgeMode, JudgePlacement, JudgePrices, PanelRule, RlJudge};
pub use load::{load, parse, refuse};
pub use lora::{LoraConfig, Projection};
pub use metrics::MetricsConfig;
pub use model::{Device, Dtype, Family, ModelShape, ModelSource, ModelStart, Start, TokenizerConfig};
pub use optimizer::{MuonConfig, OptimizerConfig, OptimizerKind, ParameterKind, Schedule, StateDtype};
pub use parallel::{ParallelConfig, Sharding};
pub use quickstart::{EMBEDDED as QUICKSTART, QuickstartConfig, TINY as QUICKSTART_TINY};
pub use rl::{
    AlarmConfig, AlgorithmConfig, CurriculumConfig, LogConfig, RewardConfig, RlConfig, RlData, RlTrain, RolloutConfig,
    TermConfig,
};
pub use run::RunConfig;
pub use sampling::SamplingConfig;
pub use sft::{LossOn, SftConfig, SftData, SftSet, SftTrain, Truncation, Unusable};
pub use synth::{PruningConfig, PruningRule, SynthConfig, SynthStep, SynthesisConfig};
pub use validation::{SummaryValidation, ValidationConfig};
pub use world::WorldConfig;
