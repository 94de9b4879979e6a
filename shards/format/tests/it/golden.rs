//! One shard of every format ever written still reads, and today's writer still writes the same bytes.
