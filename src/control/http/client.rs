//! The operator's side of the relay's HTTP: one request, one answer, for `ringpost queue` and `ringpost top`. Blocks its thread.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// An answer takes no longer, and is no longer.
const ANSWER_PAUSE: Duration = Duration::from_secs(30);
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// Asks the relay at an address. An answer that is no success is an error with what it says.
pub fn ask(address: SocketAddr, path: &str, order: Option<&Value>) -> Result<Value, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let asked = runtime.block_on(async { tokio::time::timeout(ANSWER_PAUSE, exchange(address, path, order)).await });
    asked.unwrap_or_else(|_| Err(format!("the relay at {address} does not answer")))
}

async fn exchange(address: SocketAddr, path: &str, order: Option<&Value>) -> Result<Value, String> {
    let unreachable = |error: std::io::Error| {
        format!(
            "cannot reach a relay at {address}: {error}; is it running, with listen.http there? --http names another"
        )
    };
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let broken = |error: hyper::Error| format!("the relay at {address}: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let (method, body) = match order {
        None => (Method::GET, Body::empty()),
        Some(order) => (Method::POST, Body::from(order.to_string())),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let text = to_bytes(Body::new(answer.into_body()), ANSWER_MAX_BYTES).await.map_err(|error| error.to_string())?;
    let said: Value =
        serde_json::from_slice(&text).map_err(|error| format!("what answers at {address} is no relay: {error}"))?;
    match said["error"].as_str() {
        Some(error) => Err(format!("{error} ({})", status.as_u16())),
        None => Ok(said),
    }
}
