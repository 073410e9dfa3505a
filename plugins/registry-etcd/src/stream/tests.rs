//! Answers that a server gives rarely.

use etcd_client::proto::{PbEvent, PbKeyValue, PbResponseHeader, PbWatchResponse};
use registry_core::{Change, FanoutWatcher, Scope, Watcher};
use tokio::time::timeout;

use super::*;
use crate::config::EtcdConfig;

async fn task() -> (Task, FanoutWatcher, watch::Receiver<u64>) {
    let config = EtcdConfig::default().checked().unwrap();
    let connection = Arc::new(Connection::new(config));
    let (losses, heard) = watch::channel(0);
    let mut task = Task {
        link: connection.link().await.map_err(|(_, error)| error).unwrap(),
        connection,
        codec: Arc::new(Codec::new("p")),
        losses,
        watches: HashMap::new(),
        sent: VecDeque::new(),
        queue: VecDeque::new(),
        floor: 0,
    };
    let fanout = Arc::new(Fanout::new());
    fanout.complete();
    let mut watcher = fanout.join(&Scope::All);
    watcher.next().await.unwrap();
    for (id, sink) in [
        (1, Sink::Feed(fanout)),
        (2, Sink::Guard(Arc::new(AtomicBool::new(true)))),
    ] {
        let range = task.codec.range(&Scope::All);
        let start = 10;
        task.obey(Command::Open(Open {
            id,
            range,
            start,
            sink,
        }));
        task.sent.push_back(id);
    }
    (task, watcher, heard)
}

fn answer(revision: i64, of: PbWatchResponse) -> WatchResponse {
    let header = PbResponseHeader {
        revision,
        ..Default::default()
    };
    WatchResponse(PbWatchResponse {
        header: Some(header),
        ..of
    })
}

