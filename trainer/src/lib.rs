//! Model, loss, optimizer, schedule, step, checkpoint.
