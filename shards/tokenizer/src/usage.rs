//! How a tokenizer uses its codes: what PSNR does not show.

/// Counts of tokens over some images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeUse {
    counts: Vec<u64>,
}

impl CodeUse {
    /// No tokens yet, of `vocab` codes.
    pub fn new(vocab: u32) -> Self {
        Self { counts: vec![0; vocab as usize] }
    }

    /// Counts tokens; one beyond the vocabulary is ignored.
    pub fn add(&mut self, tokens: &[u16]) {
        for &token in tokens {
            if let Some(count) = self.counts.get_mut(usize::from(token)) {
                *count += 1;
            }
        }
    }

    /// Number of tokens counted.
    pub fn tokens(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Number of codes seen at least once.
    pub fn used(&self) -> usize {
        self.counts.iter().filter(|&&count| count > 0).count()
    }

    /// Entropy of the marginal distribution of tokens, in nats; at most ln(vocab).
    pub fn entropy(&self) -> f64 {
        let total = self.tokens() as f64;
        let p = self.counts.iter().filter(|&&count| count > 0).map(|&count| count as f64 / total);
        0.0 - p.map(|p| p * p.ln()).sum::<f64>()
    }

    /// exp(entropy): as many codes, equally used, would have the same entropy.
    pub fn perplexity(&self) -> f64 {
        self.entropy().exp()
    }

    /// Share of the most frequent code, 0 to 1.
    pub fn top_share(&self) -> f64 {
        let top = self.counts.iter().max().copied().unwrap_or(0);
        top as f64 / self.tokens().max(1) as f64
    }

    /// The most frequent codes with their shares, at most `n`.
    pub fn most_frequent(&self, n: usize) -> Vec<(u16, f64)> {
        let total = self.tokens().max(1) as f64;
        let mut codes: Vec<usize> = (0..self.counts.len()).filter(|&code| self.counts[code] > 0).collect();
        codes.sort_by_key(|&code| (std::cmp::Reverse(self.counts[code]), code));
        codes.iter().take(n).map(|&code| (code as u16, self.counts[code] as f64 / total)).collect()
    }
}

/// Peak signal-to-noise ratio in dB, from the sum of squared differences of 8-bit values.
pub fn psnr(squared_error: f64, values: f64) -> f64 {
    10.0 * (255.0 * 255.0 * values / squared_error.max(1e-9)).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_codes_used_alike_have_perplexity_four() {
        let mut codes = CodeUse::new(512);
        codes.add(&[3, 7, 500, 9, 9, 500, 7, 3]);
        assert!((codes.perplexity() - 4.0).abs() < 1e-12);
        assert_eq!((codes.used(), codes.tokens(), codes.top_share()), (4, 8, 0.25));
    }

    #[test]
    fn one_code_for_everything_has_perplexity_one() {
        let mut codes = CodeUse::new(8);
        codes.add(&[5; 100]);
        assert_eq!((codes.perplexity(), codes.used(), codes.top_share()), (1.0, 1, 1.0));
        assert_eq!(codes.most_frequent(3), [(5, 1.0)]);
    }

    #[test]
    fn psnr_of_a_uniform_error_of_one_level_is_48_db() {
        assert!((psnr(300.0, 300.0) - 48.1308).abs() < 1e-3);
    }
}
