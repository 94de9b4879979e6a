//! `beit-shard tokenizer show`.

use super::album::Album;
use super::feed::{render_centre, shuffled};
use super::sheet::Sheet;
use anyhow::{Context, Result, bail, ensure};
use beit_tokenizer::{CodeUse, Tokenizer, psnr};
use beit_views::Renderer;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Images per call of the tokenizer.
const BATCH: usize = 16;

/// Write a contact sheet (original | reconstruction) and print how the codes are used
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard tokenizer show my.safetensors photos/ --out look.png\n  \
    beit-shard tokenizer show embedded photo.jpg --px 224\n  \
    beit-shard tokenizer show dall_e_tokenizer_weight/ photos/ --limit 50 --json\n\n\
    PSNR does not show a collapse: look at perplexity and at the top code's share.")]
pub struct Args {
    /// embedded, a tokenizer file or a folder with encoder.pkl and decoder.pkl
    #[arg(value_name = "FILE")]
    tokenizer: String,
    /// Image files, and folders that are searched for images; their largest centred squares are shown
    #[arg(required = true, value_name = "IMAGES")]
    images: Vec<PathBuf>,
    /// Where the contact sheet goes
    #[arg(long, default_value = "sheet.png", value_name = "FILE.png")]
    out: PathBuf,
    /// Side of the images in pixels [default: what it was trained with, else 112]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    px: Option<u32>,
    /// Most images to measure on, chosen evenly
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Pairs on the sheet
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Threads of the network [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print a summary object as the last line of stdout
    #[arg(long)]
    json: bool,
}

/// Encodes, decodes, draws and counts.
pub fn run(args: &Args) -> Result<()> {
    let tokenizer = Tokenizer::find(Some(&args.tokenizer))?;
    if !tokenizer.has_decoder() {
        bail!(
            "{} has no decoder, so there is nothing to show; put decoder.pkl beside encoder.pkl",
            tokenizer.name()
        );
    }
    if let Some(threads) = args.threads {
        beit_tokenizer::set_threads(usize::from(threads));
    }
    let trained_px = tokenizer.card().training.as_ref().and_then(|training| training["px"].as_u64());
    let px = args.px.or(trained_px.and_then(|px| u32::try_from(px).ok())).unwrap_or(112);
    let grid = tokenizer.grid(px)?;
    let album = Album::open(&args.images, 0)?;
    let all: Vec<u32> = (0..album.len() as u32).collect();
    let chosen = match album.len() > args.limit as usize {
        true => shuffled(&all, 0, 0).split_off(album.len() - args.limit as usize),
        false => all,
    };

    let mut look = Look {
        tokenizer: &tokenizer,
        px,
        grid,
        codes: CodeUse::new(tokenizer.vocab()),
        squared_error: 0.0,
        images: 0,
        encode_s: 0.0,
    };
    let mut sheet = Sheet::new(px, 4);
    let mut renderer = Renderer::new();
    let mut pixels = Vec::new();
    let image_bytes = px as usize * px as usize * 3;
    for numbers in chosen.chunks(BATCH) {
        pixels.clear();
        for &number in numbers {
            if let Some(page) = album.page(number as usize) {
                let start = pixels.len();
                pixels.resize(start + image_bytes, 0);
                render_centre(&mut renderer, page.image(), px, &mut pixels[start..]);
            }
        }
        let seen = look.at(&pixels)?;
        for (original, reconstruction) in pixels.chunks_exact(image_bytes).zip(seen.chunks_exact(image_bytes))
        {
            if sheet.len() < args.pairs as usize {
                sheet.push(original, reconstruction);
            }
        }
    }
    ensure!(look.images > 0, "none of the images can be decoded");
    sheet.write(&args.out).with_context(|| format!("writing {}", args.out.display()))?;
    look.report(args, &sheet, album.bad());
    Ok(())
}

/// What was seen so far.
struct Look<'a> {
    tokenizer: &'a Tokenizer,
    px: u32,
    grid: u32,
    codes: CodeUse,
    squared_error: f64,
    images: usize,
    encode_s: f64,
}

impl Look<'_> {
    /// The reconstructions of some images.
    fn at(&mut self, pixels: &[u8]) -> Result<Vec<u8>> {
        let count = pixels.len() / (self.px as usize * self.px as usize * 3);
        let mut tokens = Vec::new();
        let start = Instant::now();
        self.tokenizer.encode(pixels, count, self.px, &mut tokens)?;
        self.encode_s += start.elapsed().as_secs_f64();
        self.codes.add(&tokens);
        let seen = self.tokenizer.decode(&tokens, count, (self.grid, self.grid))?;
        self.squared_error += pixels
            .iter()
            .zip(&seen)
            .map(|(&a, &b)| f64::from((i32::from(a) - i32::from(b)).pow(2)))
            .sum::<f64>();
        self.images += count;
        Ok(seen)
    }

    fn report(&self, args: &Args, sheet: &Sheet, bad: usize) {
        let values = (self.images * self.px as usize * self.px as usize * 3) as f64;
        let psnr_db = psnr(self.squared_error, values);
        let (codes, vocab) = (&self.codes, self.tokenizer.vocab());
        let rate = self.images as f64 / self.encode_s;
        println!(
            "Tokenizer  {} ({vocab} codes, one per {stride}x{stride} px)",
            self.tokenizer.name(),
            stride = self.tokenizer.stride()
        );
        println!(
            "Images     {} of {} px, {} tokens; {rate:.1} images/s encoded",
            self.images,
            self.px,
            codes.tokens()
        );
        println!("Perplexity {:.1} of {vocab} (entropy {:.3} nats)", codes.perplexity(), codes.entropy());
        println!("Codes used {} ({:.0} %)", codes.used(), 100.0 * codes.used() as f64 / f64::from(vocab));
        let top: Vec<String> = codes
            .most_frequent(5)
            .iter()
            .map(|(code, share)| format!("{code}: {:.1} %", 100.0 * share))
            .collect();
        println!("Top codes  {}", top.join(", "));
        println!("PSNR       {psnr_db:.2} dB from the tokens alone");
        if bad > 0 {
            println!("Skipped    {bad} images that could not be decoded");
        }
        println!("Sheet      {} ({} pairs)", args.out.display(), sheet.len());
        if args.json {
            println!(
                "{}",
                json!({
                    "name": self.tokenizer.name(), "digest": self.tokenizer.digest_hex(), "vocab": vocab,
                    "images": self.images, "px": self.px, "tokens": codes.tokens(), "perplexity": codes.perplexity(),
                    "entropy_nats": codes.entropy(), "used_codes": codes.used(), "top_share": codes.top_share(),
                    "psnr_db": psnr_db, "images_per_s": rate, "skipped_images": bad,
                    "sheet": args.out.display().to_string(),
                })
            );
        }
    }
}
