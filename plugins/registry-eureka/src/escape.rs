//! Text that passes through places which take less than all of it.

use std::borrow::Cow;
use std::fmt::Write as _;

/// An id as a part of Eureka's: what servers, firewalls and proxies refuse in a path, or unfold in it, becomes `~` and
/// two hexadecimal digits for each byte.
pub(crate) fn id(id: &str) -> String {
    let mut escaped = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"._:-".contains(&byte) {
            escaped.push(byte.into());
        } else {
            let _ = write!(escaped, "~{byte:02X}");
        }
    }
    escaped
}

/// The id that was written so.
pub(crate) fn read_id(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('~') {
        return Some(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'~' {
            let (digits, after) = rest.split_at_checked(2)?;
            rest = after;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Whether XML can say it: one value that it cannot say makes the whole registry unreadable for clients that read XML.
pub(crate) fn is_xml_text(text: &str) -> bool {
    let says = |c: char| match c {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        c => c >= ' ',
    };
    text.chars().all(says)
}

/// Whether a metadata key may be the name of an XML element, as the server makes it one. It escapes most characters,
/// and these not.
pub(crate) fn is_xml_name(key: &str) -> bool {
    !key.is_empty() && !key.contains(':') && !key.starts_with('@') && is_xml_text(key)
}

/// JSON in which everything that XML cannot say is escaped.
pub(crate) fn json(value: &serde_json::Value) -> String {
    let json = value.to_string();
    match is_xml_text(&json) {
        true => json,
        // Control characters are escaped already.
        false => json
            .replace('\u{fffe}', "\\ufffe")
            .replace('\u{ffff}', "\\uffff"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_id_comes_back_from_a_plain_one(text in ".{0,40}") {
            let escaped = id(&text);
            prop_assert!(escaped.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-~".contains(&b)));
            prop_assert_eq!(read_id(&escaped).unwrap(), text);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = read_id(&text);
        }
    }

    #[test]
    fn what_is_no_escape_is_no_id() {
        for text in ["~", "a~4", "~zz", "~C3", "~ä"] {
            assert_eq!(read_id(text), None, "{text}");
        }
        assert_eq!(id("host:app:80"), "host:app:80");
        assert_eq!(id("a/b\\c~"), "a~2Fb~5Cc~7E");
    }

    #[test]
    fn what_xml_cannot_say_is_found() {
        assert!(is_xml_text("ä\t\n日本 <&>") && !is_xml_text("\u{1}") && !is_xml_text("\u{fffe}"));
        for (key, safe) in [
            ("a.b-c", true),
            ("1", true),
            ("a_b", true),
            ("a:b", false),
            ("", false),
            ("@class", false),
        ] {
            assert_eq!(is_xml_name(key), safe, "{key}");
        }
        let value = serde_json::json!({ "a:b": "\u{1}\u{ffff}" });
        assert!(is_xml_text(&json(&value)));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&json(&value)).unwrap(),
            value
        );
    }
}
