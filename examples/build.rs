//! Compiles the greeter's proto file, for the feature `grpc` only: nothing else here needs protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "grpc")]
    tonic_prost_build::compile_protos("proto/greeter.proto")?;
    Ok(())
}
