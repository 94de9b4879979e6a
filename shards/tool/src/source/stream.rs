//! Tars of many classes, walked in their own order: WebDataset (an image, and beside it its label) and tarred class folders.

use super::classes::{Classes, Found, RawLabel};
use super::tar::{Archive, Member, Stretch};
use super::{Listed, Place, Sink, is_image};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

/// The most bytes of a `.cls` or `.json` file.
const MOST_LABEL_BYTES: u64 = 4 << 20;
/// Where a JSON label is looked for, in this order.
const LABEL_KEYS: [&str; 3] = ["label", "cls", "class"];

/// Where the labels of a tar stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// In a `.cls` or `.json` member with the image's name.
    Beside,
    /// The image's first folder is its class.
    TopFolder,
}

/// A tar of many classes.
#[derive(Debug)]
pub struct StreamTar {
    pub archive: Archive,
    pub labels: Labels,
    /// The tar's name without its ending.
    pub stem: String,
    pub prefix: String,
    /// Images in it, counted when it was looked at.
    pub images: u64,
}

/// What a sample of a tar is.
struct Sample {
    path: String,
    stretch: Stretch,
    label: RawLabel,
}

impl StreamTar {
    /// Counts its images and notes their labels.
    pub fn look(&mut self, found: &mut Found, names: &mut BTreeSet<String>) -> Result<()> {
        let mut images = 0;
        let _ = self.samples(&mut |sample| {
            images += 1;
            found.note(sample.label, names)?;
            Ok(ControlFlow::Continue(()))
        })?;
        self.images = images;
        Ok(())
    }

    pub fn walk(&self, classes: &Classes, sink: &mut Sink<'_>) -> Result<ControlFlow<()>> {
        self.samples(&mut |Sample { path, stretch, label }| {
            let label = classes.label(&label).with_context(|| {
                format!("{} changed while it was packed ({path}); start again", self.archive.path().display())
            })?;
            sink(Listed { place: Place::Stretch(stretch), path: format!("{}{path}", self.prefix), label })
        })
    }

    fn samples(&self, each: &mut dyn FnMut(Sample) -> Result<ControlFlow<()>>) -> Result<ControlFlow<()>> {
        match self.labels {
            Labels::Beside => self.groups(each),
            Labels::TopFolder => self.archive.members(&mut |member| {
                if !is_image(Path::new(&member.path)) {
                    return Ok(ControlFlow::Continue(()));
                }
                let path = below(&member.path, &self.stem).to_owned();
                let label =
                    path.split_once('/').map_or(RawLabel::None, |(top, _)| RawLabel::Name(top.to_owned()));
                each(Sample { path, stretch: member.stretch, label })
            }),
        }
    }

