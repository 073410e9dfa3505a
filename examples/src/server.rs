//! A greeter from its registration to its clean end.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use registry_plugins::{
    Address, Instance, InstanceId, Registrar, RegistrationHandle, RegistrationState, Registry,
    ServiceName,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::console::{Console, span};
use crate::greeter::Greeter;

/// How long a registry may take over each step of the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The service that it belongs to.
    pub service: ServiceName,
    /// Its id within the service.
    pub id: InstanceId,
    /// Its version.
    pub version: String,
    /// The address to listen on; an unspecified one listens on all.
    pub host: IpAddr,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
}

/// Serves and stays registered until `stop` ends. Then it drains, deregisters, finishes its last requests and
/// returns.
///
/// # Errors
/// Why the socket could not be opened, or what the registry refused.
pub async fn run(
    registry: Arc<dyn Registry>,
    setup: Setup,
    stop: impl Future<Output = ()>,
    console: Console,
) -> Result<(), Box<dyn Error>> {
    let id = setup.id;
    let greeter = Greeter::bind(id.as_str(), setup.host, setup.port).await?;
    let address = Address::advertise(greeter.local_addr()?)?;
    let (finish, finished) = oneshot::channel::<()>();
    let serving = tokio::spawn(greeter.serve(async {
        // Also when the sender is dropped: on every way out.
        let _ = finished.await;
    }));
    console.event("serving", &id, format_args!("http://{address}"));

    let began = Instant::now();
    let registrar = Registrar::new(registry.clone());
    let instance = Instance::new(setup.service, &address)
        .id(id.clone())
        .version(setup.version);
    let handle = registrar.register(instance).await?;
    tokio::select! {
        () = follow(&handle, began, console) => {}
        () = stop => {}
    }

    console.event("draining", &id, "clients stop choosing this instance");
    let began = Instant::now();
    if let Ok(Err(error)) = timeout(PATIENCE, handle.drain()).await {
        console.event("warning", &id, error);
    }
    registrar.close(PATIENCE).await?;
    console.event(
        "left",
        &id,
        format_args!("deregistered after {}", span(began.elapsed())),
    );
    drop(finish);
    let answered = serving.await?;
    registry.close().await?;
    console.event("ended", &id, format_args!("calls answered: {answered}"));
    Ok(())
}

/// Tells how the registration stands, until it has ended.
async fn follow(handle: &RegistrationHandle, began: Instant, console: Console) {
    let id = &handle.key().id;
    let mut states = handle.watch();
    loop {
        let state = states.borrow_and_update().clone();
        match state {
            RegistrationState::Registered => {
                let detail = format!("as {} after {}", handle.key(), span(began.elapsed()));
                console.event("registered", id, detail);
            }
            RegistrationState::Degraded { reason, .. } => console.event("degraded", id, reason),
            _ => return,
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}
