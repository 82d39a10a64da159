//! Operators' orders (QUE-14): to the shards, and those that hold to a file, so that a restart does not forget them.
//!
//! An order to hold is on disk before any shard obeys it, and a release is obeyed before it is on disk: whatever breaks between,
//! mail is held that should be sent, never sent that should be held.

use std::fs;
use std::io;
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
use crate::runtime::{Operation, replace_file};
use crate::shard::orders::{Order, Target};

/// Beside the shards' directories in the spool.
const FILE: &str = "holds.json";
/// Shards are waited for so long.
const ANSWER_PAUSE: Duration = Duration::from_secs(10);

/// A target as it is written: exactly one member is there; and the rate of one that is not held but slowed.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    messages_per_second: Option<u32>,
}

impl Written {
    fn of(target: &Target) -> Written {
        let mut written = Written::default();
        match target {
            Target::Message(id) => written.message = Some(id.to_string()),
            Target::Domain(domain) => written.domain = Some(domain.to_string()),
            Target::Site(site) => written.site = Some(site.to_string()),
            Target::Tenant(tenant) => written.tenant = Some(tenant.to_string()),
            Target::DomainsBelow(_) => unreachable!("nobody holds them"),
        }
        written
    }

    fn rate((tenant, messages_per_second): &(Box<str>, u32)) -> Written {
        let (tenant, messages_per_second) = (Some(tenant.to_string()), Some(*messages_per_second));
        Written { tenant, messages_per_second, ..Written::default() }
    }

    fn target(self) -> Result<Target, String> {
        let Written { message, domain, site, tenant, messages_per_second: _ } = self;
        match (message, domain, site, tenant) {
            (Some(id), None, None, None) => {
                id.parse().map(Target::Message).map_err(|error| format!("message: {error}"))
            }
            (None, Some(domain), None, None) if !domain.is_empty() => {
                Ok(Target::Domain(domain.to_ascii_lowercase().into()))
            }
            (None, None, Some(site), None) if !site.is_empty() => Ok(Target::Site(site.into())),
            (None, None, None, Some(tenant)) if !tenant.is_empty() => {
                Ok(Target::Tenant(tenant.to_ascii_lowercase().into()))
            }
            _ => Err("want one of message, domain, site and tenant".to_owned()),
        }
    }
}

/// What a POST to `/v1/queue` holds.
#[derive(Debug, Deserialize)]
struct Wanted {
    order: String,
    #[serde(flatten)]
    standing: Written,
}

/// What is held, and the tenants that have a rate.
pub type Standing = (Vec<Target>, Vec<(Box<str>, u32)>);

/// The orders to hold that stand, and where they are kept.
pub struct Holds {
    path: PathBuf,
    targets: Vec<Target>,
    rates: Vec<(Box<str>, u32)>,
}

impl Holds {
    /// What an earlier run left in the spool. A file that cannot be read is an error: mail that is to be held would be sent.
    pub fn load(spool: &Path) -> Result<Holds, String> {
        let path = spool.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"[]".to_vec(),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let (targets, rates) = Holds::read(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Holds { path, targets, rates })
    }

    /// What stands in the file.
    pub(super) fn read(text: &[u8]) -> Result<Standing, String> {
        let written: Vec<Written> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let (mut targets, mut rates) = (Vec::new(), Vec::new());
        for standing in written {
            let messages_per_second = standing.messages_per_second;
            match (standing.target()?, messages_per_second) {
                (target, None) => targets.push(target),
                (Target::Tenant(tenant), Some(rate)) => rates.push((tenant, rate)),
                (_, Some(_)) => return Err("only tenants have rates".to_owned()),
            }
        }
        Ok((targets, rates))
    }

    /// What to write down of them.
    pub(super) fn text(targets: &[Target], rates: &[(Box<str>, u32)]) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Holds::written(targets, rates))
    }

    /// What is held.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The tenants that have a rate, in messages a second.
    pub fn rates(&self) -> &[(Box<str>, u32)] {
        &self.rates
    }

    fn written(targets: &[Target], rates: &[(Box<str>, u32)]) -> Vec<Written> {
        targets.iter().map(Written::of).chain(rates.iter().map(Written::rate)).collect()
    }

    fn store(&mut self, targets: Vec<Target>, rates: Vec<(Box<str>, u32)>) -> Result<(), Problem> {
        if targets.len() + rates.len() > limits::HOLDS_MAX.max(self.targets.len() + self.rates.len()) {
            let most = limits::HOLDS_MAX;
            return Err(Problem::senseless(format!("more than {most} orders that stand; release some")));
        }
        let written = Holds::text(&targets, &rates).map_err(io::Error::from);
        written.and_then(|text| replace_file(&self.path, &text, 0o666)).map_err(not_stored)?;
        (self.targets, self.rates) = (targets, rates);
        Ok(())
    }

    fn add(&mut self, target: &Target) -> Result<(), Problem> {
        if self.targets.contains(target) {
            return Ok(());
        }
        let targets = self.targets.iter().chain([target]).cloned().collect();
        self.store(targets, self.rates.clone())
    }

    fn remove(&mut self, target: &Target) -> Result<(), Problem> {
        if !self.targets.contains(target) {
            return Ok(());
        }
        let targets = self.targets.iter().filter(|other| *other != target).cloned().collect();
        self.store(targets, self.rates.clone())
    }

    /// A tenant's rate from now on; 0: none.
    fn set_rate(&mut self, tenant: &str, messages_per_second: u32) -> Result<(), Problem> {
        let others = self.rates.iter().filter(|(other, _)| **other != *tenant).cloned();
        let new = (messages_per_second > 0).then(|| (tenant.into(), messages_per_second));
        self.store(self.targets.clone(), others.chain(new).collect())
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
    let (order, target) = read_order(body)?;
    check(desk, order, &target)?;
    // One order at a time, so that the file and the shards agree.
    let mut holds = desk.holds.lock().await;
    match (order, &target) {
        (Order::Hold, _) => holds.add(&target)?,
        (Order::Rate { messages_per_second: messages_per_second @ 1.. }, Target::Tenant(tenant)) => {
            holds.set_rate(tenant, messages_per_second)?;
        }
        _ => {}
    }
    let jobs = tell_shards(desk, order, &target).await?;
    match (order, &target) {
        (Order::Release, _) => holds.remove(&target)?,
        (Order::Rate { messages_per_second: 0 }, Target::Tenant(tenant)) => holds.set_rate(tenant, 0)?,
        _ => {}
    }
    Ok(jobs)
}

