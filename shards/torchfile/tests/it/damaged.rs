use std::collections::BTreeMap;

use beit_torchfile::{Error, Limits, TorchFile, Value, parse_safetensors};

use crate::memory::peak;
use crate::{data, golden};

/// A small generator of our own, so that a failure comes back with the same number.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn skip(&mut self) {
        self.next();
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// One injury: flipped bits, a cut, a forged length, a moved stretch, a swapped opcode.
fn injure(bytes: &mut Vec<u8>, draws: &mut Draws) {
    // Programs and headers are short and lie at the ends; numbers in the middle are dull.
    let ends = bytes.len().min(4096);
    let at = match draws.below(4) {
        0 => draws.below(bytes.len()),
        1 => bytes.len() - 1 - draws.below(ends),
        _ => draws.below(ends),
    };
    match draws.below(6) {
        0 => bytes[at] ^= 1 << draws.below(8),
        1 => bytes.truncate(at),
        2 => {
            const LENGTHS: [u64; 8] =
                [0, 1, 0x7f, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
            let length = LENGTHS[draws.below(LENGTHS.len())].to_le_bytes();
            let width = [1, 2, 4, 8][draws.below(4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&length[..width]);
        }
        3 => {
            let (len, to) = (draws.below(64).min(bytes.len() - at), draws.below(bytes.len()));
            let stretch = bytes[at..at + len].to_vec();
            bytes.splice(to..to, stretch);
        }
        4 => {
            bytes[at] =
                b"(.0129]})ltdeausqrhjcQRbNKMJGXUT\x80\x81\x85\x87\x8a\x8b\x8c\x93\x94\x95"[draws.below(42)]
        }
        _ => drop(bytes.drain(at..(at + 1 + draws.below(16)).min(bytes.len()))),
    }
}

/// Reads everything that there is to read; the result only counts as what it held.
fn read_all(name: &str, bytes: Vec<u8>, limits: &Limits) -> Result<(), Error> {
    if name.ends_with(".safetensors") {
        let file = parse_safetensors(name, bytes)?;
        file.tensors.iter().for_each(|(_, tensor)| drop(tensor.to_contiguous()));
        return Ok(());
    }
    let file = TorchFile::parse(name, bytes, limits)?;
    for (_, tensor) in file.state_dict(&["model", "module"])? {
        tensor.to_contiguous();
    }
    Ok(())
}

/// Injures `original` `rounds` times; each must be read or refused, within memory in proportion to its size.
#[track_caller]
fn check(name: &str, original: &[u8], rounds: u64) {
    let limits = Limits { max_expanded_bytes: 1 << 16, ..Limits::default() };
    let mut outcomes = BTreeMap::new();
    for round in 0..rounds {
        let mut draws = Draws(0x9e37_79b9_7f4a_7c15 ^ (round + 1));
        (0..4).for_each(|_| draws.skip());
        let mut bytes = original.to_vec();
        for _ in 0..=draws.below(3) {
            if !bytes.is_empty() {
                injure(&mut bytes, &mut draws);
            }
        }
        let bound = 260 * bytes.len() + (1 << 20);
        let (outcome, most) = peak(|| read_all(name, bytes, &limits));
        assert!(most <= bound, "{name}, round {round}: held {most} bytes, at most {bound} are fair");
        *outcomes.entry(outcome.is_ok()).or_insert(0) += 1;
    }
    assert!(
        outcomes.get(&false).is_some_and(|&refused| refused > rounds / 10 || cfg!(miri)),
        "{name}: {outcomes:?}"
    );
}

#[test]
fn damaged_fixtures_are_read_or_refused_but_never_panic() {
    // Miri interprets each instruction: a few of each.
    let fewer = |rounds: u64| if cfg!(miri) { rounds.div_ceil(1000) } else { rounds };
    for (name, rounds) in [
        ("tricky.pth", 3000),
        ("tricky.protocol4.pth", 3000),
        ("tricky.legacy.pth", 4000),
        ("flat.legacy.protocol5.pth", 4000),
        ("views.legacy.pth", 4000),
        ("module.pkl", 2000),
        ("module.legacy.pkl", 4000),
        ("evil.legacy.pth", 1000),
        ("compressed.pth", 1000),
        ("tricky.safetensors", 4000),
    ] {
        check(name, &std::fs::read(data(name)).unwrap(), fewer(rounds));
    }
}

#[test]
#[cfg_attr(miri, ignore = "hours, where every instruction is interpreted")]
fn damaged_encoders_are_read_or_refused_but_never_panic() {
    check("encoder.pkl", &std::fs::read(golden("dalle-tiny/encoder.pkl")).unwrap(), 150);
    check("encoder.legacy.pkl", &std::fs::read(golden("dalle-tiny/encoder.legacy.pkl")).unwrap(), 150);
}

/// Checksums hide the program from most injuries of a zip file; here it is injured before it is packed.
#[test]
#[cfg_attr(miri, ignore = "hours, where every instruction is interpreted")]
fn damaged_programs_in_sound_archives_are_read_or_refused() {
    let original = std::fs::read(data("tricky.pth")).unwrap();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&original)).unwrap();
    let mut entries = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        entries.push((entry.name().unwrap().into_owned(), bytes));
    }
    let limits = Limits { max_expanded_bytes: 1 << 16, ..Limits::default() };
    let mut accepted = 0;
    for round in 1..3000 {
        let mut draws = Draws(round ^ 0x1234_5678_9abc_def1);
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        for (name, bytes) in &entries {
            let mut bytes = bytes.clone();
            if name.ends_with("data.pkl") {
                injure(&mut bytes, &mut draws);
            }
            zip.start_file(name, options).unwrap();
            std::io::Write::write_all(&mut zip, &bytes).unwrap();
        }
        let bytes = zip.finish().unwrap().into_inner();
        let bound = 260 * bytes.len() + (1 << 20);
        let (outcome, most) = peak(|| read_all("x.pth", bytes, &limits));
        assert!(most <= bound, "round {round}: held {most} bytes, at most {bound} are fair");
        accepted += usize::from(outcome.is_ok());
    }
    assert!((300..2900).contains(&accepted), "{accepted} of 3000 were accepted");
}

