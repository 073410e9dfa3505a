//! mDNS on links of its own: beside avahi, across two machines, and on a machine that has none.
//!
//! Each test makes network namespaces and joins them with a virtual cable; nothing leaves them.

mod avahi;
mod machine;
mod node;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Trial};
use tokio::time::{Instant, sleep};

use avahi::Avahi;
use machine::{Machine, end, join};
use node::Node;

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// A goodbye takes 1 s to be believed, and avahi's tools take their time.
const SOON: Duration = Duration::from_secs(5);
/// mdns-sd looks for changes of the interfaces every 5 s.
const NOTICED: Duration = Duration::from_secs(12);

fn main() -> ExitCode {
    if node::is_one() {
        return node::run();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(4);
    let trials = vec![
        trial("avahi_reads_ours_until_the_goodbye", || async {
            avahi_reads_ours().await
        }),
        trial("we_read_avahis_until_the_goodbye", || async {
            we_read_avahis().await
        }),
        trial("avahi_and_ours_share_one_machine", || async {
            side_by_side().await
        }),
        trial("a_name_that_avahi_has_is_a_conflict", || async {
            conflict().await
        }),
        trial("a_machine_without_a_network_finds_itself", || async {
            offline().await
        }),
        trial("one_instance_on_two_networks_is_one", || async {
            two_networks().await
        }),
        trial("a_link_local_address_can_be_connected_to", || async {
            link_local().await
        }),
        trial("a_cable_that_is_replugged_is_spoken_on", || async {
            replugged().await
        }),
        trial("an_interface_may_come_and_go", || async {
            come_and_go().await
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

async fn avahi_reads_ours() -> Result {
    let (here, there) = pair("rav").await?;
    let avahi = Avahi::start(&there).await?;
    let mut node = Node::start(&here, "mdns://")?;
    node.ask("register greeter a-1 10.77.0.1:8080 color=blue")
        .await?;
    let ours = |found: &String| {
        found.contains("a-1\\064greeter")
            && found.contains(";10.77.0.1;8080;")
            && found.contains("\"service=greeter\"")
    };
    let found = eventually(
        SOON,
        "avahi to see ours",
        async || avahi.browse().await,
        ours,
    )
    .await?;
    for text in ["\"txtvers=1\"", "\"id=a-1\"", "\"m.color=blue\""] {
        check(found.contains(text), || format!("{text} is not in {found}"))?;
    }
    node.ask("register greeter a-1 10.77.0.1:9090 color=red")
        .await?;
    let changed =
        |found: &String| found.contains(";10.77.0.1;9090;") && found.contains("\"m.color=red\"");
    let found = eventually(
        SOON,
        "avahi to see the change",
        async || avahi.browse().await,
        changed,
    )
    .await?;
    check(found.matches("=;").count() == 1, || {
        format!("more than one record: {found}")
    })?;
    node.ask("deregister greeter a-1").await?;
    eventually(
        SOON,
        "avahi to forget ours",
        async || avahi.browse().await,
        String::is_empty,
    )
    .await?;
    Ok(())
}

async fn we_read_avahis() -> Result {
    let (here, there) = pair("rwe").await?;
    let avahi = Avahi::start(&there).await?;
    let mut node = Node::start(&here, "mdns://")?;
    expect(&mut node, "greeter", "").await?;
    let published = avahi.publish("My Printer", 8080, &["service=greeter", "m.color=blue"])?;
    eventually(
        SOON,
        "avahi's instance",
        async || node.ask("lookup greeter").await,
        |found| {
            // avahi names every address of the machine; which comes first is ours to say.
            found.starts_with("My Printer 10.77.0.2:8080")
                && found.contains(" color=blue")
                && !found.contains('|')
        },
    )
    .await?;
    drop(published);
    expect(&mut node, "greeter", "").await
}

async fn side_by_side() -> Result {
    let (here, there) = pair("rsb").await?;
    let avahi = Avahi::start(&here).await?;
    let (mut beside, mut across) = (
        Node::start(&here, "mdns://")?,
        Node::start(&there, "mdns://")?,
    );
    let _published = avahi.publish("theirs", 7070, &["service=theirs"])?;
    beside.ask("register ours a 10.77.0.1:8080").await?;
    // avahi names the loopback too, to whoever is on the same machine.
    for (node, address) in [(&mut beside, "127.0.0.1"), (&mut across, "10.77.0.1")] {
        expect(node, "ours", "a 10.77.0.1:8080").await?;
        let theirs = format!("theirs {address}:7070");
        eventually(
            SOON,
            "avahi's instance",
            async || node.ask("lookup theirs").await,
            |found| found.starts_with(&theirs),
        )
        .await?;
    }
    let ours = |found: &String| found.contains("a\\064ours");
    eventually(
        SOON,
        "avahi to see ours",
        async || avahi.browse().await,
        ours,
    )
    .await?;
    Ok(())
}

async fn conflict() -> Result {
    let (here, there) = pair("rco").await?;
    let avahi = Avahi::start(&there).await?;
    let mut node = Node::start(&here, "mdns://")?;
    let published = avahi.publish("a@greeter", 8080, &["service=greeter", "id=a"])?;
    eventually(
        SOON,
        "avahi's instance",
        async || node.ask("lookup greeter").await,
        |found| found.starts_with("a 10.77.0.2:8080"),
    )
    .await?;
    let refused = node
        .ask("register greeter a 10.77.0.1:8080")
        .await
        .unwrap_err()
        .to_string();
    check(refused.starts_with("Conflict"), || refused)?;
    drop(published);
    expect(&mut node, "greeter", "").await?;
    node.ask("register greeter a 10.77.0.1:8080").await?;
    let ours =
        |found: &String| found.contains("a\\064greeter;") && found.contains(";10.77.0.1;8080;");
    eventually(
        SOON,
        "avahi to see ours",
        async || avahi.browse().await,
        ours,
    )
    .await?;
    Ok(())
}

async fn offline() -> Result {
    let machine = Machine::new("roff")?;
    let (mut server, mut client) = (
        Node::start(&machine, "mdns://")?,
        Node::start(&machine, "mdns://")?,
    );
    expect(&mut client, "greeter", "").await?;
    server.ask("register greeter a 127.0.0.1:8080").await?;
    for node in [&mut server, &mut client] {
        expect(node, "greeter", "a 127.0.0.1:8080").await?;
    }
    server.ask("deregister greeter a").await?;
    expect(&mut client, "greeter", "").await
}

async fn two_networks() -> Result {
    let (here, there) = pair("rtn").await?;
    join(&here, "10.78.0.1/24", &there, "10.78.0.2/24", 1).await?;
    let (mut server, mut client) = (
        Node::start(&here, "mdns://")?,
        Node::start(&there, "mdns://")?,
    );
    server
        .ask("register greeter a 10.78.0.1:8080 @10.77.0.1:8080")
        .await?;
    expect(&mut client, "greeter", "a 10.78.0.1:8080 10.77.0.1:8080").await?;
    let mut on_one = Node::start(&there, &format!("mdns://?interface={}", end(&there, 0)))?;
    expect(&mut on_one, "greeter", "a 10.77.0.1:8080").await?;
    let mut by_address = Node::start(&there, "mdns://?interface=10.78.0.2")?;
    expect(&mut by_address, "greeter", "a 10.78.0.1:8080").await?;
    server.ask("deregister greeter a").await?;
    for node in [&mut client, &mut on_one, &mut by_address] {
        expect(node, "greeter", "").await?;
    }
    Ok(())
}

async fn link_local() -> Result {
    let (here, there) = pair("rll").await?;
    here.ip(&[
        "address",
        "add",
        "fe80::a/64",
        "dev",
        &end(&here, 0),
        "nodad",
    ])?;
    there.ip(&[
        "address",
        "add",
        "fe80::b/64",
        "dev",
        &end(&there, 0),
        "nodad",
    ])?;
    let (mut server, mut client) = (
        Node::start(&here, "mdns://")?,
        Node::start(&there, "mdns://")?,
    );
    server.ask("listen [::]:8080").await?;
    server.ask("register greeter a [fe80::a]:8080").await?;
    let found = eventually(
        SOON,
        "the instance",
        async || client.ask("lookup greeter").await,
        |found| !found.is_empty(),
    )
    .await?;
    let address = found.strip_prefix("a ").unwrap_or_default();
    check(address.starts_with("[fe80::a%"), || found.clone())?;
    client.ask(&format!("connect {address}")).await?;
    Ok(())
}

async fn come_and_go() -> Result {
    let (here, there) = (Machine::new("rcga")?, Machine::new("rcgb")?);
    let (mut server, mut client) = (
        Node::start(&here, "mdns://")?,
        Node::start(&there, "mdns://")?,
    );
    expect(&mut client, "greeter", "").await?;
    let refused = server
        .ask("register greeter a 10.77.0.1:8080")
        .await
        .unwrap_err()
        .to_string();
    check(refused.starts_with("Invalid"), || refused)?;

    join(&here, "10.77.0.1/24", &there, "10.77.0.2/24", 0).await?;
    // Until mdns-sd has noticed the interface, nothing is announced on it.
    let registered = eventually(
        NOTICED,
        "the interface",
        async || {
            Ok(server
                .ask("register greeter a 10.77.0.1:8080")
                .await
                .err()
                .map(|error| error.to_string()))
        },
        Option::is_none,
    );
    registered.await?;
    expect(&mut client, "greeter", "a 10.77.0.1:8080").await?;

    here.ip(&["link", "set", &end(&here, 0), "down"])?;
    eventually(
        NOTICED,
        "the loss",
        async || server.ask("renew").await,
        |held| held == "unknown",
    )
    .await?;
    let refused = server
        .ask("register greeter a 10.77.0.1:8080")
        .await
        .unwrap_err()
        .to_string();
    check(refused.starts_with("Unavailable"), || refused)?;
    // The carrier is gone on the other end too, and with it what was heard there.
    eventually(
        NOTICED,
        "the other end",
        async || client.ask("lookup greeter").await,
        String::is_empty,
    )
    .await?;

    here.ip(&["link", "set", &end(&here, 0), "up"])?;
    eventually(
        NOTICED,
        "the registration",
        async || {
            Ok(server
                .ask("register greeter a 10.77.0.1:8080")
                .await
                .err()
                .map(|error| error.to_string()))
        },
        Option::is_none,
    )
    .await?;
    let found = eventually(
        NOTICED,
        "the instance",
        async || client.ask("lookup greeter").await,
        |found| !found.is_empty(),
    );
    let found = found.await?;
    check(found == "a 10.77.0.1:8080", || found)?;
    check(server.ask("renew").await? == "held", || {
        "it is not held".to_owned()
    })
}

async fn replugged() -> Result {
    let (here, there) = pair("rpl").await?;
    let mut server = Node::start(&here, "mdns://")?;
    server.ask("register greeter a 10.77.0.1:8080").await?;
    // By then both announcements are out.
    expect(&mut server, "greeter", "a 10.77.0.1:8080").await?;
    here.ip(&["link", "delete", &end(&here, 0)])?;
    join(&here, "10.77.0.1/24", &there, "10.77.0.2/24", 0).await?;
    let mut client = Node::start(&there, "mdns://")?;
    eventually(
        NOTICED,
        "the instance",
        async || client.ask("lookup greeter").await,
        |found| found == "a 10.77.0.1:8080",
    )
    .await?;
    check(server.ask("renew").await? == "held", || {
        "it is not held".to_owned()
    })
}

/// Two machines, joined by one cable.
async fn pair(name: &str) -> Result<(Machine, Machine)> {
    let (here, there) = (
        Machine::new(&format!("{name}a"))?,
        Machine::new(&format!("{name}b"))?,
    );
    join(&here, "10.77.0.1/24", &there, "10.77.0.2/24", 0).await?;
    Ok((here, there))
}

/// The instances of a service are soon these.
async fn expect(node: &mut Node, service: &str, wanted: &str) -> Result {
    let question = format!("lookup {service}");
    let what = format!("{service} to be {wanted:?}");
    eventually(
        SOON,
        &what,
        async || node.ask(&question).await,
        |found| found == wanted,
    )
    .await?;
    Ok(())
}

async fn eventually<T: std::fmt::Debug>(
    within: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T>,
    wanted: impl Fn(&T) -> bool,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        let answer = ask().await?;
        if wanted(&answer) {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(format!("waited {within:?} for {what}; last: {answer:?}").into());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result {
    if holds {
        Ok(())
    } else {
        Err(otherwise().into())
    }
}

/// A test that is ignored, with the reason, where it cannot run, and fails there when `REGISTRY_TEST_REQUIRE` lists
/// `mdns`.
fn trial<F: Future<Output = Result>>(
    name: &str,
    test: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    Trial::ignorable_test(format!("mdns::link::{name}"), move || {
        let required = std::env::var("REGISTRY_TEST_REQUIRE").unwrap_or_default();
        let required = required.split(',').any(|name| name.trim() == "mdns");
        match machine::missing().or_else(avahi::missing) {
            Some(reason) if required => {
                return Err(format!("required, and cannot run: {reason}").into());
            }
            Some(reason) => return Ok(Completion::ignored_with(reason)),
            None => {}
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(test())?;
        Ok(Completion::Completed)
    })
}
