//! The tonic peer of benchmarks/transport: one thread, replies of constant size, raw bytes for
//! messages, so that only the transport is measured. `bench-tonic PORT`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

/// Answers every request with the same bytes.
struct Constant(Bytes);

impl UnaryService<Bytes> for Constant {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;
    fn call(&mut self, _request: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.0.clone())))
    }
}

#[derive(Clone)]
struct Bench {
    reply_100: Bytes,
    reply_2500: Bytes,
    reply_16384: Bytes,
}

impl NamedService for Bench {
    const NAME: &'static str = "bench.Bench";
}

impl Service<http::Request<Body>> for Bench {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let reply = match request.uri().path() {
            "/bench.Bench/Reply100" => self.reply_100.clone(),
            "/bench.Bench/Reply2500" => self.reply_2500.clone(),
            "/bench.Bench/Reply16384" => self.reply_16384.clone(),
            other => {
                let status = Status::unimplemented(format!("no method {other}"));
                return Box::pin(std::future::ready(Ok(status.into_http())));
            }
        };
        Box::pin(async move { Ok(Grpc::new(Raw).unary(Constant(reply), request).await) })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("usage: bench-tonic PORT")?.parse()?;
    let bench = Bench {
        reply_100: vec![b'x'; 100].into(),
        reply_2500: vec![b'x'; 2500].into(),
        reply_16384: vec![b'x'; 16384].into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(
        Server::builder()
            .tcp_nodelay(true)
            .add_service(bench)
            .serve(SocketAddr::from(([127, 0, 0, 1], port))),
    )?;
    Ok(())
}