fn put(id: &str, revision: i64) -> PbEvent {
    let record = format!(r#"{{"name":"web","nodes":[{{"id":"{id}","address":"h:1"}}]}}"#);
    let kv = PbKeyValue {
        key: format!("/p/web/{id}").into(),
        value: record.into(),
        version: 1,
        mod_revision: revision,
        ..Default::default()
    };
    PbEvent {
        kv: Some(kv),
        ..Default::default()
    }
}

fn events(fragment: bool, events: Vec<PbEvent>) -> WatchResponse {
    let of = PbWatchResponse {
        watch_id: 1,
        fragment,
        events,
        ..Default::default()
    };
    answer(20, of)
}

fn created(canceled: bool, reason: &str) -> PbWatchResponse {
    PbWatchResponse {
        watch_id: if canceled { -1 } else { 1 },
        created: true,
        canceled,
        cancel_reason: reason.into(),
        ..Default::default()
    }
}

async fn next(watcher: &mut FanoutWatcher) -> Result<Vec<Change>, Error> {
    timeout(Duration::from_secs(1), watcher.next())
        .await
        .unwrap()
}

async fn told(watcher: &mut FanoutWatcher) -> Option<usize> {
    let next = timeout(Duration::from_millis(20), watcher.next()).await;
    next.ok().map(|changes| changes.unwrap().len())
}

#[tokio::test]
async fn fragments_are_one_batch_and_older_events_are_none() {
    let (mut task, mut watcher, _) = task().await;
    task.hear(&events(true, vec![put("a", 11), put("old", 9)]))
        .unwrap();
    assert_eq!(told(&mut watcher).await, None);
    let mut unknown = put("c", 11);
    unknown.r#type = 7;
    task.hear(&events(false, vec![put("b", 11), unknown]))
        .unwrap();
    assert_eq!(told(&mut watcher).await, Some(3));
}

#[tokio::test]
async fn a_refusal_ends_the_watch_that_was_asked_for() {
    let (mut task, mut watcher, losses) = task().await;
    let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    task.hear(&answer(20, created(true, reason))).unwrap();
    assert_eq!(
        next(&mut watcher).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
    assert!(task.watches.contains_key(&2), "the other one goes on");
    task.hear(&answer(20, created(true, reason))).unwrap();
    assert!(task.watches.is_empty() && !losses.has_changed().unwrap());
}

#[tokio::test]
async fn a_compacted_history_ends_a_watch() {
    let (mut task, mut watcher, _) = task().await;
    let of = PbWatchResponse {
        watch_id: 1,
        canceled: true,
        compact_revision: 15,
        ..Default::default()
    };
    task.hear(&answer(20, of)).unwrap();
    let error = next(&mut watcher).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.to_string().contains("compacted"), "{error}");
}

#[tokio::test]
async fn a_revision_that_went_back_ends_the_stream() {
    let (mut task, mut watcher, _) = task().await;
    let progress = PbWatchResponse::default;
    task.hear(&answer(9, created(false, ""))).unwrap();
    let back = task.hear(&answer(8, progress())).unwrap_err();
    assert_eq!(back.kind(), ErrorKind::Lost);
    task.hear(&events(false, vec![put("a", 20)])).unwrap();
    assert_eq!(told(&mut watcher).await, Some(1));
    task.hear(&answer(20, progress())).unwrap();
    assert_eq!(next(&mut watcher).await.unwrap(), [Change::Current]);
    let back = task.hear(&answer(19, progress())).unwrap_err();
    assert_eq!(back.kind(), ErrorKind::Lost);
    let (mut task, ..) = self::task().await;
    let back = task.hear(&answer(8, created(false, ""))).unwrap_err();
    assert_eq!(back.kind(), ErrorKind::Lost);
}

#[tokio::test]
async fn a_key_of_ours_that_is_deleted_is_a_loss() {
    let (mut task, _, losses) = task().await;
    let mut gone = put("a", 11);
    gone.r#type = 1;
    gone.kv.as_mut().unwrap().version = 0;
    let mut of = events(false, vec![gone]);
    of.0.watch_id = 2;
    task.hear(&of).unwrap();
    assert!(losses.has_changed().unwrap());
}

#[tokio::test]
async fn a_watch_that_is_dropped_before_it_was_asked_for_never_is() {
    let (mut task, ..) = task().await;
    task.obey(Command::Cancel(1));
    assert!(matches!(
        task.queue.make_contiguous(),
        [Request::Watch(2, ..)]
    ));
    task.queue.clear();
    task.obey(Command::Cancel(2));
    assert!(matches!(task.queue.front(), Some(Request::Cancel(2))));
    assert!(task.watches.is_empty());
}

#[tokio::test]
async fn a_token_that_is_no_longer_good_is_replaced_where_there_is_a_user() {
    let (mut task, ..) = task().await;
    let refused = answer(
        20,
        created(true, "rpc error: etcdserver: invalid auth token"),
    );
    assert_eq!(task.stale(&refused), None);
    let config = EtcdConfig::default().user("root", "secret");
    task.connection = Arc::new(Connection::new(config.checked().unwrap()));
    assert_eq!(task.stale(&refused), Some(Remedy::Reauthenticate));
    let gone = answer(
        20,
        created(true, "rpc error: etcdserver: permission denied"),
    );
    assert_eq!(task.stale(&gone), None);
}

#[tokio::test]
async fn all_watches_of_a_connection_are_on_one_stream() {
    let config = EtcdConfig::default().checked().unwrap();
    let connection = Arc::new(Connection::new(config));
    let link = connection.link().await.map_err(|(_, error)| error).unwrap();
    let serial = link.serial + 1;
    let newer = Link {
        serial,
        ..link.clone()
    };
    let streams = Streams::new(connection, Arc::new(Codec::new("p")), watch::channel(0).0);
    let mut guards = Vec::new();
    // What was read from the connection before comes late; the newer one stays in use.
    for (link, expected) in [(&link, 1), (&link, 1), (&newer, 2), (&link, 3), (&newer, 3)] {
        guards.push(streams.guard(link, b"key".to_vec(), 1));
        assert_eq!(streams.current.lock().unwrap().tasks.len(), expected);
    }
}

#[test]
fn a_user_that_is_missing_is_refused_unless_the_next_stream_has_one() {
    for reason in [
        "etcdserver: user name is empty",
        "etcdserver: authentication is not enabled",
    ] {
        let answer = answer(20, created(true, reason));
        assert_eq!(cancelled(&answer, false).kind(), ErrorKind::Denied);
        assert_eq!(cancelled(&answer, true).kind(), ErrorKind::Lost);
    }
}
