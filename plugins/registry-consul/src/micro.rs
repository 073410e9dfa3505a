//! The tags of go-micro: `t-`, `e-` and `v-`, each the hexadecimal form of a zlib stream.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use registry_core::{Endpoint, Instance, Label, Metadata};

/// A tag that unpacks to more is no tag of go-micro.
const LONGEST: u64 = 1 << 20;

/// What the tags of one node say.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) version: Option<Label>,
    pub(crate) metadata: Metadata,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The tags of an instance, in go-micro's order.
pub(crate) fn encode(instance: &Instance) -> Vec<String> {
    let mut tags = Vec::new();
    for (key, value) in instance.metadata.iter() {
        tags.push(pack('t', &serde_json::json!({ key: value }).to_string()));
    }
    for endpoint in &instance.endpoints {
        tags.push(pack('e', &registry_go_micro::encode_endpoint(endpoint)));
    }
    let version = instance.version.as_ref().map_or("", Label::as_str);
    tags.push(pack('v', version));
    tags
}

/// What the tags say, if any of them is go-micro's; `old` forms, which are not packed, are read too.
pub(crate) fn decode<'a>(tags: impl IntoIterator<Item = &'a str>) -> Option<Node> {
    let mut node = Node::default();
    let mut found = false;
    for tag in tags {
        let Some((kind, text)) = unpack(tag) else {
            continue;
        };
        let read = match kind {
            't' => pairs(&text, &mut node.metadata),
            'e' => registry_go_micro::decode_endpoint(text.as_bytes())
                .ok()
                .map(|endpoint| node.endpoints.push(endpoint)),
            // An empty version is what go-micro writes for none.
            _ => {
                node.version = Label::try_from(text.as_str()).ok();
                Some(())
            }
        };
        found |= read.is_some();
    }
    found.then_some(node)
}

/// Whether a tag has the form of one of go-micro's.
pub(crate) fn is_tag(tag: &str) -> bool {
    matches!(tag.as_bytes(), [b't' | b'e' | b'v', b'-' | b'=', ..])
}

fn pairs(text: &str, metadata: &mut Metadata) -> Option<()> {
    let pairs: std::collections::BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    for (key, value) in pairs {
        // A pair that cannot be told does not hide the others.
        let _ = metadata.insert(key, value);
    }
    Some(())
}

fn pack(kind: char, text: &str) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let packed = encoder
        .write_all(text.as_bytes())
        .and_then(|()| encoder.finish());
    let mut tag = format!("{kind}-");
    // Writing to memory does not fail.
    for byte in packed.unwrap_or_default() {
        tag.push_str(&format!("{byte:02x}"));
    }
    tag
}

fn unpack(tag: &str) -> Option<(char, String)> {
    if !is_tag(tag) {
        return None;
    }
    let (kind, rest) = (tag.chars().next()?, &tag[2..]);
    if tag.as_bytes()[1] == b'=' {
        return Some((kind, rest.to_owned()));
    }
    let hex = rest.as_bytes();
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let packed: Option<Vec<u8>> = hex
        .chunks(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect();
    let mut text = String::new();
    let packed = packed?;
    let mut reader = ZlibDecoder::new(packed.as_slice()).take(LONGEST);
    reader.read_to_string(&mut text).ok()?;
    Some((kind, text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_of_go_micro_are_read() {
        let version = |tag| decode([tag]).unwrap().version.map(|v| v.to_string());
        assert_eq!(
            version("v-789c32d433d03300040000ffff02ce00ee").as_deref(),
            Some("1.0.0")
        );
        assert_eq!(
            version("v-789cca492c492d2e01040000ffff08cc028e").as_deref(),
            Some("latest")
        );
        assert_eq!(version("v-789c010000ffff00000001"), None);
        assert_eq!(version("v=1.0").as_deref(), Some("1.0"));
        for tag in [
            "t-789caa562a294acc2b2ec82f2a51b252ca28292950aa05040000ffff4f930768",
            r#"t={"transport":"http"}"#,
        ] {
            let node = decode([tag]).unwrap();
            assert_eq!(node.metadata.get("transport"), Some("http"));
        }
    }

    #[test]
    fn other_tags_are_not_taken_for_go_micros() {
        for tag in [
            "",
            "t",
            "e",
            "traefik.enable=true",
            "env=prod",
            "t-zz",
            "t-78",
            "e=x",
            "e-789c",
            "v1",
        ] {
            assert_eq!(decode([tag]), None, "{tag}");
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = pack('v', &"x".repeat(4 << 20));
        assert_eq!(decode([bomb.as_str()]).unwrap().version, None);
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks(text in ".*") {
            prop_assert_eq!(unpack(&pack('e', &text)), Some(('e', text)));
        }

        #[test]
        fn no_tag_makes_it_panic(tag in "[tev][-=][0-9a-fA-F{}\":]{0,60}|.*") {
            let _ = decode([tag.as_str()]);
        }
    }
}
