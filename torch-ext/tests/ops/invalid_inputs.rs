//! Invalid arguments return errors that name the problem; none of them crashes the process.

use tch::{Device, Kind, Tensor};
use torch_ext::{AdamW, EntropyTerm, HeadNorms, PagedQueries, TorchError, Weight};

use crate::{normal, rotations};

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, TorchError>, expect: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(expect), "expected `{expect}` in: {error}");
}

#[test]
fn shapes_that_do_not_fit() {
    let x = normal(1, &[4, 2, 8]);
    refused(torch_ext::rms_norm(&x, &normal(2, &[7]), 1e-6), "rms_norm");
    refused(torch_ext::rms_norm(&normal(1, &[4, 0]), &normal(2, &[0]), 1e-6), "rms_norm");
    refused(torch_ext::swiglu(&normal(1, &[4, 7])), "swiglu");
    refused(torch_ext::swiglu(&x), "swiglu");
    refused(torch_ext::swiglu_linear(&normal(1, &[4, 6]), &normal(2, &[5, 4]), None), "swiglu_linear");
    let (cos, sin) = rotations(&[0, 1, 2], 4);
    let qkv = normal(1, &[4, 4, 8]);
    refused(torch_ext::qk_norm_rope(&qkv, 2, None, &cos, &sin), "qk_norm_rope");
    let (cos, sin) = rotations(&[0, 1, 2, 3], 4);
    refused(torch_ext::qk_norm_rope(&qkv, 2, None, &cos.to_kind(Kind::Double), &sin), "qk_norm_rope");
    refused(torch_ext::qk_norm_rope(&qkv, 1, None, &cos, &sin), "qk_norm_rope");
    refused(torch_ext::qk_norm_rope(&qkv, 4, None, &cos, &sin), "qk_norm_rope");
    refused(torch_ext::qk_norm_rope(&normal(1, &[4, 4, 9]), 2, None, &cos, &sin), "qk_norm_rope");
    let norm = normal(2, &[7]);
    let norms = HeadNorms { q: (&norm).into(), k: (&norm).into(), eps: 1e-6 };
    refused(torch_ext::qk_norm_rope(&qkv, 2, Some(norms), &cos, &sin), "norms");
}

#[test]
fn gradients_and_losses_that_do_not_fit() {
    let (x, w) = (normal(1, &[4, 8]), normal(2, &[6, 8]));
    let buffer = normal(3, &[6, 7]);
    let weight = Weight { value: &w, grad: Some(&buffer) };
    refused(torch_ext::linear(&x, weight, None), "linear");
    refused(torch_ext::input_gradient(&x, &w), "input_gradient");
    refused(torch_ext::add_weight_gradient(&buffer, &normal(4, &[4, 6]), &x), "add_weight_gradient");
    let ids = |ids: &[i64]| Tensor::from_slice(ids);
    refused(torch_ext::cross_entropy(&x, &ids(&[0, 1, 2, 8])), "expected 0 to 7");
    refused(torch_ext::cross_entropy(&x, &ids(&[0, 1, 2])), "cross_entropy");
    refused(torch_ext::cross_entropy(&x.to_kind(Kind::Double), &ids(&[0, 1, 2, 3])), "cross_entropy");
    let mut logits = x.copy();
    let short = normal(5, &[3]);
    refused(
        torch_ext::cross_entropy_backward(&mut logits, &ids(&[0, 1, 2, 3]), &short, &normal(6, &[4]), None),
        "cross_entropy_backward: lse",
    );
    let fits = normal(6, &[4]);
    for (entropy, coefficients, named) in [(&short, &fits, "entropy is [3]"), (&fits, &short, "coefficients is [3]")] {
        let term = Some(EntropyTerm { entropy, coefficients });
        refused(torch_ext::cross_entropy_backward(&mut logits, &ids(&[0, 1, 2, 3]), &fits, &fits, term), named);
    }
    refused(torch_ext::embedding_backward(&x, &ids(&[0, 1, 2, 6]), &w), "expected 0 to 5");
    refused(torch_ext::embedding_backward(&x, &ids(&[0, 1, 2]), &w), "embedding_backward");
    refused(torch_ext::dropout_mask(&[2], 1.0, 1), "dropout_mask");
}

#[test]
fn borders_that_do_not_cover_the_tokens() {
    let x = normal(1, &[6, 2, 8]);
    for cu in [&[][..], &[0], &[0, 5], &[1, 6], &[0, 7], &[0, 4, 4, 6], &[0, 5, 3, 6]] {
        refused(torch_ext::varlen_attention(&x, &x, &x, cu, 1.0), "cu_seqlens");
    }
    refused(torch_ext::varlen_attention(&x, &normal(1, &[6, 3, 8]), &x, &[0, 6], 1.0), "varlen_attention");
}

