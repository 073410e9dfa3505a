//! One copy of the gRPC service `greeter`: registers when it can be called, and on Ctrl-C goes without a lost call.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};

use examples::args::Args;
use examples::console::Console;
use examples::grpc::greeter_server::{Greeter, GreeterServer};
use examples::grpc::{HelloReply, HelloRequest};
use examples::{hint, signal};
use registry_plugins::{Address, Instance, InstanceId, Registrar, ServiceName, connect_from_env};
use registry_tonic::{ServeConfig, serve_with_config};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

const HELP: &str = "\
One copy of a tiny gRPC service. Start as many as you like; Ctrl-C drains and deregisters this one.

Usage: grpc-server [--service NAME] [--id ID] [--host ADDRESS] [--port PORT]

  --service NAME     the service that it is a copy of    default: greeter-grpc
  --id ID            its id within the service           default: one at random
  --host ADDRESS     the address to listen on            default: 0.0.0.0, all
  --port PORT        the port to listen on               default: 0, a free one

The registry is named by REGISTRY_URL, such as mdns:// (the default).
";

struct Service {
    id: InstanceId,
}

#[tonic::async_trait]
impl Greeter for Service {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        let text = format!("hello {}, from {}", request.get_ref().name, self.id);
        Ok(Response::new(HelloReply { text }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse(HELP);
    let service = args.take("service", "greeter-grpc".parse::<ServiceName>()?);
    let id = args.take("id", InstanceId::random(&service));
    let host = args.take("host", IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let port = args.take("port", 0_u16);
    args.finish();
    let console = Console::new(24);
    hint::one_process_only(&console);

    let registry = connect_from_env().await?;
    let listener = TcpListener::bind((host, port)).await?;
    let address = Address::advertise(listener.local_addr()?)?;
    console.event("serving", &id, &address);
    let instance = Instance::new(service, address).id(id.clone());
    let router = Server::builder().add_service(GreeterServer::new(Service { id: id.clone() }));
    let stop = async {
        signal::interrupted().await;
        console.event("draining", &id, "clients stop choosing this instance");
    };
    let registrar = Registrar::new(registry.clone());
    let config = ServeConfig::default().service("greeter.Greeter");
    serve_with_config(router, listener, &registrar, instance, stop, config).await?;
    registry.close().await?;
    console.event("ended", &id, "deregistered, with all calls answered");
    Ok(())
}
