//! How much memory this process has used.

/// The most memory that was resident at one time since the process began, in bytes; `None` where the kernel does not say.
///
/// Mapped pages of shards count, as they do for everyone who looks at the process from outside.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_rises_with_what_is_touched_and_stays() {
        let before = peak_resident_bytes().unwrap();
        let block = vec![1u8; before as usize + (64 << 20)];
        assert!(block.iter().step_by(4096).all(|byte| *byte == 1));
        drop(block);
        let after = peak_resident_bytes().unwrap();
        assert!(after >= before + (64 << 20), "{before} and {after}");
    }
}