/// The dearest programs per byte that we could think of, against what the docs of `Limits` promise.
#[test]
#[cfg_attr(miri, ignore = "hours, where every instruction is interpreted")]
fn greedy_programs_stay_within_the_promised_memory() {
    let head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.";
    // A piece, and the values that it makes.
    let pieces: [(&[u8], usize); 9] = [
        (b"}", 1),
        (b")", 1),
        (b"]", 1),
        (b"\x8f", 1),
        (b"U\x00", 1),
        (b"h\x00", 0),
        (b"h\x00)R", 2),
        (b"h\x00)R}b", 3),
        (b"]2\x85)\x86a", 4),
    ];
    let limits = Limits { max_objects: 100_000, max_pickle_steps: 500_000, ..Limits::default() };
    for (piece, values) in pieces {
        // Recalling a value is one step of two bytes and makes nothing.
        let most = (limits.max_objects - 100).checked_div(values).unwrap_or(limits.max_pickle_steps - 100);
        for (count, fits) in [(most, true), (2 * most, false)] {
            // Memo slot 0 is a class; every piece is one more item of a list, or of the list in it.
            let mut bytes = head.to_vec();
            bytes.extend(b"cargparse\nNamespace\nq\x00(");
            bytes.extend(piece.repeat(count));
            bytes.extend(b"l.\x80\x02].");
            let promised = (1 << 20) + bytes.len() + 250 * limits.max_objects + 60 * limits.max_pickle_steps;
            let (file, held) = peak(|| TorchFile::parse("x.pth", bytes, &limits));
            println!("{piece:?} {count} times: held {held} bytes of {promised}");
            assert!(held <= promised, "{piece:?}: held {held} bytes, promised {promised}");
            if values < 2 {
                assert_eq!(file.is_ok(), fits, "{piece:?}");
            }
        }
    }
}

#[test]
fn an_expanded_tensor_is_not_a_bomb() {
    let root = TorchFile::open(data("tricky.pth")).unwrap().root;
    let expanded = root.get("model").unwrap().get("expanded").and_then(Value::as_tensor).unwrap();
    assert_eq!(expanded.to_f32_vec(), [5.0, 6.0, 5.0, 6.0, 5.0, 6.0]);
    assert_eq!(expanded.strides(), [0, 1]);
}
