//! Text of the manifest: one value per line, whatever characters it has.

use std::borrow::Cow;

/// `text` without line breaks: backslash, newline and carriage return become `\\`, `\n`, `\r`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '\n', '\r']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r"))
}

/// Undoes [`escape`]; `None` for a backslash that stands before anything else.
pub(crate) fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        plain.push(match char {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            char => char,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unescape_undoes_escape(text in "[\\\\\n\ra-cé ]{0,20}") {
            let line = escape(&text);
            prop_assert!(!line.contains(['\n', '\r']));
            prop_assert_eq!(unescape(&line), Some(text));
        }
    }

    #[test]
    fn a_lone_backslash_is_refused() {
        assert_eq!(unescape("a\\"), None);
        assert_eq!(unescape("a\\x"), None);
    }
}
