//! libjpeg-turbo, behind a safe door: headers, whole decodes, lossless re-layout.
//!
//! Slow-but-accurate inverse DCT and fancy upsampling, the library's defaults: so are Pillow's pixels made.
#![expect(unsafe_code, reason = "calls libjpeg-turbo; the one module that does")]

use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;

use turbojpeg_sys as tj;

use crate::image::DecodeError;

/// How decoded pixels are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pixels {
    Rgb,
    /// Four inks, as stored.
    Cmyk,
}

impl Pixels {
    fn bytes(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// What the header of a JPEG says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub width: u32,
    pub height: u32,
    /// Bits per channel.
    pub precision: u32,
    pub lossless: bool,
    /// Four inks rather than three colours or grey.
    pub inks: bool,
}

/// The library's own words for what it did not like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// Pixels were made all the same.
    Warning(String),
    /// Nothing was made.
    Fatal(String),
}

impl From<Complaint> for DecodeError {
    fn from(complaint: Complaint) -> Self {
        match complaint {
            Complaint::Warning(detail) | Complaint::Fatal(detail) => Self::Corrupt { detail },
        }
    }
}

/// One instance of the library; its memory is kept from image to image.
#[derive(Debug)]
pub(crate) struct Turbo {
    handle: NonNull<c_void>,
}

// SAFETY: an instance has no ties to the thread that made it, and every call takes `&mut self`.
unsafe impl Send for Turbo {}

impl Drop for Turbo {
    fn drop(&mut self) {
        // SAFETY: the handle came from tj3Init and is destroyed once.
        unsafe { tj::tj3Destroy(self.handle.as_ptr()) };
    }
}

impl Turbo {
    /// Decodes; refuses an image of more than `max_scans` scans if that is not 0.
    pub fn decoder(max_scans: u32) -> Result<Self, DecodeError> {
        let mut turbo = Self::new(tj::TJINIT_TJINIT_DECOMPRESS)?;
        turbo.set(tj::TJPARAM_TJPARAM_SCANLIMIT, max_scans.min(i32::MAX as u32) as c_int)?;
        turbo.set(tj::TJPARAM_TJPARAM_SAVEMARKERS, 0)?;
        Ok(turbo)
    }

    /// Writes JPEGs anew: baseline, optimal Huffman tables, a restart marker every `interval` MCUs.
    pub fn relayout(interval: u32, max_scans: u32) -> Result<Self, DecodeError> {
        let mut turbo = Self::new(tj::TJINIT_TJINIT_TRANSFORM)?;
        turbo.set(tj::TJPARAM_TJPARAM_SCANLIMIT, max_scans.min(i32::MAX as u32) as c_int)?;
        turbo.set(tj::TJPARAM_TJPARAM_SAVEMARKERS, 0)?;
        turbo.set(tj::TJPARAM_TJPARAM_OPTIMIZE, 1)?;
        turbo.set(tj::TJPARAM_TJPARAM_PROGRESSIVE, 0)?;
        turbo.set(tj::TJPARAM_TJPARAM_RESTARTBLOCKS, interval.min(65_535) as c_int)?;
        Ok(turbo)
    }

    /// Encodes RGB as baseline JPEGs with chroma halved both ways.
    pub fn encoder(quality: u8) -> Result<Self, DecodeError> {
        let mut turbo = Self::new(tj::TJINIT_TJINIT_COMPRESS)?;
        turbo.set(tj::TJPARAM_TJPARAM_QUALITY, c_int::from(quality.clamp(1, 100)))?;
        turbo.set(tj::TJPARAM_TJPARAM_SUBSAMP, tj::TJSAMP_TJSAMP_420 as c_int)?;
        Ok(turbo)
    }

