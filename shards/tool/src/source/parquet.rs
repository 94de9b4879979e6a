//! Hugging Face Parquet: an image column (struct of `bytes` and `path`, or plain bytes) and a label column.

use super::classes::{Classes, Found, RawLabel};
use super::{Listed, Place, Sink};
use ::parquet::basic::Type as Physical;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Rows whose labels are read at once.
const ROWS: usize = 1024;
/// The most that the image column of one row group may have, unpacked.
const MOST_GROUP_BYTES: i64 = 16 << 30;

/// One Parquet file of images.
#[derive(Debug)]
pub struct ParquetFile {
    path: PathBuf,
    /// Its name without the ending, then `/`.
    prefix: String,
    image: usize,
    label: Option<usize>,
    /// Class names that the file brings along: label number → name.
    names: Vec<String>,
    pub rows: u64,
}

impl ParquetFile {
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Looks at the file's columns and notes its labels; reads no image.
    pub fn look(
        path: &Path,
        prefix: String,
        found: &mut Found,
        names: &mut BTreeSet<String>,
    ) -> Result<Self> {
        guarded(path, || {
            let reader = open(path)?;
            let metadata = reader.metadata();
            check_sizes(path, metadata)?;
            let rows = metadata.file_metadata().num_rows();
            let features = features(metadata);
            let mut file = Self {
                path: path.to_owned(),
                prefix,
                image: image_column(metadata)?,
                label: label_column(metadata, &features)?,
                names: Vec::new(),
                rows: u64::try_from(rows).context("it has a negative number of rows")?,
            };
            if let Some(label) = file.label {
                file.names = class_names(&features, &leaf_path(metadata, label)[0]);
            }
            if !file.names.is_empty() {
                ensure!(
                    found.names.is_empty() || found.names == file.names,
                    "its class names are not those of the files beside it"
                );
                found.names.clone_from(&file.names);
            }
            file.note_labels(&reader, found, names)?;
            Ok(file)
        })
    }

