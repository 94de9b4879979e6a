//! Both together: the real run, for a while.

use anyhow::{Context, Result};
use beit_trainer::measure::{RunReport, measure_run};
use beit_trainer::plan::Plan;
use serde_json::{Value, json};

/// Trains as planned for a while.
///
/// # Errors
/// the run's
pub fn measure(plan: &Plan, warmup: u32, steps: u32, seconds: f64) -> Result<RunReport> {
    measure_run(plan, warmup, steps, seconds).context("measuring loader and step together")
}

/// For scripts: the key `together`.
pub fn as_json(report: &RunReport, cores: u32) -> Value {
    json!({
        "together": {
            "samples_per_s": report.samples_per_s(),
            "steps": report.steps,
            "samples": report.samples,
            "drained_samples": report.drained,
            "seconds": report.seconds,
            "data_wait_ratio": report.data_wait_ratio,
            "cpu_seconds": report.cpu_seconds,
            "loader_cpu_seconds": report.loader_cpu_seconds,
            "loader_cpu_ratio": report.loader_share(),
            "cores_busy": report.cores_busy(),
            "cores": cores,
        }
    })
}

/// For people.
pub fn as_table(report: &RunReport, cores: u32) -> String {
    let drained = match report.drained {
        drained if drained > 0 => {
            format!("; {drained} more samples, which were ready beforehand, are not counted")
        }
        _ => String::new(),
    };
    format!(
        "both together: {:.2} samples/s over {} steps in {:.1} s{drained}\n\
         \x20 waiting  {:.1} % of the time for data\n\
         \x20 cores    {:.2} of {cores} busy, {:.1} % of that with loading",
        report.samples_per_s(),
        report.steps,
        report.seconds,
        100.0 * report.data_wait_ratio,
        report.cores_busy(),
        100.0 * report.loader_share(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_the_names_that_scripts_rely_on() {
        let report = RunReport {
            steps: 10,
            samples: 80,
            drained: 8,
            seconds: 4.0,
            cpu_seconds: 6.0,
            loader_cpu_seconds: 1.5,
            data_wait_ratio: 0.125,
        };
        let value = &as_json(&report, 2)["together"];
        assert_eq!((&value["samples_per_s"], &value["cores_busy"]), (&json!(18.0), &json!(1.5)));
        assert_eq!((&value["data_wait_ratio"], &value["loader_cpu_ratio"]), (&json!(0.125), &json!(0.25)));
        let text = as_table(&report, 2);
        for words in
            ["18.00 samples/s over 10 steps in 4.0 s; 8 more", "12.5 % of the time", "1.50 of 2 busy, 25.0 %"]
        {
            assert!(text.contains(words), "{words} is missing from\n{text}");
        }
        assert!(!as_table(&RunReport { drained: -8, ..report }, 2).contains("beforehand"));
    }
}
