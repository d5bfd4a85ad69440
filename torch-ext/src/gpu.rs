//! Custom CUDA kernels: NVRTC compiles them on the first launch on a machine, and the driver API launches them.
//!
//! They support fp32 and bf16. Other dtypes, and every GPU without NVRTC, fall back to libtorch's own operations.
#![expect(unsafe_code, reason = "calls into the C shim, the driver and NVRTC")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc;

use crate::ffi::KernelLaunch;
use crate::{TorchError, ffi};

/// The kernel sources, concatenated in dependency order.
const SOURCE: &str = concat!(
    include_str!("../csrc/gpu/numbers.cuh"),
    include_str!("../csrc/gpu/layer.cu"),
    include_str!("../csrc/gpu/paged.cu"),
    include_str!("../csrc/gpu/loss.cu")
);

/// Environment variable that disables the kernels if it is `0`: GPUs then use libtorch's own operations.
const SWITCH: &str = "XPLORE_GPU_KERNELS";

/// Returns the library folder of the NVIDIA wheels, which is installed next to torch.
fn wheels() -> Option<std::path::PathBuf> {
    let mut path = [0; 4096];
    // SAFETY: the length is that of the buffer.
    let length = unsafe { ffi::xt_libtorch_path(path.as_mut_ptr(), path.len()) };
    let bytes: Vec<u8> = path[..length].iter().map(|&c| c.cast_unsigned()).collect();
    let torch = Path::new(OsStr::from_bytes(&bytes)).parent()?.parent()?;
    std::fs::canonicalize(torch.join("../nvidia/cu13/lib")).ok()
}

/// Loads NVRTC and returns whether it is available. The loader does not search the folder of an NVRTC wheel, so this
/// opens the library by its path first, and before it the library that NVRTC opens itself.
fn load_nvrtc() -> bool {
    let mut found: Vec<_> = wheels().into_iter().filter_map(|w| w.read_dir().ok()).flatten().flatten().collect();
    found.sort_by_key(std::fs::DirEntry::file_name);
    for begin in ["libnvrtc-builtins.so", "libnvrtc.so"] {
        for file in &found {
            if file.file_name().as_bytes().starts_with(begin.as_bytes())
                && let Ok(path) = CString::new(file.path().as_os_str().as_bytes())
            {
                // SAFETY: opens a library, whose initializers run; a failure to open shows below.
                unsafe { ffi::xt_open_library(path.as_ptr()) };
            }
        }
    }
    // SAFETY: checks whether the library opens.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

/// Compiles machine code for a compute capability (90 is 9.0). The driver then has nothing to compile and does not need
/// to support NVRTC's version.
fn compile(capability: c_int) -> Result<Vec<c_char>, String> {
    let text = |e: nvrtc::result::NvrtcError| format!("NVRTC: {e:?}");
    let source = CString::new(SOURCE).map_err(|e| e.to_string())?;
    let options = [format!("--gpu-architecture=sm_{capability}"), "--std=c++17".into()];
    let program = nvrtc::result::create_program(&source, None).map_err(text)?;
    // SAFETY: a program that NVRTC created, destroyed once below; the code has the size that NVRTC reports.
    let compiled = unsafe {
        match nvrtc::result::compile_program(program, &options) {
            Ok(()) => {
                let mut size = 0;
                let told = nvrtc::sys::nvrtcGetCUBINSize(program, &raw mut size).result();
                told.and_then(|()| {
                    let mut code: Vec<c_char> = vec![0; size];
                    nvrtc::sys::nvrtcGetCUBIN(program, code.as_mut_ptr()).result().map(|()| code)
                })
                .map_err(text)
            }
            Err(e) => Err(match nvrtc::result::get_program_log(program) {
                Ok(log) => CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned(),
                Err(_) => text(e),
            }),
        }
    };
    // SAFETY: as above.
    unsafe { nvrtc::result::destroy_program(program) }.map_err(text)?;
    compiled
}

/// Returns the folder that caches machine code between runs: `$XDG_CACHE_HOME/xplore`, or else `~/.cache/xplore`.
fn cache_dir() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache"))).map(|c| c.join("xplore"))
}

/// Returns the CUDA version that the driver supports (12040 is 12.4), or 0 without a driver.
fn driver_version() -> c_int {
    let mut version = 0;
    // SAFETY: writes one integer; called only where the driver's library opens.
    unsafe {
        if sys::is_culib_present() {
            let _ = sys::cuDriverGetVersion(&raw mut version);
        }
    }
    version
}

