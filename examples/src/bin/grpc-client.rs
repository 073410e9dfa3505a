//! Calls the gRPC service `greeter` again and again, whichever copies there are at the time.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use examples::calls::Calls;
use examples::console::{Console, span};
use examples::grpc::HelloRequest;
use examples::grpc::greeter_client::GreeterClient;
use examples::hint;
use registry_plugins::{Discovery, PeakEwma, connect_from_env};
use registry_tonic::{Channel, ChannelConfig};
use tokio::time::Instant;
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
    let calls = Calls::parse(HELP, "greeter-grpc")?;
    let console = Console::new(24);
    hint::one_process_only(&console);

    let registry = connect_from_env().await?;
    let discovery = Discovery::new(registry.clone());
    let service = calls.service.clone();
    let balancer = discovery.balancer(service, PeakEwma::default()).await?;
    let view = balancer.view().clone();
    // A greeting may be said twice; and nobody minds to wait for a server.
    let config = ChannelConfig::default()
        .idempotent(|path| path == "/greeter.Greeter/SayHello")
        .wait_for_ready(true);
    let mut client = GreeterClient::new(Channel::with_config(balancer, config)?);
    let greet = async |what: &str| {
        let mut request = Request::new(HelloRequest {
            name: "world".to_owned(),
        });
        request.set_timeout(Duration::from_secs(5));
        let began = Instant::now();
        let reply = client.say_hello(request).await;
        match &reply {
            Ok(reply) => {
                let text = &reply.get_ref().text;
                console.event(
                    what,
                    "",
                    format_args!("{text:?} in {}", span(began.elapsed())),
                );
            }
            Err(status) => console.event(what, "nobody", status),
        }
        reply.is_ok()
    };
    let code = calls.run(&view, console, greet).await;
    registry.close().await?;
    Ok(code)
}
