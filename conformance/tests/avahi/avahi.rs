//! avahi, on a machine of the test.

use std::fs;
use std::path::PathBuf;
use std::process::{Command as Blocking, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::machine::Machine;
use crate::{Result, eventually};

/// A running avahi daemon, with a message bus of its own for its tools.
pub(crate) struct Avahi<'a> {
    machine: &'a Machine,
    directory: PathBuf,
    _processes: Vec<Process>,
}

/// A process that is asked to end with this.
pub(crate) struct Process(Child);

impl<'a> Avahi<'a> {
    pub(crate) async fn start(machine: &'a Machine) -> Result<Self> {
        let name = format!(
            "registry-avahi-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        );
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory)?;
        let mut this = Self {
            machine,
            directory,
            _processes: Vec::new(),
        };
        let bus = this.directory.join("bus");
        fs::write(
            this.directory.join("bus.conf"),
            bus_config(&bus.display().to_string()),
        )?;
        fs::write(this.directory.join("avahi.conf"), AVAHI_CONFIG)?;

        let config = format!(
            "--config-file={}",
            this.directory.join("bus.conf").display()
        );
        this.run("dbus-daemon", &["--nofork", "--nopidfile", &config])?;
        eventually(
            Duration::from_secs(5),
            "the bus",
            async || Ok(bus.exists()),
            |there| *there,
        )
        .await?;
        // `ip netns exec` gives it mounts of its own: its files of process ids are nobody else's.
        let avahi = "mount -t tmpfs none /run && mkdir /run/avahi-daemon && exec avahi-daemon --no-drop-root \
                     --no-rlimits --no-chroot --file \"$0\"";
        let config = this.directory.join("avahi.conf").display().to_string();
        this.run("sh", &["-c", avahi, &config])?;
        eventually(
            Duration::from_secs(10),
            "avahi",
            async || Ok(this.browse().await.is_ok()),
            |up| *up,
        )
        .await?;
        Ok(this)
    }

    /// The instances of our type that avahi can resolve, as `avahi-browse --parsable` prints them.
    pub(crate) async fn browse(&self) -> Result<String> {
        let mut browse = self.command("avahi-browse");
        browse.args(["--resolve", "--parsable", "--terminate", "_micro._tcp"]);
        let output = Command::from(browse).kill_on_drop(true).output().await?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr)
                .trim()
                .to_owned()
                .into());
        }
        let lines = String::from_utf8(output.stdout)?;
        let resolved: Vec<_> = lines.lines().filter(|line| line.starts_with('=')).collect();
        Ok(resolved.join("\n"))
    }

    /// Publishes an instance, until the process is dropped.
    pub(crate) fn publish(&self, label: &str, port: u16, txt: &[&str]) -> Result<Process> {
        let mut publish = self.command("avahi-publish");
        publish
            .args(["--service", label, "_micro._tcp", &port.to_string()])
            .args(txt);
        Process::start(publish)
    }

    fn run(&mut self, program: &str, arguments: &[&str]) -> Result {
        let mut command = self.command(program);
        command.args(arguments);
        self._processes.push(Process::start(command)?);
        Ok(())
    }

    fn command(&self, program: &str) -> Blocking {
        let mut command = self.machine.command(program);
        let bus = format!("unix:path={}", self.directory.join("bus").display());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", bus);
        command
    }
}

impl Drop for Avahi<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Process {
    fn start(mut command: Blocking) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self(Command::from(command).kill_on_drop(true).spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it published is taken back; if it does not end by itself, tokio kills it.
        if let Some(id) = self.0.id() {
            let _ = Blocking::new("kill")
                .args(["-TERM", &id.to_string()])
                .status();
        }
    }
}

/// Why avahi cannot run here.
pub(crate) fn missing() -> Option<String> {
    let programs = [
        "avahi-daemon",
        "avahi-browse",
        "avahi-publish",
        "dbus-daemon",
    ];
    let missing = programs.into_iter().find(|program| {
        let mut version = Blocking::new(program);
        version
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        version.status().is_err()
    })?;
    Some(format!(
        "{missing} is not installed (packages avahi-daemon, avahi-utils, dbus)"
    ))
}

const AVAHI_CONFIG: &str = "[server]\nhost-name=neighbour\nuse-ipv4=yes\nuse-ipv6=yes\nenable-dbus=yes\n\
    [publish]\npublish-workstation=no\npublish-hinfo=no\n[wide-area]\nenable-wide-area=no\n";

fn bus_config(socket: &str) -> String {
    format!(
        "<busconfig><type>session</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>\
         <policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>\
         <allow own=\"*\"/><allow user=\"*\"/></policy></busconfig>"
    )
}
