//! What is written into DNS-SD records, and how it is read.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use mdns_sd::{ResolvedService, ScopedIp, ServiceInfo};
use registry_core::{Address, Error, ErrorKind, Host, Instance, InstanceId, Result};

use crate::txt::{self, Fields, Undecodable};
use crate::{SERVICE_TYPE, label};

/// A record that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) instance: Arc<Instance>,
    /// Who announced it, and the count of what was published: of one announcer, the higher count is the later state.
    pub(crate) announcer: String,
    pub(crate) revision: u64,
    /// The record has the name that we would give the instance; another's record of the same instance yields to it.
    pub(crate) canonical: bool,
}

/// The record of an instance.
///
/// # Errors
/// `Invalid`, naming the limit, for an instance that does not fit.
pub(crate) fn encode(instance: &Instance, host: &str, revision: u64) -> Result<ServiceInfo> {
    let refused = |message: &str| {
        Err(Error::new(ErrorKind::Invalid, message).with("instance", instance.key()))
    };
    let mut ips = Vec::with_capacity(1 + instance.alternates.len());
    for address in [&instance.address].into_iter().chain(&instance.alternates) {
        match address.host() {
            Host::V4(ip) => ips.push(IpAddr::from(*ip)),
            Host::V6(ip, _) => ips.push(IpAddr::from(*ip)),
            Host::Name(name) => {
                return refused(&format!(
                    "mDNS announces IP addresses, and {name:?} is a name; resolve it, or see Address::advertise"
                ));
            }
        }
        if address.port() != instance.address.port() {
            return refused("mDNS announces one port for all addresses of an instance");
        }
    }
    let txt = txt::write(instance, &ips, revision)?;
    let label = label::instance(&instance.key());
    let port = instance.address.port();
    ServiceInfo::new(SERVICE_TYPE, &label, host, &ips[..], port, txt).map_err(|error| {
        Error::new(ErrorKind::Invalid, "mDNS refuses the record")
            .with("instance", instance.key())
            .because(error)
    })
}

/// The instance that a record describes.
pub(crate) fn decode(record: &ResolvedService) -> Result<Decoded, Undecodable> {
    let label = label::of_full_name(&record.fullname)
        .ok_or_else(|| Undecodable("its name is not one of the type".to_owned()))?;
    let fields = Fields::read(&record.txt_properties)?;
    let endpoints = fields.endpoints();
    let service = fields
        .service
        .ok_or_else(|| Undecodable("its TXT record has no key \"service\"".to_owned()))?;
    let id = fields.id.map_or_else(|| label.parse::<InstanceId>(), Ok)?;
    let mut addresses = addresses(record, fields.order.as_deref()).into_iter();
    let address = addresses
        .next()
        .ok_or_else(|| Undecodable("it has no address to connect to".to_owned()))?;

    let mut instance = Instance::new(service, address)
        .id(id)
        .weight(fields.weight)
        .status(fields.status)
        .metadata(fields.metadata)
        .build()?;
    instance.version = fields.version;
    instance.zone = fields.zone;
    instance.alternates = addresses.collect();
    instance.endpoints = endpoints;

    let own = label::instance(&instance.key());
    if label::is_renamed(&label, &own) {
        return Err(Undecodable("its name lost a conflict".to_owned()));
    }
    Ok(Decoded {
        canonical: label.to_lowercase() == own,
        instance: Arc::new(instance),
        announcer: label::announcer(&record.host).to_lowercase(),
        revision: fields.revision,
    })
}

