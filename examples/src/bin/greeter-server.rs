//! One copy of the service `greeter`: registers, answers, and on Ctrl-C drains and deregisters.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};

use examples::args::Args;
use examples::console::Console;
use examples::server::{self, Setup};
use examples::{hint, signal};
use registry_plugins::{InstanceId, ServiceName, connect_from_env};

const HELP: &str = "\
One copy of a tiny HTTP service. Start as many as you like; Ctrl-C drains and deregisters this one.

Usage: greeter-server [--service NAME] [--id ID] [--version VERSION] [--host ADDRESS] [--port PORT]

  --service NAME     the service that it is a copy of    default: greeter
  --id ID            its id within the service           default: one at random
  --version VERSION  its version                         default: 1.0
  --host ADDRESS     the address to listen on            default: 0.0.0.0, all
  --port PORT        the port to listen on               default: 0, a free one

The registry is named by REGISTRY_URL, such as mdns:// (the default).
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse(HELP);
    let service = args.take("service", "greeter".parse::<ServiceName>()?);
    let setup = Setup {
        id: args.take("id", InstanceId::random(&service)),
        service,
        version: args.take("version", "1.0".to_owned()),
        host: args.take("host", IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        port: args.take("port", 0),
    };
    args.finish();
    let console = Console::new(24);
    hint::one_process_only(&console);
    server::run(
        connect_from_env().await?,
        setup,
        signal::interrupted(),
        console,
    )
    .await
}