    /// As [`encoder`](Self::encoder), of another sampling, and of red, green and blue themselves if `rgb`.
    pub fn sampler(quality: u8, sampling: u32, rgb: bool) -> Result<Self, DecodeError> {
        let mut turbo = Self::encoder(quality)?;
        turbo.set(tj::TJPARAM_TJPARAM_SUBSAMP, sampling as c_int)?;
        if rgb {
            turbo.set(tj::TJPARAM_TJPARAM_COLORSPACE, tj::TJCS_TJCS_RGB as c_int)?;
        }
        Ok(turbo)
    }

    fn new(kind: tj::TJINIT) -> Result<Self, DecodeError> {
        // SAFETY: no arguments to get wrong; null means no memory.
        let handle = unsafe { tj::tj3Init(kind as c_int) };
        let handle = NonNull::new(handle.cast())
            .ok_or_else(|| DecodeError::corrupt("libjpeg-turbo found no memory for an instance"))?;
        Ok(Self { handle })
    }

    fn set(&mut self, param: tj::TJPARAM, value: c_int) -> Result<(), DecodeError> {
        // SAFETY: the handle is live; the library checks parameter and value.
        match unsafe { tj::tj3Set(self.handle.as_ptr(), param as c_int, value) } {
            0 => Ok(()),
            _ => Err(self.complaint().into()),
        }
    }

    fn get(&mut self, param: tj::TJPARAM) -> u32 {
        // SAFETY: the handle is live; an unknown parameter gives -1.
        let value = unsafe { tj::tj3Get(self.handle.as_ptr(), param as c_int) };
        u32::try_from(value).unwrap_or(0)
    }

    fn complaint(&mut self) -> Complaint {
        // SAFETY: the handle is live; the text lies in it until the next call, and is copied here.
        let (code, text) = unsafe {
            let text = CStr::from_ptr(tj::tj3GetErrorStr(self.handle.as_ptr()));
            (tj::tj3GetErrorCode(self.handle.as_ptr()), text.to_string_lossy().into_owned())
        };
        match code == tj::TJERR_TJERR_WARNING as c_int {
            true => Complaint::Warning(text),
            false => Complaint::Fatal(text),
        }
    }

    /// Reads the header.
    pub fn header(&mut self, jpeg: &[u8]) -> Result<Header, Complaint> {
        // SAFETY: the library reads `jpeg.len()` bytes from the slice during the call.
        let code = unsafe { tj::tj3DecompressHeader(self.handle.as_ptr(), jpeg.as_ptr(), jpeg.len() as u64) };
        if code != 0 {
            match self.complaint() {
                fatal @ Complaint::Fatal(_) => return Err(fatal),
                Complaint::Warning(_) => {}
            }
        }
        let space = self.get(tj::TJPARAM_TJPARAM_COLORSPACE) as tj::TJCS;
        Ok(Header {
            width: self.get(tj::TJPARAM_TJPARAM_JPEGWIDTH),
            height: self.get(tj::TJPARAM_TJPARAM_JPEGHEIGHT),
            precision: self.get(tj::TJPARAM_TJPARAM_PRECISION),
            lossless: self.get(tj::TJPARAM_TJPARAM_LOSSLESS) != 0,
            inks: space == tj::TJCS_TJCS_CMYK || space == tj::TJCS_TJCS_YCCK,
        })
    }

    /// Decodes a whole JPEG of exactly `width` by `height` pixels to the front of `out`, rows close together.
    ///
    /// # Errors
    /// a warning leaves pixels in `out`, as complete as the library could make them
    pub fn decode(
        &mut self,
        jpeg: &[u8],
        (width, height): (u32, u32),
        pixels: Pixels,
        out: &mut [u8],
    ) -> Result<(), Complaint> {
        let header = self.header(jpeg)?;
        if (header.width, header.height) != (width, height) {
            let detail = format!("the JPEG is {}x{}, not {width}x{height}", header.width, header.height);
            return Err(Complaint::Fatal(detail));
        }
        if header.lossless || header.precision != 8 {
            return Err(Complaint::Fatal("not a JPEG of 8-bit samples and DCT blocks".to_owned()));
        }
        let pitch = width as usize * pixels.bytes();
        if out.len() < pitch * height as usize {
            return Err(Complaint::Fatal("no room for the pixels".to_owned()));
        }
        let format = match pixels {
            Pixels::Rgb => tj::TJPF_TJPF_RGB,
            Pixels::Cmyk => tj::TJPF_TJPF_CMYK,
        };
        // SAFETY: the library writes `height` rows of `pitch` bytes, for which `out` has room: the size in these very
        // bytes was compared just above (JPEG sides are at most 65,500, so `pitch` fits a c_int).
        let code = unsafe {
            tj::tj3Decompress8(
                self.handle.as_ptr(),
                jpeg.as_ptr(),
                jpeg.len() as u64,
                out.as_mut_ptr(),
                pitch as c_int,
                format as c_int,
            )
        };
        match code {
            0 => Ok(()),
            _ => Err(self.complaint()),
        }
    }

