//! Programs with the feature `cuda` link NCCL's process groups. Without a GPU, opening one fails with NCCL's own error and not
//! because NCCL is missing.

use std::time::Duration;

use c10d::{Backend, ProcessGroup, Store};

#[test]
fn nccl_is_linked() {
    let store = Store::open("127.0.0.1", 0, true, Duration::from_secs(10)).unwrap();
    match ProcessGroup::open(&store, "all", (0, 1), Duration::from_secs(10), Backend::Nccl) {
        Ok(_) => assert!(std::path::Path::new("/proc/driver/nvidia/version").exists(), "opened without a GPU"),
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("ProcessGroupNCCL is only supported with GPUs"), "{said}");
        }
    }
}
