//! The room from the outside: what is packed is read back, and whatever is not as it was written is found out.

mod common;
mod round_trip;
