//! A pick makes no system call: as many are made with a hundred thousand picks as with one.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Discovery, Instance, Memory, Outcome, OutlierEjection, PeakEwma, Registration, Registry,
    RoundRobin, Selector,
};

const PICKS: &str = "REGISTRY_TEST_PICKS";

#[test]
fn a_pick_makes_no_system_call() {
    if let Ok(picks) = std::env::var(PICKS) {
        return pick(picks.parse().unwrap());
    }
    let calls = |picks: usize| {
        let output = std::env::temp_dir().join(format!("picks-{}-{picks}", std::process::id()));
        let status = Command::new("strace")
            .args(["-f", "-o"])
            .arg(&output)
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_pick_makes_no_system_call",
                "--test-threads",
                "1",
            ])
            .env(PICKS, picks.to_string())
            .stdout(std::process::Stdio::null())
            .status()
            .ok()?;
        let text = std::fs::read_to_string(&output).ok()?;
        std::fs::remove_file(&output).ok()?;
        status.success().then(|| text.lines().count())
    };
    let (Some(few), Some(many)) = (calls(1), calls(100_000)) else {
        eprintln!("strace is missing or not allowed here: nothing was shown");
        return;
    };
    assert!(few > 100, "strace sees what the process does: {few}");
    assert!(
        many < few + 500,
        "{few} system calls with a pick, {many} with 100,000"
    );
}

fn pick(picks: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let selectors: [Box<dyn Selector>; 2] = [
            Box::new(RoundRobin::default()),
            Box::new(OutlierEjection::new(PeakEwma::default())),
        ];
        for selector in selectors {
            let memory = Arc::new(Memory::new());
            for id in ["a", "b", "c"] {
                let instance = Instance::new("service", "10.0.0.1:80").id(id);
                let registration = Registration::new(instance).unwrap();
                let registration = registration.ttl(Duration::from_secs(3600));
                memory.register(&registration).await.unwrap();
            }
            let discovery = Discovery::new(memory);
            let balancer = discovery.balancer("service", selector).await.unwrap();
            for _ in 0..picks {
                balancer.pick().unwrap().report(Outcome::Success);
            }
        }
    });
}
