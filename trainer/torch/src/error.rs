//! What can go wrong between us and libtorch.

/// A call into libtorch that did not work out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TorchError {
    /// libtorch threw; `message` is its own first account of it, without the C++ stack.
    #[error("{doing}: {message}")]
    Libtorch {
        /// What we were doing, as a gerund.
        doing: String,
        /// What libtorch said.
        message: String,
    },
    /// A text that C cannot hold.
    #[error("{doing}: {text:?} holds a NUL byte; use a name without one")]
    Nul {
        /// What we were doing, as a gerund.
        doing: String,
        /// The text that was given.
        text: String,
    },
    /// Lists that belong together differ in length.
    #[error("{doing}: {what} has {found} tensors, expected {expected}; give one for each parameter")]
    Lengths {
        /// What we were doing, as a gerund.
        doing: String,
        /// The list that does not fit.
        what: &'static str,
        /// Length of the parameter list.
        expected: usize,
        /// Length of this one.
        found: usize,
    },
    /// libtorch's CUDA half is absent or does not load.
    #[error(
        "loading libtorch_cuda.so: {message}; this libtorch is CPU only: set LIBTORCH to a CUDA build of the same \
         version, or run with --device cpu"
    )]
    NoCuda {
        /// What the dynamic loader said.
        message: String,
    },
    /// tch reported an error of its own.
    #[error("{doing}: {cause}")]
    Tch {
        /// What we were doing, as a gerund.
        doing: String,
        /// tch's error; its text ends with a C++ stack. No `source`: these words hold it already.
        cause: tch::TchError,
    },
}

impl TorchError {
    /// For `map_err`: names what a tch call was doing.
    pub fn tch(doing: impl Into<String>) -> impl FnOnce(tch::TchError) -> TorchError {
        let doing = doing.into();
        move |source| match source {
            // libtorch's first line says what is wrong; the C++ stack below it helps nobody on call.
            tch::TchError::Torch(text) => TorchError::Libtorch { doing, message: first_account(&text) },
            cause => TorchError::Tch { doing, cause },
        }
    }
}

/// libtorch's message without the C++ stack that follows it.
pub(crate) fn first_account(text: &str) -> String {
    let end = text.find("\nException raised from").unwrap_or(text.len());
    text[..end].trim_end().to_owned()
}
