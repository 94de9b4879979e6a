//! The room from the outside: what is packed is read back, and whatever is not as it was written is found out.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod allocations;
mod catalog_faults;
mod common;
mod faults;
mod flips;
mod golden;
mod mutations;
mod publishing;
mod refusals;
mod resum;
mod round_trip;
mod shrinking;
