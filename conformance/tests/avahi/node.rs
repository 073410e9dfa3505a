//! A program of ours on a machine of the test: this test binary, started again, that obeys its standard input.

use std::collections::HashMap;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Address, Drivers, Held, Instance, InstanceKey, ReadOptions, Registered, Registration, Registry,
    Renewal,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::Result;
use crate::machine::Machine;

const URL: &str = "REGISTRY_TEST_NODE_URL";
const ANSWER: Duration = Duration::from_secs(15);

/// The program, as the test sees it. It ends with this.
pub(crate) struct Node {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Node {
    pub(crate) fn start(machine: &Machine, url: &str) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = machine.command(&program.display().to_string());
        command
            .env(URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Command::from(command).kill_on_drop(true).spawn()?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        Ok(Self {
            input: input.ok_or("no input")?,
            output: BufReader::new(output.ok_or("no output")?).lines(),
            _process: process,
        })
    }

    /// Gives a command; an error is what the program made of it.
    pub(crate) async fn ask(&mut self, command: &str) -> Result<String> {
        self.input
            .write_all(format!("{command}\n").as_bytes())
            .await?;
        let line = timeout(ANSWER, self.output.next_line())
            .await??
            .ok_or("the program ended")?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("ok", answer) => Ok(answer.to_owned()),
            (_, error) => Err(error.to_owned().into()),
        }
    }
}

/// Whether this process is such a program.
pub(crate) fn is_one() -> bool {
    std::env::var_os(URL).is_some()
}

/// Obeys until the input ends.
pub(crate) fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(obey()))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn obey() -> Result {
    let drivers = Drivers::new().with(registry_mdns::DRIVER);
    let mut program = Program {
        registry: drivers.connect(&std::env::var(URL)?).await?,
        held: HashMap::new(),
    };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<_> = line.split(' ').collect();
        match program.execute(&words).await {
            Ok(answer) => println!("ok {answer}"),
            Err(error) => println!("error {error}"),
        }
    }
    program.registry.close().await?;
    Ok(())
}

struct Program {
    registry: Arc<dyn Registry>,
    held: HashMap<InstanceKey, (Arc<Registration>, Registered)>,
}

impl Program {
    async fn execute(&mut self, words: &[&str]) -> Result<String> {
        match words {
            ["register", service, id, address, rest @ ..] => {
                self.register(service, id, address, rest).await
            }
            ["deregister", service, id] => {
                let key = Instance::new(*service, "127.0.0.1:1")
                    .id(*id)
                    .build()?
                    .key();
                self.registry.deregister(&key).await?;
                self.held.remove(&key);
                Ok(String::new())
            }
            ["lookup", service] => {
                let found = self
                    .registry
                    .lookup(&(*service).try_into()?, &ReadOptions::default())
                    .await?;
                let found: Vec<_> = found.iter().map(|found| describe(found)).collect();
                Ok(found.join("|"))
            }
            ["renew"] => self.renew().await,
            ["listen", address] => {
                let listener = TcpListener::bind(address).await?;
                tokio::spawn(async move {
                    while let Ok(accepted) = listener.accept().await {
                        drop(accepted);
                    }
                });
                Ok(String::new())
            }
            ["connect", address] => {
                let address = address.parse::<Address>()?.socket_addr().ok_or("a name")?;
                TcpStream::connect(address).await?;
                Ok(String::new())
            }
            _ => Err("unknown command".into()),
        }
    }

    /// `@address` is an alternate, `key=value` metadata.
    async fn register(
        &mut self,
        service: &str,
        id: &str,
        address: &str,
        rest: &[&str],
    ) -> Result<String> {
        let mut instance = Instance::new(service, address).id(id);
        for word in rest {
            instance = match word.split_once('=') {
                Some((key, value)) => instance.meta(key, value),
                None => instance.alternate(word.trim_start_matches('@')),
            };
        }
        let registration = Arc::new(Registration::new(instance)?);
        let registered = self.registry.register(&registration).await;
        let registered = registered.map_err(|error| format!("{:?}: {error}", error.kind()))?;
        self.held
            .insert(registration.key(), (registration, registered));
        Ok(String::new())
    }

    async fn renew(&self) -> Result<String> {
        let held = self.held.values().cloned();
        let held: Vec<_> = held
            .map(|(registration, registered)| Held::new(registration, registered))
            .collect();
        let renewed = self.registry.renew(&held).await;
        let all_held = renewed
            .iter()
            .all(|renewed| matches!(renewed, Ok(Renewal::Held(_))));
        Ok(if all_held { "held" } else { "unknown" }.to_owned())
    }
}

fn describe(instance: &Instance) -> String {
    let mut text = format!("{} {}", instance.id, instance.address);
    for alternate in &instance.alternates {
        text += &format!(" {alternate}");
    }
    for (key, value) in instance.metadata.iter() {
        text += &format!(" {key}={value}");
    }
    text
}
