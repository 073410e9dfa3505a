//! One call: whom it goes to, and what becomes of it.

use std::time::Duration;

use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderValue, Request, Uri};
use registry_core::{Instance, Member, Outcome, Pick, PickError, PickErrorKind, PickRequest};
use registry_tower::{CallKey, Replay, RequestBody};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;
use tonic::body::Body;

use crate::config::ChannelConfig;
use crate::connection::{Ready, State};
use crate::deadline;
use crate::pool::Pool;
use crate::retry::{Answer, Sending, Sent};

/// How many instances a call looks at before it waits or fails.
const LOOKS: usize = 16;
/// What timers may be late by.
const GRACE: Duration = Duration::from_millis(200);
/// How often a call is sent that no instance has seen.
const SENDINGS: usize = 8;

pub(crate) struct Call<'a> {
    pool: &'a Pool,
    head: Parts,
    body: Replay<Body>,
    deadline: Option<Instant>,
    /// Whether it may be done twice.
    idempotent: bool,
    /// How often it was sent, and how often of these an instance may have seen it.
    sent: (usize, usize),
    /// Who has it now.
    running: Option<Pick>,
    /// Why the last one that was looked at could not be connected to.
    unreachable: Option<String>,
    /// Who has answered that the call should go elsewhere.
    answered: Vec<Member>,
    /// What is given back if nobody else answers better.
    failed: Option<Answer>,
}

/// What looking for an instance came to.
enum Found {
    Answer(Answer),
    /// Somebody is being connected to.
    Soon,
    /// Nobody is left; the reason where the balancer has one.
    Nobody(Option<PickError>),
}

impl<'a> Call<'a> {
    pub(crate) fn new(pool: &'a Pool, request: Request<Body>, deadline: Option<Instant>) -> Self {
        let (head, body) = request.into_parts();
        let config = pool.config();
        let idempotent = (config.idempotent)(head.uri.path());
        if idempotent {
            config.budget.deposit();
        }
        Self {
            pool,
            head,
            body: Replay::new(body, config.replay_limit),
            deadline,
            idempotent,
            sent: (0, 0),
            running: None,
            unreachable: None,
            answered: Vec::new(),
            failed: None,
        }
    }

