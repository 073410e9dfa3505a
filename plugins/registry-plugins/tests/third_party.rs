//! A driver of somebody else's, linked into the same program, is served by the facade.

use std::sync::Arc;

use registry_plugins::{Driver, Error, ErrorKind, Memory, connect, inventory, schemes};

const FOREIGN: Driver = Driver::new(&["foreign"], |url| {
    Box::pin(async move {
        url.options().finish()?;
        Ok(Arc::new(Memory::new()) as _)
    })
});

/// Claims schemes that are ours.
const IMPOSTOR: Driver = Driver::new(&["mdns", "memory"], |_| {
    Box::pin(async { Err(Error::new(ErrorKind::Config, "not ours")) })
});

inventory::submit! { FOREIGN }
inventory::submit! { IMPOSTOR }

#[tokio::test]
async fn a_submitted_driver_is_found() {
    assert!(schemes().contains(&"foreign"), "{:?}", schemes());
    let registry = connect("foreign://somewhere").await.unwrap();
    registry.close().await.unwrap();
}

#[tokio::test]
async fn a_submitted_driver_is_listed_in_the_error() {
    let error = connect("nowhere://").await.unwrap_err().to_string();
    assert!(error.contains("foreign"), "{error}");
}

#[tokio::test]
async fn ours_come_before_those_that_were_submitted() {
    connect("memory://").await.unwrap();
    let mdns = connect("mdns://").await;
    assert_eq!(mdns.is_ok(), cfg!(feature = "mdns"), "{mdns:?}");
}
