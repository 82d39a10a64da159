//! The relay's face over HTTP: a thread of its own on tokio, beside the resolver's, that carries no mail itself.
//!
//! - `messages`: POST of messages, with `request` (what a body means), `compose` (from fields to a text) and `idempotency`.
//! - `orders`: what operators may do to the queue. `client`: who asks for it.
//! - `watch`: what the shards do, asked at most once a second; `metrics` says it to Prometheus.
//! - `answer`: what a client is told.
//!
//! The shards know nothing of it: a message goes to one of them as a letter and comes back as its fate. Everything is
//! bounded: connections, bodies in memory, time. Who may do what is a matter of the client's network; requests that a
//! page in a browser makes for another site are refused. Wrong input is answered, never a panic; trouble with the
//! listening socket is reported.

mod answer;
pub mod client;
mod compose;
#[doc(hidden)]
pub mod fuzzed;
mod idempotency;
mod messages;
mod metrics;
mod orders;
mod request;
mod watch;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch as tokio_watch};
use tokio::time::timeout_at;
use tower_service::Service as _;

use crate::base::limits;
use crate::config::Settings;
use crate::runtime::Shards;
use crate::runtime::report::Reporter;
use crate::shard::Level;
use answer::Problem;
use idempotency::Keys;
pub use orders::Holds;
use watch::Watch;

/// The pause after the descriptors or the memory for them ran out.
const FULL_PAUSE: Duration = Duration::from_millis(100);
/// When the relay stops, answers on their way have so long to get out.
const STOP_PAUSE: Duration = Duration::from_secs(2);

/// What all requests share.
struct Desk {
    shards: Shards,
    settings: tokio_watch::Receiver<Arc<Settings>>,
    /// Bytes of bodies that may still be taken into memory, in KiB.
    room_kib: Arc<Semaphore>,
    /// The shard that the next message goes to, before the count of shards is taken off it.
    turn: AtomicUsize,
    keys: Keys,
    watch: Watch,
    holds: orders::Shared,
}

impl Desk {
    fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
struct Client(IpAddr);

/// The running server.
pub struct Server {
    address: SocketAddr,
    settings: tokio_watch::Sender<Arc<Settings>>,
    stop: tokio_watch::Sender<bool>,
    thread: thread::JoinHandle<()>,
}

impl Server {
    /// Starts the thread.
    pub fn start(
        socket: std::net::TcpListener,
        shards: Shards,
        settings: Arc<Settings>,
        holds: Holds,
        reporter: Reporter,
    ) -> io::Result<Server> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = tokio_watch::channel(false);
        let (settings, watched) = tokio_watch::channel(settings);
        let desk = Arc::new(Desk {
            watch: Watch::new(shards.clone(), Instant::now()),
            shards,
            settings: watched,
            room_kib: Arc::new(Semaphore::new(limits::HTTP_BODIES_MAX_BYTES >> 10)),
            turn: AtomicUsize::new(0),
            keys: Keys::default(),
            holds: holds.into(),
        });
        let thread = thread::Builder::new().name("http".into()).spawn(move || {
            runtime.block_on(serve(socket, desk, stopped, reporter));
            runtime.shutdown_background();
        })?;
        Ok(Server { address, settings, stop, thread })
    }

    /// Where it listens, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What holds for requests from now on.
    pub fn change(&self, settings: Arc<Settings>) {
        self.settings.send_replace(settings);
    }

    /// Lets answers on their way get out, and ends the thread.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        // A panic there was reported where it happened.
        let _ = self.thread.join();
    }
}

/// Puts a question to every shard, given its number and where the answer goes. Gives the answers in the shards' order; `None`
/// for a shard that did not answer in time.
async fn ask_all<T: Send + 'static>(
    shards: &Shards,
    longest: Duration,
    ask: impl Fn(usize, Box<dyn FnOnce(T) + Send>),
) -> Vec<Option<T>> {
    let until = tokio::time::Instant::now() + longest;
    let asked: Vec<_> = (0..shards.count())
        .map(|shard| {
            let (answer, wait) = oneshot::channel();
            // Nobody waits any more where it took too long.
            ask(shard, Box::new(move |told| drop(answer.send(told))));
            wait
        })
        .collect();
    let mut answers = Vec::with_capacity(asked.len());
    for wait in asked {
        answers.push(timeout_at(until, wait).await.ok().and_then(Result::ok));
    }
    answers
}

fn router(desk: Arc<Desk>) -> Router {
    let watching = Router::new()
        .route("/metrics", get(metrics::show))
        .route("/v1/stats", get(watch::stats))
        .route("/v1/sites", get(watch::sites))
        .route("/v1/holds", get(orders::list))
        .route_layer(from_fn_with_state(desk.clone(), only_watchers));
    let operating = Router::new()
        .route("/v1/queue", post(orders::post))
        .route_layer(from_fn_with_state(desk.clone(), only_operators));
    Router::new()
        .route("/health", get(watch::health))
        .route("/v1/messages", post(messages::post))
        .merge(watching)
        .merge(operating)
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing here; docs/http.md lists all paths"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method; docs/http.md lists all paths")
        })
        .with_state(desk)
}

/// Lets only those see what the relay does who may.
async fn only_watchers(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let Client(peer) = client_of(&request);
    if !desk.settings().http.may_watch(peer) {
        return Problem::new(StatusCode::FORBIDDEN, "not from this address; http.watchers says who may")
            .into_response();
    }
    next.run(request).await
}

/// Lets only those give orders who may.
async fn only_operators(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let Client(peer) = client_of(&request);
    if !desk.settings().http.may_operate(peer) {
        let text = "not from this address; http.operators says who may";
        return Problem::new(StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

fn client_of(request: &Request) -> Client {
    *request.extensions().get().expect("every connection's requests say whose they are")
}

async fn serve(
    socket: std::net::TcpListener,
    desk: Arc<Desk>,
    mut stopped: tokio_watch::Receiver<bool>,
    reporter: Reporter,
) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return reporter.report(Level::Error, format!("no HTTP: {error}")),
    };
    let router = router(desk);
    let places = Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, stopped) = (router.clone(), stopped.clone());
                tokio::spawn(async move {
                    converse(stream, Client(peer.ip().to_canonical()), router, stopped).await;
                    drop(place);
                });
            }
            Err(error) => {
                reporter.report(Level::Warning, format!("cannot accept HTTP connections: {error}"));
                tokio::time::sleep(FULL_PAUSE).await;
            }
        }
    }
    // Every connection that is gone has given its place back.
    let all = places.acquire_many(limits::HTTP_CONNECTIONS_MAX as u32);
    let _ = tokio::time::timeout(STOP_PAUSE, all).await;
}

/// Serves one connection to its end. What goes wrong on it is the client's to see.
async fn converse(stream: TcpStream, client: Client, router: Router, mut stopped: tokio_watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let mut router = router.clone();
        async move {
            if request.headers().contains_key(header::ORIGIN) {
                let text = "not for pages of other sites: the Origin field is not taken";
                return Ok::<_, Infallible>(Problem::new(StatusCode::FORBIDDEN, text).into_response());
            }
            request.extensions_mut().insert(client);
            router.call(request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits::HTTP_IDLE_MS))
        .max_buf_size(limits::HTTP_HEAD_MAX_BYTES)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
