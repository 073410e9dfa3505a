//! Calls the service `greeter` again and again, whichever copies there are at the time.

use std::error::Error;
use std::process::ExitCode;

use examples::calls::Calls;
use examples::client::Client;
use examples::console::Console;
use examples::hint;
use registry_plugins::{Discovery, PowerOfTwo, connect_from_env};

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
    let calls = Calls::parse(HELP, "greeter")?;
    let console = Console::new(24);
    hint::one_process_only(&console);

    let registry = connect_from_env().await?;
    let discovery = Discovery::new(registry.clone());
    let service = calls.service.clone();
    let balancer = discovery.balancer(service, PowerOfTwo::default()).await?;
    let view = balancer.view().clone();
    let client = Client::new(balancer)?;
    let greet = async |what: &str| {
        let result = client.greet("world").await;
        console.call(what, &result);
        result.is_ok()
    };
    let code = calls.run(&view, console, greet).await;
    registry.close().await?;
    Ok(code)
}
