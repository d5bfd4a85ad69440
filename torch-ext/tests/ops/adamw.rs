//! Tests of the optimizer step.

use tch::{Device, Kind, Tensor};
use torch_ext::{AdamW, adamw_step};

use crate::{close, normal};

/// Compares ten steps with the update of Loshchilov & Hutter 2019 (Algorithm 2), in float64.
#[test]
fn ten_steps_follow_the_published_update() {
    let n = 1000;
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::Double, 1e-12)] {
        let hyper = AdamW { lr: 3e-2, betas: (0.8, 0.95), eps: 1e-3, weight_decay: 0.2 };
        let mut param = normal(1, &[n]).to_kind(kind);
        let mut moments = (param.zeros_like(), param.zeros_like());
        let mut expected: Vec<f64> = Vec::try_from(param.to_kind(Kind::Double)).unwrap();
        let (mut m, mut v) = (vec![0.0; n as usize], vec![0.0; n as usize]);
        for step in 1..=10u64 {
            let grad = normal(10 + step, &[n]).to_kind(kind);
            adamw_step(&mut param, &grad, (&mut moments.0, &mut moments.1), step, hyper).unwrap();
            let g: Vec<f64> = Vec::try_from(grad.to_kind(Kind::Double)).unwrap();
            let (b1, b2) = hyper.betas;
            for i in 0..n as usize {
                m[i] = b1 * m[i] + (1.0 - b1) * g[i];
                v[i] = b2 * v[i] + (1.0 - b2) * g[i] * g[i];
                let (m_hat, v_hat) = (m[i] / (1.0 - b1.powi(step as i32)), v[i] / (1.0 - b2.powi(step as i32)));
                expected[i] -= hyper.lr * (m_hat / (v_hat.sqrt() + hyper.eps) + hyper.weight_decay * expected[i]);
            }
        }
        close(&format!("parameters, {kind:?}"), &param, &Tensor::from_slice(&expected), tolerance);
        close("first moment", &moments.0, &Tensor::from_slice(&m), tolerance);
        close("second moment", &moments.1, &Tensor::from_slice(&v), tolerance);
    }
}

#[test]
fn a_step_on_a_view_changes_the_buffer_behind_it_and_nothing_else() {
    let hyper = AdamW { lr: 0.1, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 };
    let flat = Tensor::zeros([10], (Kind::Float, Device::Cpu));
    let mut moments = (Tensor::zeros([4], (Kind::Float, Device::Cpu)), Tensor::zeros([4], (Kind::Float, Device::Cpu)));
    let grad = Tensor::ones([4], (Kind::Float, Device::Cpu));
    adamw_step(&mut flat.narrow(0, 3, 4), &grad, (&mut moments.0, &mut moments.1), 1, hyper).unwrap();
    // The first step moves by lr against the sign of the gradient.
    let expected = Tensor::from_slice(&[0f32, 0., 0., -0.1, -0.1, -0.1, -0.1, 0., 0., 0.]);
    close("buffer", &flat, &expected, 1e-6);
}
