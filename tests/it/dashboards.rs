//! Grafana's dashboards, Prometheus' rules and what their document says, held against each other and against what we export.

mod lint;
mod promql;
mod tools;

use crate::house::root;
use lint::{Finding, RULES, lint, list, panels, text};
use promql::selectors;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 4] = ["run", "pipeline", "integrity", "build"];

/// What Prometheus itself says of each target.
const PROMETHEUS_OWN: [&str; 3] = ["up", "ALERTS", "scrape_duration_seconds"];

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn dashboard(name: &str) -> Value {
    serde_json::from_str(&read(&format!("dashboards/grafana/{name}.json")))
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A query of a dashboard, and where it stands.
struct Query {
    place: String,
    expr: String,
}

/// Every query of every dashboard: of panels, of annotations and of variables (their selector).
fn queries() -> Vec<Query> {
    let mut found = Vec::new();
    for name in NAMES {
        let dashboard = dashboard(name);
        for panel in panels(&dashboard) {
            for target in list(panel, "/targets") {
                let place = format!("{name}, {:?} {}", text(panel, "title"), text(target, "refId"));
                found.push(Query { place, expr: text(target, "expr").to_owned() });
            }
        }
        for annotation in list(&dashboard, "/annotations/list").iter().filter(|a| a["builtIn"] != 1) {
            let place = format!("{name}, annotation {:?}", text(annotation, "name"));
            found.push(Query { place, expr: text(annotation, "expr").to_owned() });
        }
        for variable in list(&dashboard, "/templating/list").iter().filter(|v| v["type"] == "query") {
            let query = text(&variable["query"], "query");
            let expr = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.rsplit_once(','))
                .map(|(expr, _)| expr);
            let place = format!("{name}, variable {:?}", text(variable, "name"));
            found.push(Query { place, expr: expr.unwrap_or_else(|| panic!("{query}")).to_owned() });
        }
    }
    found
}

/// Expressions of the rules and alerts: what follows `expr:`, on its line or indented below it.
fn rule_queries() -> Vec<Query> {
    let mut found = Vec::new();
    for file in ["dashboards/rules/recording.yml", "dashboards/rules/alerts.yml"] {
        let file_text = read(file);
        let mut lines = file_text.lines().peekable();
        let mut place = String::new();
        while let Some(line) = lines.next() {
            let (indent, line) =
                (line.len() - line.trim_start().len(), line.trim_start().trim_start_matches("- "));
            if let Some(name) = line.strip_prefix("record: ").or(line.strip_prefix("alert: ")) {
                place = name.to_owned();
            }
            let Some(rest) = line.strip_prefix("expr: ") else { continue };
            let mut expr = if rest == "|" { String::new() } else { rest.to_owned() };
            while rest == "|"
                && lines.peek().is_some_and(|next| next.len() - next.trim_start().len() > indent)
            {
                expr += lines.next().unwrap_or_default();
                expr.push('\n');
            }
            found.push(Query { place: place.clone(), expr });
        }
    }
    assert!(found.len() > 20, "only {} rules were found: has their layout changed?", found.len());
    found
}

/// Every series we export, by the tables of docs/metrics.md; a histogram's are three.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in read("docs/metrics.md").lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(name), Some(kind)) = (cells.next(), cells.next()) else { continue };
        let Some(name) = name.strip_prefix("`beit_").and_then(|name| name.strip_suffix('`')) else {
            continue;
        };
        match kind {
            "histogram" => names.extend(["bucket", "sum", "count"].map(|part| format!("beit_{name}_{part}"))),
            "counter" | "gauge" => drop(names.insert(format!("beit_{name}"))),
            _ => {} // a label's values
        }
    }
    assert!(names.len() > 50, "{names:?}");
    names
}

/// Metrics' names in a query; `__name__=~"beit_(a|b)_info"` stands for what it matches.
fn metrics_of(expr: &str) -> Vec<String> {
    let spelled = |pattern: &str| match (pattern.split_once('('), pattern.split_once(')')) {
        (Some((before, _)), Some((inner, after))) => {
            let inner = inner.split_once('(').map_or("", |(_, inner)| inner);
            inner.split('|').map(|word| format!("{before}{word}{after}")).collect()
        }
        _ => vec![pattern.to_owned()],
    };
    selectors(expr)
        .into_iter()
        .flat_map(|selector| match selector.matchers.iter().find(|(label, ..)| label == "__name__") {
            Some((_, _, pattern)) => spelled(pattern),
            None => vec![selector.metric],
        })
        .collect()
}

