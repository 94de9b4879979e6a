//! The three terms of the loss.

use crate::error::{TokenizerError, torch};
use crate::tokenizer::EPS;
use tch::{Kind, Tensor};

/// Mean negative log-likelihood per pixel and colour of a logit-Laplace distribution (arXiv:2102.12092, appendix A.3).
///
/// # Shapes
/// `maps` is `[B, 6, S, S]`: places, then log widths (clamped to ±7); `mapped` holds `[B, 3, S, S]` in (0.1, 0.9)
pub(super) fn logit_laplace(maps: &Tensor, mapped: &Tensor) -> Result<Tensor, TokenizerError> {
    let verb = torch("computing the likelihood");
    let place = maps.f_narrow(1, 0, 3).map_err(&verb)?;
    let log_width = maps.f_narrow(1, 3, 3).and_then(|t| t.f_clamp(-7.0, 7.0)).map_err(&verb)?;
    let x = mapped.f_clamp(EPS, 1.0 - EPS).map_err(&verb)?;
    let logit = x.f_logit(None).map_err(&verb)?;
    // ln(2 x (1 - x)) has no gradient, but belongs to the density
    let density = x.f_neg().and_then(|t| t.f_add_scalar(1.0)).and_then(|t| t.f_mul(&x));
    let density = density.and_then(|t| t.f_log()).and_then(|t| t.f_mean(Kind::Float)).map_err(&verb)?;
    let distance = logit.f_sub(&place).and_then(|t| t.f_abs()).map_err(&verb)?;
    let narrow = log_width.f_neg().and_then(|t| t.f_exp()).map_err(&verb)?;
    let terms = distance.f_mul(&narrow).and_then(|t| t.f_add(&log_width)).map_err(&verb)?;
    let mean = terms.f_mean(Kind::Float).and_then(|t| t.f_add(&density)).map_err(&verb)?;
    mean.f_add_scalar(std::f64::consts::LN_2).map_err(verb)
}

/// KL divergence of the batch's mean code distribution from the uniform one: asks for many codes, not for unsure ones.
///
/// `probabilities` is `[positions, V]`.
pub(super) fn usage(probabilities: &Tensor) -> Result<Tensor, TokenizerError> {
    let verb = torch("computing code usage");
    let codes = probabilities.size()[1] as f64;
    let mean = probabilities.f_mean_dim(0i64, false, Kind::Float).map_err(&verb)?;
    let log = mean.f_clamp_min(1e-20).and_then(|t| t.f_log()).map_err(&verb)?;
    let negative_entropy = mean.f_mul(&log).and_then(|t| t.f_sum(Kind::Float)).map_err(&verb)?;
    negative_entropy.f_add_scalar(codes.ln()).map_err(verb)
}

/// KL divergence of each position's codes from the uniform distribution, summed over `positions` of an image and
/// averaged over images, per pixel and colour: the paper's KL term beside a mean likelihood.
///
/// `log_probabilities` is `[B · positions, V]`; `values` is the number of pixels × colours of one image.
pub(super) fn kl_to_uniform(
    log_probabilities: &Tensor,
    positions: f64,
    values: f64,
) -> Result<Tensor, TokenizerError> {
    let verb = torch("computing the KL term");
    let codes = log_probabilities.size()[1] as f64;
    let p = log_probabilities.f_exp().map_err(&verb)?;
    let rows = p.f_mul(log_probabilities).and_then(|t| t.f_sum_dim_intlist(-1i64, false, Kind::Float));
    let mean =
        rows.and_then(|t| t.f_mean(Kind::Float)).and_then(|t| t.f_add_scalar(codes.ln())).map_err(&verb)?;
    mean.f_mul_scalar(positions / values).map_err(verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelihood_is_a_density_over_the_unit_interval() {
        // of one pixel at x: place and width are the same for all three colours, so the mean over them is that of one
        let n = 2000;
        for (place, log_width) in [(0.0, -2.0), (0.7, -3.0), (-1.0, -2.5)] {
            let mass = (0..n).map(|i| {
                let x = 0.1 + 0.8 * (f64::from(i) + 0.5) / f64::from(n);
                let image = Tensor::full([1, 3, 1, 1], x, (Kind::Float, tch::Device::Cpu));
                let maps = Tensor::cat(&[image.full_like(place), image.full_like(log_width)], 1);
                (-logit_laplace(&maps, &image).unwrap().double_value(&[])).exp() * 0.8 / f64::from(n)
            });
            let mass: f64 = mass.sum();
            assert!((mass - 1.0).abs() < 0.01, "{mass}"); // what lies beyond [0.1, 0.9] is tiny for these
        }
    }

    #[test]
    fn usage_is_zero_for_uniform_codes_and_ln_v_for_one_code() {
        let uniform = Tensor::full([10, 8], 1.0 / 8.0, (Kind::Float, tch::Device::Cpu));
        assert!(usage(&uniform).unwrap().double_value(&[]).abs() < 1e-6);
        let one = Tensor::zeros([10, 8], (Kind::Float, tch::Device::Cpu));
        let _ = one.narrow(1, 3, 1).fill_(1.0);
        assert!((usage(&one).unwrap().double_value(&[]) - 8f64.ln()).abs() < 1e-6);
        // sure of one code each, but all codes in turn: no usage penalty, full KL
        let each = Tensor::eye(8, (Kind::Float, tch::Device::Cpu));
        assert!(usage(&each).unwrap().double_value(&[]).abs() < 1e-6);
        let log = (each + 1e-12).log();
        assert!((kl_to_uniform(&log, 8.0, 2.0).unwrap().double_value(&[]) - 4.0 * 8f64.ln()).abs() < 1e-4);
    }
}
