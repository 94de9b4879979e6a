use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::dtype::{Dtype, bf16_to_f32, f16_to_f32};

/// A stretch of shared, immutable memory that tensors look into; cloning it copies no numbers.
#[derive(Clone)]
pub struct Storage {
    memory: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Storage {
    /// A storage over all of `memory`.
    pub fn new(memory: impl Into<Arc<Vec<u8>>>) -> Storage {
        let memory = memory.into();
        Storage { range: 0..memory.len(), memory }
    }

    /// The part `range` of this storage, in bytes; `None` where it leaves the storage.
    pub fn slice(&self, range: Range<usize>) -> Option<Storage> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Storage { memory: self.memory.clone(), range: start..start + range.len() })
    }

    /// The stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.range.clone()]
    }

    /// Whether both are the same stretch of the same memory, not merely equal numbers.
    pub fn is(&self, other: &Storage) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory) && self.range == other.range
    }

    /// What tells this storage from every other one alive.
    pub(crate) fn identity(&self) -> (usize, usize, usize) {
        (Arc::as_ptr(&self.memory).addr(), self.range.start, self.range.end)
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({} bytes)", self.range.len())
    }
}

/// Why shape, strides and offset do not describe numbers of the given storage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum LayoutError {
    #[error("shape has {shape} dimensions, strides have {strides}")]
    Ranks { shape: usize, strides: usize },
    #[error("{found} dimensions, at most {limit} are read")]
    Dimensions { found: usize, limit: usize },
    #[error("shape {shape:?} with strides {strides:?} from element {offset} overflows the address space")]
    Overflow { shape: Vec<usize>, strides: Vec<usize>, offset: usize },
    #[error(
        "shape {shape:?} with strides {strides:?} from element {offset} reaches past the {stored} stored"
    )]
    OutOfBounds { shape: Vec<usize>, strides: Vec<usize>, offset: usize, stored: usize },
    #[error("shape {shape:?} written out is {found} bytes, over the limit of {limit} for expanded tensors")]
    Expanded { shape: Vec<usize>, found: usize, limit: usize },
}

/// An n-dimensional view of a [`Storage`].
///
/// Its layout was checked when it was made, so every element it names lies inside the storage.
/// Two tensors are equal when types, shapes and the bytes of all elements are, however they are laid out.
#[derive(Clone)]
pub struct Tensor {
    dtype: Dtype,
    shape: Box<[usize]>,
    strides: Box<[usize]>,
    offset: usize,
    storage: Storage,
}

impl Tensor {
    /// Dimensions that a tensor may have, as in torch.
    pub const MAX_DIMS: usize = 64;

    /// A view with any layout.
    ///
    /// # Units
    /// `strides` and `offset` count elements, not bytes
    /// # Errors
    /// any [`LayoutError`]: more than 64 dimensions, arithmetic overflow, or elements outside of `storage`
    pub fn view(
        dtype: Dtype,
        shape: &[usize],
        strides: &[usize],
        offset: usize,
        storage: Storage,
    ) -> Result<Tensor, LayoutError> {
        if shape.len() != strides.len() {
            return Err(LayoutError::Ranks { shape: shape.len(), strides: strides.len() });
        }
        if shape.len() > Self::MAX_DIMS {
            return Err(LayoutError::Dimensions { found: shape.len(), limit: Self::MAX_DIMS });
        }
        let overflow = || LayoutError::Overflow { shape: shape.to_vec(), strides: strides.to_vec(), offset };
        let stored = storage.range.len() / dtype.size();
        let is_empty = shape.contains(&0);
        if !is_empty {
            let mut last = offset;
            for (&side, &stride) in shape.iter().zip(strides) {
                let reach = (side - 1).checked_mul(stride).ok_or_else(overflow)?;
                last = last.checked_add(reach).ok_or_else(overflow)?;
            }
            if last >= stored {
                return Err(LayoutError::OutOfBounds {
                    shape: shape.to_vec(),
                    strides: strides.to_vec(),
                    offset,
                    stored,
                });
            }
        }
        // Sizes of empty tensors count too: a later product of the other sides must not overflow.
        shape
            .iter()
            .try_fold(dtype.size(), |product, &side| product.checked_mul(side.max(1)))
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(overflow)?;
        let offset = if is_empty { 0 } else { offset };
        Ok(Tensor { dtype, shape: shape.into(), strides: strides.into(), offset, storage })
    }

