//! The DNS labels that instances and their hosts go by.

use registry_core::InstanceKey;

/// Longest label. DNS allows 63 bytes; the rest is for the ` (2)` that mdns-sd appends to a name in conflict.
const MAX_BYTES: usize = 57;

/// The instance label of a key: the same in every process, and never shared by two keys but for a collision of
/// hashes.
///
/// It is `id@service` where that can stand as it is. Names are compared without case in DNS, mdns-sd announces names
/// with upper case only once and renames names with dots wrongly: all these get the hash.
pub(crate) fn instance(key: &InstanceKey) -> String {
    let plain = format!("{}@{}", key.id, key.service);
    let stands = plain.len() <= MAX_BYTES
        && plain.to_lowercase() == plain
        && !plain.contains(['.', '\\'])
        // The form of a hashed label is not for others.
        && !plain.starts_with('~');
    if stands {
        return plain;
    }
    let hash = format!("~{:016x}", fnv1a(plain.as_bytes()));
    let mut readable = String::from("~");
    for c in plain.chars().flat_map(char::to_lowercase) {
        let c = if c.is_alphanumeric() || c == '@' {
            c
        } else {
            '-'
        };
        if readable.len() + c.len_utf8() + hash.len() > MAX_BYTES {
            break;
        }
        readable.push(c);
    }
    readable + &hash
}

/// The host name of an instance that a process announces: nobody else's, since `session` is random; not shared by two
/// instances, since the goodbye of one would take the addresses of the other with it; and another one whenever the
/// instance moves, since what goes back to an earlier address within a second is no news to DNS caches.
pub(crate) fn host(session: u64, instance: &str, move_: u64) -> String {
    format!(
        "{session:016x}-{:016x}-{move_}.local.",
        fnv1a(instance.as_bytes())
    )
}

/// The part of a host name that tells who announces what, through all moves.
pub(crate) fn announcer(host: &str) -> &str {
    host.rsplit_once('-')
        .map_or(host, |(announcer, _)| announcer)
}

/// The label within a full instance name of our type, unescaped (RFC 6763, 4.3).
pub(crate) fn of_full_name(full_name: &str) -> Option<String> {
    let at = full_name.len().checked_sub(crate::SERVICE_TYPE.len() + 1)?;
    let (label, rest) = full_name.split_at_checked(at)?;
    let (dot, service_type) = rest.split_at(1);
    if dot != "." || !service_type.eq_ignore_ascii_case(crate::SERVICE_TYPE) {
        return None;
    }
    let mut plain = String::with_capacity(label.len());
    let mut escaped = false;
    for c in label.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            // A second label: this is no instance of the type itself.
            '.' if !escaped => return None,
            c => {
                plain.push(c);
                escaped = false;
            }
        }
    }
    (!plain.is_empty()).then_some(plain)
}

/// The name that mdns-sd made this one of, because it belongs to somebody else: it appends a number in parentheses,
/// which no label of ours ends with.
pub(crate) fn renamed_from(full_name: &str) -> Option<String> {
    let label = of_full_name(full_name)?;
    Some(format!(
        "{}.{}",
        without_number(&label)?,
        crate::SERVICE_TYPE
    ))
}

/// Whether `label` is what mdns-sd makes of `instance` when the name belongs to somebody else.
pub(crate) fn is_renamed(label: &str, instance: &str) -> bool {
    without_number(label) == Some(instance)
}

fn without_number(label: &str) -> Option<&str> {
    let (original, number) = label.strip_suffix(')')?.rsplit_once(" (")?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    digits.then_some(original)
}

/// FNV-1a, 64 bits: stable across releases and platforms, which std's hashers do not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use registry_core::{InstanceId, ServiceName};

    use super::*;

    fn key(service: &str, id: &str) -> InstanceKey {
        InstanceKey {
            service: ServiceName::try_from(service).unwrap(),
            id: InstanceId::try_from(id).unwrap(),
        }
    }

    #[test]
    fn short_names_stay_readable() {
        assert_eq!(instance(&key("greeter", "a-1")), "a-1@greeter");
        assert_eq!(
            instance(&key("greeter", "host:app 8080")),
            "host:app 8080@greeter"
        );
    }

    #[test]
    fn whatever_cannot_stand_is_cut_and_hashed() {
        // Pinned: processes of different releases must agree.
        assert_eq!(
            instance(&key("go.micro.srv", "A")),
            "~a@go-micro-srv~ab8add6234f7081f"
        );
        let (service, id) = ("s".repeat(128), "ü".repeat(64));
        assert!(instance(&key(&service, &id)).len() <= MAX_BYTES);
        assert_eq!(instance(&key("web", &"x".repeat(53))).len(), 57);
        assert!(instance(&key("web", &"x".repeat(54))).starts_with("~xxx"));
    }

    #[test]
    fn names_that_dns_takes_for_equal_differ() {
        let mut seen = HashMap::new();
        for (service, id) in [
            ("web", "a"),
            ("web", "A"),
            ("Web", "a"),
            ("WEB", "A"),
            ("web", "a.b"),
            ("web", "a-b"),
            ("web", "a\\b"),
            ("web.a", "b"),
            ("web", "Ω"),
            ("web", "ω"),
            ("web", "K"),
            ("web", "k"),
            ("web", "\u{212a}"),
            ("a", "x@b"),
            ("b", "x"),
            ("web", "~a"),
        ] {
            let label = instance(&key(service, id)).to_lowercase();
            assert_eq!(seen.insert(label, (service, id)), None, "{service} {id}");
        }
    }

    #[test]
    fn a_full_name_gives_its_label_back() {
        for (full, label) in [
            ("a@web._micro._tcp.local.", Some("a@web")),
            ("A\\.b\\\\c Ω._MICRO._tcp.Local.", Some("A.b\\c Ω")),
            ("_micro._tcp.local.", None),
            ("._micro._tcp.local.", None),
            ("a.b._micro._tcp.local.", None),
            ("a._http._tcp.local.", None),
            ("Ω", None),
            ("", None),
        ] {
            assert_eq!(of_full_name(full).as_deref(), label, "{full}");
        }
    }

    #[test]
    fn a_renamed_label_is_told_from_others() {
        assert!(is_renamed("a@web (2)", "a@web"));
        assert!(is_renamed("a@web (17)", "a@web"));
        for other in ["a@web", "a@web (x)", "b@web (2)", "a@web (2) "] {
            assert!(!is_renamed(other, "a@web"), "{other}");
        }
        let renamed = format!("a@web (3).{}", crate::SERVICE_TYPE);
        let original = format!("a@web.{}", crate::SERVICE_TYPE);
        assert_eq!(renamed_from(&renamed), Some(original.clone()));
        assert_eq!(renamed_from(&original), None);
    }

    proptest! {
        #[test]
        fn every_label_fits_and_has_one_case(service in "[a-zA-Z][a-zA-Z0-9._-]{0,40}[a-z]", id in "[^/\\p{Cc} ]{1,30}") {
            let Ok(id) = InstanceId::try_from(id) else { return Ok(()) };
            let label = instance(&InstanceKey { service: ServiceName::try_from(service).unwrap(), id });
            prop_assert!((1..=MAX_BYTES).contains(&label.len()));
            prop_assert_eq!(&label.to_lowercase(), &label);
            let full = format!("{label}.{}", crate::SERVICE_TYPE);
            prop_assert_eq!(of_full_name(&full), Some(label));
        }
    }
}
