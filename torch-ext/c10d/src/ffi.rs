//! Bindings to the C functions of `csrc/process_group.cpp`.

use std::ffi::{c_char, c_int, c_void};

use torch_sys::C_tensor;

unsafe extern "C" {
    pub(crate) fn xt_store_open(
        host: *const c_char,
        port: c_int,
        serves: c_int,
        timeout_ms: i64,
        result: *mut *mut c_void,
    ) -> c_int;
    pub(crate) fn xt_store_port(store: *mut c_void) -> c_int;
    pub(crate) fn xt_store_clone(store: *mut c_void, result: *mut *mut c_void) -> c_int;
    pub(crate) fn xt_store_set(store: *mut c_void, key: *const c_char, value: *const u8, length: usize) -> c_int;
    pub(crate) fn xt_store_has(store: *mut c_void, key: *const c_char, has: *mut c_int) -> c_int;
    pub(crate) fn xt_store_get(
        store: *mut c_void,
        key: *const c_char,
        f: extern "C" fn(*mut c_void, *const u8, usize),
        data: *mut c_void,
    ) -> c_int;
    pub(crate) fn xt_store_free(store: *mut c_void);
    pub(crate) fn xt_group_open(
        store: *mut c_void,
        prefix: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        nccl: c_int,
        result: *mut *mut c_void,
    ) -> c_int;
    pub(crate) fn xt_group_free(group: *mut c_void);
    pub(crate) fn xt_group_abort(group: *mut c_void) -> c_int;
    pub(crate) fn xt_group_check(group: *mut c_void) -> c_int;
    pub(crate) fn xt_all_reduce(
        group: *mut c_void,
        tensor: *mut C_tensor,
        largest: c_int,
        result: *mut *mut c_void,
    ) -> c_int;
    pub(crate) fn xt_reduce_scatter(
        group: *mut c_void,
        output: *mut C_tensor,
        input: *mut C_tensor,
        result: *mut *mut c_void,
    ) -> c_int;
    pub(crate) fn xt_all_gather(
        group: *mut c_void,
        output: *mut C_tensor,
        input: *mut C_tensor,
        result: *mut *mut c_void,
    ) -> c_int;
    pub(crate) fn xt_broadcast(
        group: *mut c_void,
        tensor: *mut C_tensor,
        from: c_int,
        result: *mut *mut c_void,
    ) -> c_int;
    pub(crate) fn xt_work_wait(work: *mut c_void) -> c_int;
    pub(crate) fn xt_work_wait_for(work: *mut c_void, ms: i64, done: *mut c_int) -> c_int;
    pub(crate) fn xt_work_free(work: *mut c_void);
}