    fn config(&self) -> &'a ChannelConfig {
        self.pool.config()
    }

    pub(crate) async fn run(&mut self) -> Answer {
        let config = self.config();
        let mut moved = self.pool.moved();
        let patience = match config.wait_for_ready {
            true => config.longest_wait,
            // By then the last try to connect has ended, and says why.
            false => config.connect_timeout.saturating_add(GRACE),
        };
        let patience = deadline::after(patience);
        loop {
            moved.mark_unchanged();
            let (none, soon) = match self.look().await {
                Found::Answer(answer) => return answer,
                Found::Soon => (None, true),
                Found::Nobody(error) => (error, false),
            };
            if !soon && let Some(failed) = self.failed.take() {
                return failed;
            }
            let waits = soon || config.wait_for_ready;
            let empty = none
                .as_ref()
                .filter(|error| error.kind() != PickErrorKind::Excluded);
            let came = waits
                && match empty {
                    // Whom the balancer will pick may be connected to already.
                    Some(_) => {
                        let left = patience.saturating_duration_since(Instant::now());
                        let request = self.asked();
                        self.pool
                            .balancer()
                            .pick_within(left, &request)
                            .await
                            .is_ok()
                    }
                    None => timeout_at(patience, moved.changed()).await.is_ok(),
                };
            if !came {
                // Who tries again at once must not keep the connections from being made.
                yield_now().await;
                return self.failed.take().unwrap_or_else(|| Err(self.nobody(none)));
            }
        }
    }

    /// Sends the call to one instance after the other that is connected to, until one answers.
    async fn look(&mut self) -> Found {
        let mut tried = self.answered.clone();
        let most = tried.len() + LOOKS;
        let (mut soon, mut paused) = (false, false);
        let error = loop {
            let request = self.asked().exclude(&tried);
            let pick = match self.pool.balancer().pick_with(&request) {
                Ok(pick) if tried.len() < most => pick,
                // Who asked for a pause has had it.
                Err(_) if std::mem::take(&mut paused) => {
                    tried.clone_from(&self.answered);
                    continue;
                }
                Ok(_) => break None,
                Err(error) => break Some(error),
            };
            let member = pick.member();
            tried.push(member);
            match self.pool.state(pick.instance()) {
                None => {}
                Some(State::Connecting) => soon = true,
                Some(State::Failed(why)) => {
                    let Instance { id, address, .. } = &**pick.instance();
                    self.unreachable = Some(format!("{id} at {address}: {why}"));
                }
                Some(State::Ready(ready)) => match self.send(ready, pick).await {
                    Sent::Answer(answer) => return Found::Answer(answer),
                    Sent::Elsewhere(failed, pause) => {
                        match (&failed, pause) {
                            (Ok(_), true) => paused = true,
                            (Ok(_), false) => self.answered.push(member),
                            // Its connection broke and is made again.
                            (Err(_), _) => soon = true,
                        }
                        self.failed = Some(failed);
                    }
                    // Its connection has ended and is made again.
                    Sent::Unseen => soon = true,
                },
            }
        };
        match soon {
            true => Found::Soon,
            false => Found::Nobody(error),
        }
    }

    /// What the call asks of the selector.
    fn asked(&self) -> PickRequest<'static> {
        CallKey::ask(&self.head.extensions)
    }

    async fn send(&mut self, ready: Ready, pick: Pick) -> Sent {
        let Ready { mut send, origin } = ready;
        let request = self.request(&origin);
        self.running = Some(pick);
        self.sent.0 += 1;
        self.sent.1 += 1;
        let answer = send.try_send_request(request).await;
        // A connection that its instance was removed from ends with the last of these.
        drop(send);
        let Some(pick) = self.running.take() else {
            return Sent::Unseen;
        };
        let answer = match answer {
            Ok(response) => Sending::answered(response, pick),
            Err(error) => Sending::lost(error, pick),
        };
        let may = self.body.can_be_sent_again();
        if answer.unseen && may && self.sent.0 < SENDINGS {
            self.sent.1 -= 1;
            return Sent::Unseen;
        }
        let config = self.config();
        let again = answer.retriable
            && self.idempotent
            && may
            && self.sent.1 < config.attempts
            && self.in_time(answer.pushback)
            && config.budget.withdraw();
        if again {
            let pushback = answer.pushback;
            if let Some(pause) = pushback {
                sleep(pause).await;
            }
            let failed = answer.into_answer(self.deadline);
            return Sent::Elsewhere(failed, pushback.is_some());
        }
        self.body.settle();
        Sent::Answer(answer.into_answer(self.deadline))
    }

    fn in_time(&self, pause: Option<Duration>) -> bool {
        match (pause, self.deadline) {
            (Some(pause), Some(deadline)) => Instant::now() + pause < deadline,
            _ => true,
        }
    }

    /// The request as the instance of this origin is to get it.
    fn request(&self, origin: &Uri) -> Request<RequestBody<Body>> {
        let mut head = self.head.clone();
        let mut uri = origin.clone().into_parts();
        if let Some(path) = head.uri.path_and_query() {
            uri.path_and_query = Some(path.clone());
        }
        // Never an error: it has all three parts.
        head.uri = Uri::from_parts(uri).unwrap_or_default();
        let agent = concat!("registry-tonic/", env!("CARGO_PKG_VERSION"));
        head.headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(agent));
        if let Some(deadline) = self.deadline {
            deadline::write(&mut head.headers, deadline);
        }
        if self.sent.1 > 0 {
            let before = HeaderValue::from(self.sent.1);
            head.headers.insert("grpc-previous-rpc-attempts", before);
        }
        Request::from_parts(head, self.body.again())
    }

    /// What to say when the deadline is over.
    pub(crate) fn late(&mut self) -> Status {
        let service = self.pool.balancer().view().service();
        if let Some(pick) = self.running.take() {
            let Instance { id, address, .. } = &**pick.instance();
            let text =
                format!("service {service}: instance {id} at {address} did not answer in time");
            pick.report(Outcome::Failure);
            return Status::deadline_exceeded(text);
        }
        let why = match self.unreachable.take() {
            Some(why) => format!("the last was {why}"),
            None => "is a server registered under this name?".to_owned(),
        };
        Status::deadline_exceeded(format!(
            "service {service}: there was nobody to call in time; {why}"
        ))
    }

    fn nobody(&mut self, error: Option<PickError>) -> Status {
        let service = self.pool.balancer().view().service();
        let excluded = |error: &PickError| error.kind() == PickErrorKind::Excluded;
        match (error, self.unreachable.take()) {
            (Some(error), _) if !excluded(&error) => Status::unavailable(error.to_string()),
            (_, Some(why)) => Status::unavailable(format!(
                "service {service}: no instance can be connected to; the last was {why}"
            )),
            _ => Status::unavailable(format!(
                "service {service}: no instance is connected to; try again"
            )),
        }
    }
}
