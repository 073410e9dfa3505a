//! One request: whom it goes to, and what becomes of it.

use std::future::poll_fn;
use std::time::Duration;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body::Body;
use registry_core::{Address, Balancer, Host, Outcome, Pick, PickError, PickRequest};
use tokio::time::{Instant, sleep, timeout_at};
use tower_service::Service as TowerService;

use crate::body::{Replay, RequestBody};
use crate::config::ResolveConfig;
use crate::error::{BoxError, CallError, CallErrorKind};
use crate::key::CallKey;
use crate::response::{ResponseBody, Verdict, is_timeout};
use crate::services::Service;

/// How many instances a request goes to at most without having been seen.
const LOOKS: usize = 8;
/// The pause before they are tried again, while the request may wait.
const PAUSE: Duration = Duration::from_millis(100);
const LATE: &str = "did not answer in time";
/// So far away that it never comes, and within what timers can hold.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// The time after this duration, whatever a caller asks for.
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration.min(NEVER)
}

/// What a caller gets.
pub(crate) type Answer<R> = Result<Response<ResponseBody<R>>, CallError>;

pub(crate) struct Call<'a, S, B> {
    client: S,
    config: &'a ResolveConfig,
    service: &'a Service,
    head: Parts,
    body: Replay<B>,
    deadline: Option<Instant>,
}

