//! Programs as in terminals.

pub(crate) mod registry;

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// A killed server is missed when its TTL of 15 s has run out.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program whose output is read as it comes.
pub(crate) struct Program {
    pub(crate) process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    text: String,
}

impl Program {
    pub(crate) fn start(binary: &str, registry: &str, args: &[&str]) -> Self {
        let mut process = Command::new(binary)
            .args(args)
            .env("REGISTRY_URL", registry)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            process,
            lines,
            text: String::new(),
        }
    }

    /// Waits until the program says a line with all of these.
    pub(crate) async fn says(&mut self, parts: &[&str]) {
        let said = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.text += &line;
                self.text += "\n";
                if parts.iter().all(|part| line.contains(part)) {
                    return true;
                }
            }
            false
        };
        let said = timeout(PATIENCE, said).await;
        assert!(
            matches!(said, Ok(true)),
            "never said {parts:?}:\n{}",
            self.text
        );
    }

    /// Does what Ctrl-C does, and waits for the clean end.
    pub(crate) async fn interrupt(mut self) {
        let pid = self.process.id().unwrap();
        let kill = format!("kill -INT {pid}");
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .await
                .unwrap()
                .success()
        );
        let ended = timeout(PATIENCE, self.process.wait()).await;
        let ended = ended.expect("it ends when it is interrupted").unwrap();
        while let Some(line) = self.lines.next_line().await.unwrap() {
            self.text += &line;
            self.text += "\n";
        }
        assert!(ended.success(), "{ended}:\n{}", self.text);
    }
}
