//! POST /v1/messages: from a request to messages in shards, and their fates to an answer.
//!
//! 202 is given when every message of the request is durable, and not before. A message goes to one shard, whole; shards
//! take turns. What was begun is brought to its end also if the client goes meanwhile, so that an idempotency key never
//! lies. Bodies in memory are bounded over all requests; who finds no room waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::answer::Problem;
use super::compose;
use super::idempotency::{Answer, Known};
use super::request::{self, ENVELOPE_FROM, ENVELOPE_TO, Letter};
use super::{Client, Desk};
use crate::base::ids::MessageId;
use crate::base::limits;
use crate::config::Settings;
use crate::mail::envelope::Envelope;
use crate::runtime::Injection;
use crate::shard::Origin;
use crate::smtp::reply;

/// Messages of one request that are on their way to shards at a time, and their bytes.
const TOGETHER_MAX: usize = 64;
const TOGETHER_MAX_BYTES: usize = 8 << 20;

/// What the body of a request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Raw,
    /// With fields in UTF-8 (RFC 6532).
    Global,
}

/// One message's fate.
struct Fate {
    recipients: Vec<String>,
    outcome: Result<MessageId, Problem>,
}

type Waiting = (Vec<String>, oneshot::Receiver<Result<MessageId, Problem>>);

pub(super) async fn post(
    State(desk): State<Arc<Desk>>,
    Extension(Client(peer)): Extension<Client>,
    uri: Uri,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    let asks_first = headers.contains_key(header::EXPECT);
    match take(desk, Client(peer), uri, headers, &mut body).await {
        Ok(Answer { status, body }) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(problem) => {
            if !asks_first {
                skip(body).await;
            }
            problem.into_response()
        }
    }
}

/// Reads on for a while, and throws it away: who still sends when we close would lose our answer to the reset. Not for who asked
/// first (`Expect: 100-continue`): reading would tell it to send.
async fn skip(mut body: Body) {
    let mut left_bytes = limits::HTTP_SKIPPED_MAX_BYTES;
    let skipped = async {
        while let Some(Ok(frame)) = body.frame().await {
            left_bytes = left_bytes.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
            if left_bytes == 0 {
                break;
            }
        }
    };
    // However it ends, the answer is the same.
    let _ = timeout(Duration::from_millis(limits::HTTP_IDLE_MS), skipped).await;
}

async fn take(
    desk: Arc<Desk>,
    client: Client,
    uri: Uri,
    headers: HeaderMap,
    body: &mut Body,
) -> Result<Answer, Problem> {
    let settings = desk.settings();
    if !settings.relay.may_relay(client.0) {
        return Err(reply::RELAY_DENIED.into());
    }
    let kind = kind_of(&headers)?;
    let key = key_of(&headers)?;
    let (body, room) = read(&desk, kind, &settings, body).await?;
    let number = match &key {
        None => 0,
        Some(key) => match desk.keys.begin(Instant::now(), client.0, key, &said(&uri.to_string(), &headers, &body)) {
            Known::New(number) => number,
            Known::Done(answer) => return Ok(answer),
            Known::UnderWay => {
                let text = "a request with this Idempotency-Key is under way; try again for its answer";
                return Err(Problem::new(StatusCode::CONFLICT, text));
            }
            Known::Another => {
                return Err(Problem::senseless("this Idempotency-Key was used for another request"));
            }
        },
    };
    // In a task of its own: a client that goes does not stop it half way.
    let work = tokio::spawn(async move {
        let answered = inject(&desk, client, kind, &settings, &uri, &headers, &body).await;
        if let Some(key) = key {
            let answer = answered.as_ref().ok().filter(|answer| answer.status.is_success()).cloned();
            desk.keys.end(Instant::now(), client.0, &key, number, answer);
        }
        drop(room);
        answered
    });
    match timeout(Duration::from_millis(limits::HTTP_ANSWER_MS), work).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(_)) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the relay failed at this request")),
        Err(_) => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the queue did not answer in time; the message may be taken or not: ask again with the same Idempotency-Key",
        )),
    }
}

