//! Writing and keeping records of our own.

use std::sync::Arc;

use registry_core::{
    Error, ErrorKind, Held, Instance, InstanceKey, Registered, Registration, Renewal, Result, Turns,
};
use zookeeper_client as zk;
use zookeeper_client::CreateMode;

use crate::client::Conn;
use crate::config::{Access, ZooKeeperConfig};
use crate::error;
use crate::holdings::Holdings;
use crate::layout::Places;
use crate::pipeline::pipeline;
use crate::session::Session;

/// How often a write is begun anew because somebody else changed the node, or its parents went, meanwhile.
const ROUNDS: usize = 10;
/// The records of ours.
#[derive(Debug)]
pub(crate) struct Records {
    session: Arc<Session>,
    holdings: Arc<Holdings>,
    places: Places,
    access: Access,
    turns: Turns<String>,
}

impl Records {
    pub(crate) fn new(
        config: &ZooKeeperConfig,
        session: Arc<Session>,
        holdings: Arc<Holdings>,
    ) -> Self {
        Self {
            session,
            holdings,
            places: Places::new(config),
            access: config.access,
            turns: Turns::default(),
        }
    }

    pub(crate) async fn register(&self, registration: &Registration) -> Result<Registered> {
        let instance = &registration.instance;
        let (key, data) = (instance.key(), self.places.encode(instance)?);
        let path = self.places.record(&key);
        let _turn = self.turns.take(&path).await;
        let conn = self.session.conn().await?;
        let known = self.holdings.holds(&path);
        self.holdings.want(&path);
        let written = self.write(&conn, &path, instance, &data, known).await;
        match written {
            Ok(watcher) => {
                if let Some(watcher) = watcher {
                    self.holdings.guard(&path, &conn, watcher);
                }
                Ok(Registered::new(key, Some(conn.ttl), conn.session))
            }
            Err(error) => {
                if !known && !error.is_temporary() {
                    self.holdings.unwant(&path);
                }
                Err(error.with("instance", key))
            }
        }
    }

    /// Brings the record to say this; gives a watch of its node where there is none yet.
    async fn write(
        &self,
        conn: &Arc<Conn>,
        path: &str,
        instance: &Instance,
        data: &[u8],
        mut known: bool,
    ) -> Result<Option<zk::OneshotWatcher>> {
        for _ in 0..ROUNDS {
            if !std::mem::take(&mut known) {
                match self.create(conn, path, data).await? {
                    Created::Ours(watcher) => return Ok(watcher),
                    Created::NoParent => {
                        self.make_parents(conn, path).await?;
                        continue;
                    }
                    Created::Taken => {}
                }
            }
            // Both are on their way together; a watch is wanted only where none is.
            let guarded = self.holdings.is_guarded(path);
            let read = conn.client.get_data(path);
            let watch = (!guarded).then(|| conn.client.check_and_watch_stat(path));
            let (found, stat) = match conn.attempt("reading the record", read).await? {
                Ok(found) => found,
                Err(zk::Error::NoNode) => continue,
                Err(error) => return Err(error::call("reading the record", error)),
            };
            let watcher = match watch {
                Some(watch) => match conn.call("watching the record", watch).await? {
                    (Some(_), watcher) => Some(watcher),
                    (None, _) => continue,
                },
                None => None,
            };
            if stat.ephemeral_owner != conn.session {
                self.take_back(conn, path, &stat).await?;
                continue;
            }
            let same = self.places.decode(path, &found);
            if same.is_ok_and(|found| found == *instance) {
                self.holdings.wrote(path, &stat);
                return Ok(watcher);
            }
            let set = conn.client.set_data(path, data, Some(stat.version));
            match conn.attempt("writing the record", set).await? {
                Ok(stat) => {
                    self.holdings.wrote(path, &stat);
                    return Ok(watcher);
                }
                Err(zk::Error::NoNode | zk::Error::BadVersion) => {}
                Err(error) => return Err(error::call("writing the record", error)),
            }
        }
        let why = "the record changes as fast as it is written; try again later";
        Err(Error::new(ErrorKind::Unavailable, why))
    }

    async fn create(&self, conn: &Conn, path: &str, data: &[u8]) -> Result<Created> {
        let options = CreateMode::Ephemeral.with_acls(self.acls());
        let create = conn.client.create(path, data, &options);
        // Sent right behind it, so that watching costs no round trip.
        let watch = conn.client.check_and_watch_stat(path);
        match conn.attempt("creating the record", create).await? {
            // Old servers do not say who owns it.
            Ok((stat, _)) if !stat.is_invalid() && stat.ephemeral_owner != conn.session => {
                let why = "the server gave us another session without saying so";
                conn.end(error::lost(why));
                Err(Error::new(ErrorKind::Unavailable, why))
            }
            Ok((stat, _)) => {
                self.holdings.wrote(path, &stat);
                let (found, watcher) = conn.call("watching the record", watch).await?;
                if found.is_none() {
                    // It was deleted at once; whoever renews it finds out.
                    self.holdings.lose();
                }
                Ok(Created::Ours(found.map(|_| watcher)))
            }
            Err(zk::Error::NoNode) => Ok(Created::NoParent),
            Err(zk::Error::NodeExists) => Ok(Created::Taken),
            Err(error) => Err(error::call("creating the record", error)),
        }
    }