    /// WebDataset: members of one name, one after the other, are a sample.
    fn groups(&self, each: &mut dyn FnMut(Sample) -> Result<ControlFlow<()>>) -> Result<ControlFlow<()>> {
        let mut group = Group::default();
        let flow = self.archive.members(&mut |member| {
            let key = key_of(&member.path).0.to_owned();
            if group.key != key {
                let done = std::mem::replace(&mut group, Group { key, ..Group::default() });
                if self.hand_on(done, each)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            group.add(member);
            Ok(ControlFlow::Continue(()))
        })?;
        match flow {
            ControlFlow::Continue(()) => self.hand_on(group, each),
            stop => Ok(stop),
        }
    }

    fn hand_on(
        &self,
        group: Group,
        each: &mut dyn FnMut(Sample) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let Some(image) = group.image else { return Ok(ControlFlow::Continue(())) };
        let label = label_of(group.class, group.json).with_context(|| {
            format!("{}: reading the label of {}", self.archive.path().display(), image.path)
        })?;
        each(Sample { path: image.path, stretch: image.stretch, label })
    }
}

/// Members of one sample.
#[derive(Default)]
struct Group {
    key: String,
    image: Option<Member>,
    class: Option<Stretch>,
    json: Option<Stretch>,
}

impl Group {
    fn add(&mut self, member: Member) {
        match key_of(&member.path).1.to_ascii_lowercase().as_str() {
            "cls" => self.class = Some(member.stretch),
            "json" => self.json = Some(member.stretch),
            _ if is_image(Path::new(&member.path)) && self.image.is_none() => self.image = Some(member),
            _ => {}
        }
    }
}

/// A member's name up to the first dot of its last part, and what follows that dot.
fn key_of(path: &str) -> (&str, &str) {
    let file = path.rfind('/').map_or(0, |slash| slash + 1);
    match path[file..].find('.') {
        Some(dot) => (&path[..file + dot], &path[file + dot + 1..]),
        None => (path, ""),
    }
}

fn label_of(class: Option<Stretch>, json: Option<Stretch>) -> Result<RawLabel> {
    let read = |stretch: &Stretch| -> Result<String> {
        ensure!(stretch.bytes <= MOST_LABEL_BYTES, "it has {} bytes, no label has as many", stretch.bytes);
        String::from_utf8(stretch.read()?).context("it is not UTF-8 text")
    };
    if let Some(class) = class {
        return Ok(RawLabel::parse(&read(&class)?));
    }
    let Some(json) = json else { return Ok(RawLabel::None) };
    let value: serde_json::Value = serde_json::from_str(&read(&json)?).context("it is not JSON")?;
    let label = LABEL_KEYS.iter().find_map(|key| value.get(key)).unwrap_or(&value);
    Ok(match label {
        serde_json::Value::Number(number) => number.as_i64().map_or(RawLabel::None, RawLabel::number),
        serde_json::Value::String(text) => RawLabel::parse(text),
        _ => RawLabel::None,
    })
}

/// `path` without a first folder called `stem`.
fn below<'a>(path: &'a str, stem: &str) -> &'a str {
    path.strip_prefix(stem).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path)
}

/// What a tar turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarKind {
    /// All images are of one class, which the tar's name tells.
    Class,
    /// A tar of per-class tars.
    Tars,
    /// Many classes.
    Stream(Labels),
    /// Neither images nor tars.
    Empty,
}

/// Images that are looked at before a tar without labels beside them is taken for one class.
const LOOK_AT: u64 = 8;

/// Looks at a tar's first members.
pub fn kind_of(archive: &Archive, stem: &str) -> Result<TarKind> {
    let mut kind = TarKind::Empty;
    let (mut images, mut in_folders) = (0, 0);
    let (mut key, mut has_image, mut has_other) = (String::new(), false, false);
    let _ = archive.members(&mut |member| {
        let path = Path::new(&member.path);
        if is_tar(path) {
            kind = TarKind::Tars;
            return Ok(ControlFlow::Break(()));
        }
        let this = key_of(&member.path).0;
        if this != key {
            (key, has_image, has_other) = (this.to_owned(), false, false);
        }
        if is_image(path) {
            images += 1;
            has_image = true;
            in_folders += u64::from(below(&member.path, stem).contains('/'));
            kind = TarKind::Class;
        } else {
            has_other = true;
        }
        if has_image && has_other {
            kind = TarKind::Stream(Labels::Beside);
            return Ok(ControlFlow::Break(()));
        }
        Ok(if images < LOOK_AT { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(match kind {
        TarKind::Class if in_folders > 0 => TarKind::Stream(Labels::TopFolder),
        kind => kind,
    })
}

/// Whether a name ends as a tar's does.
pub fn is_tar(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tar"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_named_up_to_the_first_dot_of_its_last_part() {
        assert_eq!(key_of("a.b/000.seg.png"), ("a.b/000", "seg.png"));
        assert_eq!(key_of("000"), ("000", ""));
        assert_eq!(below("set/a/x.jpg", "set"), "a/x.jpg");
        assert_eq!(below("settle/x.jpg", "set"), "settle/x.jpg");
    }
}
