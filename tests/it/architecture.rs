//! The picture in ARCHITECTURE.md, held against the manifests: rooms, doors that open one way, and lodgers.

use crate::house::root;
use std::collections::{BTreeMap, BTreeSet};

struct Room {
    folder: &'static str,
    package: &'static str,
    /// Rooms whose code it may use.
    may_use: &'static [&'static str],
}

/// Every room, in the order in which data walks.
const HOUSE: &[Room] = &[
    Room { folder: "shards/format", package: "beit-shards", may_use: &[] },
    Room { folder: "shards/views", package: "beit-views", may_use: &[] },
    Room { folder: "shards/torchfile", package: "beit-torchfile", may_use: &[] },
    Room {
        folder: "shards/tokenizer",
        package: "beit-tokenizer",
        may_use: &["beit-torchfile", "beit-views"],
    },
    Room {
        folder: "shards/tool",
        package: "beit-shard",
        may_use: &["beit-shards", "beit-tokenizer", "beit-torch", "beit-views"],
    },
    Room { folder: "loader", package: "beit-loader", may_use: &["beit-shards", "beit-views"] },
    Room { folder: "trainer/torch", package: "beit-torch", may_use: &[] },
    Room {
        folder: "trainer",
        package: "beit-trainer",
        may_use: &[
            "beit-loader",
            "beit-shards",
            "beit-tokenizer",
            "beit-torch",
            "beit-torchfile",
            "beit-views",
        ],
    },
    Room {
        folder: "daemon",
        package: "beit-daemon",
        may_use: &["beit-loader", "beit-shards", "beit-tokenizer", "beit-trainer", "beit-views"],
    },
];

/// Big dependencies and the only rooms that may know them.
const LODGERS: &[(&str, &[&str])] = &[
    ("memmap2", &["shards/format"]),
    ("heed", &["shards/format"]),
    ("zstd", &["shards/format"]),
    ("turbojpeg-sys", &["shards/views"]),
    ("image", &["shards/views", "shards/tool"]),
    ("tar", &["shards/tool"]),
    ("parquet", &["shards/tool"]),
    ("flate2", &["shards/tool"]),
    ("safetensors", &["shards/torchfile"]),
    ("zip", &["shards/torchfile"]),
    ("tch", &["shards/tokenizer", "trainer/torch", "trainer"]),
    ("crc32c", &["trainer"]),
    ("axum", &["daemon"]),
    ("tokio", &["daemon", "shards/tool"]),
    ("prometheus", &["daemon", "shards/tool"]),
    ("nvml-wrapper", &["daemon"]),
    ("crossbeam", &["loader", "shards/tool"]),
    ("clap", &["shards/tool", "trainer", "daemon"]),
    ("indicatif", &["shards/tool", "daemon"]),
];

/// A room's own dependencies (not its tests').
fn dependencies(folder: &str) -> BTreeSet<String> {
    let path = root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let manifest: toml::Table = text.parse().unwrap();
    let table = manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    table.keys().cloned().collect()
}

#[test]
fn doors_open_one_way() {
    let packages: BTreeSet<&str> = HOUSE.iter().map(|room| room.package).collect();
    for room in HOUSE {
        for used in dependencies(room.folder) {
            if packages.contains(used.as_str()) {
                assert!(room.may_use.contains(&used.as_str()), "{} has no door to {used}", room.folder);
            }
        }
    }
}

#[test]
fn every_big_dependency_lives_where_the_picture_says() {
    let found: BTreeMap<&str, BTreeSet<String>> =
        HOUSE.iter().map(|room| (room.folder, dependencies(room.folder))).collect();
    for (lodger, rooms) in LODGERS {
        for (folder, used) in &found {
            assert!(
                !used.contains(*lodger) || rooms.contains(folder),
                "{lodger} lives in {}; {folder} should ask there instead",
                rooms.join(" and ")
            );
        }
        for room in *rooms {
            assert!(
                found[room].contains(*lodger),
                "{lodger} has moved out of {room}: take it off the picture"
            );
        }
    }
}

#[test]
fn every_member_of_the_workspace_is_a_room() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members: BTreeSet<&str> =
        manifest["workspace"]["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    let rooms: BTreeSet<&str> = HOUSE.iter().map(|room| room.folder).chain(["tests"]).collect();
    assert_eq!(members, rooms);
}

#[test]
fn the_map_names_every_room_and_every_path_on_it_exists() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for room in HOUSE {
        assert!(map.contains(&format!("`{}", room.folder)), "ARCHITECTURE.md does not name {}", room.folder);
    }
    for word in map.split('`').skip(1).step_by(2) {
        let looks_like_a_path =
            word.contains('/') && !word.contains(' ') && !word.starts_with('/') && !word.contains('*');
        if looks_like_a_path {
            assert!(root().join(word).exists(), "ARCHITECTURE.md names {word}, which does not exist");
        }
    }
}