#[test]
fn every_dashboard_keeps_the_rules() {
    let mut uids = BTreeSet::new();
    for name in NAMES {
        let dashboard = dashboard(name);
        let found = lint(&dashboard);
        let found: Vec<String> =
            found.iter().map(|Finding { rule, what }| format!("{rule}: {what}")).collect();
        assert!(found.is_empty(), "{name}:\n{}", found.join("\n"));
        assert_eq!(dashboard["schemaVersion"], 42, "{name}: that of Grafana 12 and 13");
        uids.insert(text(&dashboard, "uid").to_owned());
        let links = list(&dashboard, "/links");
        assert!(
            links.iter().any(|link| link["tags"] == json!(["beit"]) && link["includeVars"] == true)
                && dashboard["tags"] == json!(["beit"]),
            "{name} has a link to the others, and theirs lead to it"
        );
        assert!(panels(&dashboard).count() > 15, "{name}");
    }
    assert_eq!(uids.len(), NAMES.len(), "each has an address of its own: {uids:?}");
}

/// The panel at which negative tests do their damage.
fn panel(dashboard: &mut Value) -> &mut Value {
    let panels = dashboard["panels"].as_array_mut().unwrap();
    panels
        .iter_mut()
        .find(|panel| panel["title"] == "Samples per second" && panel["type"] == "timeseries")
        .unwrap()
}

fn variable<'a>(dashboard: &'a mut Value, name: &str) -> &'a mut Value {
    let variables = dashboard["templating"]["list"].as_array_mut().unwrap();
    variables.iter_mut().find(|variable| variable["name"] == name).unwrap()
}

/// Replaces a part of the panel's first query.
fn rewrite(dashboard: &mut Value, from: &str, to: &str) {
    let expr = &mut panel(dashboard)["targets"][0]["expr"];
    let new = expr.as_str().unwrap().replacen(from, to, 1);
    assert_ne!(*expr, new, "{from} is not there");
    *expr = new.into();
}

#[test]
fn every_rule_finds_its_fault() {
    type Damage = fn(&mut Value);
    let damages: &[(&str, Damage)] = &[
        ("template-datasource-rule", |d| drop(d["templating"]["list"].as_array_mut().unwrap().remove(0))),
        ("template-datasource-rule", |d| variable(d, "datasource")["query"] = "loki".into()),
        ("template-job-rule", |d| variable(d, "job")["multi"] = false.into()),
        ("template-instance-rule", |d| variable(d, "instance")["allValue"] = ".*".into()),
        ("template-instance-rule", |d| variable(d, "instance")["name"] = "host".into()),
        ("ours: template-run", |d| variable(d, "run")["type"] = "custom".into()),
        ("template-label-promql-rule", |d| {
            variable(d, "job")["query"]["query"] = "label_value(up, job)".into()
        }),
        ("template-on-time-change-reload-rule", |d| variable(d, "job")["refresh"] = 1.into()),
        ("template-unused-rule", |d| {
            let mut unused = variable(d, "job").clone();
            unused["name"] = "unused".into();
            d["templating"]["list"].as_array_mut().unwrap().push(unused);
        }),
        ("panel-datasource-rule", |d| panel(d)["datasource"]["uid"] = "PBFA97CFB590B2093".into()),
        ("panel-title-description-rule", |d| panel(d)["description"] = "".into()),
        ("panel-title-description-rule", |d| drop(panel(d).as_object_mut().unwrap().remove("title"))),
        ("panel-units-rule", |d| panel(d)["fieldConfig"]["defaults"]["unit"] = "furlongs".into()),
        ("panel-units-rule", |d| {
            panel(d)["fieldConfig"]["overrides"] =
                json!([{"properties": [{"id": "unit", "value": "furlongs"}]}]);
        }),
        ("panel-no-targets-rule", |d| panel(d)["targets"] = json!([])),
        ("panel-job-instance-rule", |d| rewrite(d, "job=~\"$job\", ", "")),
        ("target-logql-rule", |d| rewrite(d, "sum", "{app=\"beit\"} |= \"error\" or sum")),
        ("target-logql-auto-rule", |d| rewrite(d, "$__rate_interval", "$__auto")),
        ("target-rate-interval-rule", |d| rewrite(d, "$__rate_interval", "5m")),
        ("target-job-rule", |d| rewrite(d, "job=~\"$job\"", "job=\"beit\"")),
        ("target-instance-rule", |d| rewrite(d, "instance=~\"$instance\"", "instance=\"$instance\"")),
        ("target-counter-agg-rule", |d| rewrite(d, "rate(", "delta(")),
        ("target-counter-agg-rule", |d| panel(d)["targets"][0]["expr"] = "beit_trainer_samples_total".into()),
        ("uneditable-dashboard-rule", |d| d["editable"] = true.into()),
        ("ours: no-fixed-datasource", |d| panel(d)["targets"][0]["datasource"]["uid"] = "prometheus".into()),
        ("ours: no-fixed-datasource", |d| variable(d, "job")["datasource"] = "prometheus".into()),
        ("ours: panel-layout", |d| panel(d)["gridPos"]["w"] = 30.into()),
        ("ours: panel-layout", |d| panel(d)["gridPos"]["y"] = 1.into()),
        ("ours: panel-layout", |d| panel(d)["id"] = 2.into()),
        ("ours: target-legend", |d| {
            drop(panel(d)["targets"][0].as_object_mut().unwrap().remove("legendFormat"))
        }),
    ];
    for (rule, damage) in damages {
        let mut dashboard = dashboard("run");
        damage(&mut dashboard);
        let found = lint(&dashboard);
        assert!(
            found.iter().any(|finding| finding.rule == *rule),
            "{rule} found nothing; there was {found:#?}"
        );
    }
    let tested: BTreeSet<&str> = damages.iter().map(|(rule, _)| *rule).collect();
    assert_eq!(tested, RULES.iter().copied().collect(), "each rule has a fault that it must find");
}

