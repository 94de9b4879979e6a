//! The rules of grafana/dashboard-linter over a dashboard's JSON, stricter where that is free: every kind of panel counts.
//!
//! That linter is written in Go; names and meaning of the rules are its own (its docs/rules/), `ours:` marks those that are not.

use super::promql::selectors;
use serde_json::Value;

/// Every rule, by name.
pub const RULES: &[&str] = &[
    "template-datasource-rule",
    "template-job-rule",
    "template-instance-rule",
    "template-label-promql-rule",
    "template-on-time-change-reload-rule",
    "template-unused-rule",
    "panel-datasource-rule",
    "panel-title-description-rule",
    "panel-units-rule",
    "panel-no-targets-rule",
    "panel-job-instance-rule",
    "target-logql-rule",
    "target-logql-auto-rule",
    "target-rate-interval-rule",
    "target-job-rule",
    "target-instance-rule",
    "target-counter-agg-rule",
    "uneditable-dashboard-rule",
    "ours: template-run",
    "ours: no-fixed-datasource",
    "ours: panel-layout",
    "ours: target-legend",
];

/// Grafana's units that dashboards of ours may use; a unit that Grafana doesn't know would be shown as a suffix.
const UNITS: &[&str] = &[
    "none",
    "short",
    "percent",
    "percentunit",
    "sci",
    "flops",
    "bytes",
    "decbytes",
    "binBps",
    "Bps",
    "s",
    "ms",
    "dtdurations",
    "dateTimeAsIso",
    "dateTimeFromNow",
    "reqps",
    "ops",
    "cps",
    "bool",
    "bool_yes_no",
    "bool_on_off",
];

/// A rule that a dashboard breaks, and where.
#[derive(Debug)]
pub struct Finding {
    pub rule: &'static str,
    pub what: String,
}

/// A panel's or a target's text field.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Panels that show something; rows only head them.
pub fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(dashboard, "/panels").iter().filter(|panel| panel["type"] != "row")
}

/// Every rule that the dashboard breaks.
pub fn lint(dashboard: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |rule: &'static str, what: String| {
        assert!(RULES.contains(&rule), "{rule} is not in the list");
        found.push(Finding { rule, what });
    };
    templates(dashboard, &mut say);
    for panel in panels(dashboard) {
        panel_rules(panel, &mut say);
        for target in list(panel, "/targets") {
            target_rules(text(panel, "title"), target, &mut say);
        }
    }
    layout(dashboard, &mut say);
    if dashboard["editable"] != false {
        say(
            "uneditable-dashboard-rule",
            "it can be edited in place; changes belong into its file".to_owned(),
        );
    }
    fixed_datasources(dashboard, &mut String::new(), &mut say);
    found
}

