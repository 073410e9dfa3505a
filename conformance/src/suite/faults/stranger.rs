//! Something else listens where the registry should.

use std::net::SocketAddr;

use registry_core::{ErrorKind, ReadOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::case::{Case, Outcome};
use crate::wait::{RECOVERY, within};
use crate::world::World;

pub(in crate::suite) const CASES: &[Case] =
    &[case!(a_server_of_another_kind_is_an_error, |_, faults| {
        faults.wire
    })];

/// What answers in another protocol, or not at all, is no registry that is empty: every call fails, in time.
async fn a_server_of_another_kind_is_an_error(world: World) -> Outcome {
    const ANSWERS: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("a banner", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("noise", &[0xff, 0x00, 0x16, 0x03, 0x01, 0x7f, 0x80, 0x0a, 0x0d, 0x0a]),
        (
            "a web page",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>hi</html>",
        ),
        ("an empty page", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "a redirect",
            b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    let instance = world.instance("web", "a");
    let (registration, options) = (world.registration(&instance), ReadOptions::default());
    for (what, answer) in ANSWERS {
        let stranger = Stranger::start(answer).await?;
        let url = world.site().url(Some(stranger.address));
        let client = world.backend().connect(&url).await?;
        let register = async { client.register(&registration).await.map(drop) };
        let lookup = async { client.lookup(&instance.service, &options).await.map(drop) };
        let services = async { client.services(&options).await.map(drop) };
        let scope = instance.service.clone().into();
        let watch = async {
            let mut watch = client.watch(&scope, &options).await?;
            watch.next().await.map(drop)
        };
        let results = tokio::join!(
            within(RECOVERY, "register", register),
            within(RECOVERY, "lookup", lookup),
            within(RECOVERY, "services", services),
            within(RECOVERY, "watch", watch),
        );
        let results = [results.0?, results.1?, results.2?, results.3?];
        for (call, result) in ["register", "lookup", "services", "watch"]
            .iter()
            .zip(results)
        {
            let failed = result.as_ref().is_err_and(|error| {
                matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Protocol | ErrorKind::Lost
                )
            });
            ensure!(failed, "where {what} answers, {call} says {result:?}");
        }
    }
    Ok(())
}

/// Something that listens, and says one thing to each connection that asks.
struct Stranger {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Stranger {
    async fn start(answer: &'static [u8]) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut callers = JoinSet::new();
            while let Ok((mut caller, _)) = listener.accept().await {
                callers.spawn(async move {
                    let mut asked = [0; 4096];
                    while caller.read(&mut asked).await.is_ok_and(|bytes| bytes > 0) {
                        if caller.write_all(answer).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.task.abort();
    }
}
