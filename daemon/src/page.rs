//! The page at `/`: state, numbers and plan, in plain HTML that renews itself. No script, no foreign request.

use std::fmt::Write;

use crate::board::{Facts, State, now};
use crate::screen::duration;

/// The page's style, served beside it so that the content policy can forbid everything inline.
pub const STYLE: &str = include_str!("style.css");

/// Seconds between two looks while the run is alive.
const REFRESH: u32 = 3;

/// Renders the board; `readiness` is its sentence about progress.
pub fn render(facts: &Facts, readiness: &str) -> String {
    let mut page = String::with_capacity(8 << 10);
    let last = &facts.last;
    let steps = facts.plan.as_ref().map_or(0, |plan| plan.steps);
    let mut put = |text: &str| page.push_str(text);
    put("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    put("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    if !matches!(facts.state, State::Finished | State::Stopped | State::Failed) {
        put(&format!("<meta http-equiv=\"refresh\" content=\"{REFRESH}\">"));
    }
    put(&format!("<title>{} {} · beit</title>", escape(&facts.recipe), facts.state.word()));
    put("<link rel=\"stylesheet\" href=\"/style.css\"></head><body><main>\n");
    put(&format!("<h1>{} <span class=\"state\">{}</span></h1>\n", escape(&facts.recipe), facts.state.word()));
    put(&format!("<p>{}</p>\n", escape(readiness)));
    if let Some(error) = &facts.error {
        put(&format!("<p class=\"error\" role=\"alert\">{}</p>\n", escape(error)));
    }
    put(&format!(
        "<label>step {} of {steps} <progress max=\"{}\" value=\"{}\"></progress></label>\n",
        last.step,
        steps.max(1),
        last.step.min(steps)
    ));
    put("<section class=\"numbers\" aria-label=\"Numbers\">\n");
    for (name, value) in numbers(facts) {
        put(&format!("<div>{name}<b>{}</b></div>\n", escape(&value)));
    }
    put(
        "</section>\n<h2>Ranks</h2>\n<table><tr><th>rank</th><th>waited for data</th><th>batches ready</th><th>doing</th></tr>\n",
    );
    for rank in &last.ranks {
        put(&format!(
            "<tr><td>{}</td><td>{:.1} s</td><td>{}</td><td>{} for {:.1} s</td></tr>\n",
            rank.rank,
            rank.data_wait_seconds,
            rank.queue_depth,
            escape(&rank.stage),
            rank.stage_seconds
        ));
    }
    put("</table>\n");
    if let Some(plan) = &facts.plan {
        put(&format!("<h2>Plan</h2>\n<pre>{}</pre>\n", escape(&plan.text)));
    }
    put("<h2>Events</h2>\n<table>\n");
    for event in facts.events.iter().rev().take(15) {
        put(&format!(
            "<tr><td>{} ago</td><td>{}</td></tr>\n",
            duration(now() - event.at),
            escape(&event.text)
        ));
    }
    put("</table>\n<p><a href=\"/metrics\">/metrics</a> · <a href=\"/api/v1/run\">/api/v1/run</a> · ");
    put("<a href=\"/healthz\">/healthz</a> · <a href=\"/readyz\">/readyz</a></p>\n");
    let up = duration(now() - facts.started_at);
    let _ = write!(
        page,
        "<p>run directory {} · shards {} · {} · beit-daemon {} · up {up}</p>\n</main></body></html>\n",
        escape(&facts.run),
        escape(&facts.shards),
        escape(&facts.device),
        escape(&facts.version)
    );
    page
}

fn numbers(facts: &Facts) -> Vec<(&'static str, String)> {
    let last = &facts.last;
    let trained = last.last_step_at.is_some();
    let number = |text: String| if trained { text } else { "–".to_owned() };
    let checkpoint = match (last.checkpoint.step, last.checkpoint.at) {
        (Some(step), Some(at)) => format!("step {step}, {} ago", duration(now() - at)),
        _ => "none yet".to_owned(),
    };
    let restarts: u64 = facts.restarts.values().sum();
    vec![
        ("loss", number(format!("{:.4}", last.loss))),
        ("masked accuracy", number(format!("{:.2} %", 100.0 * last.mlm_acc))),
        ("samples/s", number(format!("{:.0}", facts.samples_per_second))),
        ("time left", facts.eta_seconds.map_or_else(|| "–".to_owned(), duration)),
        ("epoch", number(last.epoch.to_string())),
        ("learning rate", number(format!("{:.2e}", last.lr))),
        ("gradient norm", number(format!("{:.3}", last.grad_norm))),
        ("checkpoint", checkpoint),
        ("corrupt samples", last.loader.corrupt.values().sum::<u64>().to_string()),
        ("restarts", restarts.to_string()),
    ]
}

/// Text as HTML shows it, inside elements and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for each in text.chars() {
        match each {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Planned;

    #[test]
    fn whatever_a_path_or_an_error_holds_stays_text() {
        let hostile = "<script>alert('x')</script>\"&";
        let board = crate::board::tests::board();
        board.tell(hostile);
        board.planned(Planned { text: hostile.into(), ..Planned::default() });
        let mut facts = board.facts();
        for field in [&mut facts.run, &mut facts.recipe, &mut facts.shards] {
            *field = hostile.to_owned();
        }
        facts.error = Some(hostile.to_owned());
        let page = render(&facts, hostile);
        assert!(!page.contains("<script"), "{page}");
        assert!(
            page.matches("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;").count() >= 6,
            "{page}"
        );
    }

    #[test]
    fn the_page_asks_nothing_of_strangers_and_rests_when_the_run_is_over() {
        let board = crate::board::tests::board();
        let page = render(&board.facts(), "");
        assert!(
            !page.contains("http://") && !page.contains("https://") && !page.contains("style="),
            "{page}"
        );
        assert!(page.contains("http-equiv=\"refresh\""));
        board.set_state(State::Finished);
        assert!(!render(&board.facts(), "").contains("http-equiv=\"refresh\""));
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    }
}
