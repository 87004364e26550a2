//! The generalised extreme studentized deviate test: B. Rosner, "Percentage Points for a Generalized ESD Many-Outlier Procedure",
//! Technometrics 25 (1983), in the words of the NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.17.3.

use distrs::StudentsT;

/// The places of the outliers among `values`, the furthest first: at most the share `most` of them, at the level `alpha` of
/// significance. Deviations below `least` are none.
pub fn outliers(values: &[f64], alpha: f64, most: f64, least: f64) -> Vec<usize> {
    let mut left: Vec<usize> = (0..values.len()).collect();
    let (mut removed, mut found) = (Vec::new(), 0);
    // Two more than are removed have to be left for a t distribution to be there.
    let bound = ((values.len() as f64 * most) as usize).min(values.len().saturating_sub(2));
    for step in 1..=bound {
        let remaining: Vec<f64> = left.iter().map(|place| values[*place]).collect();
        let (mean, deviation) = moments(&remaining);
        if deviation <= least {
            break;
        }
        let apart = |place: &usize| (values[*place] - mean).abs();
        let furthest = (0..left.len()).max_by(|a, b| apart(&left[*a]).total_cmp(&apart(&left[*b])));
        let Some(furthest) = furthest else { break };
        let place = left.remove(furthest);
        if apart(&place) / deviation > critical(values.len(), step, alpha) {
            found = step;
        }
        removed.push(place);
    }
    removed.truncate(found);
    removed
}

/// The critical value of the deviation that is the `step`-th furthest of `count`, in standard deviations. 0 where there are too few.
pub fn critical(count: usize, step: usize, alpha: f64) -> f64 {
    if count < step + 2 {
        return 0.0;
    }
    let (count, step) = (count as f64, step as f64);
    let t = StudentsT::ppf(1.0 - alpha / (2.0 * (count - step + 1.0)), count - step - 1.0);
    (count - step) * t / ((count - step - 1.0 + t * t) * (count - step + 1.0)).sqrt()
}

/// Mean and standard deviation (of a sample); zeros of nothing.
pub fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 })
}
