//! What a server answers, read in one pass.
//!
//! Every field may have any type: a number may be text, a list of one may be the one, and what makes no sense counts as
//! absent. So one odd record never hides the others; only what is not JSON at all is an error.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One instance as the server tells it.
#[derive(Debug, Default)]
pub(crate) struct Record<'a> {
    pub(crate) instance_id: Option<Cow<'a, str>>,
    pub(crate) app: Option<Cow<'a, str>>,
    pub(crate) host_name: Option<Cow<'a, str>>,
    pub(crate) ip_addr: Option<Cow<'a, str>>,
    pub(crate) status: Option<Cow<'a, str>>,
    pub(crate) overridden: Option<Cow<'a, str>>,
    pub(crate) port: Port,
    pub(crate) secure_port: Port,
    pub(crate) vip: Option<Cow<'a, str>>,
    pub(crate) metadata: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The zone that the infrastructure tells, where it does.
    pub(crate) zone: Option<Cow<'a, str>>,
    /// When the server last changed it, by its clock, in milliseconds.
    pub(crate) updated: i64,
    /// When the registrant last changed it, by its clock, in milliseconds.
    pub(crate) dirty: i64,
    /// In a delta: `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) action: Option<Cow<'a, str>>,
}

/// A port, and whether it is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: Option<i64>,
    pub(crate) enabled: Option<bool>,
}

/// What an answer says beside its records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// How many instances have which status, as the server counts.
    pub(crate) hash: Option<String>,
    /// Whether it has the shape of an answer of Eureka at all.
    pub(crate) recognised: bool,
}

/// Reads an answer and gives each of its records to `each`.
pub(crate) fn read(body: &[u8], each: &mut dyn FnMut(Record<'_>)) -> serde_json::Result<Head> {
    let mut head = Head::default();
    let mut json = serde_json::Deserializer::from_slice(body);
    json.deserialize_any(Answer {
        head: &mut head,
        each,
    })?;
    json.end()?;
    Ok(head)
}

/// Visits nothing where something else was expected.
macro_rules! ignore_scalars {
    () => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any JSON")
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
    };
}

/// Gives itself as the seed of a value.
macro_rules! seed {
    ($($name:ident)+) => {
        $(impl<'de> DeserializeSeed<'de> for $name<'_> {
            type Value = ();
            fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
                json.deserialize_any(self)
            }
        })+
    };
}

/// The whole answer: a registry, an application, or one instance.
struct Answer<'f> {
    head: &'f mut Head,
    each: &'f mut dyn FnMut(Record<'_>),
}

