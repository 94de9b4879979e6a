//! The house from the street: real binaries, real files, real HTTP, real `kill -9`.
//!
//! Needs the release binaries (`make build`); `make test` builds them first.

mod architecture;
mod build;
mod daemon;
mod house;
mod learning;
