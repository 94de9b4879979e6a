//! JPEG, whole.

use super::{DecodeError, Limits, RgbImage};
use crate::markers;
use crate::turbo::{Complaint, Header, Pixels, Turbo};

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, DecodeError> {
    let mut turbo = Turbo::decoder(limits.max_scans)?;
    let header = turbo.header(bytes).map_err(|complaint| refusal(bytes, complaint))?;
    let Header { width, height, .. } = header;
    if width == 0 || height == 0 {
        return Err(refusal(bytes, Complaint::Fatal("no frame with a size".to_owned())));
    }
    limits.check_size(width, height)?;
    if header.lossless || header.precision != 8 {
        let kind = if header.lossless { "lossless" } else { "DCT" };
        return Err(DecodeError::Unsupported {
            detail: format!("a {kind} JPEG of {} bits", header.precision),
        });
    }
    let count = width as usize * height as usize;
    let (layout, bytes_each) = if header.inks { (Pixels::Cmyk, 4) } else { (Pixels::Rgb, 3) };
    let mut pixels = vec![0; count * bytes_each];
    match turbo.decode(bytes, (width, height), layout, &mut pixels) {
        Ok(()) => {}
        // Pillow takes what a decoder makes of damaged bytes, as long as the file has an end.
        Err(Complaint::Warning(_)) if markers::reaches_end(bytes) => {}
        Err(complaint) => return Err(refusal(bytes, complaint)),
    }
    if header.inks {
        inks_to_rgb(&mut pixels);
    }
    Ok(RgbImage { width, height, pixels })
}

fn refusal(bytes: &[u8], complaint: Complaint) -> DecodeError {
    let (Complaint::Warning(detail) | Complaint::Fatal(detail)) = complaint;
    if detail.contains("more than") && detail.contains("scans") {
        return DecodeError::TooLarge { detail };
    }
    match markers::reaches_end(bytes) {
        true => DecodeError::Corrupt { detail },
        false => DecodeError::Truncated { detail: format!("{} bytes without an end of image", bytes.len()) },
    }
}

/// Four inks to RGB in place, as Pillow does it: inks are taken to be inverted (Adobe's habit), black is taken away
/// first, and no profile is looked at.
fn inks_to_rgb(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for at in 0..count {
        let inks: [u8; 4] = std::array::from_fn(|ink| 255 - pixels[4 * at + ink]);
        let white = i32::from(255 - inks[3]);
        for channel in 0..3 {
            let product = i32::from(inks[channel]) * white + 128;
            let shade = ((product >> 8) + product) >> 8;
            pixels[3 * at + channel] = (white - shade).clamp(0, 255) as u8;
        }
    }
    pixels.truncate(3 * count);
}
