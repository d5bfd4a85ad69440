//! A running `xplore serve`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// A running server; killed when dropped.
pub struct Server {
    pub child: Child,
    pub url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves the model in `folder` in fp32, on a port that the system selects.
pub fn serve(folder: &Path, more: &[&str]) -> Server {
    let mut child = Command::new(env!("CARGO_BIN_EXE_xplore"))
        .args(["serve", "--dtype", "fp32", "--port", "0", "--model"])
        .arg(folder)
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    thread::spawn(move || lines.for_each(drop));
    let url = line.split(" at ").nth(1).unwrap_or_else(|| panic!("{line}")).to_owned();
    Server { child, url }
}