/// Returns the machine code (a cubin) for a compute capability (90 is 9.0), from the cache if present. The cache key is
/// the source, the architecture and the driver.
///
/// # Errors
/// Returns an error if the code must be compiled and NVRTC is missing or fails.
fn cubin(capability: c_int, cache: Option<&Path>) -> Result<Vec<c_char>, String> {
    let kept = cache.map(|folder| {
        let mut hash = DefaultHasher::new();
        SOURCE.hash(&mut hash);
        let source = hash.finish();
        folder.join(format!("kernels-{source:016x}-sm_{capability}-driver-{}.cubin", driver_version()))
    });
    // Machine code is an ELF file; anything else is a damaged cache entry.
    let whole = |code: &Vec<u8>| code.starts_with(b"\x7fELF");
    if let Some(found) = kept.as_deref().and_then(|path| std::fs::read(path).ok()).filter(whole) {
        return Ok(found.into_iter().map(u8::cast_signed).collect());
    }
    if !load_nvrtc() {
        return Err("NVRTC is not installed; install nvidia-cuda-nvrtc from PyPI".into());
    }
    let made = compile(capability)?;
    if let Some(path) = kept {
        let bytes: Vec<u8> = made.iter().map(|c| c.cast_unsigned()).collect();
        // A cache folder that cannot be written only costs the next run a few seconds.
        let _ = files::replace(&path, |out| out.write_all(&bytes));
    }
    Ok(made)
}

/// Returns the number of GPUs that this process may use (`cuDeviceGetCount`), or 0 without a driver.
pub fn gpu_count() -> usize {
    // SAFETY: checks whether the driver's library opens.
    if !unsafe { sys::is_culib_present() } || driver::init().is_err() {
        return 0;
    }
    driver::device::get_count().map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// Returns the name of GPU `ordinal` as the driver reports it, e.g. "NVIDIA H200" (`cuDeviceGetName`).
pub fn gpu_name(ordinal: usize) -> Option<String> {
    if ordinal >= gpu_count() {
        return None;
    }
    let device = driver::device::get(c_int::try_from(ordinal).ok()?).ok()?;
    driver::device::get_name(device).ok()
}

/// The loaded kernels of one device.
struct Loaded {
    context: sys::CUcontext,
    module: sys::CUmodule,
    functions: HashMap<CString, sys::CUfunction>,
}

// SAFETY: driver handles may be used by any thread.
unsafe impl Send for Loaded {}

impl Loaded {
    fn new(ordinal: c_int) -> Result<Self, String> {
        let text = |e: driver::DriverError| format!("{e:?}");
        driver::init().map_err(text)?;
        let device = driver::device::get(ordinal).map_err(text)?;
        use sys::CUdevice_attribute_enum as Attribute;
        let attribute = |which| {
            // SAFETY: a device that the driver returned.
            unsafe { driver::device::get_attribute(device, which) }.map_err(text)
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let code = cubin(major * 10 + minor, cache_dir().as_deref())?;
        // SAFETY: libtorch's own context, retained for the lifetime of the process; a complete image of machine code.
        unsafe {
            let context = driver::primary_ctx::retain(device).map_err(text)?;
            driver::ctx::set_current(context).map_err(text)?;
            let module = driver::module::load_data(code.as_ptr().cast()).map_err(text)?;
            Ok(Self { context, module, functions: HashMap::new() })
        }
    }

    /// Launches the kernel `name`.
    ///
    /// # Safety
    /// The arguments must match the kernel's parameters, and the stream must belong to the device.
    unsafe fn launch(
        &mut self,
        name: &CStr,
        grid: [c_uint; 3],
        threads: c_uint,
        stream: *mut c_void,
        arguments: *mut *mut c_void,
    ) -> Result<(), String> {
        let text = |e: driver::DriverError| format!("{e:?}");
        // SAFETY: handles that `new` created and keeps; the caller guarantees stream and arguments.
        unsafe {
            driver::ctx::set_current(self.context).map_err(text)?;
            let function = match self.functions.get(name) {
                Some(&function) => function,
                None => {
                    let made = driver::module::get_function(self.module, name.to_owned()).map_err(text)?;
                    *self.functions.entry(name.to_owned()).or_insert(made)
                }
            };
            let [x, y, z] = grid;
            sys::cuLaunchKernel(function, x, y, z, threads, 1, 1, 0, stream.cast(), arguments, std::ptr::null_mut())
                .result()
                .map_err(text)
        }
    }
}

/// The loaded kernels, keyed by device ordinal.
static LOADED: Mutex<Vec<(c_int, Loaded)>> = Mutex::new(Vec::new());

extern "C" fn launch(start: *const KernelLaunch) -> c_int {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: csrc/gpu/launch.cpp passes a launch that outlives the call, with a C string as its name.
    let (start, name) = unsafe { (&*start, CStr::from_ptr((*start).name)) };
    let mut run = || {
        let own = loaded.iter_mut().find(|(ordinal, _)| *ordinal == start.device);
        let (_, own) = own.ok_or_else(|| format!("the kernels were not loaded for device {}", start.device))?;
        // SAFETY: as above.
        unsafe { own.launch(name, start.grid, start.threads, start.stream, start.arguments) }
    };
    match run() {
        Ok(()) => 0,
        Err(text) => {
            let text = text.as_bytes();
            let length = text.len().min(start.room.saturating_sub(1));
            // SAFETY: `error` has `room` bytes; the rest of them are already zero.
            unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), start.error, length) };
            1
        }
    }
}

