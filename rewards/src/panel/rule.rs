//! Combination of the probabilities of several judges.

use configs::judge::PanelRule;

/// Combines probabilities, each with the weight of its judge, by `rule`; the weights are above 0. `temperature` is that of
/// [`PanelRule::Softmin`].
///
/// The formulas and their sources are those of [`PanelRule`].
///
/// ```
/// use configs::judge::PanelRule;
/// use rewards::panel::combine;
///
/// let judges = [(0.9, 1.0), (0.6, 2.0), (0.3, 1.0)];
/// assert!((combine(PanelRule::Mean, 0.1, &judges) - 0.6).abs() < 1e-12);
/// assert!((combine(PanelRule::Min, 0.1, &judges) - 0.3).abs() < 1e-12);
/// assert!((combine(PanelRule::Vote, 0.1, &judges) - 0.75).abs() < 1e-12);
/// // A low temperature is near the minimum, a high one near the mean.
/// assert!(combine(PanelRule::Softmin, 0.01, &judges) < 0.301);
/// assert!((combine(PanelRule::Softmin, 1e6, &judges) - 0.6).abs() < 1e-6);
/// ```
pub fn combine(rule: PanelRule, temperature: f64, judges: &[(f64, f64)]) -> f64 {
    let mean = |value: &dyn Fn(f64) -> f64, weight: &dyn Fn(f64, f64) -> f64| {
        let (sum, weights) = judges.iter().fold((0.0, 0.0), |(sum, weights), &(p, w)| {
            let weight = weight(p, w);
            (sum + weight * value(p), weights + weight)
        });
        sum / weights
    };
    let least = judges.iter().map(|(p, _)| *p).fold(f64::INFINITY, f64::min);
    match rule {
        PanelRule::Mean => mean(&|p| p, &|_, w| w),
        PanelRule::Min => least,
        PanelRule::Vote => mean(&vote, &|_, w| w),
        // The exponent is relative to the minimum, so that at least one weight does not vanish.
        PanelRule::Softmin => mean(&|p| p, &|p, w| w * (-(p - least) / temperature).exp()),
    }
}

fn vote(p: f64) -> f64 {
    match p.total_cmp(&0.5) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    }
}
