//! The house from the street: real binaries, real files, real HTTP, real `kill -9`.
//!
//! Needs the release binaries (`make build`); `make test` builds them first.

#![expect(clippy::unwrap_used, reason = "a helper of tests may end the test where it stands")]

mod architecture;
mod browser;
mod build;
mod daemon;
mod dashboards;
mod deploy;
mod doctor;
mod faults;
mod house;
mod http;
mod integrity;
mod learning;
mod listen;
mod metrics;
mod online;
mod page;
mod pictures;
mod schema;
mod service;
mod sources;
mod watch;