    /// Makes what is above a record, as containers: the server removes them when they are empty.
    async fn make_parents(&self, conn: &Conn, path: &str) -> Result<()> {
        let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
        let what = "making the path above the record";
        for mode in [CreateMode::Container, CreateMode::Persistent] {
            let options = mode.with_acls(self.acls());
            match conn
                .attempt(what, conn.client.mkdir(parent, &options))
                .await?
            {
                // NoNode: a part of it was empty and went meanwhile.
                Ok(()) | Err(zk::Error::NoNode) => return Ok(()),
                // Before 3.5.3 there are no containers.
                Err(zk::Error::Unimplemented) if mode == CreateMode::Container => {}
                Err(error) => return Err(error::call(what, error)),
            }
        }
        Ok(())
    }

    /// Another session has the node. What is left of one of ours that is over is deleted.
    ///
    /// Nobody can ask whether another one is alive. One that is dead, such as that of this program before a restart,
    /// loses its nodes within its timeout: the registrar tries again for so long.
    async fn take_back(&self, conn: &Conn, path: &str, stat: &zk::Stat) -> Result<()> {
        if !self.session.was_ours(stat.ephemeral_owner) {
            let why = match stat.ephemeral_owner {
                0 => {
                    "another program has registered this id for ever; delete its node, or choose another id"
                }
                _ => "another session has this id; choose another one, or wait until it is over",
            };
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        let delete = conn.client.delete(path, Some(stat.version));
        match conn.attempt("deleting our old record", delete).await? {
            Ok(()) | Err(zk::Error::NoNode | zk::Error::BadVersion) => Ok(()),
            Err(error) => Err(error::call("deleting our old record", error)),
        }
    }

    /// One answer for each, after one round trip for all.
    pub(crate) async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        let conn = match self.session.conn().await {
            Ok(conn) => conn,
            Err(error) => return held.iter().map(|_| Err(error.clone())).collect(),
        };
        let paths: Vec<_> = held
            .iter()
            .map(|held| self.places.record(&held.registered.key))
            .collect();
        let asks = paths.iter().map(|path| self.check(&conn, path));
        let stats = pipeline(&conn, "renewing", asks).await;
        let answer = |((held, path), stat): ((&Held, &String), Result<Checked>)| {
            let (stat, watcher) = stat?;
            let registered = &held.registered;
            let ours = |stat: &zk::Stat| {
                stat.ephemeral_owner == conn.session && self.holdings.is_current(path, stat)
            };
            if registered.token != conn.session || !stat.as_ref().is_some_and(ours) {
                return Ok(Renewal::Unknown);
            }
            if let Some(watcher) = watcher {
                self.holdings.guard(path, &conn, watcher);
            }
            Ok(Renewal::Held(Registered::new(
                registered.key.clone(),
                Some(conn.ttl),
                conn.session,
            )))
        };
        held.iter().zip(&paths).zip(stats).map(answer).collect()
    }

    /// Whether the node is there, with a watch of it where there is none.
    fn check<'a>(
        &self,
        conn: &'a Conn,
        path: &str,
    ) -> impl Future<Output = Result<Checked, zk::Error>> + Send + use<'a> {
        let client = &conn.client;
        let (plain, watched) = match self.holdings.is_guarded(path) {
            true => (Some(client.check_stat(path)), None),
            false => (None, Some(Box::pin(client.check_and_watch_stat(path)))),
        };
        async move {
            if let Some(plain) = plain {
                return Ok((plain.await?, None));
            }
            match watched {
                Some(watched) => watched.await.map(|(stat, watcher)| (stat, Some(watcher))),
                None => Ok((None, None)),
            }
        }
    }

    pub(crate) async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        let path = self.places.record(key);
        let _turn = self.turns.take(&path).await;
        self.session.check_open()?;
        // From here nobody renews it, and a sweep takes it away.
        self.holdings.unwant(&path);
        let conn = self.session.conn().await?;
        self.delete(&conn, &path)
            .await
            .map_err(|error| error.with("instance", key))
    }

    async fn delete(&self, conn: &Conn, path: &str) -> Result<()> {
        for _ in 0..ROUNDS {
            let stat = conn
                .call("looking for the record", conn.client.check_stat(path))
                .await?;
            let ours = |stat: &zk::Stat| {
                stat.ephemeral_owner == conn.session || self.session.was_ours(stat.ephemeral_owner)
            };
            let Some(stat) = stat.filter(ours) else {
                return Ok(());
            };
            let delete = conn.client.delete(path, Some(stat.version));
            match conn.attempt("deleting the record", delete).await? {
                Ok(()) | Err(zk::Error::NoNode) => return Ok(()),
                Err(zk::Error::BadVersion) => {}
                Err(error) => return Err(error::call("deleting the record", error)),
            }
        }
        let why = "the record changes as fast as it is deleted; try again later";
        Err(Error::new(ErrorKind::Unavailable, why))
    }

    const fn acls(&self) -> zk::Acls<'static> {
        match self.access {
            Access::World => zk::Acls::anyone_all(),
            Access::Creator => zk::Acls::creator_all(),
        }
    }
}

type Checked = (Option<zk::Stat>, Option<zk::OneshotWatcher>);

enum Created {
    /// With a watch of the node, unless it went at once.
    Ours(Option<zk::OneshotWatcher>),
    NoParent,
    Taken,
}