    /// A tensor that owns `bytes`, its elements in row-major order, little-endian.
    ///
    /// # Errors
    /// [`LayoutError::OutOfBounds`] when `bytes` are too few, and as [`Tensor::view`]
    pub fn from_bytes(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Result<Tensor, LayoutError> {
        let strides = contiguous_strides(shape).ok_or_else(|| LayoutError::Overflow {
            shape: shape.to_vec(),
            strides: Vec::new(),
            offset: 0,
        })?;
        Tensor::view(dtype, shape, &strides, 0, Storage::new(bytes))
    }

    /// A contiguous `float32` tensor.
    ///
    /// # Errors
    /// as [`Tensor::from_bytes`]
    pub fn from_f32(shape: &[usize], numbers: &[f32]) -> Result<Tensor, LayoutError> {
        Tensor::from_bytes(Dtype::F32, shape, numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
    }

    /// A contiguous `int64` tensor.
    ///
    /// # Errors
    /// as [`Tensor::from_bytes`]
    pub fn from_i64(shape: &[usize], numbers: &[i64]) -> Result<Tensor, LayoutError> {
        Tensor::from_bytes(Dtype::I64, shape, numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sides, outermost first; empty for a single number.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements to step for one step along each dimension.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Elements of the storage before the first of this tensor.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The memory that this tensor looks into, perhaps together with others.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of all elements, written out once each.
    pub fn byte_len(&self) -> usize {
        self.numel() * self.dtype.size()
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        if self.shape.contains(&0) {
            return true;
        }
        for (&side, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if side != 1 {
                if stride != expected {
                    return false;
                }
                expected *= side;
            }
        }
        true
    }

    /// The elements in row-major order, little-endian; borrowed where they already lie so.
    pub fn to_contiguous(&self) -> Cow<'_, [u8]> {
        if self.shape.contains(&0) {
            return Cow::Borrowed(&[]);
        }
        if self.is_contiguous() {
            let start = self.offset * self.dtype.size();
            return Cow::Borrowed(&self.storage.bytes()[start..start + self.byte_len()]);
        }
        Cow::Owned(match self.dtype.size() {
            1 => self.gather::<1>(),
            2 => self.gather::<2>(),
            4 => self.gather::<4>(),
            _ => self.gather::<8>(),
        })
    }

    /// Copies elements of `SIZE` bytes row by row; at least one element, at least one dimension.
    fn gather<const SIZE: usize>(&self) -> Vec<u8> {
        let (elements, _) = self.storage.bytes().as_chunks::<SIZE>();
        let mut out = Vec::with_capacity(self.byte_len());
        let inner = self.shape.len() - 1;
        let mut index = vec![0usize; inner];
        let mut start = self.offset;
        loop {
            for column in 0..self.shape[inner] {
                out.extend_from_slice(&elements[start + column * self.strides[inner]]);
            }
            let mut dim = inner;
            loop {
                if dim == 0 {
                    return out;
                }
                dim -= 1;
                if index[dim] + 1 < self.shape[dim] {
                    index[dim] += 1;
                    start += self.strides[dim];
                    break;
                }
                start -= index[dim] * self.strides[dim];
                index[dim] = 0;
            }
        }
    }

    /// All elements as `f32`, in row-major order; wider types are rounded, `true` is 1.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        let bytes = self.to_contiguous();
        match self.dtype {
            Dtype::Bool => each(&bytes, |[b]: [u8; 1]| f32::from(b != 0)),
            Dtype::U8 => each(&bytes, |[b]: [u8; 1]| f32::from(b)),
            Dtype::I8 => each(&bytes, |b| f32::from(i8::from_le_bytes(b))),
            Dtype::I16 => each(&bytes, |b| f32::from(i16::from_le_bytes(b))),
            Dtype::U16 => each(&bytes, |b| f32::from(u16::from_le_bytes(b))),
            Dtype::I32 => each(&bytes, |b| i32::from_le_bytes(b) as f32),
            Dtype::U32 => each(&bytes, |b| u32::from_le_bytes(b) as f32),
            Dtype::I64 => each(&bytes, |b| i64::from_le_bytes(b) as f32),
            Dtype::U64 => each(&bytes, |b| u64::from_le_bytes(b) as f32),
            Dtype::F16 => each(&bytes, |b| f16_to_f32(u16::from_le_bytes(b))),
            Dtype::BF16 => each(&bytes, |b| bf16_to_f32(u16::from_le_bytes(b))),
            Dtype::F32 => each(&bytes, f32::from_le_bytes),
            Dtype::F64 => each(&bytes, |b| f64::from_le_bytes(b) as f32),
        }
    }

    /// All elements as `i64`, in row-major order; `None` for floats and for `uint64`, which may not fit.
    pub fn to_i64_vec(&self) -> Option<Vec<i64>> {
        let bytes = self.to_contiguous();
        Some(match self.dtype {
            Dtype::Bool => each(&bytes, |[b]: [u8; 1]| i64::from(b != 0)),
            Dtype::U8 => each(&bytes, |[b]: [u8; 1]| i64::from(b)),
            Dtype::I8 => each(&bytes, |b| i64::from(i8::from_le_bytes(b))),
            Dtype::I16 => each(&bytes, |b| i64::from(i16::from_le_bytes(b))),
            Dtype::U16 => each(&bytes, |b| i64::from(u16::from_le_bytes(b))),
            Dtype::I32 => each(&bytes, |b| i64::from(i32::from_le_bytes(b))),
            Dtype::U32 => each(&bytes, |b| i64::from(u32::from_le_bytes(b))),
            Dtype::I64 => each(&bytes, i64::from_le_bytes),
            Dtype::U64 | Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64 => return None,
        })
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && self.to_contiguous() == other.to_contiguous()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}

fn each<const SIZE: usize, T>(bytes: &[u8], number: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    bytes.as_chunks::<SIZE>().0.iter().map(|chunk| number(*chunk)).collect()
}

/// Strides of a row-major tensor without gaps; `None` where a product overflows.
pub(crate) fn contiguous_strides(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = shape[dim].max(1).checked_mul(strides[dim])?;
    }
    Some(strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(len: u8) -> Storage {
        Storage::new((0..len).collect::<Vec<u8>>())
    }

    #[track_caller]
    fn check(shape: &[usize], strides: &[usize], offset: usize, expect: &[u8]) {
        let tensor = Tensor::view(Dtype::U8, shape, strides, offset, counting(24)).unwrap();
        assert_eq!(&*tensor.to_contiguous(), expect);
    }

    #[test]
    fn strided_views_are_written_out_in_row_major_order() {
        check(&[2, 3], &[3, 1], 0, &[0, 1, 2, 3, 4, 5]);
        check(&[3, 2], &[1, 3], 0, &[0, 3, 1, 4, 2, 5]);
        check(&[2, 2, 2], &[12, 2, 5], 1, &[1, 6, 3, 8, 13, 18, 15, 20]);
        check(&[2, 3], &[0, 1], 7, &[7, 8, 9, 7, 8, 9]);
        check(&[], &[], 23, &[23]);
        check(&[0, 5], &[5, 1], 99, &[]);
        check(&[1, 4], &[77, 1], 20, &[20, 21, 22, 23]);
    }

    #[test]
    fn layouts_that_leave_the_storage_are_refused() {
        let view = |shape: &[usize], strides: &[usize], offset| {
            Tensor::view(Dtype::F32, shape, strides, offset, counting(24)).unwrap_err().to_string()
        };
        assert!(view(&[7], &[1], 0).contains("reaches past the 6 stored"));
        assert!(view(&[], &[], 6).contains("reaches past"));
        assert!(view(&[2], &[usize::MAX], 1).contains("overflows"));
        assert!(view(&[usize::MAX, 2], &[0, 0], 0).contains("overflows"));
        assert!(view(&[0, usize::MAX, 2], &[0, 0, 0], 0).contains("overflows"));
        assert!(view(&[1], &[], 0).contains("1 dimensions"));
        assert!(view(&[1; 65], &[1; 65], 0).contains("at most 64"));
    }

    #[test]
    fn numbers_of_every_type_become_floats() {
        let number =
            |dtype, bytes: &[u8]| Tensor::from_bytes(dtype, &[1], bytes.to_vec()).unwrap().to_f32_vec()[0];
        assert_eq!(number(Dtype::Bool, &[7]), 1.0);
        assert_eq!(number(Dtype::U8, &[200]), 200.0);
        assert_eq!(number(Dtype::I8, &[0xff]), -1.0);
        assert_eq!(number(Dtype::I16, &[0, 0x80]), -32768.0);
        assert_eq!(number(Dtype::U16, &[0xff, 0xff]), 65535.0);
        assert_eq!(number(Dtype::I32, &[0xfe, 0xff, 0xff, 0xff]), -2.0);
        assert_eq!(number(Dtype::U32, &[0, 0, 0, 0x80]), 2147483648.0);
        assert_eq!(number(Dtype::I64, &[0xff; 8]), -1.0);
        assert_eq!(number(Dtype::U64, &[3, 0, 0, 0, 0, 0, 0, 0]), 3.0);
        assert_eq!(number(Dtype::F16, &[0, 0x3e]), 1.5);
        assert_eq!(number(Dtype::BF16, &[0xc0, 0x3f]), 1.5);
        assert_eq!(number(Dtype::F32, &1.25f32.to_le_bytes()), 1.25);
        assert_eq!(number(Dtype::F64, &2.5f64.to_le_bytes()), 2.5);
    }
}
