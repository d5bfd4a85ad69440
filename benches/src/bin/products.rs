//! Compares the three matrix products of a linear layer with libtorch's, alternately: prints GFLOP/s of each as one JSON line per
//! shape.
//!
//! Both use all threads. libtorch multiplies fp32 matrices with MKL. Its sums depend on the number of rows; ours do not
//! (docs/determinism.md). This bench measures the cost of that property.

use std::error::Error;
use std::time::Instant;

use serde_json::json;
use tch::{Device, Kind, Tensor};
use torch_ext::CpuLevel;

/// Tokens, output features, input features: layers of models of 1M, 29M and 0.6B parameters, and shapes of a decode step.
const SHAPES: [[i64; 3]; 9] = [
    [2048, 384, 128],
    [2048, 512, 512],
    [2048, 1536, 512],
    [2048, 2048, 512],
    [2048, 3072, 1024],
    [2048, 1024, 3072],
    [512, 2048, 512],
    [128, 2048, 512],
    [32, 2048, 512],
];
/// Number of rounds per product, run alternately; the fastest round counts.
const ROUNDS: usize = 7;
/// Minimum duration of a round, in seconds.
const SECONDS: f64 = 0.05;

type Product<'a> = Box<dyn FnMut() + 'a>;

/// Returns the number of calls per second.
fn rate(f: &mut dyn FnMut()) -> f64 {
    let (begin, mut calls) = (Instant::now(), 0.0);
    loop {
        f();
        calls += 1.0;
        let seconds = begin.elapsed().as_secs_f64();
        if seconds >= SECONDS {
            return calls / seconds;
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    torch_ext::keep_memory();
    let _no_grad = tch::no_grad_guard();
    for [m, n, k] in SHAPES {
        let random = |size: [i64; 2]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let (x, w, dy) = (random([m, k]), random([n, k]), random([m, n]));
        let grad = Tensor::zeros([n, k], (Kind::Float, Device::Cpu));
        let sum = grad.copy();
        let mut products: [(&str, Product<'_>, Product<'_>); 3] = [
            (
                "forward",
                Box::new(|| drop(torch_ext::linear_f32(&x, &w).expect("shapes fit"))),
                Box::new(|| drop(x.matmul(&w.tr()))),
            ),
            (
                "input_gradient",
                Box::new(|| drop(torch_ext::input_gradient(&dy, &w).expect("shapes fit"))),
                Box::new(|| drop(dy.matmul(&w))),
            ),
            (
                "weight_gradient",
                Box::new(|| torch_ext::add_weight_gradient(&grad, &dy, &x).expect("shapes fit")),
                Box::new(|| drop(sum.shallow_clone().addmm_(&dy.tr(), &x))),
            ),
        ];
        let mut line = json!({"tokens": m, "outputs": n, "inputs": k, "cpu": format!("{:?}", CpuLevel::in_use()?)});
        for (name, ours, theirs) in &mut products {
            let (mut own, mut library) = (0f64, 0f64);
            for _ in 0..ROUNDS {
                own = own.max(rate(ours));
                library = library.max(rate(theirs));
            }
            let gflops = |calls: f64| (2.0 * (m * n * k) as f64 * calls / 1e9 * 10.0).round() / 10.0;
            line[*name] = json!({"xplore": gflops(own), "libtorch": gflops(library), "ratio": (own / library * 100.0).round() / 100.0});
        }
        println!("{line}");
    }
    Ok(())
}
