//! The connection to one instance, made ahead of calls and again whenever it ends.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use http::Uri;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use registry_core::{Address, Balancer, Instance};
use registry_tower::{RequestBody, authority};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::body::Body;

use crate::config::ChannelConfig;
use crate::greeting::{Greeting, Wire};
use crate::health;
use crate::tls;

/// The longest interval of signs of life, for a peer that wants few.
const CALMEST: Duration = Duration::from_secs(600);

/// Takes the requests that go over a connection.
pub(crate) type Requests = SendRequest<RequestBody<Body>>;

/// What the connections of a channel share.
pub(crate) struct Maker {
    pub(crate) config: ChannelConfig,
    /// Is told who can be connected to, so that it picks nobody else.
    pub(crate) balancer: Balancer,
    /// Wakes the calls that wait for a connection.
    pub(crate) moved: watch::Sender<()>,
}

/// How a connection stands.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// It is being made, for the first time or again.
    Connecting,
    /// It takes requests.
    Ready(Ready),
    /// The last try failed; another one follows.
    Failed(Arc<str>),
}

/// A connection that takes requests, and whom they say that they are for.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) send: Requests,
    pub(crate) origin: Uri,
}

/// The connection to one instance. Dropped, it takes no more requests, and ends when those that run have ended.
pub(crate) struct Connection {
    pub(crate) address: Address,
    state: watch::Receiver<State>,
    _wanted: oneshot::Sender<Infallible>,
}

type Established = (
    Requests,
    Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
);

impl Connection {
    pub(crate) fn open(instance: Arc<Instance>, maker: Arc<Maker>) -> Self {
        let (state, follow) = watch::channel(State::Connecting);
        let (wanted, unwanted) = oneshot::channel();
        let address = instance.address.clone();
        tokio::spawn(run(instance, maker, state, unwanted));
        Self {
            address,
            state: follow,
            _wanted: wanted,
        }
    }

    pub(crate) fn state(&self) -> State {
        match &*self.state.borrow() {
            // It has ended, and its task is about to say so.
            State::Ready(ready) if ready.send.is_closed() => State::Connecting,
            state => state.clone(),
        }
    }
}

async fn run(
    instance: Arc<Instance>,
    maker: Arc<Maker>,
    state: watch::Sender<State>,
    mut unwanted: oneshot::Receiver<Infallible>,
) {
    let config = &maker.config;
    let mut keep_alive = config.keep_alive;
    let mut pause = config.first_pause;
    let tell = |now: State| {
        match &now {
            State::Connecting => {}
            State::Ready(_) => maker.balancer.connected(&instance.id, true),
            State::Failed(_) => maker.balancer.connected(&instance.id, false),
        }
        state.send_replace(now);
        maker.moved.send_replace(());
    };
    loop {
        let made = tokio::select! {
            biased;
            _ = &mut unwanted => return,
            made = connect(&instance.address, config, keep_alive) => made,
        };
        let began = Instant::now();
        let why = match made {
            Err(why) => why,
            Ok((send, mut connection)) => {
                let ended = tokio::select! {
                    ended = &mut connection => Some(ended),
                    never = serve(send, &instance, config, &tell) => match never {},
                    _ = &mut unwanted => None,
                };
                let Some(ended) = ended else {
                    // No request can be sent any more; those that run are finished.
                    state.send_replace(State::Connecting);
                    let _ = connection.await;
                    return;
                };
                if let Err(error) = &ended
                    && reason(error) == Some(Reason::ENHANCE_YOUR_CALM)
                {
                    keep_alive =
                        keep_alive.map(|interval| (interval * 2).min(CALMEST.max(interval)));
                }
                if began.elapsed() >= config.longest_pause {
                    pause = config.first_pause;
                    tell(State::Connecting);
                    continue;
                }
                // Who takes connections and ends them at once is no better than who takes none.
                match ended {
                    Ok(()) => "the peer closed the connection".to_owned(),
                    Err(error) => chain(&error),
                }
            }
        };
        tracing::debug!(instance = %instance.key(), address = %instance.address, why, "no connection");
        tell(State::Failed(why.into()));
        tokio::select! {
            _ = &mut unwanted => return,
            () = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
        }
        pause = (pause * 2).min(config.longest_pause);
    }
}

/// Says that a connection takes requests: at once, or whenever the instance says that it serves.
async fn serve(
    send: Requests,
    instance: &Instance,
    config: &ChannelConfig,
    tell: &(impl Fn(State) + Sync),
) -> Infallible {
    let origin = origin(instance, config);
    let Some(service) = &config.health else {
        tell(State::Ready(Ready { send, origin }));
        return pending().await;
    };
    let (limit, pause) = (config.connect_timeout, config.longest_pause);
    let ready = Ready { send, origin };
    let told = |healthy: Result<(), String>| {
        tell(match healthy {
            Ok(()) => State::Ready(ready.clone()),
            Err(why) => State::Failed(why.into()),
        });
    };
    health::follow(&ready, service, limit, pause, told).await
}

/// Whom requests on this connection say that they are for.
fn origin(instance: &Instance, config: &ChannelConfig) -> Uri {
    let mut uri = Parts::default();
    uri.scheme = Some(match config.tls {
        Some(_) => Scheme::HTTPS,
        None => Scheme::HTTP,
    });
    let name = config.server_name.as_deref();
    let name = name.and_then(|name| Authority::try_from(name).ok());
    uri.authority = Some(name.unwrap_or_else(|| authority(&instance.address)));
    uri.path_and_query = Some(PathAndQuery::from_static("/"));
    // Never an error: it has all three parts.
    Uri::from_parts(uri).unwrap_or_default()
}

/// A connection whose peer speaks HTTP/2, or why there is none.
async fn connect(
    address: &Address,
    config: &ChannelConfig,
    keep_alive: Option<Duration>,
) -> Result<Established, String> {
    let limit = config.connect_timeout;
    timeout(limit, establish(address, config, keep_alive))
        .await
        .unwrap_or_else(|_| Err(format!("no HTTP/2 connection within {limit:?}")))
}

async fn establish(
    address: &Address,
    config: &ChannelConfig,
    keep_alive: Option<Duration>,
) -> Result<Established, String> {
    let stream = match address.socket_addr() {
        Some(socket) => TcpStream::connect(socket).await,
        None => TcpStream::connect(address.as_str()).await,
    };
    let stream = stream.map_err(|error| error.to_string())?;
    // A request must not wait for the answer to the one before it.
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let wire: Box<dyn Wire> = match &config.tls {
        None => Box::new(stream),
        Some(tls) => {
            let name = config.server_name.as_deref();
            Box::new(tls::handshake(tls, name, address, stream).await?)
        }
    };
    let (wire, greeted) = Greeting::new(wire);
    let (send, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(keep_alive)
        .keep_alive_timeout(config.keep_alive_timeout)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(wire))
        .await
        .map_err(|error| chain(&error))?;
    let mut connection = Box::pin(connection);
    tokio::select! {
        biased;
        Ok(greeted) = greeted => greeted?,
        ended = &mut connection => {
            return Err(match ended {
                Ok(()) => "the peer closed the connection before it said a word of HTTP/2".to_owned(),
                Err(error) => chain(&error),
            });
        }
    }
    Ok((send, connection))
}

/// Why the peer ended a connection or a stream, where HTTP/2 says it.
pub(crate) fn reason(error: &hyper::Error) -> Option<Reason> {
    http2_error(error).and_then(h2::Error::reason)
}

pub(crate) fn http2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

/// An error with those that caused it.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next: &dyn Display = error;
        text = format!("{text}: {next}");
        source = error.source();
    }
    text
}
