//! Instances of one service in the order of their ids, and what differs between two such lists.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::instance::Instance;
use crate::watcher::Change;

/// Where an id is, or would be.
pub(super) fn find(instances: &[Arc<Instance>], id: &crate::InstanceId) -> Result<usize, usize> {
    instances.binary_search_by(|instance| instance.id.cmp(id))
}

/// Whether anything differs; what does not is replaced in `now` by what stands in `before`, so that equal instances
/// stay one and the same.
pub(super) fn adopt(before: &[Arc<Instance>], now: &mut [Arc<Instance>]) -> bool {
    let mut before_left = before;
    let mut same = 0;
    for instance in now.iter_mut() {
        while let Some((old, rest)) = before_left.split_first()
            && old.id <= instance.id
        {
            before_left = rest;
            if old == instance {
                *instance = old.clone();
                same += 1;
            }
        }
    }
    same != before.len() || same != now.len()
}

/// The changes that turn `before` into `now`; both in the order of their ids.
pub(super) fn changes(before: &[Arc<Instance>], now: &[Arc<Instance>]) -> Vec<Change> {
    let mut changes = Vec::new();
    walk(before, now, |old, new| match (old, new) {
        (_, Some(new)) => changes.push(Change::Upsert(new.clone())),
        (Some(old), None) => changes.push(Change::Remove(old.key())),
        (None, None) => {}
    });
    changes
}

/// Calls `each` for every id whose instance differs.
fn walk<'a>(
    before: &'a [Arc<Instance>],
    now: &'a [Arc<Instance>],
    mut each: impl FnMut(Option<&'a Arc<Instance>>, Option<&'a Arc<Instance>>),
) {
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    loop {
        let order = match (before.peek(), now.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {
                before.next();
                now.next();
                continue;
            }
            (Some(old), Some(new)) => old.id.cmp(&new.id),
        };
        match order {
            Ordering::Less => each(before.next(), None),
            Ordering::Greater => each(None, now.next()),
            Ordering::Equal => {
                let (old, new) = (before.next(), now.next());
                if old != new {
                    each(old, new);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instances(of: &std::collections::BTreeMap<u8, u16>) -> Vec<Arc<Instance>> {
        of.iter()
            .map(|(id, weight)| {
                let instance = Instance::new("s", "10.0.0.1:80")
                    .id(format!("{id:03}"))
                    .weight(*weight);
                Arc::new(instance.build().unwrap())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn applying_the_changes_gives_the_new_list(
            before in prop::collection::btree_map(0..20u8, 0..3u16, 0..20),
            now in prop::collection::btree_map(0..20u8, 0..3u16, 0..20),
        ) {
            let (before, now) = (instances(&before), instances(&now));
            let mut applied = before.clone();
            let changes = changes(&before, &now);
            for change in &changes {
                match change {
                    Change::Upsert(new) => match find(&applied, &new.id) {
                        Ok(at) => {
                            prop_assert_ne!(&applied[at], new);
                            applied[at] = new.clone();
                        }
                        Err(at) => applied.insert(at, new.clone()),
                    },
                    Change::Remove(key) => drop(applied.remove(find(&applied, &key.id).unwrap())),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(&applied, &now);
            let mut adopted = now.clone();
            prop_assert_eq!(adopt(&before, &mut adopted), !changes.is_empty());
            prop_assert_eq!(&adopted, &now);
            for instance in &adopted {
                if let Some(old) = before.iter().find(|old| *old == instance) {
                    prop_assert!(Arc::ptr_eq(old, instance));
                }
            }
        }
    }
}
