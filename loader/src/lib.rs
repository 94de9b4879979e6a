//! Order, read, decode, view, mask, batch ring.
