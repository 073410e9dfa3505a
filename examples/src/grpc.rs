//! What protoc and tonic make of `proto/greeter.proto`.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]

tonic::include_proto!("greeter");
