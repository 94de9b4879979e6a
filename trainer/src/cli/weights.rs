//! `import`, `export`, `inspect` and `forward`: weights in and out.

use std::path::PathBuf;

use beit_trainer::interchange::{self, Format, Known, Report};
use beit_trainer::model::Head;
use clap::Args;

/// What weights do not tell.
#[derive(Debug, Args)]
pub struct Told {
    /// Attention heads, where no relative position bias tells them.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub num_heads: Option<u32>,
    /// Side of the image in px, where no positions tell it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub input_size: Option<u32>,
    /// ε of the layer norms, where no config.json tells it.
    #[arg(long)]
    pub layer_norm_eps: Option<f64>,
}

impl From<Told> for Known {
    fn from(told: Told) -> Known {
        let Told { num_heads, input_size, layer_norm_eps } = told;
        Known { num_heads, input_size, layer_norm_eps, ..Known::default() }
    }
}

#[derive(Debug, Args)]
pub struct Import {
    /// A .pth of the reference, a state dict of timm, a safetensors file, or a folder of transformers.
    pub source: PathBuf,
    /// The checkpoint directory to make.
    pub out: PathBuf,
    #[command(flatten)]
    pub told: Told,
}

#[derive(Debug, Args)]
pub struct Export {
    /// A checkpoint directory, or a run directory for its newest.
    pub checkpoint: PathBuf,
    /// For whom.
    #[arg(long, value_name = "FORMAT", value_parser = Format::NAMES)]
    pub to: String,
    /// The file to write; for transformers the folder.
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A checkpoint or run directory, a folder of transformers, or a weight file.
    pub path: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub told: Told,
}

#[derive(Debug, Args)]
pub struct Forward {
    /// A checkpoint directory, or a run directory for its newest.
    pub checkpoint: PathBuf,
    /// pixels [B, 3, S, S] f32, normalised; for pre-training models mask [B, N] u8, 1 = hidden.
    pub input: PathBuf,
    /// logits: [hidden patches in row-major order, vocabulary], or [B, classes].
    pub out: PathBuf,
}

pub fn import(args: Import) -> anyhow::Result<()> {
    let out = args.out.display().to_string();
    let imported = interchange::import(&args.source, &args.out, &args.told.into())?;
    for note in &imported.notes {
        eprintln!("assumed: {note}");
    }
    let (kind, model) = (imported.architecture.kind(), &imported.architecture.model);
    eprintln!(
        "{out}: {kind}, {} px in patches of {} px, width {}, {} blocks, {} heads, {} outputs, eps {:e}, {} parameters",
        model.image_px,
        model.patch_px,
        model.width,
        model.depth,
        model.heads,
        model.vocab,
        model.eps,
        imported.parameters
    );
    Ok(())
}

pub fn export(args: Export) -> anyhow::Result<()> {
    let format = args.to.parse::<Format>().map_err(anyhow::Error::msg)?;
    for note in interchange::export(&args.checkpoint, format, &args.out)? {
        eprintln!("{note}");
    }
    eprintln!("{}: written for {}", args.out.display(), args.to);
    Ok(())
}

pub fn forward(args: Forward) -> anyhow::Result<()> {
    let answer = interchange::forward(&args.checkpoint, &args.input, &args.out)?;
    if !answer.unused.is_empty() {
        eprintln!("not used: {}", answer.unused.join(", "));
    }
    eprintln!("{}: logits {:?}", args.out.display(), answer.shape);
    Ok(())
}

pub fn inspect(args: Inspect) -> anyhow::Result<()> {
    let report = interchange::inspect(&args.path, &args.told.into())?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&report)?,
        false => words(&report),
    };
    let mut out = std::io::stdout().lock();
    match std::io::Write::write_all(&mut out, (text + "\n").as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()), // head has seen enough
        done => Ok(done?),
    }
}

fn words(report: &Report) -> String {
    let mut lines = vec![format!("{}: {}", report.path.display(), report.what)];
    if let (Some(kind), Some(architecture)) = (report.kind, &report.architecture) {
        let (model, layout) = (&architecture.model, &architecture.layout);
        let yes = |flag: bool| if flag { "yes" } else { "no" };
        lines.push(format!(
            "kind        {kind} ({})",
            match kind {
                "pretrain" => format!("{} visual tokens", model.vocab),
                _ if layout.head == Head::Cls => format!("{} classes, from the cls position", model.vocab),
                _ => format!("{} classes, from the mean over patches", model.vocab),
            }
        ));
        lines.push(format!(
            "geometry    image {} px, patch {} px, {} patches; width {}, depth {}, heads {}, MLP {}; eps {:e}",
            model.image_px,
            model.patch_px,
            model.patches(),
            model.width,
            model.depth,
            model.heads,
            model.mlp_width(),
            model.eps
        ));
        lines.push(format!(
            "layers      shared bias {}, bias per block {}, absolute positions {}, layer scale {}, mask token {}{}",
            yes(model.rel_pos_bias),
            yes(layout.block_rel_pos_bias),
            yes(model.abs_pos_emb),
            yes(model.layer_scale()),
            yes(layout.mask_token),
            if layout.encoder_norm { ", two final norms" } else { "" }
        ));
    }
    lines.extend(report.notes.iter().map(|note| format!("assumed     {note}")));
    lines.extend(report.problem.iter().map(|problem| format!("no model    {problem}")));
    lines.push(format!(
        "parameters  {} in {} tensors, buffers included",
        report.parameters,
        report.tensors.len()
    ));
    if let Some(state) = report.state.as_ref().and_then(|state| state.as_object()) {
        for (key, value) in state {
            lines.push(format!("{key:<11} {value}"));
        }
    }
    if let Some(tensors) = report.optimizer_tensors {
        lines.push(format!("optimizer   {tensors} tensors of state"));
    }
    if let Some(plan) = &report.plan {
        lines.push(format!("plan        {plan}"));
    }
    for group in &report.groups {
        lines.push(format!(
            "\ngroup {}: {} parameters, {} numbers",
            group.name,
            group.parameters.len(),
            group.numbers
        ));
        lines.extend(group.parameters.iter().map(|name| format!("  {name}")));
    }
    lines.push("\ntensors".to_owned());
    lines.extend(report.tensors.iter().map(|tensor| {
        format!("  {:<70} {:<9} {:?}", tensor.name.escape_debug().to_string(), tensor.kind, tensor.shape)
    }));
    lines.join("\n")
}
