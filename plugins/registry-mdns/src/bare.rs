//! Instances whose TXT record was lost on its way.

use std::collections::HashMap;
use std::time::Duration;

use mdns_sd::{Receiver, ServiceEvent};
use tokio::time::{Instant, sleep_until};

use crate::config::MdnsConfig;
use crate::daemon::Daemon;

/// How long a TXT record may come after the others.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a question is kept up: it is asked twice, 1 s apart.
const QUESTION: Duration = Duration::from_millis(1250);
/// How often it is asked for one instance; one that is still bare has nothing to say.
const QUESTIONS: u8 = 2;
/// Most instances that are remembered: others can make up as many as they like.
const MOST: usize = 1024;

/// The instances that are bare. mdns-sd never asks for a TXT record alone, and leaves out of its questions what it
/// knows already, so that nobody repeats it: the question has to come from a daemon that knows nothing. All hear the
/// answers.
#[derive(Default)]
pub(crate) struct Bare {
    /// How often was asked for each.
    names: HashMap<String, u8>,
    /// A question lasts while its events have a receiver, read or not.
    asking: Option<(Daemon, Receiver<ServiceEvent>)>,
    due: Option<Instant>,
}

impl Bare {
    /// An instance was heard without a TXT record.
    pub(crate) fn note(&mut self, full_name: &str) {
        if self.names.len() >= MOST && !self.names.contains_key(full_name) {
            return;
        }
        let asked = *self.names.entry(full_name.to_owned()).or_default();
        if asked < QUESTIONS {
            self.due.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
    }

    /// An instance has its TXT record, or is gone.
    pub(crate) fn forget(&mut self, full_name: &str) {
        self.names.remove(full_name);
    }

    /// Resolves when there is something to do.
    pub(crate) async fn due(&self) {
        match self.due {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Begins or ends a question; gives the instances that have nothing to say.
    pub(crate) async fn proceed(&mut self, config: &MdnsConfig) -> Vec<String> {
        let now = Instant::now();
        if self.asking.take().is_some() {
            let open = self.names.values().any(|asked| *asked < QUESTIONS);
            self.due = open.then(|| now + PATIENCE);
            let silent = self
                .names
                .iter_mut()
                .filter(|(_, asked)| **asked == QUESTIONS);
            let told_once = silent.map(|(name, asked)| {
                *asked += 1;
                name.clone()
            });
            return told_once.collect();
        }
        self.due = None;
        let mut open = false;
        for asked in self.names.values_mut().filter(|asked| **asked < QUESTIONS) {
            *asked += 1;
            open = true;
        }
        if open
            && let Ok((daemon, _)) = Daemon::start(config)
            && let Ok(events) = daemon.browse().await
        {
            self.asking = Some((daemon, events));
            self.due = Some(now + QUESTION);
        }
        Vec::new()
    }
}
