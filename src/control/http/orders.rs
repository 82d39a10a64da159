//! Operators' orders (QUE-14): to the shards, and those that hold to a file, so that a restart does not forget them.
//!
//! An order to hold is on disk before any shard obeys it, and a release is obeyed before it is on disk: whatever breaks between,
//! mail is held that should be sent, never sent that should be held.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::answer::Problem;
use super::{Desk, ask_all};
use crate::base::limits;
use crate::runtime::Operation;
use crate::shard::orders::{Order, Target};

/// Beside the shards' directories in the spool.
const FILE: &str = "holds.json";
/// Shards are waited for so long.
const ANSWER_PAUSE: Duration = Duration::from_secs(10);

/// A target as it is written: exactly one member is there.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    site: Option<String>,
}

impl Written {
    fn of(target: &Target) -> Written {
        let mut written = Written::default();
        match target {
            Target::Message(id) => written.message = Some(id.to_string()),
            Target::Domain(domain) => written.domain = Some(domain.to_string()),
            Target::Site(site) => written.site = Some(site.to_string()),
        }
        written
    }

    fn target(self) -> Result<Target, String> {
        match self {
            Written { message: Some(id), domain: None, site: None } => {
                id.parse().map(Target::Message).map_err(|error| format!("message: {error}"))
            }
            Written { message: None, domain: Some(domain), site: None } if !domain.is_empty() => {
                Ok(Target::Domain(domain.to_ascii_lowercase().into()))
            }
            Written { message: None, domain: None, site: Some(site) } if !site.is_empty() => {
                Ok(Target::Site(site.into()))
            }
            _ => Err("want one of message, domain and site".to_owned()),
        }
    }
}

/// What a POST to `/v1/queue` holds.
#[derive(Debug, Deserialize)]
struct Wanted {
    order: String,
    #[serde(flatten)]
    target: Written,
}

/// The orders to hold that stand, and where they are kept.
pub struct Holds {
    path: PathBuf,
    targets: Vec<Target>,
}

impl Holds {
    /// What an earlier run left in the spool. A file that cannot be read is an error: mail that is to be held would be sent.
    pub fn load(spool: &Path) -> Result<Holds, String> {
        let path = spool.join(FILE);
        let written: Vec<Written> = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let targets: Result<Vec<Target>, String> = written.into_iter().map(Written::target).collect();
        let targets = targets.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Holds { path, targets })
    }

    /// What is held.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    fn store(&mut self, targets: Vec<Target>) -> io::Result<()> {
        let written: Vec<Written> = targets.iter().map(Written::of).collect();
        let unfinished = self.path.with_extension("new");
        let mut file = fs::File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(&written)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())?;
        self.targets = targets;
        Ok(())
    }

    fn add(&mut self, target: &Target) -> Result<(), Problem> {
        if self.targets.contains(target) {
            return Ok(());
        }
        if self.targets.len() >= limits::HOLDS_MAX {
            return Err(Problem::senseless(format!("more than {} orders to hold; release some", limits::HOLDS_MAX)));
        }
        let targets = self.targets.iter().chain([target]).cloned().collect();
        self.store(targets).map_err(not_stored)
    }

    fn remove(&mut self, target: &Target) -> Result<(), Problem> {
        if !self.targets.contains(target) {
            return Ok(());
        }
        let targets = self.targets.iter().filter(|other| *other != target).cloned().collect();
        self.store(targets).map_err(not_stored)
    }
}

fn not_stored(error: io::Error) -> Problem {
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, format!("the orders cannot be written to the spool: {error}"))
}

/// POST /v1/queue.
pub(super) async fn post(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> Response {
    match obey(&desk, &headers, &body).await {
        Ok(jobs) => Json(json!({ "jobs": jobs })).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn obey(desk: &Desk, headers: &HeaderMap, body: &[u8]) -> Result<u64, Problem> {
    // What a page in a browser may send without asking is of another type.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "want Content-Type application/json"));
    }
    let wanted: Wanted = serde_json::from_slice(body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not the JSON wanted: {error}")))?;
    let order = match &*wanted.order {
        "hold" => Order::Hold,
        "release" => Order::Release,
        "expire" => Order::Expire,
        "retry" => Order::Retry,
        other => return Err(Problem::senseless(format!("want hold, release, expire or retry, not {other:?}"))),
    };
    let target = wanted.target.target().map_err(Problem::senseless)?;
    // One order at a time, so that the file and the shards agree.
    let mut holds = desk.holds.lock().await;
    if order == Order::Hold {
        holds.add(&target)?;
    }
    let jobs = tell_shards(desk, order, &target).await?;
    if order == Order::Release {
        holds.remove(&target)?;
    }
    Ok(jobs)
}

async fn tell_shards(desk: &Desk, order: Order, target: &Target) -> Result<u64, Problem> {
    let ask = |shard, reply| desk.shards.operate(shard, Operation { order, target: target.clone(), reply });
    let jobs: Option<u64> = ask_all(&desk.shards, ANSWER_PAUSE, ask).await.into_iter().sum();
    let silent = "a shard does not answer; it obeys when it can";
    jobs.ok_or_else(|| Problem::new(StatusCode::GATEWAY_TIMEOUT, silent))
}

/// GET /v1/holds.
pub(super) async fn list(State(desk): State<Arc<Desk>>) -> Json<Value> {
    let holds: Vec<Written> = desk.holds.lock().await.targets.iter().map(Written::of).collect();
    Json(json!({ "holds": holds }))
}

/// The orders as the desk shares them.
pub(super) type Shared = Mutex<Holds>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_are_kept_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut holds = Holds::load(dir.path()).unwrap();
        assert!(holds.targets().is_empty());
        let targets = [
            Target::Message("0-3-1f000".parse().unwrap()),
            Target::Domain("example.org".into()),
            Target::Site("mx example.org".into()),
        ];
        for target in &targets {
            holds.add(target).unwrap();
            holds.add(target).unwrap();
        }
        assert_eq!(Holds::load(dir.path()).unwrap().targets(), targets);
        holds.remove(&targets[1]).unwrap();
        assert_eq!(Holds::load(dir.path()).unwrap().targets(), [targets[0].clone(), targets[2].clone()]);
        fs::write(dir.path().join(FILE), "[{}]").unwrap();
        assert!(Holds::load(dir.path()).is_err());
    }

    #[test]
    fn an_order_has_one_target() {
        let target = |text: &str| serde_json::from_str::<Written>(text).map_err(|e| e.to_string())?.target();
        assert_eq!(target(r#"{"domain":"Example.ORG"}"#), Ok(Target::Domain("example.org".into())));
        for bad in ["{}", r#"{"domain":""}"#, r#"{"domain":"a","site":"b"}"#, r#"{"message":"x"}"#, r#"{"odd":"x"}"#] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
