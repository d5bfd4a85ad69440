//! `xplore prompts`: renders rows, and writes template sets with the wording of existing rows or of a release.

use std::path::PathBuf;

use prompts::import::ImportError;
use prompts::recover::{self, RecoverError};
use xplore::protocols::render::{self, PromptKind};
use xplore::{Error, parts};

use super::input::{self, RowFiles};

/// The subcommands of `xplore prompts`.
#[derive(clap::Subcommand)]
pub enum PromptsAction {
    /// Recovers templates from the rows they rendered; every row is rendered again and must be equal byte for byte.
    Recover(Recover),
    /// Imports the prompts of the released Python code, from a clone of its repository; the code is read, not run.
    Import(ImportArguments),
    /// Renders rows to the exact messages that a model gets, without a model.
    Render(Render),
}

/// Arguments of `xplore prompts recover`.
#[derive(clap::Args)]
pub struct Recover {
    /// SFT rows, RL rows, or messages beside their values: a file, a folder or a dataset of the hub.
    #[arg(long, value_name = "ROWS")]
    from: PathBuf,
    /// JSON lines {row, past, interactions} with the values of some rows, which settle what the rows leave open.
    #[arg(long, value_name = "FILE")]
    example: Option<PathBuf>,
    /// Folder to write the templates to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Arguments of `xplore prompts import`.
#[derive(clap::Args)]
pub struct ImportArguments {
    /// Root of a clone of the repository that released the method, with its files checked out.
    #[arg(long, value_name = "CLONE")]
    from_release: PathBuf,
    /// Folder to write the sets to, each to a folder of its own: sft, rl, judge, eval, eval-streaming, eval-rec.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Arguments of `xplore prompts render`.
#[derive(clap::Args)]
pub struct Render {
    /// Prompt set: built in (compact, plain) or a folder.
    #[arg(long, value_name = "SET")]
    prompts: String,
    /// Use of the prompt, which determines the fields of a row.
    #[arg(long, value_enum)]
    kind: Kind,
    #[command(flatten)]
    rows: RowFiles,
}

/// The value of `--kind`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Rows of the SFT set: {interactions, reasoning, preference}, past.
    Sft,
    /// Rows of the RL set: {uid, history, mid_position}, past.
    Rl,
    /// Questions to the judge: {preference, item_a, item_b}, query.
    Judge,
    /// Teacher's prompts: {interactions, item_a, item_b}, past, query.
    Teach,
    /// Teacher's prompts to merge candidates: {candidates}, past.
    Merge,
    /// Prompts of the evaluation: {interactions}, setting, past, query, item_a, item_b.
    Eval,
}

fn render(asked: &Render) -> Result<(), Error> {
    let kind = match asked.kind {
        Kind::Sft => PromptKind::Sft,
        Kind::Rl => PromptKind::Rl,
        Kind::Judge => PromptKind::Judge,
        Kind::Teach => PromptKind::Teach,
        Kind::Merge => PromptKind::Merge,
        Kind::Eval => PromptKind::Eval,
    };
    let prompts = parts::prompts(&asked.prompts)?;
    input::write(asked.rows.out.as_deref(), &render::rows(kind, &prompts, asked.rows.input.as_deref())?)
}

/// Runs the command.
pub fn run(action: &PromptsAction) -> Result<(), Error> {
    match action {
        PromptsAction::Render(asked) => render(asked),
        PromptsAction::Recover(asked) => recover(asked),
        PromptsAction::Import(asked) => import(asked),
    }
}

fn recover(asked: &Recover) -> Result<(), Error> {
    let error = |e: RecoverError| match e {
        RecoverError::Rows(e) => Error::from(e),
        RecoverError::Examples(e) => Error::from(e),
        RecoverError::Write { .. } => Error::environment(e.to_string()),
        RecoverError::Row { .. }
        | RecoverError::Ambiguous { .. }
        | RecoverError::Differs { .. }
        | RecoverError::Prompt(_) => Error::data(e.to_string()),
    };
    let mut samples = recover::read(&asked.from).map_err(error)?;
    if let Some(example) = &asked.example {
        recover::read_examples(example, &mut samples).map_err(error)?;
    }
    let recovered = recover::recover(&samples).map_err(error)?;
    recovered.write(&asked.out).map_err(error)?;
    println!("{}", asked.out.display());
    for name in recovered.templates.keys() {
        println!("  {name}");
    }
    println!("{} prompts rendered again, byte for byte", recovered.prompts);
    for note in &recovered.notes {
        println!("note: {note}");
    }
    Ok(())
}

fn import(asked: &ImportArguments) -> Result<(), Error> {
    let error = |e: ImportError| match e {
        ImportError::Write { .. } => Error::environment(e.to_string()),
        ImportError::NotARelease { .. }
        | ImportError::Unmapped { .. }
        | ImportError::Template(_)
        | ImportError::Foreign { .. } => Error::data(e.to_string()),
    };
    let sets = prompts::import::from_release(&asked.from_release).map_err(error)?;
    let folders = prompts::import::write(&sets, &asked.out).map_err(error)?;
    for (set, folder) in sets.iter().zip(folders) {
        println!("{}", folder.display());
        for (task, origin) in &set.origins {
            println!("  {task:<9}  {origin}");
        }
    }
    Ok(())
}
