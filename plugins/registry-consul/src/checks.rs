//! The checks beside a registration: one that lapses with this process, one for a status, and those that were asked for.

use std::time::Duration;

use registry_core::{CheckKind, Error, ErrorKind, HealthCheck, Registration, Result, Status};
use serde::Serialize;

/// After this long without a heartbeat beyond its TTL the agent removes an instance: the least that Consul grants. Its
/// reaper looks every 30 s.
pub(crate) const REMOVED_AFTER: Duration = Duration::from_secs(60);

/// Consul runs no check more often.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// The checks that make an instance's maintenance, which only operators set and clear.
pub(crate) const SERVICE_MAINTENANCE: &str = "_service_maintenance";
pub(crate) const NODE_MAINTENANCE: &str = "_node_maintenance";

/// A check as the agent takes it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Definition {
    #[serde(rename = "CheckID")]
    pub(crate) id: String,
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<String>,
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    success_before_passing: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failures_before_critical: Option<u16>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_critical_service_after: Option<String>,
}

/// The id of the check that lapses when this process falls silent.
pub(crate) fn heartbeat_id(service_id: &str) -> String {
    format!("{service_id}:ttl")
}

/// The id of the check that shows other clients a status that the registrant chose.
pub(crate) fn status_id(service_id: &str) -> String {
    format!("{service_id}:status")
}

/// Whether a check of this id may have been made by this crate for this service.
pub(crate) fn is_ours(service_id: &str, check_id: &str) -> bool {
    let Some(rest) = check_id
        .strip_prefix(service_id)
        .and_then(|rest| rest.strip_prefix(':'))
    else {
        return false;
    };
    let native = |(kind, number): (&str, &str)| {
        ["http", "tcp", "grpc", "command"].contains(&kind) && number.parse::<usize>().is_ok()
    };
    rest == "ttl" || rest == "status" || rest.split_once(':').is_some_and(native)
}

/// What other clients see of a status that the registrant chose; nothing for `Up`.
pub(crate) fn shown_as(status: Status) -> Option<&'static str> {
    match status {
        Status::Up => None,
        Status::Warning => Some("warning"),
        // Nobody is to call it, and Consul has no other word for that.
        _ => Some("critical"),
    }
}

/// Every check of a registration.
pub(crate) fn definitions(
    registration: &Registration,
    service_id: &str,
    ttl: Duration,
    revision: u64,
) -> Result<Vec<Definition>> {
    let mut all = vec![Definition {
        id: heartbeat_id(service_id),
        name: "heartbeat of the registrant",
        // A watch of the checks alone learns from it that the record beside them changed.
        notes: Some(format!("revision {revision}")),
        ttl: Some(duration(ttl)),
        status: "passing",
        deregister_critical_service_after: Some(duration(REMOVED_AFTER)),
        ..Definition::default()
    }];
    if let Some(status) = shown_as(registration.instance.status) {
        all.push(Definition {
            id: status_id(service_id),
            name: "status that the registrant chose",
            // It has no life of its own: only registering again changes it. Ten years is as good as for ever.
            ttl: Some(duration(Duration::from_secs(10 * 365 * 86_400))),
            status,
            ..Definition::default()
        });
    }
    for (number, check) in registration.checks.iter().enumerate() {
        let definition = native(check, service_id, number)
            .map_err(|error| error.with("instance", registration.key()))?;
        all.push(definition);
    }
    Ok(all)
}

