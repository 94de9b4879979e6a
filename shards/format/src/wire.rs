//! Bytes on the wire: little-endian numbers, length-prefixed text, and a reader that never runs past the end.

/// Appends little-endian numbers and length-prefixed text.
#[derive(Default)]
pub(crate) struct Put(pub Vec<u8>);

impl Put {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// A u32 byte count, then the bytes. The caller has bounded the length.
    pub fn text(&mut self, value: &str) {
        self.u32(value.len() as u32);
        self.bytes(value.as_bytes());
    }
}

/// Takes what [`Put`] appended; every step says `Err(why)` instead of running past the end.
pub(crate) struct Take<'a>(pub &'a [u8]);

type Taken<T> = Result<T, &'static str>;

impl<'a> Take<'a> {
    pub fn bytes(&mut self, count: usize) -> Taken<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or("ends too early")?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Taken<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or("ends too early")?;
        self.0 = tail;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Taken<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Taken<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Taken<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Taken<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn digest(&mut self) -> Taken<[u8; 32]> {
        self.array()
    }

    pub fn text(&mut self) -> Taken<&'a str> {
        let count = self.u32()? as usize;
        std::str::from_utf8(self.bytes(count)?).map_err(|_| "text is not UTF-8")
    }

    pub fn end(&self) -> Taken<()> {
        if self.0.is_empty() { Ok(()) } else { Err("has bytes left over at its end") }
    }

    /// The rest must be zeros: fewer than `align` of them.
    pub fn padding(&mut self, align: usize) -> Taken<()> {
        let rest = std::mem::take(&mut self.0);
        if rest.len() < align && rest.iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            Err("padding is not zero")
        }
    }
}
