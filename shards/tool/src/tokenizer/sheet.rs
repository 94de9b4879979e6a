//! A contact sheet: each original with its reconstruction on its right.

use image::{Rgb, RgbImage, imageops};
use std::path::Path;

/// Pixels between images.
const GAP: u32 = 4;
/// Images smaller than this are enlarged, every pixel to a square.
const LEAST_SIDE: u32 = 96;

/// Collects pairs and lays them out in rows.
pub struct Sheet {
    px: u32,
    columns: u32,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Sheet {
    /// A sheet of `columns` pairs per row, each image `px` wide.
    pub fn new(px: u32, columns: u32) -> Self {
        Self { px, columns: columns.max(1), pairs: Vec::new() }
    }

    /// Adds one pair of `[px, px, 3]` bytes.
    pub fn push(&mut self, original: &[u8], reconstruction: &[u8]) {
        self.pairs.push((original.to_vec(), reconstruction.to_vec()));
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Writes the sheet as a PNG file.
    ///
    /// # Errors
    /// what the encoder or the file system says
    pub fn write(&self, path: &Path) -> image::ImageResult<()> {
        let scale = LEAST_SIDE.div_ceil(self.px).max(1);
        let side = self.px * scale;
        let (pair_width, row_height) = (2 * side + GAP / 2 + GAP, side + GAP);
        let columns = self.columns.min(self.pairs.len() as u32).max(1);
        let rows = (self.pairs.len() as u32).div_ceil(columns);
        let size = (GAP + columns * pair_width, GAP + rows * row_height);
        let mut sheet = RgbImage::from_pixel(size.0, size.1, Rgb([255, 255, 255]));
        for (i, (original, reconstruction)) in (0u32..).zip(&self.pairs) {
            let (left, top) = (GAP + i % columns * pair_width, GAP + i / columns * row_height);
            for (pixels, left) in [(original, left), (reconstruction, left + side + GAP / 2)] {
                let image = RgbImage::from_raw(self.px, self.px, pixels.clone()).unwrap_or_default();
                let image = imageops::resize(&image, side, side, imageops::FilterType::Nearest);
                imageops::replace(&mut sheet, &image, i64::from(left), i64::from(top));
            }
        }
        sheet.save_with_format(path, image::ImageFormat::Png)
    }
}