/// The addresses that were received, in the order that the publisher gave; without one, the likeliest to work first.
///
/// An address in that order that was not received belongs to another link.
fn addresses(record: &ResolvedService, order: Option<&[IpAddr]>) -> Vec<Address> {
    let mut received: Vec<_> = record
        .addresses
        .iter()
        .map(|ip| (rank(ip), host(ip)))
        .collect();
    received.sort_unstable();
    received.dedup();
    let hosts: Vec<_> = match order {
        None => received.into_iter().map(|(_, host)| host).collect(),
        Some(order) => {
            let at = |ip: &IpAddr| {
                let received = received.iter().map(|(_, host)| host);
                received
                    .filter(|host| is_ip(host, *ip))
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let repeated = |i: usize| order[..i].contains(&order[i]);
            let once = (0..order.len()).filter(|i| !repeated(*i));
            once.flat_map(|i| at(&order[i])).collect()
        }
    };
    let port = record.port;
    let addresses = hosts.into_iter().map(|host| match host {
        Host::V4(ip) => Address::try_from(SocketAddr::from((ip, port))),
        Host::V6(ip, scope) => {
            Address::try_from(SocketAddr::from(SocketAddrV6::new(ip, port, 0, scope)))
        }
        Host::Name(name) => Address::try_from((&*name, port)),
    });
    addresses.filter_map(Result::ok).collect()
}

fn is_ip(host: &Host, ip: IpAddr) -> bool {
    match host {
        Host::V4(v4) => ip == *v4,
        Host::V6(v6, _) => ip == *v6,
        Host::Name(_) => false,
    }
}

fn host(ip: &ScopedIp) -> Host {
    match ip {
        ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
            Host::V6(*v6.addr(), v6.scope_id().index)
        }
        ip => match ip.to_ip_addr() {
            IpAddr::V4(v4) => Host::V4(v4),
            IpAddr::V6(v6) => Host::V6(v6, 0),
        },
    }
}

