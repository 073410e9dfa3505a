//! Calls `http://greeter/world` with reqwest again and again: the host is the service, whichever copies there are at the
//! time. Its servers are `greeter-server`.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use examples::calls::Calls;
use examples::console::{Console, span};
use examples::hint;
use registry_plugins::{Discovery, connect_from_env};
use registry_tower::{Reqwest, Resolve, ResolveConfig};
use tokio::time::Instant;

const HELP: &str = "\
Calls http://greeter/world again and again and says what was answered. Ctrl-C ends it.

Usage: http-client [--service NAME] [--calls COUNT] [--every SECONDS]

  --service NAME     the service to call, the URL's host default: greeter
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
    let view = discovery.service(calls.service.clone()).await?;
    // Nobody minds to wait for a server.
    let config = ResolveConfig::default()
        .wait(Duration::from_secs(30))
        .attempt_timeout(Duration::from_secs(2));
    let services = Resolve::with_config(Reqwest::new()?, discovery, config)?;
    let url = format!("http://{}/world", calls.service);
    let greet = async |what: &str| {
        let began = Instant::now();
        let said = async {
            let request = services.client().get(&url).build()?;
            let reply = services.execute(request).await?.error_for_status()?;
            Ok::<_, Box<dyn Error>>(reply.text().await?)
        };
        let said = said.await;
        match &said {
            Ok(text) => {
                console.event(
                    what,
                    "",
                    format_args!("{text:?} in {}", span(began.elapsed())),
                );
            }
            Err(error) => console.event(what, "nobody", error),
        }
        said.is_ok()
    };
    let code = calls.run(&view, console, greet).await;
    registry.close().await?;
    Ok(code)
}
