//! Rows of a crop through jitter and both passes of the resize, a band at a time.

use std::time::{Duration, Instant};

use crate::jitter::Tone;
use crate::kernels::{Level, PAD, padded};
use crate::resize::Plan;
use crate::view::Interpolation;

/// Rows that go through the stages together; few enough to stay in the innermost cache.
const BAND: usize = 8;

/// Plans and memory of the stages, kept from view to view.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    across: Plan,
    down: Plan,
    /// A band of rows, channel after channel in each row.
    planes: Vec<u8>,
    /// Rows resized across, channel after channel in each row.
    middle: Vec<u8>,
    /// One finished row, channel after channel.
    row: Vec<u8>,
}

/// Time per stage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// Getting rows.
    pub fetch: Duration,
    pub jitter: Duration,
    pub resize: Duration,
}

impl Stages {
    /// Makes the plans for a crop of `from` columns and rows that becomes `to` columns and rows, mirrored if `flip`.
    pub fn set(
        &mut self,
        level: Level,
        from: (u32, u32),
        to: (u32, u32),
        interpolation: Interpolation,
        flip: bool,
    ) {
        level.plan_across(&mut self.across, from.0, to.0, interpolation, flip);
        level.plan_down(&mut self.down, from.1, to.1, interpolation);
    }

    /// Renders to interleaved RGB. `fetch` puts a row's channels, `padded` bytes apart, to where it is told.
    pub fn run(
        &mut self,
        level: Level,
        tone: Option<&Tone>,
        mut fetch: impl FnMut(usize, &mut [u8]),
        out: &mut [u8],
    ) -> Spent {
        let (columns, rows) = (self.across.input as usize, self.down.input as usize);
        let (width, height) = (self.across.output as usize, self.down.output as usize);
        assert_eq!(out.len(), 3 * width * height, "{width} x {height} pixels have 3 bytes each");
        let channel = width.next_multiple_of(16);
        let (padded, stride) = (padded(columns), (3 * channel).next_multiple_of(PAD));
        grow(&mut self.planes, BAND * 3 * padded);
        grow(&mut self.middle, rows * stride);
        grow(&mut self.row, stride);
        let mut spent = Spent::default();
        let mut last = Instant::now();
        let mut lap = |stage: &mut Duration| {
            let now = Instant::now();
            *stage += now - last;
            last = now;
        };
        for (band, middle) in self.middle[..rows * stride].chunks_mut(BAND * stride).enumerate() {
            let planes = &mut self.planes[..middle.len() / stride * 3 * padded];
            for (y, planes) in planes.chunks_exact_mut(3 * padded).enumerate() {
                fetch(band * BAND + y, planes);
            }
            lap(&mut spent.fetch);
            if let Some(tone) = tone {
                planes.chunks_exact_mut(3 * padded).for_each(|planes| level.tone(tone, columns, planes));
            }
            lap(&mut spent.jitter);
            for (planes, middle) in planes.chunks_exact(3 * padded).zip(middle.chunks_exact_mut(stride)) {
                level.across(&self.across, planes, middle, channel);
            }
            lap(&mut spent.resize);
        }
        for (y, out) in out.chunks_exact_mut(3 * width).enumerate() {
            level.down(&self.down, y, &self.middle, &mut self.row[..stride]);
            level.interleave(&self.row, channel, out);
        }
        lap(&mut spent.resize);
        spent
    }
}

/// Makes room without ever giving any back.
fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
}
