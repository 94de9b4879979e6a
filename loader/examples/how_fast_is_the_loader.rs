//! `cargo run --release -p beit-loader --example how_fast_is_the_loader -- DIR.shards [THREADS [SECONDS]]`:
//! the loader alone, without building anything that needs libtorch.

use beit_loader::{Options, measure};
use beit_shards::{Io, ShardSet};
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = args.first().ok_or("which directory of shards?")?;
    let threads = args.get(1).map_or(Ok(1), |threads| threads.parse())?;
    let seconds = args.get(2).map_or(Ok(10.0), |seconds| seconds.parse())?;
    let set = ShardSet::open(Path::new(dir), Io::Auto)?;
    let report = measure(Options::new(Arc::new(set)), threads, seconds)?;
    println!("{:8.0} images/s per core", report.images_per_s_per_core);
    println!("{:8.0} images/s by the clock, {threads} threads", report.images_per_s);
    for (stage, us) in report.stages_us.named() {
        println!("{us:8.1} us {stage}");
    }
    Ok(())
}
