//! What a client is told: a status, and JSON that says what was wrong and what an SMTP client would have been told.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::smtp::reply::{self, Reply};

/// Why a request, or one of its messages, was not done as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    text: String,
    reply: Option<Reply>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Problem {
        Problem { status, text: text.into(), reply: None }
    }

    /// The request is understood, and makes no sense.
    pub(super) fn senseless(text: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    }

    /// What it says, as fields of an object.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("status".into(), self.status.as_u16().into());
        fields.insert("error".into(), self.text.clone().into());
        if let Some(reply) = self.reply {
            fields.insert("reply".into(), reply.text().trim_end().into());
        }
        fields
    }
}

/// The status that says to HTTP what a reply says to SMTP: who may try again sees 503 or 507, who may not a 4xx.
impl From<Reply> for Problem {
    fn from(reply: Reply) -> Problem {
        let status = match reply {
            reply::STORAGE_FULL => StatusCode::INSUFFICIENT_STORAGE,
            reply::STORAGE_FAILING | reply::SHUTTING_DOWN => StatusCode::SERVICE_UNAVAILABLE,
            reply::RELAY_DENIED => StatusCode::FORBIDDEN,
            reply::TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
            // More recipients than one message may have: not of a kind that passes.
            reply::TOO_MANY_RECIPIENTS => StatusCode::UNPROCESSABLE_ENTITY,
            other if other.is_refusal() => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        // Without code and enhanced code: they stand in `reply`.
        let text = reply.text().trim_end().splitn(3, ' ').nth(2).unwrap_or_default();
        Problem { status, text: text.to_owned(), reply: Some(reply) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!(self.fields()))).into_response();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
