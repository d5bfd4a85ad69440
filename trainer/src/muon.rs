//! Muon: momentum with orthogonalized updates of matrices (Jordan et al. 2024; as `torch.optim.Muon` with
//! `adjust_lr_fn="match_rms_adamw"`, but in fp32 throughout).

use configs::MuonConfig;
use tch::{Kind, Tensor};
use torch_ext::{TorchError, add_weight_gradient, input_gradient, sum_of_squares};

/// Coefficients of the Newton–Schulz iteration.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Minimum norm that a gradient is divided by.
const EPS: f64 = 1e-7;
/// Root mean square of a typical AdamW update, in units of the learning rate (Liu et al. 2025).
const ADAMW_RMS: f64 = 0.2;

/// A matrix in a flat buffer of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Offset of the first element.
    pub offset: i64,
    /// The number of rows.
    pub rows: i64,
    /// The number of columns.
    pub cols: i64,
}

impl Matrix {
    /// Returns the matrix as a view of `flat`, [rows, cols].
    pub fn of(self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.offset, self.rows * self.cols).view([self.rows, self.cols])
    }
}

/// Makes one step in place. weight, grad, momentum: [rows, cols]; the momentum is initialized to 0.
///
/// # Errors
/// If libtorch fails.
pub fn step(
    weight: &mut Tensor,
    grad: &Tensor,
    momentum: &mut Tensor,
    lr: f64,
    weight_decay: f64,
    config: &MuonConfig,
) -> Result<(), TorchError> {
    tch::no_grad(|| {
        let _ = momentum.lerp_(grad, 1.0 - config.momentum);
        // Nesterov momentum: the momentum after a next gradient that equals this one.
        let update = orthogonal(&grad.lerp(momentum, config.momentum), config.ns_steps)?;
        let (rows, cols) = (weight.size()[0], weight.size()[1]);
        let rate = lr * ADAMW_RMS * (rows.max(cols) as f64).sqrt();
        let _ = weight.g_mul_scalar_(1.0 - lr * weight_decay);
        let _ = weight.g_sub_(&(update * rate).to_kind(weight.kind()));
        Ok(())
    })
}

/// Returns approximately U·Vᵀ of the singular value decomposition U·S·Vᵀ of `x`. After 5 iterations the singular values are
/// between 0.5 and 1.5, except for those that were near 0. x: [rows, cols] → fp32, [rows, cols].
///
/// # Errors
/// If libtorch fails.
pub fn orthogonal(x: &Tensor, iterations: usize) -> Result<Tensor, TorchError> {
    let wide = x.size()[0] < x.size()[1];
    let x = if wide { x.tr() } else { x.shallow_clone() }.to_kind(Kind::Float).contiguous();
    let mut x = &x / sum_of_squares(&x)?.sqrt().max(EPS);
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..iterations {
        // For a tall X: X ← X·(a + b·S + c·S²) with S = Xᵀ·X, the smaller of the two Gram matrices. The products are those of
        // the layers, whose sums do not depend on the CPU.
        let gram = Tensor::f_zeros([x.size()[1], x.size()[1]], (Kind::Float, x.device()));
        let gram = gram.map_err(TorchError::from)?;
        add_weight_gradient(&gram, &x, &x)?;
        let polynomial = &gram * b + input_gradient(&gram, &gram)? * c;
        x = &x * a + input_gradient(&x, &polynomial)?;
    }
    Ok(if wide { x.tr().contiguous() } else { x })
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn singular_values_become_those_of_the_polynomial() {
        // A diagonal matrix stays diagonal, so f(s) = a·s + b·s³ + c·s⁵ applies to each entry separately.
        let values = [3.0, 1.5, 0.2];
        let norm = values.iter().map(|v: &f64| v * v).sum::<f64>().sqrt();
        let [a, b, c] = COEFFICIENTS;
        let f = |s: f64| a * s + b * s.powi(3) + c * s.powi(5);
        for (rows, cols) in [(3, 3), (5, 3), (3, 7)] {
            let x = Tensor::zeros([rows, cols], (Kind::Float, Device::Cpu));
            for (i, &value) in values.iter().enumerate() {
                let _ = x.get(i as i64).get(i as i64).fill_(value);
            }
            for iterations in [1, 2, 5] {
                let found = orthogonal(&x, iterations).unwrap();
                assert_eq!(found.size(), [rows, cols]);
                for (i, value) in values.iter().enumerate() {
                    let expected = (0..iterations).fold(value / norm, |s, _| f(s));
                    assert_within!(found.double_value(&[i as i64, i as i64]) - expected, 2e-6, "{value}");
                }
                assert_within!(
                    found.abs().sum(Kind::Float).double_value(&[])
                        - (0..3).map(|i| found.double_value(&[i, i]).abs()).sum::<f64>(),
                    1e-5
                );
            }
        }
    }

    #[test]
    fn a_step_without_gradient_is_decay_alone() {
        let config = MuonConfig::default();
        let zeros = || Tensor::zeros([4, 2], (Kind::Float, Device::Cpu));
        let (mut weight, mut momentum) = (Tensor::ones([4, 2], (Kind::Float, Device::Cpu)), zeros());
        step(&mut weight, &zeros(), &mut momentum, 0.1, 0.5, &config).unwrap();
        assert_eq!(weight, Tensor::full([4, 2], 0.95, (Kind::Float, Device::Cpu)));
    }
}
