use crate::dtype::Dtype;

/// What a known global does when a program calls it; most do nothing but remember what they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `torch.FloatStorage` and its kind.
    Storage(Dtype),
    /// `(storage, offset, shape, strides, …)`
    RebuildTensor,
    /// As above, the element type last.
    RebuildTensorV3,
    /// `(tensor, requires_grad, hooks, …)`: the tensor.
    RebuildParameter,
    /// `(function, type, args, state)`: what the function makes of the args.
    RebuildFromType,
    /// `torch.float32` and its kind.
    Dtype(Dtype),
    OrderedDict,
    /// `defaultdict(factory)`, `dict()`
    Dict,
    Set,
    List,
    /// `tuple`, `torch.Size`
    Tuple,
    /// `_codecs.encode(text, "latin1")`
    Encode,
    /// `copyreg._reconstructor(class, base, state)`
    Reconstructor,
    /// `torch.Tensor`, `Parameter`: only ever named; calling one is how torch wrote tensors before 2018.
    TensorClass,
    /// Any other known class or function.
    Inert,
}

/// Names that become inert objects wherever they appear.
const INERT: &[(&str, &[&str])] = &[
    ("argparse", &["Namespace"]),
    ("types", &["SimpleNamespace"]),
    ("pathlib", &["Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"]),
    ("pathlib._local", &["Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"]),
    ("datetime", &["datetime", "date", "time", "timedelta"]),
    (
        "builtins",
        &[
            "int",
            "long",
            "float",
            "bool",
            "str",
            "unicode",
            "bytes",
            "bytearray",
            "complex",
            "object",
            "slice",
            "range",
        ],
    ),
    ("numpy", &["dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_"]),
    ("numpy.core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy._core.multiarray", &["scalar", "_reconstruct"]),
    ("torch", &["device", "layout", "memory_format", "strided", "contiguous_format", "channels_last"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch.nn.backends.thnn", &["_get_thnn_function_backend"]),
    ("torch._C._nn", &["gelu"]),
];

/// Modules all of whose classes become inert objects.
const INERT_MODULES: &[&str] = &["torch.nn.modules", "torch.nn.functional", "dall_e"];

/// What `module.name` does, or `None` where it is on no list.
pub(crate) fn role(module: &str, name: &str, known_modules: &[String]) -> Option<Role> {
    // Python 2's name for the same module, which protocol 2 still writes (and `long` for `int`, `unicode` for `str`).
    let module = if module == "__builtin__" { "builtins" } else { module };
    let role = match (module, name) {
        ("torch", name) if let Some(dtype) = Dtype::from_storage_class(name) => Role::Storage(dtype),
        ("torch.cuda", name) if let Some(dtype) = Dtype::from_storage_class(name) => Role::Storage(dtype),
        ("torch" | "torch.storage", "UntypedStorage") => Role::Storage(Dtype::U8),
        ("torch", name) if let Some(dtype) = Dtype::from_torch_name(name) => Role::Dtype(dtype),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Role::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Role::RebuildTensorV3,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Role::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Role::RebuildFromType,
        ("torch", "Size") | ("builtins", "tuple") => Role::Tuple,
        ("collections", "OrderedDict") => Role::OrderedDict,
        ("collections", "defaultdict" | "Counter") | ("builtins", "dict") => Role::Dict,
        ("builtins", "set" | "frozenset") => Role::Set,
        ("builtins", "list") => Role::List,
        ("torch", "Tensor") | ("torch.nn.parameter", "Parameter" | "Buffer") => Role::TensorClass,
        ("_codecs", "encode") => Role::Encode,
        ("copy_reg" | "copyreg", "_reconstructor") => Role::Reconstructor,
        _ if INERT.iter().any(|(home, names)| *home == module && names.contains(&name)) => Role::Inert,
        _ if is_identifier(name)
            && (INERT_MODULES.iter().any(|home| is_within(module, home))
                || known_modules.iter().any(|home| is_within(module, home))) =>
        {
            Role::Inert
        }
        _ => return None,
    };
    Some(role)
}

fn is_within(module: &str, home: &str) -> bool {
    module.strip_prefix(home).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A dotted name would reach what a module merely imports: `torch.nn.modules.module` → `torch.os.system`.
fn is_identifier(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_names_are_known() {
        let known = |module, name| role(module, name, &["timm.models".to_owned()]);
        assert_eq!(known("torch", "FloatStorage"), Some(Role::Storage(Dtype::F32)));
        assert_eq!(known("torch", "bfloat16"), Some(Role::Dtype(Dtype::BF16)));
        assert_eq!(known("__builtin__", "set"), Some(Role::Set));
        assert_eq!(known("dall_e.encoder", "Encoder"), Some(Role::Inert));
        assert_eq!(known("torch.nn.modules.conv", "Conv2d"), Some(Role::Inert));
        assert_eq!(known("timm.models.beit", "Beit"), Some(Role::Inert));
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("__builtin__", "exec"),
            ("torch", "load"),
            ("torch.storage", "_load_from_bytes"),
            ("torch.nn.modules.module", "torch.os.system"),
            ("torch.nn.modulesque", "X"),
            ("dall_evil", "X"),
            ("timm.modelsque", "X"),
            ("torch", "ComplexFloatStorage"),
            ("", ""),
        ] {
            assert_eq!(known(module, name), None, "{module}.{name}");
        }
    }
}
