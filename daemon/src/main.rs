//! Settings, wiring, supervision, HTTP, /metrics.

fn main() {}
