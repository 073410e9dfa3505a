use super::*;

/// One instance of an answer: id, status, the server's time, the registrant's time, what was done, and its weight.
struct Told(&'static str, &'static str, i64, i64, &'static str, u16);

fn answer(told: &[Told], hash: &str, store: &Store) -> Answer {
    let records: Vec<_> = told
        .iter()
        .map(|Told(id, status, updated, dirty, action, weight)| {
            serde_json::json!({
                "instanceId": id, "app": "WEB", "hostName": "10.0.0.1", "vipAddress": "web", "status": status,
                "port": { "$": 80, "@enabled": "true" }, "metadata": { "weight": weight },
                "lastUpdatedTimestamp": updated.to_string(), "lastDirtyTimestamp": dirty.to_string(),
                "actionType": action,
            })
        })
        .collect();
    let json = serde_json::json!({
        "applications": { "apps__hashcode": hash, "application": [{ "name": "WEB", "instance": records }] }
    });
    let read = Answer::read(json.to_string().as_bytes(), store, &AtomicU64::new(0));
    read.unwrap().unwrap()
}

fn full(told: &[Told]) -> Store {
    let mut store = Store::default();
    store.replace(answer(told, "", &store), Origin::Same);
    store
}

fn update(store: &mut Store, told: &[Told]) -> Vec<String> {
    let changes = store.update(answer(told, "", store));
    let name = |(key, now): (InstanceKey, Option<Arc<Instance>>)| match now {
        Some(instance) => format!("+{}={}", key.id, instance.weight),
        None => format!("-{}", key.id),
    };
    changes.into_iter().map(name).collect()
}

fn weights(store: &Store) -> Vec<u16> {
    let mut instances = store.instances();
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.iter().map(|instance| instance.weight).collect()
}

#[test]
fn repeated_changes_are_none_and_the_last_of_one_id_wins() {
    let mut store = full(&[Told("a", "UP", 10, 10, "ADDED", 1)]);
    let delta = [
        Told("a", "UP", 20, 20, "MODIFIED", 2),
        Told("b", "UP", 21, 21, "ADDED", 5),
        Told("a", "UP", 22, 22, "MODIFIED", 3),
    ];
    assert_eq!(update(&mut store, &delta), ["+a=3", "+b=5"]);
    assert!(update(&mut store, &delta[1..]).is_empty());
    assert_eq!(
        update(&mut store, &[Told("b", "UP", 30, 21, "DELETED", 5)]),
        ["-b"]
    );
    assert!(update(&mut store, &[Told("b", "UP", 30, 21, "DELETED", 5)]).is_empty());
    assert_eq!(weights(&store), [3]);
}

#[test]
fn changes_older_than_the_list_bring_nothing_back() {
    let mut store = full(&[Told("a", "UP", 50, 50, "ADDED", 5)]);
    let old = [
        Told("a", "UP", 40, 40, "MODIFIED", 4),
        // Taken out by an operator, who put it back since.
        Told("a", "OUT_OF_SERVICE", 45, 50, "MODIFIED", 5),
        Told("gone", "UP", 45, 45, "ADDED", 1),
    ];
    assert!(update(&mut store, &old).is_empty());
    assert_eq!(weights(&store), [5]);
    // A list is not made in one moment: this one lacks somebody who came before another one in it.
    let late = [
        Told("early", "UP", 49, 49, "ADDED", 2),
        Told("a", "UP", 50, 50, "ADDED", 5),
    ];
    assert_eq!(update(&mut store, &late), ["+early=2"]);
    assert!(update(&mut store, &[Told("a", "UP", 50, 49, "DELETED", 4)]).is_empty());
    let new = [
        Told("a", "UP", 60, 50, "DELETED", 5),
        Told("b", "UP", 61, 1, "ADDED", 9),
    ];
    assert_eq!(update(&mut store, &new), ["-a", "+b=9"]);
}

#[test]
fn a_server_whose_clock_was_set_back_still_tells_news() {
    let mut store = full(&[Told("a", "UP", 5_000, 10, "ADDED", 1)]);
    assert_eq!(
        update(&mut store, &[Told("a", "UP", 100, 11, "MODIFIED", 2)]),
        ["+a=2"]
    );
    // And a registrant's clock may have been behind that of the one before him.
    assert_eq!(
        update(&mut store, &[Told("a", "UP", 200, 3, "ADDED", 3)]),
        ["+a=3"]
    );
}

#[test]
fn a_list_of_the_same_server_takes_nothing_back_and_of_another_one_neither() {
    let mut store = full(&[
        Told("a", "UP", 50, 50, "ADDED", 5),
        Told("b", "UP", 1, 1, "ADDED", 1),
    ]);
    store.replace(
        answer(&[Told("a", "UP", 40, 40, "ADDED", 4)], "", &store),
        Origin::Same,
    );
    assert_eq!(weights(&store), [5]);
    // A peer that lags behind, with a clock that is ahead.
    store.replace(
        answer(&[Told("a", "UP", 900, 40, "ADDED", 4)], "", &store),
        Origin::Other,
    );
    assert_eq!(weights(&store), [5]);
    assert_eq!(
        update(&mut store, &[Told("a", "UP", 901, 50, "MODIFIED", 6)]),
        ["+a=6"]
    );
    store.replace(answer(&[], "", &store), Origin::Other);
    assert!(store.instances().is_empty());
}

#[test]
fn statuses_are_counted_as_the_server_counts_them() {
    let mut store = full(&[
        Told("a", "UP", 1, 1, "ADDED", 1),
        Told("b", "OUT_OF_SERVICE", 1, 1, "ADDED", 1),
        Told("c", "DOWN", 1, 1, "ADDED", 1),
        Told("d", "UP", 1, 1, "ADDED", 1),
        // It counts though nobody can read it.
        Told("/", "STARTING", 1, 1, "ADDED", 1),
    ]);
    assert!(store.agrees(Some("DOWN_1_OUT_OF_SERVICE_1_STARTING_1_UP_2_")));
    assert!(!store.agrees(Some("UP_2_")));
    assert!(store.agrees(None));
    update(&mut store, &[Told("/", "STARTING", 2, 1, "DELETED", 1)]);
    assert_eq!(store.hash(), "DOWN_1_OUT_OF_SERVICE_1_UP_2_");
    assert!(full(&[]).agrees(Some("")));
}

#[test]
fn of_two_records_of_one_instance_the_later_one_is_shown() {
    let record = |id: &str, dirty: i64, action: &str, ours: bool| {
        serde_json::json!({
            "instanceId": id, "app": "WEB", "hostName": "10.0.0.1", "vipAddress": "web", "status": "UP",
            "port": 80, "metadata": if ours { serde_json::json!({ "registry.service": "web" }) } else { serde_json::json!({ "k": "v" }) },
            "lastUpdatedTimestamp": dirty, "lastDirtyTimestamp": dirty, "actionType": action,
        })
    };
    let read = |records: serde_json::Value, store: &Store| {
        let json = serde_json::json!({ "application": { "instance": records } }).to_string();
        Answer::read(json.as_bytes(), store, &AtomicU64::new(0))
            .unwrap()
            .unwrap()
    };
    let mut store = Store::default();
    let both = serde_json::json!([
        record("a", 5, "ADDED", false),
        record("web:a", 9, "ADDED", true)
    ]);
    store.replace(read(both, &store), Origin::Same);
    let shown = |store: &Store| -> Vec<bool> {
        store
            .instances()
            .iter()
            .map(|instance| instance.metadata.get("k").is_none())
            .collect()
    };
    assert_eq!(shown(&store), [true]);
    store.update(read(record("a", 10, "MODIFIED", false), &store));
    assert_eq!(shown(&store), [false]);
    let changes = store.update(read(record("a", 11, "DELETED", false), &store));
    assert!(matches!(&changes[..], [(_, Some(_))]), "{changes:?}");
    assert_eq!(shown(&store), [true]);
    let changes = store.update(read(record("web:a", 12, "DELETED", true), &store));
    assert!(matches!(&changes[..], [(_, None)]), "{changes:?}");
    assert!(store.shadowed.is_empty() && store.shown.is_empty());
}

#[test]
fn equal_instances_are_shared_and_what_cannot_be_read_is_counted_once() {
    let told = [
        Told("a", "UP", 1, 1, "ADDED", 1),
        Told("/", "UP", 1, 1, "ADDED", 1),
    ];
    let mut store = Store::default();
    let skipped = AtomicU64::new(0);
    let json = |told: &[Told]| {
        let records: Vec<_> = told
            .iter()
            .map(|Told(id, ..)| {
                serde_json::json!({ "instanceId": id, "app": "WEB", "hostName": "10.0.0.1", "port": 80 })
            })
            .collect();
        serde_json::json!({ "application": [{ "instance": records }] }).to_string()
    };
    for _ in 0..3 {
        let answer = Answer::read(json(&told).as_bytes(), &store, &skipped)
            .unwrap()
            .unwrap();
        let before = store.instances();
        store.replace(answer, Origin::Same);
        for (before, now) in before.iter().zip(store.instances()) {
            assert!(Arc::ptr_eq(before, &now));
        }
    }
    assert_eq!(skipped.load(atomic::Ordering::Relaxed), 1);
}