impl<'de> Visitor<'de> for Answer<'_> {
    type Value = ();
    ignore_scalars!();

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        drain(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Text)? {
            let known = matches!(
                key.as_deref(),
                Some("applications" | "application" | "instance")
            );
            self.head.recognised |= known;
            match key.as_deref() {
                Some("applications") => map.next_value_seed(Applications {
                    head: &mut *self.head,
                    each: &mut *self.each,
                })?,
                Some("application") => {
                    map.next_value_seed(OneOrMany(Level::Application, &mut *self.each))?
                }
                Some("instance") => {
                    map.next_value_seed(OneOrMany(Level::Instance, &mut *self.each))?
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Applications<'f> {
    head: &'f mut Head,
    each: &'f mut dyn FnMut(Record<'_>),
}

impl<'de> Visitor<'de> for Applications<'_> {
    type Value = ();
    ignore_scalars!();

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        drain(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Text)? {
            match key.as_deref() {
                Some("apps__hashcode") => {
                    self.head.hash = map.next_value_seed(Text)?.map(Cow::into_owned);
                }
                Some("application") => {
                    map.next_value_seed(OneOrMany(Level::Application, &mut *self.each))?
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Level {
    Application,
    Instance,
}

/// A list, or the one that would be in it.
struct OneOrMany<'f>(Level, &'f mut dyn FnMut(Record<'_>));

seed!(Applications OneOrMany);

impl<'de> Visitor<'de> for OneOrMany<'_> {
    type Value = ();
    ignore_scalars!();

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq
            .next_element_seed(OneOrMany(self.0, &mut *self.1))?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.0 {
            Level::Instance => (self.1)(record(map)?),
            Level::Application => {
                while let Some(key) = map.next_key_seed(Text)? {
                    match key.as_deref() {
                        Some("instance") => {
                            map.next_value_seed(OneOrMany(Level::Instance, &mut *self.1))?;
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
            }
        }
        Ok(())
    }
}

fn record<'de, A: MapAccess<'de>>(mut map: A) -> Result<Record<'de>, A::Error> {
    let mut record = Record::default();
    while let Some(key) = map.next_key_seed(Text)? {
        let text = match key.as_deref().unwrap_or_default() {
            "instanceId" => &mut record.instance_id,
            "app" => &mut record.app,
            "hostName" => &mut record.host_name,
            "ipAddr" => &mut record.ip_addr,
            "status" => &mut record.status,
            "overriddenStatus" | "overriddenstatus" => &mut record.overridden,
            "vipAddress" => &mut record.vip,
            "actionType" => &mut record.action,
            "port" => {
                record.port = map.next_value_seed(PortSeed)?;
                continue;
            }
            "securePort" => {
                record.secure_port = map.next_value_seed(PortSeed)?;
                continue;
            }
            "metadata" => {
                record.metadata = map.next_value_seed(Pairs)?;
                continue;
            }
            "dataCenterInfo" => {
                record.zone = map.next_value_seed(DataCenter)?;
                continue;
            }
            "lastUpdatedTimestamp" => {
                record.updated = number(map.next_value_seed(Text)?).unwrap_or_default();
                continue;
            }
            "lastDirtyTimestamp" => {
                record.dirty = number(map.next_value_seed(Text)?).unwrap_or_default();
                continue;
            }
            _ => {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
        };
        *text = map.next_value_seed(Text)?;
    }
    Ok(record)
}

fn number(text: Option<Cow<'_, str>>) -> Option<i64> {
    text?.trim().parse().ok()
}

fn drain<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// A scalar as text; `None` for `null`, lists and objects.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<Cow<'de, str>>;
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(if value { "true" } else { "false" })))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        drain(seq).map(|()| None)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// `{"$": 8080, "@enabled": "true"}`, or a port alone.
struct PortSeed;

impl<'de> DeserializeSeed<'de> for PortSeed {
    type Value = Port;
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Port, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PortSeed {
    type Value = Port;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Port, E> {
        Ok(Port::default())
    }
    fn visit_i64<E>(self, number: i64) -> Result<Port, E> {
        Ok(alone(Some(number)))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Port, E> {
        Ok(alone(i64::try_from(number).ok()))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Port, E> {
        Ok(Port::default())
    }
    fn visit_str<E>(self, text: &str) -> Result<Port, E> {
        Ok(alone(text.trim().parse().ok()))
    }
    fn visit_unit<E>(self) -> Result<Port, E> {
        Ok(Port::default())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Port, A::Error> {
        drain(seq).map(|()| Port::default())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Port, A::Error> {
        let mut port = Port::default();
        while let Some(key) = map.next_key_seed(Text)? {
            let value = map.next_value_seed(Text)?;
            match key.as_deref() {
                Some("$") => port.number = number(value),
                Some("@enabled") => {
                    port.enabled = value.map(|value| value.eq_ignore_ascii_case("true"));
                }
                _ => {}
            }
        }
        Ok(port)
    }
}

const fn alone(number: Option<i64>) -> Port {
    Port {
        number,
        enabled: None,
    }
}

/// The pairs of an object whose values are scalars.
struct Pairs;

impl<'de> DeserializeSeed<'de> for Pairs {
    type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;
    ignore_scalars!();

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        drain(seq).map(|()| Vec::new())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key_seed(Text)? {
            let value = map.next_value_seed(Text)?;
            // "@class" names the Java type of the map.
            if let (Some(key), Some(value)) = (key, value)
                && key != "@class"
            {
                pairs.push((key, value));
            }
        }
        Ok(pairs)
    }
}

/// The availability zone that Amazon's metadata names.
struct DataCenter;

impl<'de> DeserializeSeed<'de> for DataCenter {
    type Value = Option<Cow<'de, str>>;
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DataCenter {
    type Value = Option<Cow<'de, str>>;
    ignore_scalars!();

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        drain(seq).map(|()| None)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut zone = None;
        while let Some(key) = map.next_key_seed(Text)? {
            if key.as_deref() == Some("metadata") {
                let mut pairs = map.next_value_seed(Pairs)?.into_iter();
                zone = pairs
                    .find(|(key, _)| key == "availability-zone")
                    .map(|(_, zone)| zone);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(zone)
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
