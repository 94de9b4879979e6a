//! The shard file: pack, map, footer, catalog, checksums.
