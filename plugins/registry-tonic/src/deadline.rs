//! The deadline of a call, as `grpc-timeout` says it.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

const HEADER: &str = "grpc-timeout";
/// The most that 8 digits hold.
const MOST: u128 = 99_999_999;
/// So far away that it never comes, and within what clocks and timers can hold.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// When a call with these headers is to end, at the latest after `limit`.
pub(crate) fn of(headers: &HeaderMap, limit: Option<Duration>) -> Option<Instant> {
    let asked = headers
        .get(HEADER)
        .and_then(|value| parse(value.to_str().ok()?));
    let time = match (asked, limit) {
        (Some(asked), Some(limit)) => asked.min(limit),
        (asked, limit) => asked.or(limit)?,
    };
    Some(after(time))
}

/// The time after this duration, whatever a caller asks for.
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration.min(NEVER)
}

/// Says in the headers how much time is left.
pub(crate) fn write(headers: &mut HeaderMap, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    headers.insert(HEADER, format(left));
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = plain.then(|| digits.parse().ok()).flatten()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// In the finest unit that has room for it.
fn format(time: Duration) -> HeaderValue {
    let units = [(time.as_micros(), 'u'), (time.as_millis(), 'm')];
    let fits = units.into_iter().find(|(number, _)| *number <= MOST);
    let (number, unit) = fits.unwrap_or((u128::from(time.as_secs()).min(MOST), 'S'));
    // Never an error: digits and a letter.
    HeaderValue::try_from(format!("{number}{unit}"))
        .unwrap_or_else(|_| HeaderValue::from_static("0u"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_as_grpc_does() {
        for (text, time) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("20m", Duration::from_millis(20)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(parse(text), Some(time), "{text}");
            assert_eq!(parse(format(time).to_str().unwrap()), Some(time), "{text}");
        }
        for bad in ["", "S", "1", "-1S", "+1S", "123456789S", "1 S", "1x", "1ü"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_sooner_of_the_calls_and_the_channels_limit_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(of(&headers, None), None);
        headers.insert(HEADER, HeaderValue::from_static("5S"));
        let now = Instant::now();
        let within =
            |limit: Option<u64>| of(&headers, limit.map(Duration::from_secs)).unwrap() - now;
        assert!(within(Some(1)) < Duration::from_secs(2));
        assert!(within(Some(60)) < Duration::from_secs(6));
        assert!(within(None) > Duration::from_secs(4));
    }
}
