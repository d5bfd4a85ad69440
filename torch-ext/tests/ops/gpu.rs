//! Tests of the GPU kernels, emulated on the CPU thread by thread, with the tests of the CPU kernels; and of their
//! compilation with NVRTC. Neither needs a GPU.

use tch::Kind;
use torch_ext::EmulatedGpu;

use crate::{attention, pointwise, training};

/// Returns the names of the kernels that `f` launches.
fn started(f: impl Fn()) -> Vec<String> {
    let gpu = EmulatedGpu::new();
    f();
    gpu.started()
}

#[track_caller]
fn started_all(f: impl Fn(), expected: &[&str]) {
    let names = started(f);
    for name in expected {
        assert!(names.iter().any(|n| n == name), "{name} was not among {names:?}");
    }
}

#[test]
fn norms_gates_and_heads_are_their_formulas_there_too() {
    started_all(pointwise::rms_norm_is_its_formula, &["rms_norm_f32", "rms_norm_input_f32", "rms_norm_weight_f32"]);
    started_all(pointwise::rms_norm_of_a_view_is_that_of_its_copy, &["rms_norm_f32"]);
    started_all(pointwise::rms_norm_in_bfloat16_rounds_only_what_is_stored, &["rms_norm_bf16"]);
    started_all(pointwise::swiglu_is_its_formula, &["swiglu_f32", "swiglu_input_f32"]);
    started_all(pointwise::swiglu_before_a_product_is_its_formula, &["swiglu_f32", "swiglu_input_f32"]);
    started_all(pointwise::swiglu_holds_for_gates_of_any_size, &["swiglu_f32"]);
    started_all(
        pointwise::heads_are_their_formula,
        &["qk_norm_rope_f32", "qk_norm_rope_input_f32", "qk_norm_rope_weight_f32"],
    );
    started_all(pointwise::bf16_kernels_round_as_separate_operations_do, &["qk_norm_rope_bf16", "swiglu_bf16"]);
}

#[test]
fn gradients_and_their_buffers_are_the_same_there() {
    let all = [
        "rms_norm_input_bf16",
        "rms_norm_weight_bf16",
        "swiglu_input_bf16",
        "qk_norm_rope_input_bf16",
        "qk_norm_rope_weight_bf16",
    ];
    started_all(training::cross_entropy_is_its_formula, &["cross_entropy_f32", "cross_entropy_input_f32"]);
    started_all(training::gradients_in_bf16_are_those_of_fp32_rounded, &all);
    started_all(
        training::weights_with_buffers_have_their_gradients_added_there,
        &["rms_norm_weight_f32", "qk_norm_rope_weight_bf16"],
    );
}

/// Covers every number of query heads per key/value head that has its own kernel and those in between, heads of up to
/// 256 channels, few positions, and enough positions to split them into parts.
#[test]
fn attention_over_the_cache_is_its_formula_there_too() {
    for (group, kernel) in [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8)] {
        for (dim, fours) in [(16, 1), (128, 1), (256, 2)] {
            let (f32, bf16) =
                (format!("paged_attention_{kernel}_{fours}_f32"), format!("paged_attention_{kernel}_{fours}_bf16"));
            started_all(|| attention::paged(Kind::Float, 2 * group, dim, 1e-5), &["write_paged_f32", &f32]);
            started_all(|| attention::paged(Kind::BFloat16, 2 * group, dim, 1e-2), &["write_paged_bf16", &bf16]);
        }
    }
    for kind in [Kind::Float, Kind::BFloat16] {
        started_all(
            || attention::long_row(kind, 1),
            &[if kind == Kind::Float { "join_parts_f32" } else { "join_parts_bf16" }],
        );
    }
    // More query heads per key/value head than any kernel supports.
    let names = started(|| attention::paged(Kind::Float, 18, 16, 1e-5));
    assert!(names.iter().all(|name| !name.starts_with("paged_attention")), "{names:?}");
    // Many queries of one sequence go to libtorch's attention; the other queries do not.
    started_all(|| attention::long_row(Kind::Float, 70), &["paged_attention_2_1_f32"]);
}

#[test]
fn nvrtc_compiles_the_kernels() {
    for capability in [80, 90] {
        torch_ext::compile_gpu_kernels(capability).unwrap();
    }
    let error = torch_ext::compile_gpu_kernels(7).unwrap_err().to_string();
    assert!(error.contains("gpu-architecture"), "{error}");
}
