//! Atomic file writes, and hashes of files.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The number of bytes that are hashed at a time.
const BUFFER: usize = 1 << 18;

/// Writes the file at `path` with `write` and creates its folder if necessary. The file is replaced atomically: it is complete or
/// unchanged, even if several processes write it. A symbolic link is kept; the file that it points to is replaced.
///
/// A device or a pipe such as `/dev/null` is written directly, because a rename would replace it with a regular file.
///
/// # Errors
/// Any error of `write` or of the file system; no partial file remains.
pub fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut file = Replacement::create(path)?;
    write(&mut file.out)?;
    file.finish()
}

/// A file that will replace another one atomically, as [`replace`] does, for a writer that keeps it open. Dropped before it is
/// finished, it leaves no partial file.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    /// The file that is written; `None` for a device or a pipe, and after the rename.
    partial: Option<PathBuf>,
    out: BufWriter<File>,
}

impl Replacement {
    /// Creates the file, and its folder if necessary.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if fs::metadata(&path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            let out = BufWriter::new(File::options().write(true).open(&path)?);
            return Ok(Self { path, partial: None, out });
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // The name is unique per process, because ranks may write the same file concurrently.
        let mut partial = path.clone().into_os_string();
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        let out = BufWriter::new(File::create(&partial)?);
        Ok(Self { path, partial: Some(partial), out })
    }

    /// Writes the file to disk and gives it its name.
    ///
    /// # Errors
    /// Any error of the file system; no partial file remains.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        if let Some(partial) = &self.partial {
            self.out.get_ref().sync_all()?;
            fs::rename(partial, &self.path)?;
            self.partial = None;
        }
        Ok(())
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // The write already failed. That a leftover file cannot be removed does not change what the user must do.
            let _ = fs::remove_file(partial);
        }
    }
}

/// Removes what processes that were killed have left of a replacement of the file at `path`. No other process may be writing it.
pub fn remove_partial(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let Ok(entries) = fs::read_dir(folder) else { return };
    let prefix = format!("{}.", name.to_string_lossy());
    for found in entries.flatten() {
        let name = found.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_suffix(".partial"));
        if process.is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_digit())) {
            // A file that cannot be removed takes space only.
            let _ = fs::remove_file(found.path());
        }
    }
}

/// Returns the length of a file in bytes, and its SHA-256 hash in hexadecimal.
///
/// # Errors
/// Any error of reading the file.
pub fn sha256(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let (mut bytes, mut buffer) = (0_u64, vec![0_u8; BUFFER]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())),
            Ok(count) => {
                hash.update(&buffer[..count]);
                bytes += count as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
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

    #[test]
    fn a_replacement_that_is_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let mut dropped = Replacement::create(&path).unwrap();
        dropped.write_all(b"half").unwrap();
        assert_eq!(names(folder.path()), [format!("rows.jsonl.{}.partial", std::process::id())]);
        drop(dropped);
        assert_eq!(names(folder.path()), [""; 0]);
        let mut finished = Replacement::create(&path).unwrap();
        finished.write_all(b"whole").unwrap();
        finished.finish().unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap(), names(folder.path())),
            ("whole".into(), vec!["rows.jsonl".into()])
        );
    }

    #[test]
    fn what_a_killed_process_left_of_a_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let kept = ["other.jsonl.7.partial", "rows.jsonl", "rows.jsonl.notes.partial"];
        for name in kept.iter().chain(&["rows.jsonl.7.partial", "rows.jsonl.123.partial"]) {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        remove_partial(&folder.path().join("rows.jsonl"));
        assert_eq!(names(folder.path()), kept);
        remove_partial(&folder.path().join("gone/rows.jsonl"));
    }

    #[test]
    fn a_hash_is_that_of_coreutils() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "hello").unwrap();
        // printf hello | sha256sum
        let expected = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(sha256(&path).unwrap(), (5, expected.to_owned()));
        // head -c 600000 /dev/zero | sha256sum
        fs::write(&path, vec![0; 600_000]).unwrap();
        let expected = "1358f4ce65f0d1ed482d572e4eac6ea90d465c0ab878f477297474f8f23226c3";
        assert_eq!(sha256(&path).unwrap(), (600_000, expected.to_owned()));
        assert!(sha256(&folder.path().join("gone")).is_err());
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
