//! Selection of the device.

use std::sync::OnceLock;

use configs::model::{Device as Wanted, Dtype};
use tch::{Device, Kind};

use crate::LmError;

/// Returns the device that a config asks for. Of several GPUs, it is the one of the process's rank on its node.
///
/// # Errors
/// [`LmError::Environment`] if CUDA is requested but not usable.
pub fn select(wanted: Wanted, local_rank: usize) -> Result<Device, LmError> {
    if wanted == Wanted::Cpu {
        return Ok(Device::Cpu);
    }
    match gpus() {
        Ok(0) if wanted == Wanted::Auto => Ok(Device::Cpu),
        Ok(0) => Err(unusable("the driver reports no GPU to this process (check nvidia-smi and CUDA_VISIBLE_DEVICES)")),
        Err(why) if wanted == Wanted::Cuda => Err(unusable(why)),
        Err(why) => {
            static ONCE: std::sync::Once = std::sync::Once::new();
            ONCE.call_once(|| {
                tracing::warn!("device = \"auto\" falls back to the CPU, although the driver reports a GPU: {why}");
            });
            Ok(Device::Cpu)
        }
        Ok(count) => {
            // A launcher may expose all GPUs of the machine to each rank, or only the rank's own.
            let ordinal = local_rank % count;
            if let Err(e) = torch_ext::use_gpu_kernels(ordinal) {
                tracing::warn!("falling back to libtorch kernels: {e}");
            }
            Ok(Device::Cuda(ordinal))
        }
    }
}

fn unusable(why: &str) -> LmError {
    LmError::Environment(format!(
        "device = \"cuda\" cannot be used: {why}; set device = \"cpu\", or run XPLORE_CUDA=1 scripts/setup on a \
         machine with an NVIDIA driver"
    ))
}

/// Returns the number of GPUs that libtorch can use. If the driver reports a GPU, the first call loads the CUDA libraries of
/// libtorch.
///
/// # Errors
/// The reason why no GPU is usable although the driver reports one.
pub fn gpus() -> Result<usize, &'static str> {
    static USABLE: OnceLock<Result<usize, String>> = OnceLock::new();
    let usable = USABLE.get_or_init(|| {
        if torch_ext::gpu_count() == 0 {
            return Ok(0);
        }
        torch_ext::load_cuda().map_err(|e| e.to_string())?;
        match usize::try_from(tch::Cuda::device_count()) {
            Ok(count @ 1..) => Ok(count),
            _ => Err("libtorch cannot use any of the GPUs that the driver reports".into()),
        }
    });
    usable.as_ref().copied().map_err(String::as_str)
}

/// Returns the tensor kind of a dtype.
pub fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Fp32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
        Dtype::Fp16 => Kind::Half,
    }
}
