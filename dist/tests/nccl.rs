//! Programs with the feature `cuda` have NCCL's process groups in them. Where there is no GPU, opening one fails in NCCL's own
//! words, and not for lack of NCCL.

use std::time::Duration;

use c10d::{Engine, ProcessGroup, Store};

#[test]
fn nccl_is_linked() {
    let store = Store::open("127.0.0.1", 0, true, Duration::from_secs(10)).unwrap();
    match ProcessGroup::open(&store, "all", (0, 1), Duration::from_secs(10), Engine::Nccl) {
        Ok(_) => assert!(std::path::Path::new("/proc/driver/nvidia/version").exists(), "opened without a GPU"),
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("ProcessGroupNCCL is only supported with GPUs"), "{said}");
        }
    }
}
