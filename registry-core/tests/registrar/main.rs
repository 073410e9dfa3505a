//! The registrar against the memory backend, under paused time.

#[path = "../common/mod.rs"]
mod common;
mod ids;
mod keeping;
mod leaving;
mod outages;

use std::time::Duration;

use registry_core::{Instance, InstanceBuilder, RegistrationState};

const SECOND: Duration = Duration::from_secs(1);

fn greeter(id: &str) -> InstanceBuilder {
    Instance::new("greeter", "10.0.0.1:80").id(id)
}

fn is_registered(state: &RegistrationState) -> bool {
    matches!(state, RegistrationState::Registered)
}
