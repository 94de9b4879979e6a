//! Classes: what several sources call theirs, made into one list.
//!
//! The rule: a list that holds all names of the others keeps its order (so the labels of a Parquet data set with names, or
//! of a folder, stay what they are); otherwise the names of all are sorted by code point. Sources whose labels are bare
//! numbers get the classes `0`, `1`, … up to the highest, so that label and number agree; the same number is the same
//! class in all of them. Numbers beside names are an error: nothing says which number is which name.

use anyhow::{Result, bail, ensure};
use std::collections::{BTreeSet, HashMap};

/// More classes than any data set has; a label above it is damage.
const MOST: u64 = 1 << 20;
/// The class of samples whose source says no label, behind all others.
const UNLABELLED: &str = "unlabelled";

/// A label as a source writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawLabel {
    Name(String),
    Number(u64),
    /// None, or a negative number, as test sets have.
    None,
}

impl RawLabel {
    /// What a `.cls` file or a JSON string says.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        match text.parse::<i64>() {
            Ok(number) => Self::number(number),
            Err(_) if text.is_empty() => Self::None,
            Err(_) => Self::Name(text.to_owned()),
        }
    }

    pub fn number(number: i64) -> Self {
        u64::try_from(number).map_or(Self::None, Self::Number)
    }
}

/// What one source knows about its classes.
#[derive(Debug, Default)]
pub struct Found {
    /// The source, for messages.
    pub source: String,
    /// Names in the source's own order.
    pub names: Vec<String>,
    /// One more than the highest bare number.
    pub numbers: u64,
    /// Whether a sample has no label.
    pub unlabelled: bool,
}

impl Found {
    pub fn of(source: impl Into<String>) -> Self {
        Self { source: source.into(), ..Self::default() }
    }

    /// Notes a label of a source without a list of names.
    pub fn note(&mut self, label: RawLabel, names: &mut BTreeSet<String>) -> Result<()> {
        match label {
            RawLabel::Name(name) => {
                if !names.contains(&name) {
                    ensure!((names.len() as u64) < MOST, "{}: more than {MOST} class names", self.source);
                    names.insert(name);
                }
            }
            RawLabel::Number(number) => {
                ensure!(number < MOST, "{}: label {number} is no class number", self.source);
                self.numbers = self.numbers.max(number + 1);
            }
            RawLabel::None => self.unlabelled = true,
        }
        Ok(())
    }
}

/// The classes of all sources together.
#[derive(Debug, Default)]
pub struct Classes {
    /// A label is a position in this list.
    pub names: Vec<String>,
    by_name: HashMap<String, u32>,
    unlabelled: Option<u32>,
}

impl Classes {
    /// Merges by the rule above.
    ///
    /// # Errors
    /// numbers beside names
    pub fn merge(found: &[Found]) -> Result<Self> {
        let named = found.iter().find(|found| !found.names.is_empty());
        let numbered = found.iter().find(|found| found.numbers > 0);
        let mut names = match (named, numbered) {
            (Some(named), Some(numbered)) => bail!(
                "the labels of {} are numbers, those of {} are names, and nothing says which number is which name; build \
                 them into two sets, or give the first one names",
                numbered.source,
                named.source
            ),
            (None, _) => {
                let count = found.iter().map(|found| found.numbers).max().unwrap_or_default();
                (0..count).map(|number| number.to_string()).collect()
            }
            (Some(_), None) => merge_names(found),
        };
        let unlabelled = found.iter().any(|found| found.unlabelled).then(|| {
            names.iter().position(|name| name == UNLABELLED).unwrap_or_else(|| {
                names.push(UNLABELLED.to_owned());
                names.len() - 1
            }) as u32
        });
        let by_name = names.iter().cloned().zip(0..).collect();
        Ok(Self { names, by_name, unlabelled })
    }

    /// The position of a label; `None` when the source changed under us.
    pub fn label(&self, raw: &RawLabel) -> Option<u32> {
        match raw {
            RawLabel::Name(name) => self.by_name.get(name).copied(),
            RawLabel::Number(number) => {
                u32::try_from(*number).ok().filter(|&n| (n as usize) < self.names.len())
            }
            RawLabel::None => self.unlabelled,
        }
    }
}

fn merge_names(found: &[Found]) -> Vec<String> {
    let all: BTreeSet<&String> = found.iter().flat_map(|found| &found.names).collect();
    match found.iter().find(|found| found.names.len() == all.len()) {
        Some(whole) => whole.names.clone(),
        None => all.into_iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str, names: &[&str]) -> Found {
        Found { names: names.iter().map(|&name| name.to_owned()).collect(), ..Found::of(source) }
    }

    #[test]
    fn one_list_keeps_its_order_and_different_ones_are_sorted() {
        let merged = |found: &[Found]| Classes::merge(found).unwrap().names;
        assert_eq!(merged(&[names("hub", &["tench", "cat"])]), ["tench", "cat"]);
        assert_eq!(merged(&[names("hub", &["tench", "cat"]), names("folder", &["cat"])]), ["tench", "cat"]);
        assert_eq!(merged(&[names("a", &["b", "d"]), names("b", &["a", "b"])]), ["a", "b", "d"]);
    }

    #[test]
    fn numbers_stay_their_own_labels_even_with_gaps() {
        let found = [Found { numbers: 8, ..Found::of("x") }, Found { numbers: 3, ..Found::of("y") }];
        let classes = Classes::merge(&found).unwrap();
        assert_eq!(classes.names.len(), 8);
        assert_eq!(classes.label(&RawLabel::parse("7\n")), Some(7));
        assert_eq!(classes.label(&RawLabel::parse("8")), None);
    }

    #[test]
    fn numbers_beside_names_are_an_error_that_names_both() {
        let found = [Found { numbers: 8, ..Found::of("web") }, names("folder", &["cat"])];
        let error = Classes::merge(&found).unwrap_err().to_string();
        assert!(error.contains("web are numbers") && error.contains("folder are names"), "{error}");
    }

    #[test]
    fn samples_without_a_label_get_a_class_behind_the_others() {
        let found = [Found { unlabelled: true, ..names("a", &["b"]) }];
        let classes = Classes::merge(&found).unwrap();
        assert_eq!(classes.names, ["b", "unlabelled"]);
        assert_eq!(classes.label(&RawLabel::number(-1)), Some(1));
    }
}