    /// The same coefficients in the layout this instance was made for.
    pub fn transcode(&mut self, jpeg: &[u8]) -> Result<Vec<u8>, Complaint> {
        // SAFETY: all-zero is the transform "none" without options, region, data or filter.
        let mut transform: tj::tjtransform = unsafe { std::mem::zeroed() };
        transform.options = (tj::TJXOPT_COPYNONE | tj::TJXOPT_OPTIMIZE) as c_int;
        let mut buffer: *mut u8 = std::ptr::null_mut();
        let mut size = 0u64;
        // SAFETY: the library reads the slice during the call; a null buffer asks it to allocate one itself.
        let code = unsafe {
            tj::tj3Transform(
                self.handle.as_ptr(),
                jpeg.as_ptr(),
                jpeg.len() as u64,
                1,
                &raw mut buffer,
                &raw mut size,
                &raw const transform,
            )
        };
        // SAFETY: buffer and size were written by the library in this call.
        unsafe { self.take(code, buffer, size) }
    }

    /// Encodes interleaved RGB.
    pub fn encode(&mut self, pixels: &[u8], (width, height): (u32, u32)) -> Result<Vec<u8>, Complaint> {
        let sides = (c_int::try_from(width), c_int::try_from(height));
        let (Ok(width), Ok(height)) = sides else {
            return Err(Complaint::Fatal("a side that no JPEG can have".to_owned()));
        };
        if pixels.len() as u128 != width as u128 * height as u128 * 3 {
            return Err(Complaint::Fatal("not as many pixels as the image has".to_owned()));
        }
        let mut buffer: *mut u8 = std::ptr::null_mut();
        let mut size = 0u64;
        // SAFETY: the library reads `height` close rows of `width` RGB pixels, whose bytes were counted just above; a null
        // buffer asks it to allocate one itself.
        let code = unsafe {
            tj::tj3Compress8(
                self.handle.as_ptr(),
                pixels.as_ptr(),
                width,
                0,
                height,
                tj::TJPF_TJPF_RGB as c_int,
                &raw mut buffer,
                &raw mut size,
            )
        };
        // SAFETY: buffer and size were written by the library in this call.
        unsafe { self.take(code, buffer, size) }
    }

    /// What a call that ended with `code` wrote to a buffer of its own.
    ///
    /// # Safety
    /// `buffer` is null or of the library's making, with `size` bytes in it; nobody uses it afterwards
    unsafe fn take(&mut self, code: c_int, buffer: *mut u8, size: u64) -> Result<Vec<u8>, Complaint> {
        let complaint = if code == 0 { None } else { Some(self.complaint()) };
        let written = match (&complaint, buffer.is_null()) {
            (None | Some(Complaint::Warning(_)), false) => {
                // SAFETY: the caller says that the buffer holds `size` bytes.
                Some(unsafe { std::slice::from_raw_parts(buffer, size as usize) }.to_vec())
            }
            _ => None,
        };
        // SAFETY: of the library's making, or null, and not used again.
        unsafe { tj::tj3Free(buffer.cast()) };
        written.ok_or_else(|| complaint.unwrap_or_else(|| Complaint::Fatal("nothing was written".to_owned())))
    }
}
