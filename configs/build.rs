//! Lists the prompt templates under `prompts/<set>/*.j2` so that the binary embeds them.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("prompts");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut list = String::from("&[\n");
    for set in sorted(&root)?.iter().filter(|path| path.is_dir()) {
        println!("cargo::rerun-if-changed={}", set.display());
        for file in sorted(set)?.iter().filter(|path| path.extension().is_some_and(|e| e == "j2")) {
            let (set, name) = (file_name(set), file_name(file));
            writeln!(list, "    ({set:?}, {name:?}, include_str!({:?})),", file.display().to_string())
                .map_err(io::Error::other)?;
        }
    }
    list.push_str("]\n");
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    fs::write(out.join("built_in_prompts.rs"), list)
}

/// Returns the folder's entries sorted by name, so that the list does not depend on the file system's order.
fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