/// Enables the custom kernels for tensors on CUDA device `ordinal`, the only one of this process, unless
/// `XPLORE_GPU_KERNELS` is `0`. Requires that libtorch's CUDA libraries are loaded. Only the first call has an effect.
///
/// # Errors
/// Returns an error if NVRTC or the driver is missing or fails; libtorch's own operations then remain in use.
pub fn use_gpu_kernels(ordinal: usize) -> Result<(), TorchError> {
    static TRIED: AtomicBool = AtomicBool::new(false);
    if std::env::var_os(SWITCH).is_some_and(|value| value == "0") || TRIED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    // SAFETY: checks whether the driver's library opens.
    if !unsafe { sys::is_culib_present() } {
        return Err(TorchError::Failed("the CUDA driver is not installed".into()));
    }
    let ordinal = c_int::try_from(ordinal).map_err(|e| TorchError::Argument(e.to_string()))?;
    let own = Loaded::new(ordinal).map_err(TorchError::Failed)?;
    LOADED.lock().unwrap_or_else(PoisonError::into_inner).push((ordinal, own));
    // SAFETY: a function of the type that the C side calls.
    unsafe { ffi::xt_use_gpu_kernels(Some(launch)) };
    Ok(())
}

thread_local! {
    static STARTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

extern "C" fn emulate(start: *const KernelLaunch) -> c_int {
    // SAFETY: as in `launch`.
    let (name, result) = unsafe { (CStr::from_ptr((*start).name), ffi::xt_emulated_launch(start)) };
    STARTED.with_borrow_mut(|started| started.push(name.to_string_lossy().into_owned()));
    result
}

/// A guard that routes this thread's CPU tensors to the CUDA kernels, which are emulated. For tests.
#[derive(Debug)]
pub struct EmulatedGpu(std::marker::PhantomData<*const ()>);

impl EmulatedGpu {
    /// Starts the emulation on this thread.
    #[expect(clippy::new_without_default, reason = "what it changes is not in the value")]
    pub fn new() -> Self {
        // SAFETY: a function of the type that the C side calls, for this thread only.
        unsafe { ffi::xt_emulate_gpu_kernels(Some(emulate)) };
        STARTED.take();
        Self(std::marker::PhantomData)
    }

    /// Returns the names of the launched kernels, in order.
    pub fn started(&self) -> Vec<String> {
        STARTED.with_borrow(Clone::clone)
    }
}

impl Drop for EmulatedGpu {
    fn drop(&mut self) {
        // SAFETY: the C side accepts a null launcher.
        unsafe { ffi::xt_emulate_gpu_kernels(None) };
    }
}

/// Compiles the kernels for a GPU of compute capability `capability` (90 is 9.0). No GPU is needed.
///
/// # Errors
/// Returns an error if NVRTC is missing, or NVRTC's own error.
pub fn compile_gpu_kernels(capability: i32) -> Result<(), TorchError> {
    cubin(capability, None).map(|_| ()).map_err(TorchError::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_is_compiled_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("not/there/yet");
        let made = cubin(90, Some(&cache)).unwrap();
        let kept: Vec<PathBuf> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(kept.len(), 1);
        // A cached file is used as is, provided that it is machine code.
        std::fs::write(&kept[0], b"\x7fELF of another start").unwrap();
        assert_eq!(cubin(90, Some(&cache)).unwrap().len(), 21);
        std::fs::write(&kept[0], b"").unwrap();
        assert_eq!(cubin(90, Some(&cache)).unwrap(), made);
        assert!(std::fs::read(&kept[0]).unwrap().len() == made.len());
        cubin(100, Some(&cache)).unwrap();
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 2, "each architecture has its own");
    }

    /// NaN bit patterns that x86 CPUs and NVIDIA GPUs produce, and values around rounding boundaries.
    #[test]
    fn bf16_rounds_to_the_nearest_and_stays_undefined() {
        let narrow = |bits: u32| {
            // SAFETY: no pointers.
            unsafe { ffi::xt_emulated_narrow(bits) }
        };
        for undefined in [0x7fff_ffff, 0xffff_ffff, 0xffc0_0000, 0x7f80_0001] {
            assert!(narrow(undefined) & 0x7fff > 0x7f80, "{undefined:x}");
        }
        for (bits, expected) in [
            (0x3f80_8000, 0x3f80),
            (0x3f80_8001, 0x3f81),
            (0x3f81_8000, 0x3f82),
            (0x7f80_0000, 0x7f80),
            (0x8000_0000, 0x8000),
        ] {
            assert_eq!(narrow(bits), expected, "{bits:x}");
        }
    }
}