fn native(check: &HealthCheck, service_id: &str, number: usize) -> Result<Definition> {
    let refused = |why: &str| Err(Error::new(ErrorKind::Invalid, why));
    if check.interval < SHORTEST_INTERVAL {
        return refused(
            "the interval of a check is refused; allowed: at least 1 s, Consul runs none more often",
        );
    }
    let mut this = Definition {
        interval: Some(duration(check.interval)),
        timeout: Some(duration(check.timeout)),
        success_before_passing: Some(check.passes),
        failures_before_critical: Some(check.failures),
        // The registrant says that it serves; a check in its first interval knows nothing better.
        status: "passing",
        deregister_critical_service_after: check
            .remove_after
            .map(|after| duration(after.max(REMOVED_AFTER))),
        ..Definition::default()
    };
    // A check that changes its kind gets another id: the agent would run both under one.
    let kind = match &check.kind {
        CheckKind::Http(url) => {
            if !(url.starts_with("http://") || url.starts_with("https://")) {
                return refused(
                    "the URL of a check is refused; it begins with http:// or https://",
                );
            }
            this.http = Some(url.clone());
            this.name = "HTTP check";
            "http"
        }
        CheckKind::Tcp(address) => {
            this.tcp = Some(address.to_string());
            this.name = "TCP check";
            "tcp"
        }
        CheckKind::Grpc(address, service) => {
            this.grpc = Some(match service.as_str() {
                "" => address.to_string(),
                service => format!("{address}/{service}"),
            });
            this.name = "gRPC check";
            "grpc"
        }
        CheckKind::Command(command) => {
            if command.first().is_none_or(String::is_empty) {
                return refused("the command of a check is refused; it names a program");
            }
            this.args = Some(command.clone());
            this.name = "command check";
            "command"
        }
        _ => {
            let why = "this registry does not know this kind of check";
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
    };
    this.id = format!("{service_id}:{kind}:{number}");
    Ok(this)
}

/// A duration as Go reads it, in whole milliseconds and never shorter.
pub(crate) fn duration(time: Duration) -> String {
    format!("{}ms", time.as_micros().div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use registry_core::Instance;

    use super::*;

    fn registration(status: Status) -> Registration {
        Registration::new(Instance::new("s", "10.0.0.1:80").id("i").status(status)).unwrap()
    }

    #[test]
    fn a_registration_has_a_heartbeat_and_shows_its_status() {
        let all =
            definitions(&registration(Status::Up), "s:i", Duration::from_secs(15), 3).unwrap();
        let json = serde_json::to_value(&all).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "CheckID": "s:i:ttl", "Name": "heartbeat of the registrant", "Notes": "revision 3", "TTL": "15000ms",
                "Status": "passing", "DeregisterCriticalServiceAfter": "60000ms",
            }])
        );
        for (status, shown) in [
            (Status::Warning, "warning"),
            (Status::Draining, "critical"),
            (Status::Down, "critical"),
        ] {
            let all =
                definitions(&registration(status), "s:i", Duration::from_secs(15), 3).unwrap();
            assert_eq!((all[1].id.as_str(), all[1].status), ("s:i:status", shown));
            // The agent would remove an instance that says itself that it is down.
            assert_eq!(all[1].deregister_critical_service_after, None);
        }
    }

    #[test]
    fn a_native_check_carries_its_times_and_thresholds() {
        let check = HealthCheck::new(CheckKind::Grpc("10.0.0.1:1".parse().unwrap(), "x.Y".into()))
            .interval(Duration::from_secs(2))
            .timeout(Duration::from_micros(1500))
            .passes(3)
            .failures(2)
            .remove_after(Duration::from_secs(1));
        let json = serde_json::to_value(native(&check, "s:i", 0).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "CheckID": "s:i:grpc:0", "Name": "gRPC check", "GRPC": "10.0.0.1:1/x.Y",
                "Interval": "2000ms", "Timeout": "2ms", "SuccessBeforePassing": 3,
                "FailuresBeforeCritical": 2, "Status": "passing",
                "DeregisterCriticalServiceAfter": "60000ms",
            })
        );
    }

    #[test]
    fn what_the_agent_cannot_run_is_refused() {
        for (kind, interval) in [
            (CheckKind::Http("ftp://x".into()), 1000),
            (CheckKind::Command(vec![]), 1000),
            (CheckKind::Tcp("10.0.0.1:1".parse().unwrap()), 999),
        ] {
            let check = HealthCheck::new(kind).interval(Duration::from_millis(interval));
            assert_eq!(
                native(&check, "s:i", 0).unwrap_err().kind(),
                ErrorKind::Invalid
            );
        }
    }

    #[test]
    fn only_own_checks_are_ours() {
        for ours in ["s:i:ttl", "s:i:status", "s:i:http:0", "s:i:command:12"] {
            assert!(is_ours("s:i", ours), "{ours}");
        }
        for other in [
            "_service_maintenance:s:i",
            "s:i",
            "s:i2:ttl",
            "s:i:http:x",
            "s:i:custom",
            "serfHealth",
        ] {
            assert!(!is_ours("s:i", other), "{other}");
        }
    }
}
