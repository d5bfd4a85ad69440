//! Atomic file writes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes the file at `path` with `write` and creates its folder if necessary. The file is replaced atomically: it is complete or
/// unchanged, even if several processes write it. A symbolic link is kept; the file that it points to is replaced.
///
/// A device or a pipe such as `/dev/null` is written directly, because a rename would replace it with a regular file.
///
/// # Errors
/// Any error of `write` or of the file system; no partial file remains.
pub fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return write_through(File::options().write(true).open(&path)?, write).map(drop);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // The name is unique per process, because ranks may write the same file concurrently.
    let mut partial = path.clone().into_os_string();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    File::create(&partial)
        .and_then(|file| write_through(file, write)?.sync_all())
        .and_then(|()| fs::rename(&partial, &path))
        .inspect_err(|_| {
            // The write already failed. That a leftover file cannot be removed does not change what the user must do.
            let _ = fs::remove_file(&partial);
        })
}

fn write_through(file: File, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<File> {
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/rows.jsonl");
        replace(&path, |out| out.write_all(b"first")).unwrap();
        replace(&path, |out| out.write_all(b"second")).unwrap();
        let failed = replace(&path, |out| {
            out.write_all(b"half of the th")?;
            Err(io::Error::other("the writer gave up"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "the writer gave up");
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(names(path.parent().unwrap()), ["rows.jsonl"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_stay_what_they_are() {
        use std::os::unix::fs::{FileTypeExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (folder.path().join("file"), folder.path().join("link"), folder.path().join("pipe"));
        fs::write(&file, "old").unwrap();
        symlink(&file, &link).unwrap();
        replace(&link, |out| out.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");

        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        replace(&pipe, |out| out.write_all(b"through")).unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(names(folder.path()), ["file", "link", "pipe"]);
    }
}
