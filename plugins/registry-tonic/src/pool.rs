//! One connection for each instance, kept in step with the registry in the background.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use registry_core::{Balancer, Instance, InstanceId, Status};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::config::ChannelConfig;
use crate::connection::{Connection, Maker, State};

/// The connections of a channel. Dropped, it takes no more requests; calls that run are finished.
pub(crate) struct Pool {
    connections: Arc<Connections>,
    follow: AbortHandle,
}

struct Connections {
    maker: Arc<Maker>,
    now: ArcSwap<HashMap<InstanceId, Arc<Connection>>>,
    /// Held by whoever replaces the map.
    change: Mutex<()>,
}

impl Pool {
    pub(crate) fn new(balancer: Balancer, config: ChannelConfig) -> Self {
        let connections = Arc::new(Connections {
            maker: Arc::new(Maker {
                config,
                balancer,
                moved: watch::Sender::new(()),
            }),
            now: ArcSwap::default(),
            change: Mutex::default(),
        });
        // Before the first call, so that it finds what the view has.
        connections.follow_view();
        let follow = tokio::spawn(follow(connections.clone())).abort_handle();
        Self {
            connections,
            follow,
        }
    }

    pub(crate) fn config(&self) -> &ChannelConfig {
        &self.connections.maker.config
    }

    pub(crate) fn balancer(&self) -> &Balancer {
        &self.connections.maker.balancer
    }

    /// Notices every change of a connection.
    pub(crate) fn moved(&self) -> watch::Receiver<()> {
        self.connections.maker.moved.subscribe()
    }

    /// How the connection to this instance stands; `None` where the instance is gone.
    pub(crate) fn state(&self, instance: &Arc<Instance>) -> Option<State> {
        match self.connections.now.load().get(&instance.id) {
            Some(connection) => Some(connection.state()),
            None => self.connections.open(instance),
        }
    }
}

impl Connections {
    /// Opens a connection to an instance that none was made ahead to: the selector knows it sooner than we do, or
    /// chooses also what the registry says is down.
    #[cold]
    fn open(&self, instance: &Arc<Instance>) -> Option<State> {
        let _change = self.lock();
        let snapshot = self.maker.balancer.view().snapshot();
        let mut instances = snapshot.instances.iter();
        let instance = instances.find(|one| one.id == instance.id)?;
        let mut connections = HashMap::clone(&self.now.load());
        let connection = connections
            .entry(instance.id.clone())
            .or_insert_with(|| self.connect(instance));
        let state = connection.state();
        self.now.store(Arc::new(connections));
        Some(state)
    }

    /// Opens connections to who came, and gives up those to who went.
    fn follow_view(&self) {
        let _change = self.lock();
        let snapshot = self.maker.balancer.view().snapshot();
        let before = self.now.load_full();
        let wanted = snapshot.instances.iter();
        // Who is down would be tried for as long as it is.
        let wanted = wanted.filter(|instance| instance.status != Status::Down);
        let now = wanted.map(|instance| {
            let kept = before.get(&instance.id);
            let kept = kept.filter(|connection| connection.address == instance.address);
            let connection = kept.cloned().unwrap_or_else(|| self.connect(instance));
            (instance.id.clone(), connection)
        });
        self.now.store(Arc::new(now.collect()));
    }

    fn connect(&self, instance: &Arc<Instance>) -> Arc<Connection> {
        Arc::new(Connection::open(instance.clone(), self.maker.clone()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow(connections: Arc<Connections>) {
    let mut moved = connections.maker.balancer.view().moved();
    // Never the error of a closed channel: the view is held.
    while moved.changed().await.is_ok() {
        connections.follow_view();
        connections.maker.moved.send_replace(());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.follow.abort();
    }
}