fn templates(dashboard: &Value, say: &mut impl FnMut(&'static str, String)) {
    let variables = list(dashboard, "/templating/list");
    let sources: Vec<&Value> = variables.iter().filter(|v| v["type"] == "datasource").collect();
    let [source] = sources.as_slice() else {
        return say(
            "template-datasource-rule",
            format!("{} variables of type datasource, not one", sources.len()),
        );
    };
    if (text(source, "name"), text(source, "label"), text(source, "query"))
        != ("datasource", "Data source", "prometheus")
    {
        say(
            "template-datasource-rule",
            "should be `datasource`, labelled `Data source`, of prometheus".to_owned(),
        );
    }
    for (name, label, rule) in [
        ("job", "Job", "template-job-rule"),
        ("instance", "Instance", "template-instance-rule"),
        ("run", "Run", "ours: template-run"),
    ] {
        let Some(variable) = variables.iter().find(|v| text(v, "name") == name) else {
            say(rule, format!("no variable {name}"));
            continue;
        };
        for (right, what) in [
            (text(&variable["datasource"], "uid") == "${datasource}", "asks ${datasource}"),
            (text(variable, "type") == "query", "is a query"),
            (text(variable, "label") == label, "has its name as its label"),
            (variable["multi"] == true, "takes several values"),
            (text(variable, "allValue") == ".+", "has .+ for all"),
        ] {
            if !right {
                say(rule, format!("{name} is not one that {what}"));
            }
        }
    }
    let panels = serde_json::to_string(&dashboard["panels"]).unwrap();
    for variable in variables.iter().filter(|v| v["type"] == "query") {
        let (name, query) = (text(variable, "name"), text(&variable["query"], "query"));
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let asks = inside.and_then(|inside| inside.rsplit_once(',')).map(|(expr, _)| selectors(expr).len());
        if asks != Some(1) {
            say(
                "template-label-promql-rule",
                format!("{name}: {query:?} is not label_values(SELECTOR, LABEL)"),
            );
        }
        if variable["refresh"] != 2 {
            say(
                "template-on-time-change-reload-rule",
                format!("{name} is not read again when the time changes"),
            );
        }
        let chained = variables.iter().any(|v| text(&v["query"], "query").contains(&format!("${name}")));
        if !panels.contains(&format!("${name}")) && !chained {
            say("template-unused-rule", format!("nothing uses {name}"));
        }
    }
}

fn panel_rules(panel: &Value, say: &mut impl FnMut(&'static str, String)) {
    let title = text(panel, "title");
    if text(&panel["datasource"], "uid") != "${datasource}" {
        say("panel-datasource-rule", format!("{title}: asks {}", panel["datasource"]));
    }
    if title.is_empty() || text(panel, "description").is_empty() {
        say(
            "panel-title-description-rule",
            format!("panel {} ({title:?}) lacks title or description", panel["id"]),
        );
    }
    let overrides = list(panel, "/fieldConfig/overrides").iter().flat_map(|each| list(each, "/properties"));
    let units = overrides.filter(|property| property["id"] == "unit").map(|property| &property["value"]);
    for unit in units.chain([&panel["fieldConfig"]["defaults"]["unit"]]) {
        if !unit.as_str().is_some_and(|unit| UNITS.contains(&unit)) {
            say("panel-units-rule", format!("{title}: {unit} is no unit of Grafana's that we use"));
        }
    }
    let targets = list(panel, "/targets");
    if targets.is_empty() {
        say("panel-no-targets-rule", format!("{title}: asks nothing"));
    }
    let lost = |label: &str| {
        targets
            .iter()
            .flat_map(|t| selectors(text(t, "expr")))
            .any(|s| !s.matchers.iter().any(|(l, ..)| l == label))
    };
    if lost("job") || lost("instance") {
        say("panel-job-instance-rule", format!("{title}: a selector without job and instance"));
    }
}

fn target_rules(title: &str, target: &Value, say: &mut impl FnMut(&'static str, String)) {
    let expr = text(target, "expr");
    let at = format!("{title}, {}", text(target, "refId"));
    if ["|=", "|~", "| json", "| logfmt", "| pattern", "| unwrap", "count_over_time({"]
        .iter()
        .any(|word| expr.contains(word))
    {
        say("target-logql-rule", format!("{at}: LogQL where Prometheus is asked"));
    }
    if expr.contains("$__auto") {
        say("target-logql-auto-rule", format!("{at}: $__auto is Loki's"));
    }
    for selector in selectors(expr) {
        let metric = &selector.metric;
        let innermost = selector.calls.last().map_or("", String::as_str);
        if ["rate", "irate"].contains(&innermost) && selector.range.as_deref() != Some("$__rate_interval") {
            say(
                "target-rate-interval-rule",
                format!("{at}: {innermost}({metric}) over {:?}", selector.range),
            );
        }
        if !selector.has("job", "=~", "$job") {
            say("target-job-rule", format!("{at}: {metric} without job=~\"$job\""));
        }
        if !selector.has("instance", "=~", "$instance") {
            say("target-instance-rule", format!("{at}: {metric} without instance=~\"$instance\""));
        }
        let counts = ["_total", "_bucket", "_sum", "_count"].iter().any(|end| metric.ends_with(end));
        if counts && !["rate", "irate", "increase"].contains(&innermost) {
            say("target-counter-agg-rule", format!("{at}: {metric} without rate, irate or increase"));
        }
    }
    if text(target, "legendFormat").is_empty() {
        say("ours: target-legend", format!("{at}: no legend"));
    }
}

/// Numbers of panels are used once, and no panel lies on another or beyond the page's 24 columns.
fn layout(dashboard: &Value, say: &mut impl FnMut(&'static str, String)) {
    let panels = list(dashboard, "/panels");
    let side = |panel: &Value, key: &str| panel["gridPos"][key].as_i64().unwrap_or(-1);
    for (i, panel) in panels.iter().enumerate() {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| side(panel, key));
        if x < 0 || y < 0 || w < 1 || h < 1 || x + w > 24 {
            say("ours: panel-layout", format!("{}: beyond the page", text(panel, "title")));
        }
        for other in &panels[..i] {
            let [ox, oy, ow, oh] = ["x", "y", "w", "h"].map(|key| side(other, key));
            if (x < ox + ow && ox < x + w && y < oy + oh && oy < y + h) || panel["id"] == other["id"] {
                let titles = (text(panel, "title"), text(other, "title"));
                say("ours: panel-layout", format!("{titles:?}: on each other, or with one number"));
            }
        }
    }
}

/// A dashboard with the uid of somebody's data source works on one Grafana only.
fn fixed_datasources(value: &Value, path: &mut String, say: &mut impl FnMut(&'static str, String)) {
    let length = path.len();
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                *path += &format!("/{key}");
                let uid = inner["uid"].as_str();
                if key == "datasource"
                    && !uid.is_some_and(|uid| ["${datasource}", "-- Grafana --"].contains(&uid))
                {
                    say("ours: no-fixed-datasource", format!("{path}: {inner}"));
                }
                fixed_datasources(inner, path, say);
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                *path += &format!("/{i}");
                fixed_datasources(inner, path, say);
                path.truncate(length);
            }
        }
        _ => {}
    }
}
