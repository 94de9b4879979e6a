//! The beit-shard binary: build, verify, ls, cat, tokenizer.

fn main() {}
