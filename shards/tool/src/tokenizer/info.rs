//! `beit-shard tokenizer info`.

use anyhow::Result;
use beit_tokenizer::Tokenizer;
use serde_json::json;

/// Say what a tokenizer file is: name, digest, shape, how it was made
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard tokenizer info my.safetensors\n  \
    beit-shard tokenizer info dall_e_tokenizer_weight/ --json\n  \
    beit-shard tokenizer info embedded")]
pub struct Args {
    /// embedded, a tokenizer file, or a folder with encoder.pkl
    #[arg(value_name = "FILE")]
    tokenizer: String,
    /// Print an object instead
    #[arg(long)]
    json: bool,
}

/// Prints the facts.
pub fn run(args: &Args) -> Result<()> {
    let tokenizer = Tokenizer::find(Some(&args.tokenizer))?;
    let (card, shape) = (tokenizer.card(), tokenizer.geometry());
    let (encoder, decoder) = tokenizer.weights();
    if args.json {
        println!(
            "{}",
            json!({
                "name": tokenizer.name(), "digest": tokenizer.digest_hex(), "vocab": shape.vocab, "stride": shape.stride(),
                "groups": shape.groups, "blocks_per_group": shape.blocks_per_group, "hidden": shape.hidden,
                "post_gain": shape.post_gain, "encoder_weights": encoder, "decoder_weights": decoder, "card": card,
            })
        );
        return Ok(());
    }
    println!("Name      {}", tokenizer.name());
    if !card.about.is_empty() {
        println!("About     {}", card.about);
    }
    println!("Digest    {} (of the encoder's weights, whatever file they are in)", tokenizer.digest_hex());
    println!("Codes     {}, one per {stride}x{stride} px", shape.vocab, stride = shape.stride());
    println!(
        "Shape     {} groups of {} blocks, {} channels after the first layer, gain {:.6}",
        shape.groups, shape.blocks_per_group, shape.hidden, shape.post_gain
    );
    println!(
        "Weights   {encoder} in the encoder, {}",
        match decoder {
            0 => "no decoder".to_owned(),
            n => format!("{n} in the decoder"),
        }
    );
    if let Some(half) = card.use_float16 {
        println!("Half      the file asks for half precision on CUDA: {half}; here everything runs in fp32");
    }
    for (title, value) in [("Training ", &card.training), ("Measured ", &card.measured)] {
        if let Some(value) = value {
            println!("{title} {value}");
        }
    }
    Ok(())
}
