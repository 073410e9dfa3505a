//! Machines and cables, of network namespaces and virtual Ethernet.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::{Result, eventually};

/// A network namespace that is removed with this. It has a loopback and no more.
pub(crate) struct Machine(String);

impl Machine {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let name = format!("{name}{}", std::process::id());
        run(&["netns", "add", &name])?;
        let this = Self(name);
        this.ip(&["link", "set", "lo", "up"])?;
        Ok(this)
    }

    /// Runs `ip` on the machine.
    pub(crate) fn ip(&self, arguments: &[&str]) -> Result<String> {
        run(&[&["-netns", &self.0], arguments].concat())
    }

    /// A command that will run on the machine, under the process id that it is started with.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = run(&["netns", "delete", &self.0]);
    }
}

/// Joins two machines by a virtual cable, which goes with them, and gives its ends addresses. `number` tells two cables
/// apart.
pub(crate) async fn join(a: &Machine, of_a: &str, b: &Machine, of_b: &str, number: u8) -> Result {
    let (end_a, end_b) = (end(a, number), end(b, number));
    let ends = [
        "link", "add", &end_a, "type", "veth", "peer", "name", &end_b, "netns", &b.0,
    ];
    a.ip(&ends)?;
    for (machine, end, address) in [(a, &end_a, of_a), (b, &end_b, of_b)] {
        machine.ip(&["address", "add", address, "dev", end])?;
        machine.ip(&["link", "set", end, "up"])?;
    }
    for (machine, end) in [(a, end_a), (b, end_b)] {
        // The kernel tells of a carrier up to 1 s later, and mdns-sd looks again after 5 s.
        let state = async || machine.ip(&["link", "show", "dev", &end]);
        let is_up = |state: &String| state.contains("state UP");
        eventually(Duration::from_secs(5), "the cable", state, is_up).await?;
    }
    Ok(())
}

/// The name of the interface that a cable makes in a machine.
pub(crate) fn end(machine: &Machine, number: u8) -> String {
    format!(
        "{}{number}",
        &machine.0[machine.0.len().saturating_sub(12)..]
    )
}

/// Why there can be no machines here.
pub(crate) fn missing() -> Option<String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let probe = || match Machine::new("rprobe") {
        Ok(_) => None,
        Err(error) => Some(format!("network namespaces cannot be made: {error}")),
    };
    MISSING.get_or_init(probe).clone()
}

fn run(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), error.trim()).into())
}
