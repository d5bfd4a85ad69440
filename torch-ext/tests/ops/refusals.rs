//! Wrong arguments come back as errors that name what is wrong; none of them ends the process.

use tch::{Device, Kind, Tensor};
use torch_ext::{AdamW, DecodeRows, TorchError};

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
    let (cos, sin) = rotations(&[0, 1, 2], 4);
    refused(torch_ext::rope(&x, &cos, &sin), "rope");
    let (cos, sin) = rotations(&[0, 1, 2, 3], 4);
    refused(torch_ext::rope(&x, &cos.to_kind(Kind::Double), &sin), "rope");
    refused(torch_ext::rope(&normal(1, &[4, 2, 9]), &cos, &sin), "rope");
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
fn decoding_rows_that_point_outside_the_cache() {
    let (q, prefix, cache) = (normal(1, &[1, 2, 4]), normal(2, &[5, 1, 4]), normal(3, &[2, 3, 1, 4]));
    let at = |slot, own_len, prefix_begin, prefix_len| DecodeRows {
        slot: vec![slot],
        own_len: vec![own_len],
        prefix_begin: vec![prefix_begin],
        prefix_len: vec![prefix_len],
    };
    let attend = |rows: &DecodeRows| torch_ext::decode_attention(&q, (&prefix, &prefix), (&cache, &cache), rows, 1.0);
    assert!(attend(&at(1, 3, 0, 5)).is_ok());
    for rows in [at(2, 3, 0, 5), at(-1, 3, 0, 5), at(1, 4, 0, 5), at(1, 0, 0, 5), at(1, 3, 1, 5), at(1, 3, -1, 5)] {
        refused(attend(&rows), "outside the cache");
    }
    refused(attend(&DecodeRows::default()), "0 rows");
    let mut ragged = at(1, 3, 0, 5);
    ragged.prefix_len.clear();
    refused(attend(&ragged), "outside the cache");
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
    assert_eq!(&torch_ext::map_file(&path).unwrap()[..], b"weights");
    std::fs::remove_file(&path).unwrap();
    assert!(torch_ext::map_file(&path).is_err());
}
