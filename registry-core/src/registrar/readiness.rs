//! Whether a program may be called.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::handle::RegistrationState;
use crate::error::{Error, ErrorKind, Result};

/// Whether a registration was made, for a readiness probe of the program. Cheap to clone into its handlers.
///
/// It is ready from the first time that the registry took it until it is taken back. A registry that is away afterwards
/// changes nothing: clients go on with what they know, and it would be wrong to end all instances at once.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: watch::Receiver<RegistrationState>,
    /// The registry has taken it once.
    taken: Arc<AtomicBool>,
}

impl Readiness {
    pub(super) const fn new(
        state: watch::Receiver<RegistrationState>,
        taken: Arc<AtomicBool>,
    ) -> Self {
        Self { state, taken }
    }

    pub(super) const fn state(&self) -> &watch::Receiver<RegistrationState> {
        &self.state
    }

    /// Whether it is ready now.
    pub fn is_ready(&self) -> bool {
        let over = matches!(*self.state.borrow(), RegistrationState::Deregistered);
        !over && self.taken.load(Ordering::Acquire)
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// `Closed` when it was taken back, or its registrar has ended.
    pub async fn ready(&self) -> Result<()> {
        let mut state = self.state.clone();
        loop {
            if self.is_ready() {
                return Ok(());
            }
            let over = matches!(*state.borrow_and_update(), RegistrationState::Deregistered);
            if over || state.changed().await.is_err() {
                let why = "the registration was taken back";
                return Err(Error::new(ErrorKind::Closed, why));
            }
        }
    }
}
