//! How many views per second of CPU time does one core render from payloads, and where does the time go?
//!
//! ```sh
//! cargo run --release -p beit-views --example how_fast_is_a_crop -- IMAGES/ \
//!     [--pixels original|short256|raw256] [--passes N] [--check yes] [--dump DIR]
//! ```
//! Packs every image below IMAGES/ in memory, with `--pixels` scaled as `beit-shard build` does, then renders a new 224 px
//! bicubic view of each per pass. With `--check` each of them is first compared to the same view of the image as
//! libjpeg-turbo decodes it; with `--dump` it also writes the views of the first pass, and 112 px Lanczos ones, for
//! `tests/compare_with_pillow.py`.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use beit_views::{
    Interpolation, JitterStep, Limits, Payload, PayloadKind, Purpose, Renderer, RgbImage, SeedKey,
    StageTimes, View, ViewSpec, contrast_grey, decode, encode_jpeg, pack_payload, shrink_to_short_side,
};

/// Which pixels are kept of an image, as in shards/tool/src/pixels.rs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Original,
    Short256,
    Raw256,
}

impl Kept {
    fn of(self, source: &[u8], image: RgbImage) -> Result<(RgbImage, PayloadKind, Vec<u8>), Box<dyn Error>> {
        let small = image.width.min(image.height) <= 256;
        if self == Self::Original || (self == Self::Short256 && small) {
            let (kind, bytes) = pack_payload(source, &image)?;
            return Ok((image, kind, bytes));
        }
        let image = shrink_to_short_side(&image, 256);
        if self == Self::Raw256 {
            let bytes = image.pixels.clone();
            return Ok((image, PayloadKind::Rgb, bytes));
        }
        let jpeg = encode_jpeg(&image, 90)?;
        let image = decode(&jpeg, &Limits::default())?;
        let (kind, bytes) = pack_payload(&jpeg, &image)?;
        Ok((image, kind, bytes))
    }
}

struct Sample {
    path: PathBuf,
    width: u32,
    height: u32,
    kind: PayloadKind,
    bytes: Vec<u8>,
    views: Vec<(View, u8)>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("which folder of images?")?);
    let (mut kept, mut passes, mut check, mut dump) = (Kept::Original, 5, false, None);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or("the option lacks its value")?;
        match option.as_str() {
            "--pixels" => {
                kept = match value.as_str() {
                    "original" => Kept::Original,
                    "short256" => Kept::Short256,
                    "raw256" => Kept::Raw256,
                    _ => return Err(format!("--pixels {value}: original, short256 or raw256").into()),
                }
            }
            "--passes" => passes = value.parse::<u32>()?,
            "--check" => check = value == "yes",
            "--dump" => dump = Some(PathBuf::from(value)),
            _ => return Err(format!("no option {option}").into()),
        }
    }
    let mut paths = Vec::new();
    walk(&folder, &mut paths)?;
    paths.sort();
    let samples = pack(&paths, kept, passes, check)?;
    if let Some(dump) = dump {
        write_views(&samples, &dump)?;
    }
    measure(&samples, passes)
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => walk(&path, paths)?,
            false => paths.push(path),
        }
    }
    Ok(())
}

fn pack(paths: &[PathBuf], kept: Kept, passes: u32, check: bool) -> Result<Vec<Sample>, Box<dyn Error>> {
    let spec = ViewSpec::default();
    let (mut before, mut after, mut jpegs) = (0, 0, 0);
    let (mut decode_ns, mut pack_ns, mut grey_ns) = (0, 0, 0);
    let mut samples = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let source = fs::read(path)?;
        let started = cpu_ns()?;
        let image = match decode(&source, &Limits::default()) {
            Ok(image) => image,
            Err(error) => {
                println!("{}: {error}", path.display());
                continue;
            }
        };
        let decoded = cpu_ns()?;
        let (image, kind, bytes) = kept.of(&source, image)?;
        let packed = cpu_ns()?;
        let draw = |index| {
            let key = SeedKey { seed: 0, stream: number as u64, index, purpose: Purpose::View };
            let view = View::draw(&spec, image.width, image.height, key);
            (view, contrast_grey(&image, &view.jitter))
        };
        let views: Vec<(View, u8)> = (0..passes).map(draw).collect();
        if check {
            compare(
                &image,
                Payload { kind, width: image.width, height: image.height, bytes: &bytes },
                &views,
            )
            .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        grey_ns += cpu_ns()? - packed;
        decode_ns += decoded - started;
        pack_ns += packed - decoded;
        before += source.len();
        after += bytes.len();
        jpegs += usize::from(kind == PayloadKind::Jpeg);
        let (width, height) = (image.width, image.height);
        samples.push(Sample { path: path.clone(), width, height, kind, bytes, views });
    }
    let n = samples.len() as u64;
    println!(
        "{n} images, {jpegs} of them packed as JPEG; payloads are {:.4} of the files",
        after as f64 / before as f64
    );
    println!(
        "packing, us per image: decode {}, scale, lay out and check {}, grey of one view {}",
        decode_ns / n / 1000,
        pack_ns / n / 1000,
        grey_ns / n / 1000 / u64::from(passes)
    );
    Ok(samples)
}