fn kind_of(headers: &HeaderMap) -> Result<Kind, Problem> {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(Kind::Json),
        "message/rfc822" => Ok(Kind::Raw),
        "message/global" => Ok(Kind::Global),
        _ => {
            let text = "want Content-Type application/json, message/rfc822 or message/global";
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
        }
    }
}

fn key_of(headers: &HeaderMap) -> Result<Option<Box<str>>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > limits::IDEMPOTENCY_KEY_MAX_BYTES {
        let most = limits::IDEMPOTENCY_KEY_MAX_BYTES;
        return Err(Problem::senseless(format!("an Idempotency-Key is 1 to {most} ASCII characters long")));
    }
    Ok(Some(text.into()))
}

/// All of a request that its messages follow from.
fn said<'r>(uri: &'r str, headers: &'r HeaderMap, body: &'r [u8]) -> Vec<&'r [u8]> {
    let fields = [header::CONTENT_TYPE.as_str(), ENVELOPE_FROM, ENVELOPE_TO].into_iter();
    let values =
        fields.flat_map(|name| headers.get_all(name).iter().map(move |value| [name.as_bytes(), value.as_bytes()]));
    [uri.as_bytes(), body].into_iter().chain(values.flatten()).collect()
}

/// Reads the body, in room that is kept for as long as anything of it is.
async fn read(
    desk: &Arc<Desk>,
    kind: Kind,
    settings: &Settings,
    body: &mut Body,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), Problem> {
    let most = match kind {
        Kind::Raw | Kind::Global => settings.relay.message_bytes_max,
        // Escaped and with what stands around it.
        Kind::Json => settings.relay.message_bytes_max * 2,
    } as usize;
    let length = body.size_hint();
    if length.lower() > most as u64 {
        return Err(reply::TOO_LARGE.into());
    }
    let began = Instant::now();
    let idle = Duration::from_millis(limits::HTTP_IDLE_MS);
    let mut room = take_room(desk, length.lower() as usize).await?;
    let mut taken = Vec::with_capacity(length.lower() as usize);
    while let Some(frame) = timeout(idle, body.frame()).await.map_err(|_| too_slow())? {
        let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if taken.len() + data.len() > most {
            return Err(reply::TOO_LARGE.into());
        }
        if taken.len() + data.len() > room_bytes(&room) {
            room.merge(take_room(desk, (taken.len() + data.len()).max(64 << 10)).await?);
        }
        taken.extend_from_slice(&data);
        let ms = began.elapsed().as_millis() as u64;
        if ms > limits::HTTP_IDLE_MS && (taken.len() as u64) < ms * limits::DATA_RATE_MIN_BYTES_PER_SECOND / 1000 {
            return Err(too_slow());
        }
    }
    Ok((taken, room))
}

fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly")
}

fn room_bytes(room: &OwnedSemaphorePermit) -> usize {
    room.num_permits() << 10
}

async fn take_room(desk: &Arc<Desk>, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    // A request's text is there once as it came and once as it goes to a shard; one without a text takes room, too.
    let kib = ((2 * bytes).div_ceil(1 << 10) as u32).clamp(1, (limits::HTTP_BODIES_MAX_BYTES >> 10) as u32);
    let room = desk.room_kib.clone().acquire_many_owned(kib);
    match timeout(Duration::from_millis(limits::HTTP_IDLE_MS), room).await {
        Ok(room) => Ok(room.expect("the semaphore is never closed")),
        Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many messages at once; try again later")),
    }
}

