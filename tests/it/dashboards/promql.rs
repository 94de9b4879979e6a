//! As much of PromQL as rules about dashboards need: each series selector, with the calls around it.
//!
//! For expressions that promtool accepts; of others it only promises to come to an end.

/// A selector such as `name{label="value"}[5m]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Empty where only labels are given.
    pub metric: String,
    /// Label, operator and value, as written.
    pub matchers: Vec<(String, String, String)>,
    /// What stands in brackets behind it.
    pub range: Option<String>,
    /// Functions and aggregations around it, outermost first.
    pub calls: Vec<String>,
}

impl Selector {
    pub fn has(&self, label: &str, operator: &str, value: &str) -> bool {
        self.matchers.iter().any(|(l, o, v)| (l.as_str(), o.as_str(), v.as_str()) == (label, operator, value))
    }
}

/// Words that are followed by a list of labels in parentheses.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const OTHER_WORDS: [&str; 7] = ["and", "or", "unless", "bool", "offset", "inf", "nan"];

/// Every selector of an expression, in order.
pub fn selectors(expression: &str) -> Vec<Selector> {
    let mut reader = Reader { rest: expression };
    let mut found = Vec::new();
    let mut calls: Vec<String> = Vec::new();
    let mut aggregation = None; // `sum` of `sum by (rank) (…)`, until its parenthesis opens
    loop {
        reader.skip_space();
        let Some(first) = reader.rest.chars().next() else { return found };
        match first {
            '"' | '\'' | '`' => drop(reader.string()),
            '(' => {
                reader.skip(1);
                calls.push(aggregation.take().unwrap_or_default());
            }
            ')' => {
                reader.skip(1);
                calls.pop();
            }
            '{' => found.push(reader.selector(String::new(), &calls)),
            '0'..='9' | '.' => {
                reader.take(|c| c.is_ascii_alphanumeric() || c == '.'); // numbers and durations
            }
            c if c.is_ascii_alphabetic() || c == '_' || c == ':' => {
                let word = reader.word();
                reader.skip_space();
                let lower = word.to_ascii_lowercase();
                if BEFORE_LABELS.contains(&lower.as_str()) {
                    if reader.rest.starts_with('(') {
                        reader.take(|c| c != ')');
                        reader.skip(1);
                    }
                } else if reader.rest.starts_with('(')
                    || ["by", "without"].iter().any(|next| reader.starts_with_word(next))
                {
                    aggregation = (!OTHER_WORDS.contains(&lower.as_str())).then_some(word);
                } else if !OTHER_WORDS.contains(&lower.as_str()) {
                    found.push(reader.selector(word, &calls));
                }
            }
            other => reader.skip(other.len_utf8()),
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let taken = self.rest[..end].to_owned();
        self.skip(end);
        taken
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn word(&mut self) -> String {
        self.take(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    }

    fn starts_with_word(&self, word: &str) -> bool {
        self.rest
            .strip_prefix(word)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    }

    /// A quoted string, without its quotes and with backslashes as they are.
    fn string(&mut self) -> String {
        let quote = self.rest.chars().next().unwrap_or('"');
        self.skip(quote.len_utf8());
        let mut escaped = false;
        let end = self.rest.find(|c| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped && quote != '`';
            ends
        });
        let end = end.unwrap_or(self.rest.len());
        let text = self.rest[..end].to_owned();
        self.skip(end + 1);
        text
    }

    /// What follows a metric's name: matchers and a range.
    fn selector(&mut self, metric: String, calls: &[String]) -> Selector {
        let calls = calls.iter().filter(|call| !call.is_empty()).cloned().collect();
        let mut selector = Selector { metric, calls, ..Selector::default() };
        if self.rest.starts_with('{') {
            self.skip(1);
            loop {
                self.skip_space();
                let label = self.word();
                self.skip_space();
                let operator = self.take(|c| "=!~".contains(c));
                self.skip_space();
                if label.is_empty() || operator.is_empty() {
                    self.take(|c| c != '}');
                    self.skip(1);
                    break;
                }
                selector.matchers.push((label, operator, self.string()));
                self.skip_space();
                self.take(|c| c == ',');
            }
        }
        self.skip_space();
        if self.rest.starts_with('[') {
            self.skip(1);
            selector.range = Some(self.take(|c| c != ']'));
            self.skip(1);
        }
        selector
    }
}

#[test]
fn selectors_come_with_their_calls_matchers_and_ranges() {
    #[track_caller]
    fn check(expression: &str, expect: &[&str]) {
        let spell = |s: &Selector| {
            let matchers: Vec<String> = s.matchers.iter().map(|(l, o, v)| format!("{l}{o}{v}")).collect();
            let range = s.range.as_ref().map(|range| format!("[{range}]")).unwrap_or_default();
            format!("{}({}{{{}}}{range}", s.calls.join("("), s.metric, matchers.join(","))
        };
        assert_eq!(selectors(expression).iter().map(spell).collect::<Vec<_>>(), expect, "{expression}");
    }
    check("up", &["(up{}"]);
    check("vector(0)", &[]);
    check(
        r#"sum by (a, b) (rate(x_total{job=~"$job", i!="a}\"b"}[$__rate_interval]))"#,
        &[r#"sum(rate(x_total{job=~$job,i!=a}\"b}[$__rate_interval]"#],
    );
    check("sum(a) by (c) / on (c) group_left (d) max without (e) (b) > 1e3", &["sum(a{}", "max(b{}"]);
    check("a offset 5m and {__name__=~'b|c'}", &["(a{}", "({__name__=~b|c}"]);
    check(
        "histogram_quantile(0.99, sum by (le) (rate(s_bucket[5m]))) or (x != x)",
        &["histogram_quantile(sum(rate(s_bucket{}[5m]", "(x{}", "(x{}"],
    );
    check("time() - max by (stage) (t > 0)", &["max(t{}"]);
    for broken in ["a{", "a{b", "a{b=", "a{b=\"c", "sum by (", "a[", "\"", "a{b=\"\\", "}", ")"] {
        selectors(broken);
    }
}
