use std::ops::Range;

use super::machine::Machine;
use super::node::Node;
use crate::{Error, Result};

/// Names longer than this are nobody's class.
pub(super) const MAX_GLOBAL_BYTES: usize = 512;

/// Taking operands from the program, never past its end, and paying for them.
impl Machine<'_> {
    pub(super) fn fault(&self, what: impl Into<String>) -> Error {
        Error::Pickle { path: self.path.to_owned(), at: self.instruction - self.start, what: what.into() }
    }

    /// Charges `count` units of work, so that short programs cannot ask for much of it.
    pub(super) fn spend(&mut self, count: usize) -> Result<()> {
        self.steps = self.steps.saturating_add(count);
        self.within("steps of a pickle", self.steps, self.limits.max_pickle_steps, "max_pickle_steps")?;
        let read = self.at - self.start;
        self.within("bytes of a pickle", read, self.limits.max_pickle_bytes, "max_pickle_bytes")
    }

    pub(super) fn within(
        &self,
        what: &'static str,
        found: usize,
        limit: usize,
        option: &'static str,
    ) -> Result<()> {
        if found <= limit {
            return Ok(());
        }
        let path = self.path.to_owned();
        Err(Error::TooLarge { path, what, found: found as u64, limit: limit as u64, option })
    }

    fn take(&mut self, len: u64) -> Result<Range<usize>> {
        let rest = self.bytes.len() - self.at;
        let len = usize::try_from(len)
            .ok()
            .filter(|&len| len <= rest)
            .ok_or_else(|| self.fault(format!("wants {len} bytes, {rest} are left")))?;
        self.at += len;
        Ok(self.at - len..self.at)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let range = self.take(N as u64)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn long(&mut self, len: u64) -> Result<()> {
        let range = self.take(len)?;
        let digits = &self.bytes[range.clone()];
        let node = if digits.len() <= 8 {
            let fill = if digits.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
            let mut number = [fill; 8];
            number[..digits.len()].copy_from_slice(digits);
            Node::Int(i64::from_le_bytes(number))
        } else {
            Node::Big(range)
        };
        self.push(node)
    }

    pub(super) fn text(&mut self, len: u64) -> Result<()> {
        let range = self.take(len)?;
        if std::str::from_utf8(&self.bytes[range.clone()]).is_err() {
            return Err(self.fault("text that is not UTF-8"));
        }
        self.push(Node::Str(range))
    }

    pub(super) fn old_string(&mut self, len: u64) -> Result<()> {
        let range = self.take(len)?;
        let is_text = std::str::from_utf8(&self.bytes[range.clone()]).is_ok();
        self.push(if is_text { Node::Str(range) } else { Node::Bytes(range) })
    }

    pub(super) fn raw(&mut self, len: u64) -> Result<()> {
        let range = self.take(len)?;
        self.push(Node::Bytes(range))
    }

    pub(super) fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let window = &rest[..rest.len().min(MAX_GLOBAL_BYTES + 1)];
        let len = window
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(|| self.fault("a global's name without an end"))?;
        let line = std::str::from_utf8(&window[..len])
            .map_err(|_| self.fault("a global's name that is not UTF-8"))?
            .to_owned();
        self.at += len + 1;
        Ok(line)
    }
}