/// Loopback is received from this machine alone and works without a network; a link-local address needs its scope,
/// which not every program passes on.
fn rank(ip: &ScopedIp) -> u8 {
    match ip.to_ip_addr() {
        IpAddr::V4(v4) if v4.is_loopback() => 0,
        IpAddr::V6(v6) if v6.is_loopback() => 1,
        IpAddr::V4(v4) if !v4.is_link_local() => 2,
        IpAddr::V6(v6) if !v6.is_unicast_link_local() => 3,
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mdns_sd::{TxtProperties, TxtProperty};
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;
    use registry_core::{Endpoint, Metadata, Status};

    use super::*;
    use crate::txt::{MAX_PAIR, MAX_RECORD};

    const HOST: &str = "0000-0000-7.local.";

    fn builder() -> registry_core::InstanceBuilder {
        Instance::new("web", "10.0.0.7:8080").id("a")
    }

    fn round_trip(instance: &Instance) -> Decoded {
        decode(&encode(instance, HOST, 7).unwrap().as_resolved_service()).unwrap()
    }

    /// A record that others wrote.
    fn foreign(label: &str, ips: &[&str], port: u16, txt: &[&str]) -> ResolvedService {
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let txt: Vec<TxtProperty> = txt
            .iter()
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) => (key, value).into(),
                None => (*pair).into(),
            })
            .collect();
        ServiceInfo::new(SERVICE_TYPE, label, "printer.local.", &ips[..], port, txt)
            .unwrap()
            .as_resolved_service()
    }

    fn read(txt: &[&str]) -> Result<Decoded, Undecodable> {
        decode(&foreign("Printer 7", &["10.0.0.9"], 80, txt))
    }

    fn refused(builder: registry_core::InstanceBuilder, says: &str) {
        let instance = builder.build().unwrap();
        let error = encode(&instance, HOST, 7).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.to_string().contains("(instance web/"), "{error}");
    }

    #[test]
    fn the_text_on_the_wire_is_pinned() {
        let mut pairs = Metadata::new();
        pairs.insert("timeout", "5s").unwrap();
        let instance = builder()
            .version("1.2")
            .zone("eu-1")
            .weight(7)
            .status(Status::Draining)
            .alternate("[fd00::7]:8080")
            .meta("Build", "a=b")
            .endpoint(Endpoint::new("Hello".try_into().unwrap()).with_metadata(pairs))
            .build()
            .unwrap();
        let info = encode(&instance, HOST, 7).unwrap();
        let txt: Vec<_> = info
            .get_properties()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            txt,
            [
                "txtvers=1",
                "service=web",
                "id=a",
                "rev=7",
                "version=1.2",
                "zone=eu-1",
                "weight=7",
                "status=draining",
                "addr=10.0.0.7,fd00::7",
                "m.Build=a=b",
                "e0=Hello",
                "e0.timeout=5s",
            ]
        );
        assert_eq!(info.get_fullname(), "a@web._micro._tcp.local.");
        assert_eq!((info.get_hostname(), info.get_port()), (HOST, 8080));
        let decoded = round_trip(&instance);
        assert_eq!(*decoded.instance, instance);
        assert!(decoded.canonical);
        assert_eq!(
            (decoded.announcer.as_str(), decoded.revision),
            ("0000-0000", 7)
        );
    }

    #[test]
    fn what_mdns_cannot_announce_is_refused_with_the_limit() {
        refused(builder().address("web.internal:8080"), "Address::advertise");
        refused(builder().alternate("10.0.0.8:9090"), "one port");
        refused(
            builder().meta("Key", "1").meta("key", "2"),
            "differ by case alone",
        );
        refused(builder().meta("k", "v".repeat(252)), "255 bytes");
        assert_eq!(MAX_PAIR, 252);
        let fits = builder()
            .meta("k", "v".repeat(MAX_PAIR - 1))
            .build()
            .unwrap();
        assert_eq!(*round_trip(&fits).instance, fits);
    }

    #[test]
    fn the_record_has_a_limit_that_the_revision_does_not_move() {
        let filled = |last: usize| {
            let filler = (0..4).fold(builder(), |builder, i| {
                builder.meta(format!("k{i}"), "v".repeat(240))
            });
            filler.meta("last", "v".repeat(last))
        };
        let free = (0..MAX_PAIR - 4)
            .rfind(|last| encode(&filled(*last).build().unwrap(), HOST, u64::MAX).is_ok())
            .unwrap();
        let largest = filled(free).build().unwrap();
        let info = encode(&largest, HOST, u64::MAX).unwrap();
        let bytes: usize = info
            .get_properties()
            .iter()
            .map(|pair| 1 + pair.to_string().len())
            .sum();
        assert_eq!(bytes, MAX_RECORD);
        assert_eq!(*round_trip(&largest).instance, largest);
        refused(filled(free + 1), "1200 bytes");
        refused(
            filled(free).alternate("10.0.0.8:8080"),
            "28 of them for each alternate",
        );
    }

    #[test]
    fn others_need_to_give_no_more_than_the_service() {
        let decoded = read(&["service=web", "color", "PATH=/x"]).unwrap();
        let expected = Instance::new("web", "10.0.0.9:80")
            .id("Printer 7")
            .build()
            .unwrap();
        assert_eq!(*decoded.instance, expected);
        assert!(!decoded.canonical);
        let decoded = read(&[
            "SERVICE=web",
            "Id=b",
            "M.Color=blue",
            "E2=x",
            "e2.K=v",
            "e3.k=orphan",
            "m.flag",
        ])
        .unwrap();
        assert_eq!(decoded.instance.id.as_str(), "b");
        assert_eq!(decoded.instance.metadata.get("Color"), Some("blue"));
        assert_eq!(decoded.instance.metadata.get("flag"), Some(""));
        assert_eq!(decoded.instance.endpoints.len(), 1);
        assert_eq!(decoded.instance.endpoints[0].metadata.get("K"), Some("v"));
    }

    #[test]
    fn what_makes_no_sense_is_told_apart() {
        for txt in [
            &["id=a"][..],
            &["service="],
            &["service=a b"],
            &["service=web", "id=a/b"],
            &["service=web", "weight=-1"],
            &["service=web", "weight=65536"],
            &["service=web", "addr=10.0.0.300"],
            &["service=web", "txtvers=2"],
            &["service=web", "rev=x"],
            &["service=web", "version="],
            &["service=web", "m.=x"],
            &["service=web", "addr=10.0.0.8"],
        ] {
            assert!(read(txt).is_err(), "{txt:?}");
        }
        assert!(decode(&foreign("x", &["10.0.0.9"], 0, &["service=web"])).is_err());
        assert!(
            decode(&foreign(
                "x",
                &["0.0.0.0", "224.0.0.1"],
                80,
                &["service=web"]
            ))
            .is_err()
        );
        assert!(
            decode(&foreign(
                "a@web (2)",
                &["10.0.0.9"],
                80,
                &["service=web", "id=a"]
            ))
            .is_err()
        );
        assert!(
            decode(&foreign(
                "b@web (2)",
                &["10.0.0.9"],
                80,
                &["service=web", "id=a"]
            ))
            .is_ok()
        );
    }

    #[test]
    fn an_address_counts_once_however_often_it_is_said() {
        let order = "addr=10.0.0.9,10.0.0.8,10.0.0.9,10.0.0.8";
        let record = foreign("x", &["10.0.0.8", "10.0.0.9"], 80, &["service=web", order]);
        let instance = decode(&record).unwrap().instance;
        assert_eq!(instance.address.as_str(), "10.0.0.9:80");
        let alternates: Vec<_> = instance.alternates.iter().map(Address::as_str).collect();
        assert_eq!(alternates, ["10.0.0.8:80"]);
    }

    #[test]
    fn the_likeliest_address_comes_first_and_always_the_same() {
        let ips = [
            "fe80::7",
            "169.254.0.7",
            "fd00::7",
            "10.0.0.9",
            "10.0.0.10",
            "::1",
            "127.0.0.1",
        ];
        let record = foreign("x", &ips, 80, &["service=web"]);
        let instance = decode(&record).unwrap().instance;
        assert_eq!(instance.address.as_str(), "127.0.0.1:80");
        let alternates: Vec<_> = instance.alternates.iter().map(Address::as_str).collect();
        assert_eq!(
            alternates,
            [
                "[::1]:80",
                "10.0.0.9:80",
                "10.0.0.10:80",
                "[fd00::7]:80",
                "169.254.0.7:80",
                "[fe80::7]:80"
            ]
        );
    }

    fn text() -> impl Strategy<Value = String> {
        "[^\\p{Cc}/ ][^\\p{Cc}/]{0,20}[^\\p{Cc}/ ]".prop_filter("ends", |text| text.trim() == text)
    }

    fn id() -> impl Strategy<Value = InstanceId> {
        text().prop_filter_map("an id", |text| text.parse().ok())
    }

    fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
        btree_map("[!-<>-@\\[-~]{1,10}", "[^\0]{0,20}", 0..4)
    }

    proptest! {
        #[test]
        fn every_instance_that_is_taken_comes_back_as_it_was(
            service in "[a-zA-Z][a-zA-Z0-9._-]{0,30}[a-z0-9]",
            (id, version, zone) in (id(), option::of(text()), option::of(text())),
            ips in vec(any::<[u8; 4]>(), 1..4),
            port in 1..u16::MAX,
            (weight, status) in (any::<u16>(), 0..Status::ALL.len()),
            metadata in pairs(),
            endpoints in vec((text(), pairs()), 0..3),
        ) {
            let address = |ip: &[u8; 4]| Address::try_from(std::net::SocketAddr::from((*ip, port)));
            let Ok(addresses) = ips.iter().map(address).collect::<Result<Vec<_>>>() else { return Ok(()) };
            let mut builder = Instance::new(&*service, &addresses[0]).id(id).weight(weight).status(Status::ALL[status]);
            for alternate in &addresses[1..] {
                builder = builder.alternate(alternate);
            }
            for (key, value) in &metadata {
                builder = builder.meta(key, value);
            }
            for (name, pairs) in &endpoints {
                let mut metadata = Metadata::new();
                for (key, value) in pairs {
                    metadata.insert(key, value).unwrap();
                }
                let endpoint = Endpoint::new(name.as_str().try_into().unwrap()).with_metadata(metadata);
                builder = builder.endpoint(endpoint);
            }
            let mut instance = builder.build().unwrap();
            instance.version = version.map(|text| text.parse().unwrap());
            instance.zone = zone.map(|text| text.parse().unwrap());
            if let Ok(info) = encode(&instance, HOST, 1) {
                prop_assert_eq!(&*decode(&info.as_resolved_service()).unwrap().instance, &instance);
            }
        }

        #[test]
        fn no_record_makes_it_panic(
            full_name in ".{0,40}", key in ".{0,12}", value in any::<Vec<u8>>(), port in any::<u16>(), ip in any::<[u8; 4]>(),
        ) {
            let mut record = foreign("x", &["10.0.0.9"], port, &["service=web"]);
            record.addresses = [ScopedIp::from(IpAddr::from(ip))].into();
            if !full_name.is_empty() {
                record.fullname = format!("{full_name}.{SERVICE_TYPE}");
            }
            let value = &value[..value.len().min(255)];
            let mut bytes = b"\x0bservice=web".to_vec();
            let pair = [key.as_bytes(), b"=", value].concat();
            bytes.push(u8::try_from(pair.len().min(255)).unwrap());
            bytes.extend(pair);
            record.txt_properties = TxtProperties::from(&bytes[..]);
            let _ = decode(&record);
        }
    }
}