impl<'a, S, B, R> Call<'a, S, B>
where
    S: TowerService<Request<RequestBody<B>>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    pub(crate) fn new(
        client: S,
        config: &'a ResolveConfig,
        service: &'a Service,
        request: Request<B>,
        deadline: Option<Instant>,
    ) -> Self {
        let (head, body) = request.into_parts();
        Self {
            client,
            config,
            service,
            head,
            body: Replay::new(body, config.replay_limit),
            deadline,
        }
    }

    /// Sends the request to one instance after the other, until one answers.
    pub(crate) async fn run(mut self) -> Answer<R> {
        let Self {
            config, service, ..
        } = self;
        let idempotent = (config.idempotent)(&self.head);
        if idempotent {
            service.budget.deposit();
        }
        let patience = self.no_later_than(after(config.wait));
        // Where nobody could be connected to, somebody may be there again.
        let may_wait = |seen: usize| seen == 0 && Instant::now() + PAUSE <= patience;
        let (mut tried, mut seen) = (Vec::new(), 0);
        let mut failed = None;
        loop {
            let request = CallKey::ask(&self.head.extensions).exclude(&tried);
            let pick = match pick(&service.balancer, &request, patience).await {
                Ok(pick) => pick,
                Err(error) => {
                    let answer = failed.unwrap_or_else(|| Err(CallError::nobody(&error)));
                    if !may_wait(seen) {
                        return answer;
                    }
                    sleep(PAUSE).await;
                    tried.clear();
                    failed = Some(answer);
                    continue;
                }
            };
            tried.push(pick.member());
            let (answer, verdict) = match self.ready(&pick).await {
                Ok(()) => self.send(pick).await,
                Err(error) => (Err(error), Verdict::OURS),
            };
            // That nobody else could be connected to is not what became of it.
            let answer = match failed.take() {
                Some(before) if verdict.unseen && seen > 0 => before,
                _ => answer,
            };
            seen += usize::from(!verdict.unseen);
            if verdict.unseen && tried.len() == LOOKS && may_wait(seen) {
                sleep(PAUSE).await;
                tried.clear();
            }
            let again = match verdict.unseen {
                true => tried.len() < LOOKS,
                false => verdict.retriable && idempotent && seen < config.attempts,
            };
            let again = again
                && self.body.can_be_sent_again()
                && self
                    .deadline
                    .is_none_or(|deadline| Instant::now() < deadline)
                && (verdict.unseen || service.budget.withdraw());
            if !again {
                self.body.settle();
                return answer;
            }
            failed = Some(answer);
        }
    }

    fn no_later_than(&self, time: Instant) -> Instant {
        self.deadline.map_or(time, |deadline| time.min(deadline))
    }

    /// Waits until the client takes a request. It does not know yet for whom: that it does not says nothing of him.
    async fn ready(&mut self, pick: &Pick) -> Result<(), CallError> {
        let client = &mut self.client;
        let ready = poll_fn(|context| client.poll_ready(context));
        let ready = match self.deadline {
            Some(deadline) => timeout_at(deadline, ready).await.ok(),
            None => Some(ready.await),
        };
        let of = |kind, what| CallError::of(kind, pick.instance(), what);
        match ready {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                let what = "was not asked: the client takes no requests";
                Err(of(CallErrorKind::Invalid, what).because(error))
            }
            None => {
                let what = "was not asked: the client was not ready in time";
                Err(of(CallErrorKind::Late, what))
            }
        }
    }

    /// Sends it to one instance. What came, and what that says.
    async fn send(&mut self, pick: Pick) -> (Answer<R>, Verdict) {
        let limit = self.config.attempt_timeout;
        let limit = limit.map(|limit| self.no_later_than(after(limit)));
        let request = self.request(pick.address());
        let sent = self.client.call(request);
        let sent = match limit.or(self.deadline) {
            Some(limit) => timeout_at(limit, sent).await.ok(),
            None => Some(sent.await),
        };
        let (result, verdict) = match sent {
            Some(Ok(response)) => {
                let verdict = Verdict::answered(&response);
                (Ok(response), verdict)
            }
            Some(Err(error)) => {
                let error = error.into();
                let verdict = match self.body.has_failed() {
                    true => Verdict::OURS,
                    false => Verdict::error(&*error),
                };
                // It was connected to; where it redirects to cannot be.
                let verdict = match verdict.unseen && self.body.has_begun() {
                    true => Verdict::LATE,
                    false => verdict,
                };
                let (kind, what) = match verdict {
                    Verdict { unseen: true, .. } => {
                        (CallErrorKind::Unreachable, "cannot be connected to")
                    }
                    Verdict { outcome: None, .. } => (
                        CallErrorKind::Invalid,
                        "did not get all of the request: it cannot be sent",
                    ),
                    _ if is_timeout(&*error) => (CallErrorKind::Late, LATE),
                    _ => (CallErrorKind::Broken, "had the request and did not answer"),
                };
                (
                    Err(CallError::of(kind, pick.instance(), what).because(error)),
                    verdict,
                )
            }
            None => {
                let error = CallError::of(CallErrorKind::Late, pick.instance(), LATE);
                (Err(error), Verdict::LATE)
            }
        };
        // The end of a good answer is still to come; what says nothing is dropped.
        let pick = match verdict.outcome {
            Some(outcome) if result.is_err() || outcome != Outcome::Success => {
                pick.report(outcome);
                None
            }
            _ => Some(pick),
        };
        let answer = result.map(|response| response.map(|body| ResponseBody::new(body, pick)));
        (answer, verdict)
    }

    /// The request as the instance at this address is to get it.
    fn request(&self, address: &Address) -> Request<RequestBody<B>> {
        let mut head = self.head.clone();
        let mut url = head.uri.into_parts();
        url.scheme.get_or_insert(Scheme::HTTP);
        url.authority = Some(authority(address));
        url.path_and_query
            .get_or_insert_with(|| PathAndQuery::from_static("/"));
        // Never an error: it has all three parts.
        head.uri = Uri::from_parts(url).unwrap_or_default();
        Request::from_parts(head, self.body.again())
    }
}

/// Waits where there is nobody at all.
async fn pick(
    balancer: &Balancer,
    request: &PickRequest<'_>,
    patience: Instant,
) -> Result<Pick, PickError> {
    match request.exclude {
        [] => {
            let wait = patience.saturating_duration_since(Instant::now());
            balancer.pick_within(wait, request).await
        }
        _ => balancer.pick_with(request),
    }
}

/// What stands for an address in a URL: its host and port. The scope of an IPv6 address, which means something on this
/// machine only, is left out.
pub fn authority(address: &Address) -> Authority {
    let text = match address.host() {
        Host::V6(ip, _) => format!("[{ip}]:{}", address.port()),
        _ => address.as_str().to_owned(),
    };
    Authority::try_from(text).unwrap_or_else(|_| Authority::from_static("localhost"))
}
