//! The lock of a pipeline's folder: two processes in one folder would write the same files.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use crate::error::Error;

/// Name of the file that is locked.
const FILE: &str = ".lock";

/// Locks the folder of a pipeline until the file is dropped; creates the folder if necessary. The system releases the lock of a
/// process that is killed.
pub(super) fn acquire(folder: &Path) -> Result<File, Error> {
    let cannot = |path: &Path, what: &str, error: &std::io::Error| {
        Error::environment(format!(
            "{}: cannot {what}: {error}; fix permissions, or choose another `out`",
            path.display()
        ))
    };
    fs::create_dir_all(folder).map_err(|e| cannot(folder, "create this folder", &e))?;
    let path = folder.join(FILE);
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(|e| cannot(&path, "open", &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::environment(format!(
            "{}: another process runs a step of this pipeline; wait for it, or choose another `name`",
            folder.display()
        ))),
        Err(TryLockError::Error(e)) => Err(cannot(&path, "lock", &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_folder_is_for_one_process_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("runs/synth");
        let first = acquire(&folder).unwrap();
        let error = acquire(&folder).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Environment);
        assert!(error.to_string().contains("another process"), "{error}");
        drop(first);
        acquire(&folder).unwrap();
    }
}
