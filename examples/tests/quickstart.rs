//! The story that the README sends everybody to first.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

const QUICKSTART: &str = env!("CARGO_BIN_EXE_quickstart");

#[tokio::test]
async fn no_call_fails_and_it_ends_within_15_s() {
    let story = Command::new(QUICKSTART).kill_on_drop(true).output();
    let output = timeout(Duration::from_secs(15), story)
        .await
        .expect("15 s are enough")
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}{errors}");

    assert!(
        text.contains("12 calls: 12 answered, 0 failed; 1 met a dead server first"),
        "{text}"
    );
    assert_eq!(
        text.matches("hello world, this is greeter-").count(),
        12,
        "{text}"
    );
    for server in ["greeter-1", "greeter-2", "greeter-3"] {
        assert!(
            text.contains(&format!("hello world, this is {server}")),
            "{text}"
        );
        assert!(about(&text, "gone", server), "{text}");
    }
    assert!(about(&text, "noticed", "greeter-2"), "{text}");
    let (_, last_calls) = text.split_once("shut down").unwrap();
    assert!(
        !last_calls.contains("this is greeter-1"),
        "one that drains is not chosen:\n{text}"
    );
    for pid in pids(&text) {
        assert!(!runs(pid), "server {pid} is still there");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_server_outlives_a_story_that_is_killed() {
    let mut story = Command::new(QUICKSTART)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(story.stdout.take().unwrap()).lines();
    let mut text = String::new();
    let first_call = async {
        while !text.contains("call 1") {
            text += &lines.next_line().await.unwrap().expect("the story goes on");
            text += "\n";
        }
    };
    timeout(Duration::from_secs(10), first_call)
        .await
        .expect("a call within 10 s");
    let pids = pids(&text);
    assert!(
        pids.len() == 3 && pids.iter().all(|pid| runs(*pid)),
        "{text}"
    );

    story.kill().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(
            Instant::now() < deadline,
            "servers outlive their parent: {pids:?}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a line says this of this server.
fn about(text: &str, what: &str, server: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace().skip(2);
        words.next() == Some(what) && words.next() == Some(server)
    })
}

/// The processes that the story says it started.
fn pids(text: &str) -> Vec<u32> {
    let pids = text.lines().filter_map(|line| line.rsplit_once("process "));
    pids.map(|(_, pid)| pid.parse().unwrap()).collect()
}

/// Whether this process is there and is ours: one that has ended has no command line.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|command| command.starts_with(QUICKSTART))
}
