//! Every feature links its backend, and a backend that is not linked is named by the error.

use registry_plugins::{Drivers, ErrorKind, connect, drivers, schemes};

/// Each backend: its scheme, which is also the name of its feature, and whether it is compiled in.
const BACKENDS: [(&str, bool); 6] = [
    ("consul", cfg!(feature = "consul")),
    ("etcd", cfg!(feature = "etcd")),
    ("eureka", cfg!(feature = "eureka")),
    ("mdns", cfg!(feature = "mdns")),
    ("memory", true),
    ("zookeeper", cfg!(feature = "zookeeper")),
];

#[test]
fn the_schemes_are_those_of_the_features() {
    let linked = BACKENDS.iter().filter(|(_, linked)| *linked);
    let expected: Vec<_> = linked.map(|(scheme, _)| *scheme).collect();
    assert_eq!(schemes(), expected);
}

/// The linker may drop what was only submitted, and an explicit list has only what is ours: both are kept.
#[test]
fn a_plugin_is_named_and_submitted() {
    let plugins = BACKENDS.iter().filter(|(scheme, _)| *scheme != "memory");
    for (scheme, _) in plugins.filter(|(_, linked)| *linked) {
        assert!(Drivers::linked().schemes().contains(scheme));
        let drivers = format!("{:?}", drivers());
        let entry = format!("schemes: [{scheme:?}]");
        assert_eq!(drivers.matches(&entry).count(), 2, "{drivers}");
    }
}

#[tokio::test]
async fn a_linked_scheme_connects() {
    for (scheme, _) in BACKENDS.iter().filter(|(_, linked)| *linked) {
        connect(&format!("{scheme}://")).await.unwrap();
    }
}

#[tokio::test]
async fn a_backend_that_is_left_out_is_named_with_its_feature() {
    for (scheme, _) in BACKENDS.iter().filter(|(_, linked)| !*linked) {
        let error = connect(&format!("{scheme}://")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        assert!(
            text.contains(&format!("(there are: {})", schemes().join(", "))),
            "{text}"
        );
        assert!(
            text.contains(&format!(
                "enable the feature {scheme:?} of registry-plugins"
            )),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_foreign_scheme_is_refused_with_the_schemes_there_are() {
    let error = connect("carrier-pigeon://roof").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(text.contains("carrier-pigeon://"), "{text}");
    assert!(text.contains(&schemes().join(", ")), "{text}");
    assert!(text.contains("link a plugin"), "{text}");
}

#[test]
fn every_backend_of_the_manifest_is_tested_here() {
    let manifest = include_str!("../Cargo.toml");
    let (_, features) = manifest.split_once("\n[features]\n").unwrap();
    let features = features.split("\n[").next().unwrap();
    let features = features.lines().filter_map(|line| line.split_once(" = "));
    // The others are parts of the core.
    let backends = features.filter(|(name, means)| means.contains(&format!("dep:registry-{name}")));
    let mut names: Vec<_> = backends.map(|(name, _)| name).collect();
    names.push("memory");
    names.sort_unstable();
    assert_eq!(names, BACKENDS.map(|(scheme, _)| scheme));
}
