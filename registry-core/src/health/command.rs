//! Runs a command as a check: without a shell, in a process group of its own.

use std::process::Stdio;

use tokio::process::{Child, Command};

use super::Report;

/// Runs it to its end. Dropped before, it ends the command and all that it has started.
pub(super) async fn run(command: &[String]) -> Report {
    let [program, arguments @ ..] = command else {
        return Err("there is no command".to_owned());
    };
    let mut running = Command::new(program);
    running
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    #[cfg(unix)]
    running.process_group(0);
    let child = running.spawn();
    let mut running = Running(child.map_err(|error| format!("{program} cannot be run: {error}"))?);
    match running.0.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program}: {status}")),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A child that was waited for has no id any more, and its group may be another one's by now.
        #[cfg(unix)]
        if let Some(group) = self.0.id()
            && let Some(group) = rustix::process::Pid::from_raw(group as i32)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