#[test]
fn prefixes_that_are_not_in_front_of_their_branches() {
    let x = normal(1, &[6, 2, 8]);
    let cu = [0, 1, 3, 5, 6];
    let attend = |of: &[i64]| torch_ext::prefix_attention(&x, &x, &x, &cu, of, 1.0);
    for of in [[-1, 0, 0, 0], [-1, -1, 1, -1], [-1, 0, -1, 2], [-1; 4]] {
        assert!(attend(&of).is_ok(), "{of:?}");
    }
    for of in [[0, -1, -1, -1], [-1, 0, 1, -1], [-1, -1, 0, -1], [-1, 0, -1, 0], [-1, 2, -1, -1], [-1, -2, -1, -1]] {
        refused(attend(&of), "prefix_of is");
    }
    refused(attend(&[-1, 0, 0]), "for 4 segments");
    refused(torch_ext::prefix_attention(&x, &x, &x, &[0, 5], &[-1], 1.0), "cu_seqlens");
}

#[test]
fn queries_that_point_outside_the_cache() {
    let (q, k, v) = (normal(1, &[1, 2, 4]), normal(2, &[3, 1, 4, 32]), normal(3, &[3, 1, 32, 4]));
    let attend = |blocks: &[u32], position: usize| {
        let mut queries = PagedQueries::default();
        queries.push_row(blocks, position..position + 1);
        torch_ext::paged_attention(&q, &k, &v, &queries, 1.0)
    };
    assert!(attend(&[2, 0], 63).is_ok());
    for (blocks, position) in [(&[3, 0][..], 63), (&[2, 0], 64), (&[], 0), (&[u32::MAX], 3)] {
        refused(attend(blocks, position), "outside the cache");
    }
    refused(torch_ext::paged_attention(&q, &k, &v, &PagedQueries::default(), 1.0), "0 queries");
    refused(torch_ext::paged_attention(&q, &v, &v, &PagedQueries::default(), 1.0), "paged cache");
}

#[test]
fn positions_that_lie_outside_the_cache() {
    let (k, v, new) = (normal(2, &[3, 1, 4, 32]), normal(3, &[3, 1, 32, 4]), normal(1, &[2, 1, 4]));
    let write = |slots: &[i64]| torch_ext::write_paged(&k, &v, &new, &new, &slots.to_vec().into());
    assert!(write(&[0, 95]).is_ok());
    for slots in [&[0, 96][..], &[-1, 0], &[0], &[0, 1, 2]] {
        refused(write(slots), "slots");
    }
}

#[test]
fn what_libtorch_throws_comes_back_as_text() {
    let x = normal(1, &[3]).set_requires_grad(true);
    let stranger = normal(2, &[3]).set_requires_grad(true);
    let y = &x * 2.0;
    let ones = y.ones_like();
    refused(torch_ext::grad(&[&y], &[&ones], &[&stranger]), "not have been used in the graph");
    refused(torch_ext::grad(&[&y], &[], &[&x]), "0 grad_outputs");
    let gradient = torch_ext::grad(&[&y], &[&ones], &[&x]).unwrap().remove(0);
    assert_eq!(Vec::<f32>::try_from(gradient).unwrap(), [2.0; 3]);
}

#[test]
fn an_optimizer_step_on_tensors_that_differ() {
    let hyper = AdamW { lr: 0.1, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 };
    let zeros = |n: i64, kind| Tensor::zeros([n], (kind, Device::Cpu));
    let step = |n, kind, count| {
        let (mut p, mut m, mut v) = (zeros(4, Kind::Float), zeros(4, Kind::Float), zeros(4, Kind::Float));
        torch_ext::adamw_step(&mut p, &zeros(n, kind), (&mut m, &mut v), count, hyper)
    };
    step(4, Kind::Float, 1).unwrap();
    refused(step(5, Kind::Float, 1), "shapes differ");
    refused(step(4, Kind::Float, 0), "step is 0");
    assert!(step(4, Kind::Double, 1).is_err(), "a gradient of another dtype must be refused");
}

#[test]
fn a_mapped_file_reads_back() {
    let path = std::env::temp_dir().join(format!("torch-ext-map-{}", std::process::id()));
    std::fs::write(&path, b"weights").unwrap();
    let map = torch_ext::MappedFile::open(&path).unwrap();
    assert_eq!(&map[..], b"weights");
    map.release(0..7);
    assert_eq!(&map[..], b"weights", "pages that were given back are read again");
    std::fs::remove_file(&path).unwrap();
    assert!(torch_ext::MappedFile::open(&path).is_err());
}

#[test]
fn memory_that_cannot_be_allocated_has_its_own_error() {
    torch_ext::keep_memory();
    // 256 TiB, more than a process can address.
    let huge = Tensor::zeros([1, 2], (Kind::Float, Device::Cpu)).expand([1 << 45, 2], false);
    let error = torch_ext::swiglu(&huge).unwrap_err();
    assert!(matches!(&error, TorchError::OutOfMemory(text) if text.contains("bytes were asked for")), "{error:?}");
    let by_tch = Tensor::f_zeros([1 << 46], (Kind::Float, Device::Cpu)).unwrap_err();
    assert!(matches!(TorchError::from(by_tch), TorchError::OutOfMemory(_)));
    assert!(matches!(
        torch_ext::swiglu(&Tensor::zeros([2, 3], (Kind::Float, Device::Cpu))),
        Err(TorchError::Argument(_))
    ));
}
