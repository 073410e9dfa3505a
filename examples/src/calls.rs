//! Calls of a client, one after the other.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use registry_plugins::{ServiceName, View};
use tokio::time::{MissedTickBehavior, interval};

use crate::args::Args;
use crate::console::{Console, Narrator};
use crate::signal;

/// Whom to call, and how often.
#[derive(Debug)]
pub struct Calls {
    /// The service to call.
    pub service: ServiceName,
    /// 0 has no end.
    count: u64,
    every: Duration,
}

impl Calls {
    /// Reads `--service`, `--calls` and `--every` from the command line. Ends the program as [`Args`] does.
    ///
    /// # Errors
    /// Why the default name of the service or the time is none.
    pub fn parse(help: &str, service: &str) -> Result<Self, Box<dyn Error>> {
        let mut args = Args::parse(help);
        let service = args.take("service", service.parse()?);
        let count = args.take("calls", 0);
        let every = Duration::try_from_secs_f64(args.take("every", 1.0))?;
        args.finish();
        Ok(Self {
            service,
            count,
            every: every.max(Duration::from_millis(1)),
        })
    }

    /// Calls, and tells what happens to the service, until all is done or the program is interrupted. `call` gets the
    /// name of each call, and says whether it was answered. The code is 1 when one was not.
    pub async fn run(
        &self,
        view: &View,
        console: Console,
        mut call: impl AsyncFnMut(&str) -> bool,
    ) -> ExitCode {
        let (mut answered, mut unanswered) = (0, 0);
        let mut calls = async || {
            let mut ticks = interval(self.every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for number in 1.. {
                ticks.tick().await;
                match call(&format!("call {number}")).await {
                    true => answered += 1,
                    false => unanswered += 1,
                }
                if number == self.count {
                    return;
                }
            }
        };
        let mut narrator = Narrator::new(console);
        tokio::select! {
            () = calls() => {}
            () = narrator.tell_until(view, |_| false) => {}
            () = signal::interrupted() => {}
        }
        console.text(format_args!(
            "calls answered: {answered}, not answered: {unanswered}"
        ));
        match unanswered {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}
