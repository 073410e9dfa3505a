//! Calls the gRPC service `greeter` again and again, whichever copies there are at the time.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use examples::args::Args;
use examples::console::{Console, Narrator, span};
use examples::grpc::HelloRequest;
use examples::grpc::greeter_client::GreeterClient;
use examples::{hint, signal};
use registry_plugins::{Discovery, PeakEwma, ServiceName, connect_from_env};
use registry_tonic::{Channel, ChannelConfig};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Request;

const HELP: &str = "\
Calls a gRPC greeter again and again and says what it answered. Ctrl-C ends it.

Usage: grpc-client [--service NAME] [--calls COUNT] [--every SECONDS]

  --service NAME     the service to call                 default: greeter-grpc
  --calls COUNT      how often; 0 has no end             default: 0
  --every SECONDS    the time between two calls          default: 1

The registry is named by REGISTRY_URL, such as mdns:// (the default).
Ends with code 1 when a call was not answered.
";

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = Args::parse(HELP);
    let service = args.take("service", "greeter-grpc".parse::<ServiceName>()?);
    let calls = args.take("calls", 0_u64);
    let every = Duration::try_from_secs_f64(args.take("every", 1.0))?.max(Duration::from_millis(1));
    args.finish();
    let console = Console::new(24);
    hint::one_process_only(&console);

    let registry = connect_from_env().await?;
    let discovery = Discovery::new(registry.clone());
    let balancer = discovery.balancer(service, PeakEwma::default()).await?;
    let view = balancer.view().clone();
    // A greeting may be said twice; and nobody minds to wait for a server.
    let config = ChannelConfig::default()
        .idempotent(|path| path == "/greeter.Greeter/SayHello")
        .wait_for_ready(true);
    let client = GreeterClient::new(Channel::with_config(balancer, config)?);
    let mut narrator = Narrator::new(console);
    let mut unanswered = 0;
    tokio::select! {
        () = call(client, calls, every, &mut unanswered, console) => {}
        () = narrator.tell_until(&view, |_| false) => {}
        () = signal::interrupted() => {}
    }
    registry.close().await?;
    console.text(format_args!("calls not answered: {unanswered}"));
    Ok(if unanswered == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Calls `calls` times, or without end where that is 0.
async fn call(
    mut client: GreeterClient<Channel>,
    calls: u64,
    every: Duration,
    unanswered: &mut u64,
    console: Console,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        ticks.tick().await;
        let mut request = Request::new(HelloRequest {
            name: "world".to_owned(),
        });
        request.set_timeout(Duration::from_secs(5));
        let began = Instant::now();
        let what = format!("call {number}");
        match client.say_hello(request).await {
            Ok(reply) => {
                let text = reply.into_inner().text;
                let detail = format_args!("{text:?} in {}", span(began.elapsed()));
                console.event(&what, "", detail);
            }
            Err(status) => {
                *unanswered += 1;
                console.event(&what, "nobody", status);
            }
        }
        if number == calls {
            return;
        }
    }
}
