//! Times and memory, and how they are printed.

use std::time::Duration;

/// Times of the same thing.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The time that this share of them does not exceed.
    fn at(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((last as f64 * share).round() as usize)
            .copied()
            .unwrap_or_default()
    }
}

/// Prints ours beside theirs.
pub(crate) fn compare(what: &str, ours: &Times, bare: &Times) {
    println!("{what} ({} times each)", ours.0.len());
    for (name, share) in [("median", 0.5), ("p99", 0.99)] {
        let (ours, bare) = (ours.at(share), bare.at(share));
        println!(
            "  {name:<8} ours {:>9.3} ms   bare {:>9.3} ms   ratio {:.2}",
            milliseconds(ours),
            milliseconds(bare),
            ours.as_secs_f64() / bare.as_secs_f64()
        );
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// How many TCP connections of this process, and of all others, lead to this port of the loopback.
pub(crate) fn connections(port: u16) -> std::io::Result<usize> {
    const ESTABLISHED: &str = "01";
    let wanted = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let to_port = table.lines().skip(1).filter(|line| {
        let mut fields = line.split_whitespace().skip(2);
        let remote = fields.next().unwrap_or_default();
        remote.ends_with(&wanted) && fields.next() == Some(ESTABLISHED)
    });
    Ok(to_port.count())
}

/// How far the memory of this process has grown at most since it was started, in KiB: the peak of what is resident,
/// less what was resident at first.
pub(crate) struct Growth(u64);

impl Growth {
    pub(crate) fn from_here() -> std::io::Result<Self> {
        Ok(Self(status("VmRSS:")?))
    }

    pub(crate) fn peak(&self) -> std::io::Result<u64> {
        Ok(status("VmHWM:")?.saturating_sub(self.0))
    }
}

fn status(field: &str) -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| std::io::Error::other(format!("no {field}")))
}
