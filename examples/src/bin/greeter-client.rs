//! Calls the service `greeter` again and again, whichever copies there are at the time.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use examples::args::Args;
use examples::client::Client;
use examples::console::{Console, Narrator};
use examples::{hint, signal};
use registry_plugins::{Discovery, PowerOfTwo, ServiceName, connect_from_env};
use tokio::time::{MissedTickBehavior, interval};

const HELP: &str = "\
Calls a greeter again and again and says who answered. Ctrl-C ends it.

Usage: greeter-client [--service NAME] [--calls COUNT] [--every SECONDS]

  --service NAME     the service to call                 default: greeter
  --calls COUNT      how often; 0 has no end             default: 0
  --every SECONDS    the time between two calls          default: 1

The registry is named by REGISTRY_URL, such as mdns:// (the default).
Ends with code 1 when a call was not answered.
";

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = Args::parse(HELP);
    let service = args.take("service", "greeter".parse::<ServiceName>()?);
    let calls = args.take("calls", 0_u64);
    let every = Duration::try_from_secs_f64(args.take("every", 1.0))?.max(Duration::from_millis(1));
    args.finish();
    let console = Console::new(24);
    hint::one_process_only(&console);

    let registry = connect_from_env().await?;
    let discovery = Discovery::new(registry.clone());
    let balancer = discovery.balancer(service, PowerOfTwo::default()).await?;
    let view = balancer.view().clone();
    let client = Client::new(balancer)?;
    let mut narrator = Narrator::new(console);
    let mut tally = Tally::default();
    tokio::select! {
        () = call(&client, calls, every, &mut tally, console) => {}
        () = narrator.tell_until(&view, |_| false) => {}
        () = signal::interrupted() => {}
    }
    registry.close().await?;
    let Tally {
        answered,
        unanswered,
    } = tally;
    console.text(format_args!(
        "calls answered: {answered}, not answered: {unanswered}"
    ));
    Ok(if unanswered == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[derive(Default)]
struct Tally {
    answered: u64,
    unanswered: u64,
}

/// Calls `calls` times, or without end where that is 0.
async fn call(client: &Client, calls: u64, every: Duration, tally: &mut Tally, console: Console) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        ticks.tick().await;
        let result = client.greet("world").await;
        console.call(number, &result);
        match result {
            Ok(_) => tally.answered += 1,
            Err(_) => tally.unanswered += 1,
        }
        if number == calls {
            return;
        }
    }
}
