//! The marker segments of a JPEG, as far as they matter here. Every read is checked; bytes may lie.

/// Markers by their second byte.
pub(crate) mod code {
    pub const SOF0: u8 = 0xC0;
    pub const SOF1: u8 = 0xC1;
    pub const DHT: u8 = 0xC4;
    pub const RST0: u8 = 0xD0;
    pub const RST7: u8 = 0xD7;
    pub const SOI: u8 = 0xD8;
    pub const EOI: u8 = 0xD9;
    pub const SOS: u8 = 0xDA;
    pub const DQT: u8 = 0xDB;
    pub const DRI: u8 = 0xDD;
    pub const APP0: u8 = 0xE0;
    pub const APP14: u8 = 0xEE;
    pub const APP15: u8 = 0xEF;
}

/// The start-of-frame segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub width: u32,
    pub height: u32,
    /// Bits per sample.
    pub precision: u8,
    pub components: u8,
    /// Horizontal and vertical sampling factors of the first three components.
    pub sampling: [(u8, u8); 3],
}

impl Frame {
    /// Reads the body of a start-of-frame segment of one or three components.
    pub fn read(body: &[u8]) -> Option<Self> {
        let (head, rest) = body.split_first_chunk::<6>()?;
        let components = head[5];
        if !matches!(components, 1 | 3) || rest.len() != 3 * usize::from(components) {
            return None;
        }
        let mut sampling = [(1, 1); 3];
        for (factors, component) in sampling.iter_mut().zip(rest.chunks_exact(3)) {
            *factors = (component[1] >> 4, component[1] & 15);
        }
        let legal = |factor: u8| (1..=4).contains(&factor);
        let frame = Self {
            width: u32::from(u16::from_be_bytes([head[3], head[4]])),
            height: u32::from(u16::from_be_bytes([head[1], head[2]])),
            precision: head[0],
            components,
            sampling,
        };
        let sound =
            frame.width > 0 && frame.height > 0 && sampling.iter().all(|&(h, v)| legal(h) && legal(v));
        sound.then_some(frame)
    }

    /// Width and height in pixels of a minimum coded unit, in a scan of all components.
    pub fn mcu(&self) -> (u32, u32) {
        if self.components == 1 {
            return (8, 8); // a scan of one component is not interleaved, whatever its factors
        }
        let most =
            |factor: fn(&(u8, u8)) -> u8| u32::from(self.sampling.iter().map(factor).max().unwrap_or(1));
        (8 * most(|factors| factors.0), 8 * most(|factors| factors.1))
    }

    /// Whether chroma is stored smaller than luma, so that a pixel also depends on its neighbours'.
    pub fn subsampled(&self) -> bool {
        self.components == 3 && self.sampling.iter().any(|&factors| factors != self.sampling[0])
    }

    /// Minimum coded units per row, and rows of them.
    pub fn mcus(&self) -> (u32, u32) {
        let (width, height) = self.mcu();
        (self.width.div_ceil(width), self.height.div_ceil(height))
    }
}

/// One segment: its marker and its body's place. A start of scan is followed by entropy-coded bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub marker: u8,
    /// First byte of the body, past the length.
    pub start: usize,
    /// One past the last byte of the body.
    pub end: usize,
}

/// Reads the segment whose marker stands at `at`, allowing fill bytes before it.
pub(crate) fn segment(bytes: &[u8], mut at: usize) -> Option<Segment> {
    if *bytes.get(at)? != 0xFF {
        return None;
    }
    while *bytes.get(at)? == 0xFF {
        at += 1;
    }
    let marker = bytes[at];
    let start = at + 1;
    if matches!(marker, 1 | code::RST0..=code::EOI) {
        return Some(Segment { marker, start, end: start });
    }
    let length = usize::from(u16::from_be_bytes([*bytes.get(start)?, *bytes.get(start + 1)?]));
    let end = start + length;
    (length >= 2 && end <= bytes.len()).then_some(Segment { marker, start: start + 2, end })
}

/// The frame of any JPEG of one or three components.
pub(crate) fn frame(bytes: &[u8]) -> Option<Frame> {
    let mut at = 2;
    loop {
        let found = segment(bytes, at)?;
        match found.marker {
            0xC0..=0xCF if !matches!(found.marker, code::DHT | 0xC8 | 0xCC) => {
                return Frame::read(&bytes[found.start..found.end]);
            }
            code::SOS | code::EOI => return None,
            _ => at = found.end,
        }
    }
}

/// Whether the bytes reach an end-of-image marker, skipping what a decoder skips.
pub(crate) fn reaches_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        match bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xFF)) {
            Some(skipped) => at += skipped,
            None => return false,
        }
        match bytes.get(at + 1) {
            None => return false,
            Some(&code::EOI) => return true,
            Some(0xFF) => at += 1,
            Some(0 | 1 | code::RST0..=code::SOI) => at += 2, // stuffed, or stands alone
            Some(_) => match segment(bytes, at) {
                Some(found) => at = found.end,
                None => return false,
            },
        }
    }
}