/// Each view must be the same from the payload as from the image.
fn compare(image: &RgbImage, payload: Payload<'_>, views: &[(View, u8)]) -> Result<(), Box<dyn Error>> {
    let (mut renderer, mut times) = (Renderer::new(), StageTimes::default());
    let (mut one, mut other) = (vec![0; 224 * 224 * 3], vec![0; 224 * 224 * 3]);
    for (view, grey) in views {
        renderer.render_image(image, view, *grey, 224, Interpolation::Bicubic, &mut one);
        renderer.render_payload(payload, view, *grey, 224, Interpolation::Bicubic, &mut other, &mut times)?;
        if one != other {
            return Err(format!("payload and image differ in {view:?}").into());
        }
    }
    Ok(())
}

fn payload(sample: &Sample) -> Payload<'_> {
    Payload { kind: sample.kind, width: sample.width, height: sample.height, bytes: &sample.bytes }
}

fn write_views(samples: &[Sample], folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let mut index = fs::File::create(folder.join("views.txt"))?;
    let mut pixels = std::io::BufWriter::new(fs::File::create(folder.join("views.bin"))?);
    let mut renderer = Renderer::new();
    let mut times = StageTimes::default();
    for sample in samples {
        let (view, grey) = &sample.views[0];
        let jitter = &view.jitter;
        let order: String = jitter
            .order
            .iter()
            .map(|step| match step {
                JitterStep::Brightness => 'b',
                JitterStep::Contrast => 'c',
                JitterStep::Saturation => 's',
            })
            .collect();
        let crop = view.crop;
        writeln!(
            index,
            "{} {} {} {order} {} {} {} {} {} {}",
            jitter.brightness,
            jitter.contrast,
            jitter.saturation,
            u8::from(view.flip),
            crop.left,
            crop.top,
            crop.width,
            crop.height,
            sample.path.display()
        )?;
        for (px, interpolation) in [(224, Interpolation::Bicubic), (112, Interpolation::Lanczos)] {
            let mut out = vec![0; px as usize * px as usize * 3];
            renderer.render_payload(payload(sample), view, *grey, px, interpolation, &mut out, &mut times)?;
            pixels.write_all(&out)?;
        }
    }
    Ok(pixels.flush()?)
}

fn measure(samples: &[Sample], passes: u32) -> Result<(), Box<dyn Error>> {
    let mut renderer = Renderer::new();
    let mut out = vec![0; 224 * 224 * 3];
    let mut rates = Vec::new();
    let mut times = StageTimes::default();
    for pass in 0..=passes {
        if pass == 1 {
            times = StageTimes::default(); // the first pass warms up
        }
        let started = cpu_ns()?;
        for sample in samples {
            let (view, grey) = &sample.views[pass as usize % passes as usize];
            renderer.render_payload(
                payload(sample),
                view,
                *grey,
                224,
                Interpolation::Bicubic,
                &mut out,
                &mut times,
            )?;
        }
        rates.push(samples.len() as f64 * 1e9 / (cpu_ns()? - started) as f64);
    }
    let mut sorted = rates[1..].to_vec();
    sorted.sort_by(f64::total_cmp);
    println!("images per second of CPU time: {:.0} (passes {:.0?})", sorted[sorted.len() / 2], rates);
    let each = |ns: u64| ns as f64 / 1e3 / (samples.len() as f64 * f64::from(passes));
    println!(
        "us per image, wall clock: entropy {:.1}, inverse DCT and colour {:.1}, jitter {:.1}, resize {:.1}",
        each(times.entropy_ns),
        each(times.idct_ns),
        each(times.jitter_ns),
        each(times.resize_ns)
    );
    Ok(())
}

/// CPU time of this thread.
fn cpu_ns() -> Result<u64, Box<dyn Error>> {
    let line = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(line.split(' ').next().ok_or("schedstat is empty")?.parse()?)
}
