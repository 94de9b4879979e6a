//! The room from the outside: what is packed is read back, and whatever is not as it was written is found out.

mod allocations;
mod common;
mod faults;
mod flips;
mod golden;
mod mutations;
mod publishing;
mod refusals;
mod resum;
mod round_trip;
