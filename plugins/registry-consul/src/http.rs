//! The HTTP client, with the TLS files as they are.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use registry_core::{Error, ErrorKind, Result, TlsConfig};
use reqwest::{Certificate, Identity, redirect};
use tokio::time::Instant;

/// How long a connection to an agent may take.
const CONNECT: Duration = Duration::from_secs(3);

/// An idle connection counts against the agent's limit.
const IDLE: Duration = Duration::from_secs(30);

/// How often the TLS files are looked at.
const REREAD: Duration = Duration::from_secs(10);

/// A client that is built anew when its TLS files have changed.
pub(crate) struct Http {
    tls: Option<TlsConfig>,
    /// Connections that are kept without a use.
    idle: usize,
    state: Mutex<State>,
}

struct State {
    client: reqwest::Client,
    pem: Pem,
    read: Instant,
}

/// What the TLS files hold.
#[derive(Default, PartialEq)]
struct Pem {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Http {
    /// Reads the TLS files, and connects to nobody.
    pub(crate) fn new(tls: Option<TlsConfig>, idle: usize) -> Result<Self> {
        let pem = read(tls.as_ref())?;
        let state = State {
            client: build(&pem, idle)?,
            pem,
            read: Instant::now(),
        };
        Ok(Self {
            tls,
            idle,
            state: state.into(),
        })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) fn client(&self) -> Result<reqwest::Client> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_tls() && state.read.elapsed() > REREAD {
            state.read = Instant::now();
            let pem = read(self.tls.as_ref())?;
            if pem != state.pem {
                state.client = build(&pem, self.idle)?;
                state.pem = pem;
            }
        }
        Ok(state.client.clone())
    }
}

fn read(tls: Option<&TlsConfig>) -> Result<Pem> {
    let Some(tls) = tls else {
        return Ok(Pem::default());
    };
    Ok(Pem {
        ca: tls.read_ca()?,
        identity: tls.read_identity()?,
    })
}

fn build(pem: &Pem, idle: usize) -> Result<reqwest::Client> {
    let bad = |what: &str, error: reqwest::Error| {
        Error::new(
            ErrorKind::Config,
            format!("the TLS options cannot be used: {what}"),
        )
        .because(error)
    };
    let mut builder = reqwest::Client::builder()
        // An agent is a neighbour: a proxy for the internet does not lead to it.
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle)
        .tcp_nodelay(true);
    if let Some(ca) = &pem.ca {
        let authorities = Certificate::from_pem_bundle(ca);
        let authorities =
            authorities.map_err(|error| bad("\"ca\" holds no certificates", error))?;
        builder = builder.tls_certs_only(authorities);
    }
    if let Some((cert, key)) = &pem.identity {
        let identity = Identity::from_pem(&[cert.as_slice(), b"\n", key.as_slice()].concat());
        let identity =
            identity.map_err(|error| bad("\"cert\" and \"key\" hold no identity", error))?;
        builder = builder.identity(identity);
    }
    builder
        .build()
        .map_err(|error| bad("no client can be made of them", error))
}