async fn inject(
    desk: &Desk,
    client: Client,
    kind: Kind,
    settings: &Settings,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Problem> {
    let mut batch = Batch { desk, client, waiting: Vec::new(), bytes: 0, fates: Vec::new() };
    match kind {
        Kind::Raw | Kind::Global => {
            let mut envelope = request::given_envelope(uri, headers, &settings.hostname)?;
            envelope.utf8 |= kind == Kind::Global;
            batch.add(envelope, body.to_vec()).await;
        }
        Kind::Json => {
            let letter = Letter::read(body)?;
            if letter.recipients().count() > limits::RECIPIENTS_MAX {
                return Err(reply::TOO_MANY_RECIPIENTS.into());
            }
            if letter.is_template() {
                inject_each(&mut batch, &letter, settings).await?;
            } else {
                let recipients = letter.recipients().map(|recipient| recipient.address());
                let envelope = letter.envelope(recipients, &settings.hostname)?;
                batch.add(envelope, compose::text(&letter, &settings.hostname)?).await;
            }
        }
    }
    batch.answer().await
}

async fn inject_each(batch: &mut Batch<'_>, letter: &Letter<'_>, settings: &Settings) -> Result<(), Problem> {
    for (address, message) in compose::each(letter, &settings.hostname, settings.relay.message_bytes_max)? {
        match message {
            Ok((envelope, text)) => batch.add(envelope, text).await,
            Err(problem) => batch.fates.push(Fate { recipients: vec![address.to_owned()], outcome: Err(problem) }),
        }
    }
    Ok(())
}

/// The messages of one request.
struct Batch<'d> {
    desk: &'d Desk,
    client: Client,
    waiting: Vec<Waiting>,
    bytes: usize,
    fates: Vec<Fate>,
}

impl Batch<'_> {
    /// Hands a message to the next shard; waits if too many are under way.
    async fn add(&mut self, envelope: Envelope, body: Vec<u8>) {
        if self.waiting.len() >= TOGETHER_MAX || self.bytes + body.len() > TOGETHER_MAX_BYTES {
            self.settle().await;
        }
        self.bytes += body.len();
        let recipients = envelope.recipients().map(|to| String::from_utf8_lossy(to).into_owned()).collect();
        let (fate, wait) = oneshot::channel();
        let reply = Box::new(move |outcome: Result<crate::shard::Receipt, reply::Reply>| {
            // Nobody waits any more: the request took too long.
            let _ = fate.send(outcome.map(|receipt| receipt.id()).map_err(Problem::from));
        });
        let shards = &self.desk.shards;
        let shard = self.desk.turn.fetch_add(1, Ordering::Relaxed) % shards.count();
        shards.inject(shard, Injection { origin: Origin::Client(self.client.0), envelope, body, reply });
        self.waiting.push((recipients, wait));
    }

    /// Waits for the fate of everything under way.
    async fn settle(&mut self) {
        for (recipients, wait) in self.waiting.drain(..) {
            let stopped = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the relay stopped");
            self.fates.push(Fate { recipients, outcome: wait.await.map_err(stopped).flatten() });
        }
        self.bytes = 0;
    }

    /// 202 if all are durable, the first one's problem if none is, and else 207 with all of them.
    async fn answer(mut self) -> Result<Answer, Problem> {
        self.settle().await;
        let good = self.fates.iter().filter(|fate| fate.outcome.is_ok()).count();
        if good == 0 {
            return Err(match self.fates.into_iter().next() {
                Some(Fate { outcome: Err(problem), .. }) => problem,
                _ => reply::NO_RECIPIENTS.into(),
            });
        }
        let status = if good == self.fates.len() { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
        let messages: Vec<Value> = self.fates.iter().map(Fate::told).collect();
        Ok(Answer { status, body: json!({ "messages": messages }).to_string() })
    }
}

impl Fate {
    fn told(&self) -> Value {
        match &self.outcome {
            Ok(id) => json!({ "id": id.to_string(), "to": self.recipients }),
            Err(problem) => {
                let mut fields = problem.fields();
                fields.insert("to".into(), self.recipients.clone().into());
                fields.into()
            }
        }
    }
}