    fn note_labels(
        &self,
        reader: &SerializedFileReader<File>,
        found: &mut Found,
        names: &mut BTreeSet<String>,
    ) -> Result<()> {
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group)?;
            let mut labels = Cells::open(&*group, self.label)?;
            let mut left = group_rows(&*group)?;
            while left > 0 {
                let count = left.min(ROWS);
                for label in labels.labels(count)? {
                    // A number with a name is checked here and named when its row is walked.
                    match (label, self.names.is_empty()) {
                        (RawLabel::Number(number), false) => drop(self.named(number)?),
                        (label, _) => found.note(label, names)?,
                    }
                }
                left -= count;
            }
        }
        Ok(())
    }

    fn named(&self, number: u64) -> Result<RawLabel> {
        let name = usize::try_from(number).ok().and_then(|number| self.names.get(number));
        let name =
            name.with_context(|| format!("label {number} has no name; there are {}", self.names.len()))?;
        Ok(RawLabel::Name(name.clone()))
    }

    /// Hands on every row; images are read only for the rows in `wanted`.
    pub fn walk(
        &self,
        wanted: &Range<u64>,
        classes: &Classes,
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>> {
        guarded(&self.path, || {
            let reader = open(&self.path)?;
            ensure!(
                reader.metadata().file_metadata().num_rows() as u64 == self.rows,
                "it changed while it was packed"
            );
            let mut row = 0;
            for number in 0..reader.num_row_groups() {
                let group = reader.get_row_group(number)?;
                let count = group_rows(&*group)?;
                let rows = row..row + count as u64;
                if self.walk_group(&*group, rows, wanted, classes, sink)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                row += count as u64;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn walk_group(
        &self,
        group: &dyn RowGroupReader,
        rows: Range<u64>,
        wanted: &Range<u64>,
        classes: &Classes,
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>> {
        let first = wanted.start.max(rows.start);
        let any = first < wanted.end.min(rows.end);
        let mut images = any.then(|| Cells::open(group, Some(self.image))).transpose()?;
        if let Some(images) = &mut images {
            images.skip((first - rows.start) as usize)?;
        }
        let mut labels = Cells::open(group, self.label)?;
        let mut at = rows.start;
        while at < rows.end {
            let count = (rows.end - at).min(ROWS as u64) as usize;
            for label in labels.labels(count)? {
                let label = match (label, self.names.is_empty()) {
                    (RawLabel::Number(number), false) => self.named(number)?,
                    (label, _) => label,
                };
                let label = classes.label(&label).context("it changed while it was packed; start again")?;
                let place = match &mut images {
                    Some(images) if wanted.contains(&at) => Place::Bytes(images.bytes()?),
                    _ => Place::Skipped,
                };
                let path = format!("{}{at:08}", self.prefix);
                if sink(Listed { place, path, label })?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                at += 1;
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Names the file in every error; a damaged one may make the library panic, which ends no build but names the file too.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let about = || format!("reading {}", path.display());
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| {
            Err(anyhow!("its pages are damaged; download it again, or take it out of the source"))
        })
        .with_context(about)
}

fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    Ok(SerializedFileReader::new(File::open(path)?)?)
}

/// No chunk may lie outside the file, and no group be larger than memory.
fn check_sizes(path: &Path, metadata: &ParquetMetaData) -> Result<()> {
    let length = std::fs::metadata(path)?.len();
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let (start, bytes) = (column.data_page_offset(), column.compressed_size());
        let start = column.dictionary_page_offset().map_or(start, |dictionary| dictionary.min(start));
        let end =
            u64::try_from(start).ok().zip(u64::try_from(bytes).ok()).and_then(|(s, b)| s.checked_add(b));
        ensure!(
            end.is_some_and(|end| end <= length),
            "a column of it claims {bytes} bytes at byte {start}, the file has {length}; download it again"
        );
        let plain = column.uncompressed_size();
        ensure!(
            (0..=MOST_GROUP_BYTES).contains(&plain),
            "a column of it claims {plain} bytes in one row group, at most {MOST_GROUP_BYTES} are read; write it with smaller \
             row groups"
        );
    }
    Ok(())
}

fn group_rows(group: &dyn RowGroupReader) -> Result<usize> {
    usize::try_from(group.metadata().num_rows()).context("a row group has a negative number of rows")
}

fn leaf_path(metadata: &ParquetMetaData, leaf: usize) -> Vec<String> {
    metadata.file_metadata().schema_descr().column(leaf).path().parts().to_vec()
}

fn leaves(metadata: &ParquetMetaData) -> impl Iterator<Item = (usize, Vec<String>, Physical)> + '_ {
    let schema = metadata.file_metadata().schema_descr();
    // A repeated column has several values a row: no label and no image of ours.
    let columns = schema.columns().iter().enumerate().filter(|(_, column)| column.max_rep_level() == 0);
    columns.map(|(leaf, column)| (leaf, column.path().parts().to_vec(), column.physical_type()))
}

fn column_names(metadata: &ParquetMetaData) -> String {
    leaves(metadata).map(|(_, path, _)| path.join(".")).collect::<Vec<_>>().join(", ")
}

fn image_column(metadata: &ParquetMetaData) -> Result<usize> {
    let mut candidates: Vec<(usize, Vec<String>)> = leaves(metadata)
        .filter(|(_, path, kind)| {
            let known = ["image", "img", "jpg", "png"].contains(&path[0].as_str());
            let nested = path.len() == 2 && path[1] == "bytes";
            *kind == Physical::BYTE_ARRAY && (nested || known && path.len() == 1)
        })
        .map(|(leaf, path, _)| (leaf, path))
        .collect();
    if candidates.len() > 1 && candidates.iter().any(|(_, path)| path[0] == "image") {
        candidates.retain(|(_, path)| path[0] == "image");
    }
    match candidates.as_slice() {
        [(leaf, _)] => Ok(*leaf),
        [] => bail!(
            "it has no image column (a struct with `bytes`, or bytes called image, img, jpg or png); its columns are {}",
            column_names(metadata)
        ),
        several => {
            let names: Vec<_> = several.iter().map(|(_, path)| path.join(".")).collect();
            bail!("it has several image columns ({}) and none of them is called image", names.join(", "))
        }
    }
}

/// `label`, or the only column that the metadata call a class label, or a usual name; none at all is fine.
fn label_column(metadata: &ParquetMetaData, features: &serde_json::Value) -> Result<Option<usize>> {
    let plain: Vec<(usize, String)> = leaves(metadata)
        .filter(|(_, path, kind)| {
            path.len() == 1 && matches!(kind, Physical::INT32 | Physical::INT64 | Physical::BYTE_ARRAY)
        })
        .map(|(leaf, mut path, _)| (leaf, path.remove(0)))
        .collect();
    let called = |name: &str| plain.iter().find(|(_, found)| found == name).map(|(leaf, _)| *leaf);
    if let Some(leaf) = called("label") {
        return Ok(Some(leaf));
    }
    let classes: Vec<&(usize, String)> =
        plain.iter().filter(|(_, name)| !class_names(features, name).is_empty()).collect();
    match classes.as_slice() {
        [(leaf, _)] => Ok(Some(*leaf)),
        [] => Ok(["cls", "class", "labels"].iter().find_map(|name| called(name))),
        several => {
            let names: Vec<_> = several.iter().map(|(_, name)| name.as_str()).collect();
            bail!("it has several class labels ({}) and none of them is called label", names.join(", "))
        }
    }
}

/// What Hugging Face's `datasets` wrote about the columns; null when it did not.
fn features(metadata: &ParquetMetaData) -> serde_json::Value {
    let pairs = metadata.file_metadata().key_value_metadata();
    let text = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_deref());
    let value: serde_json::Value = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    value.pointer("/info/features").cloned().unwrap_or_default()
}

fn class_names(features: &serde_json::Value, column: &str) -> Vec<String> {
    let names =
        features.get(column).and_then(|feature| feature.get("names")).and_then(|names| names.as_array());
    let names = names.map(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
    names.unwrap_or(Some(Vec::new())).unwrap_or_default()
}

/// One column of a row group, read row by row.
enum Cells {
    Absent,
    Int(ColumnReaderImpl<::parquet::data_type::Int32Type>, i16),
    Long(ColumnReaderImpl<::parquet::data_type::Int64Type>, i16),
    Bytes(ColumnReaderImpl<ByteArrayType>, i16),
}

impl Cells {
    fn open(group: &dyn RowGroupReader, leaf: Option<usize>) -> Result<Self> {
        let Some(leaf) = leaf else { return Ok(Self::Absent) };
        let most = group.metadata().column(leaf).column_descr().max_def_level();
        Ok(match group.get_column_reader(leaf)? {
            ColumnReader::Int32ColumnReader(reader) => Self::Int(reader, most),
            ColumnReader::Int64ColumnReader(reader) => Self::Long(reader, most),
            ColumnReader::ByteArrayColumnReader(reader) => Self::Bytes(reader, most),
            _ => bail!("a column has another type in one row group"),
        })
    }

    fn labels(&mut self, count: usize) -> Result<Vec<RawLabel>> {
        let labels = match self {
            Self::Absent => return Ok(vec![RawLabel::None; count]),
            Self::Int(reader, most) => rows(reader, *most, count, |&n| Ok(RawLabel::number(i64::from(n))))?,
            Self::Long(reader, most) => rows(reader, *most, count, |&n| Ok(RawLabel::number(n)))?,
            Self::Bytes(reader, most) => rows(reader, *most, count, |text| {
                let text = std::str::from_utf8(text.data()).context("a label is not UTF-8 text")?;
                Ok(RawLabel::Name(text.to_owned()))
            })?,
        };
        Ok(labels.into_iter().map(|label| label.unwrap_or(RawLabel::None)).collect())
    }

    /// The next row's bytes; none when it has none.
    fn bytes(&mut self) -> Result<Vec<u8>> {
        let Self::Bytes(reader, most) = self else { bail!("the image column has no bytes") };
        let mut cells = rows(reader, *most, 1, |bytes: &ByteArray| Ok(bytes.data().to_vec()))?;
        Ok(cells.pop().flatten().unwrap_or_default())
    }

    fn skip(&mut self, rows: usize) -> Result<()> {
        let skipped = match self {
            Self::Bytes(reader, _) => reader.skip_records(rows)?,
            _ => rows,
        };
        ensure!(skipped == rows, "it ends in the middle of a row group; download it again");
        Ok(())
    }
}

/// The next `count` rows; `None` for a null.
fn rows<T: DataType, R>(
    reader: &mut ColumnReaderImpl<T>,
    most: i16,
    count: usize,
    mut read: impl FnMut(&T::T) -> Result<R>,
) -> Result<Vec<Option<R>>> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let mut done = 0;
    while done < count {
        let step: Result<_, ParquetError> =
            reader.read_records(count - done, (most > 0).then_some(&mut levels), None, &mut values);
        let (records, _, _) = step?;
        ensure!(records > 0, "it ends in the middle of a row group; download it again");
        done += records;
    }
    if most == 0 {
        return values.iter().map(|value| read(value).map(Some)).collect();
    }
    let mut values = values.iter();
    let cells = levels.iter().map(|&level| {
        if level < most {
            return Ok(None);
        }
        read(values.next().context("a page has fewer values than it says")?).map(Some)
    });
    cells.collect()
}
