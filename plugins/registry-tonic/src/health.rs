//! What an instance says of its own health, where that is asked for.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use registry_tower::Replay;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower_service::Service;

use crate::connection::{Ready, Requests};

/// Watches the standard health service over a connection for as long as it lasts, and tells whether the instance
/// serves, or why it is not to be called. An instance without a health service serves, as gRPC has it.
pub(crate) async fn follow(
    connection: &Ready,
    service: &str,
    limit: Duration,
    pause: Duration,
    tell: impl Fn(Result<(), String>) + Send + Sync,
) -> Infallible {
    let Ready { send, origin } = connection.clone();
    let mut client = HealthClient::with_origin(Direct(send), origin);
    loop {
        let service = service.to_owned();
        let watch = client.watch(HealthCheckRequest { service });
        match timeout(limit, watch).await {
            Err(_) => tell(Err(silent(limit))),
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                tell(Ok(()));
                return pending().await;
            }
            Ok(Err(status)) => tell(Err(refused(&status))),
            Ok(Ok(answers)) => {
                let mut answers = answers.into_inner();
                let mut next = timeout(limit, answers.message()).await;
                loop {
                    match next {
                        Err(_) => tell(Err(silent(limit))),
                        Ok(Ok(Some(answer))) => tell(match answer.status() {
                            ServingStatus::Serving => Ok(()),
                            other => Err(format!("its health is {}", other.as_str_name())),
                        }),
                        // Some implementations say it so late.
                        Ok(Err(status)) if status.code() == Code::Unimplemented => {
                            tell(Ok(()));
                            return pending().await;
                        }
                        Ok(Err(status)) => {
                            tell(Err(refused(&status)));
                            break;
                        }
                        Ok(Ok(None)) => break,
                    }
                    next = Ok(answers.message().await);
                }
            }
        }
        sleep(pause).await;
    }
}

fn silent(limit: Duration) -> String {
    format!("its health service does not answer within {limit:?}")
}

fn refused(status: &Status) -> String {
    format!("its health cannot be watched: {status}")
}

/// One connection as a client takes it.
#[derive(Clone)]
struct Direct(Requests);

impl Service<Request<Body>> for Direct {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request = request.map(|body| Replay::new(body, 0).again());
        Box::pin(self.0.send_request(request))
    }
}
