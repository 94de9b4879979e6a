//! A pickle machine that makes data and nothing else.
//!
//! [`Machine::run`] executes one program into a [`Graph`]: a flat list of nodes that name each other by number.
//! [`Graph::resolve`] turns it into a tree of [`Value`](crate::Value)s once the storages' bytes are known, which in
//! the older container come after the program.

mod call;
mod globals;
mod machine;
mod node;
mod reading;
mod tree;

pub(crate) use machine::Machine;
pub(crate) use node::{Graph, Node};
