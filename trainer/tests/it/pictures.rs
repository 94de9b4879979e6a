//! Pictures beside a run whose disk is in the way.

use super::*;

fn index(house: &House) -> Option<serde_json::Value> {
    serde_json::from_slice(&fs::read(house.path("a.run/pictures/index.json")).ok()?).ok()
}

/// What the run said so often.
fn told(errors: &std::path::Path, words: &str) -> usize {
    fs::read_to_string(errors).unwrap().matches(words).count()
}

fn start_with_pictures(house: &House, errors: &std::path::Path) -> Trainer {
    let settings = ["pictures=3", "pictures_every_s=0", "steps=1000000", "save_every_steps=1000000"];
    let mut train = house.train("a.run", 1, &settings);
    spawn(train.stdout(Stdio::null()).stderr(fs::File::create(errors).unwrap()))
}

fn stops_well(child: &mut Trainer, errors: &std::path::Path) {
    signal(child, rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", fs::read_to_string(errors).unwrap());
}

#[test]
fn a_full_disk_costs_pictures_and_not_the_run() {
    let house = House::new();
    // Two pages: no room for six pictures.
    let Some(small) = Small::mount(house.path("a.run/pictures"), "8k") else { return };
    let errors = house.path("stderr");
    let mut child = start_with_pictures(&house, &errors);
    wait_for(&mut child, || told(&errors, "No new pictures for now; training goes on.") > 0);
    let log = fs::read_to_string(&errors).unwrap();
    assert!(log.contains("writing pictures in") && log.contains("No space left on device"), "{log}");
    assert!(index(&house).is_none(), "an index names pictures that are not there");
    let step = || fs::read_to_string(house.path("a.run/log.jsonl")).unwrap().lines().count();
    let before = step();
    wait_for(&mut child, || step() > before + 500); // more pictures were due meanwhile
    assert_eq!(told(&errors, "No new pictures"), 1, "told once");
    let grown = Command::new("mount").args(["-o", "remount,size=1m"]).arg(&small.0).status();
    assert!(grown.unwrap().success());
    wait_for(&mut child, || index(&house).is_some());
    stops_well(&mut child, &errors);
    let index = index(&house).unwrap();
    let names = fs::read_dir(&small.0).unwrap().map(|file| file.unwrap().file_name());
    assert_eq!(names.count(), 7, "3 views, 3 masked views, the index: {index}");
}

#[test]
fn a_file_in_the_place_of_the_folder_costs_pictures_and_not_the_run() {
    let house = House::new();
    fs::create_dir(house.path("a.run")).unwrap();
    fs::write(house.path("a.run/pictures"), "mine").unwrap();
    let errors = house.path("stderr");
    let mut child = start_with_pictures(&house, &errors);
    wait_for(&mut child, || told(&errors, "No new pictures for now; training goes on.") > 0);
    fs::remove_file(house.path("a.run/pictures")).unwrap();
    wait_for(&mut child, || index(&house).is_some());
    // And if somebody removes them, they come again.
    fs::remove_dir_all(house.path("a.run/pictures")).unwrap();
    wait_for(&mut child, || index(&house).is_some());
    let view = |index: &serde_json::Value| index["samples"][2]["view"].as_str().unwrap().to_owned();
    assert!(house.path("a.run/pictures").join(view(&index(&house).unwrap())).exists());
    stops_well(&mut child, &errors);
}