#[test]
fn every_panel_and_every_alert_names_a_metric_we_export() {
    let mut known = exported();
    known.extend(PROMETHEUS_OWN.map(str::to_owned));
    known.extend(rule_queries().into_iter().map(|query| query.place).filter(|name| name.contains(':')));
    let mut wrong = Vec::new();
    for Query { place, expr } in queries().into_iter().chain(rule_queries()) {
        let metrics = metrics_of(&expr);
        assert!(!metrics.is_empty(), "{place}: {expr} asks for nothing");
        wrong.extend(
            metrics.into_iter().filter(|name| !known.contains(name)).map(|name| format!("{place}: {name}")),
        );
    }
    assert!(wrong.is_empty(), "nobody exports these:\n{}", wrong.join("\n"));
}

#[test]
fn everything_we_export_can_be_seen_on_a_dashboard() {
    let shown: BTreeSet<String> = queries().iter().flat_map(|query| metrics_of(&query.expr)).collect();
    let family = |name: &str| {
        ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned)
    };
    let families: BTreeSet<String> = shown.iter().filter_map(|name| family(name)).collect();
    let hidden: Vec<String> = exported()
        .into_iter()
        .filter(|name| {
            !shown.contains(name) && !family(name).is_some_and(|family| families.contains(&family))
        })
        .collect();
    assert!(hidden.is_empty(), "exported, but on no dashboard: {hidden:?}");
}

#[test]
fn every_alert_is_tested_and_explained() {
    let (alerts, tests, document) = (
        read("dashboards/rules/alerts.yml"),
        read("dashboards/rules/alerts.test.yml"),
        read("docs/observe.md"),
    );
    let mut counted = BTreeMap::new();
    for block in alerts.split("- alert: ").skip(1) {
        let name = block.lines().next().unwrap();
        for part in [
            "severity: ",
            "summary: ",
            "description: ",
            &format!("runbook: docs/observe.md#{}", name.to_lowercase()),
        ] {
            assert!(block.contains(part), "{name} lacks {part}");
        }
        assert!(
            document.contains(&format!("### {name}\n")),
            "docs/observe.md does not say what to do about {name}"
        );
        let about = format!("alertname: {name}");
        let silent = tests.lines().filter(|line| line.contains(&format!("{about}, exp_alerts: []"))).count();
        let fires = tests.lines().filter(|line| line.trim() == about).count();
        assert!(
            silent > 0 && fires > 0,
            "{name}: tested {fires} times to fire and {silent} times to be silent"
        );
        counted.insert(name, fires);
    }
    assert!(counted.len() >= 10, "{counted:?}");
}