/// What the body of a POST orders.
pub(super) fn read_order(body: &[u8]) -> Result<(Order, Target), Problem> {
    let wanted: Wanted = serde_json::from_slice(body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not the JSON wanted: {error}")))?;
    let order = match &*wanted.order {
        "hold" => Order::Hold,
        "release" => Order::Release,
        "expire" => Order::Expire,
        "retry" => Order::Retry,
        "rate" => {
            let rate = wanted.standing.messages_per_second;
            let messages_per_second = rate.ok_or_else(|| Problem::senseless("a rate needs messages_per_second"))?;
            Order::Rate { messages_per_second }
        }
        other => return Err(Problem::senseless(format!("want hold, release, expire, retry or rate, not {other:?}"))),
    };
    Ok((order, wanted.standing.target().map_err(Problem::senseless)?))
}

/// Only tenants have rates, and only those that there are have anything.
fn check(desk: &Desk, order: Order, target: &Target) -> Result<(), Problem> {
    match target {
        Target::Tenant(name) => {
            let known = desk.settings().tenant_named(name).is_some();
            // What was held before a tenant left the configuration can be released.
            let lifts = matches!(order, Order::Release | Order::Rate { messages_per_second: 0 });
            if known || lifts { Ok(()) } else { Err(Problem::senseless(format!("{name:?} is no tenant"))) }
        }
        _ if matches!(order, Order::Rate { .. }) => Err(Problem::senseless("only a tenant has a rate")),
        _ => Ok(()),
    }
}

async fn tell_shards(desk: &Desk, order: Order, target: &Target) -> Result<u64, Problem> {
    let ask = |shard, reply| desk.shards.operate(shard, Operation { order, target: target.clone(), reply });
    let jobs: Option<u64> = ask_all(&desk.shards, ANSWER_PAUSE, ask).await.into_iter().sum();
    let silent = "a shard does not answer; it obeys when it can";
    jobs.ok_or_else(|| Problem::new(StatusCode::GATEWAY_TIMEOUT, silent))
}

/// GET /v1/holds.
pub(super) async fn list(State(desk): State<Arc<Desk>>) -> Json<Value> {
    let holds = desk.holds.lock().await;
    Json(json!({ "holds": Holds::written(&holds.targets, &holds.rates) }))
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
            Target::Tenant("shop".into()),
        ];
        for target in &targets {
            holds.add(target).unwrap();
            holds.add(target).unwrap();
        }
        assert_eq!(Holds::load(dir.path()).unwrap().targets(), targets);
        holds.remove(&targets[1]).unwrap();
        holds.set_rate("shop", 10).unwrap();
        holds.set_rate("other", 3).unwrap();
        holds.set_rate("shop", 20).unwrap();
        let kept = Holds::load(dir.path()).unwrap();
        assert_eq!(kept.targets(), [targets[0].clone(), targets[2].clone(), targets[3].clone()]);
        assert_eq!(kept.rates(), [("other".into(), 3), ("shop".into(), 20)]);
        holds.set_rate("other", 0).unwrap();
        assert_eq!(Holds::load(dir.path()).unwrap().rates(), [("shop".into(), 20)]);
        for bad in ["[{}]", r#"[{"site":"x","messages_per_second":1}]"#, r#"[{"site":"x","odd":1}]"#] {
            fs::write(dir.path().join(FILE), bad).unwrap();
            assert!(Holds::load(dir.path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_order_has_one_target() {
        let target = |text: &str| serde_json::from_str::<Written>(text).map_err(|e| e.to_string())?.target();
        assert_eq!(target(r#"{"domain":"Example.ORG"}"#), Ok(Target::Domain("example.org".into())));
        assert_eq!(target(r#"{"tenant":"Shop"}"#), Ok(Target::Tenant("shop".into())));
        for bad in ["{}", r#"{"domain":""}"#, r#"{"domain":"a","site":"b"}"#, r#"{"message":"x"}"#, r#"{"odd":"x"}"#] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
