//! Operators' orders and the file of those that stand: what is read is written and reads the same again, and an order to hold that is obeyed is
//! there after a restart (QUE-14).

use ringpost::control::http::fuzzed::{holds, holds_text, order};
use ringpost::shard::orders::{Order, Target};
use serde_json::Value;

/// Any bytes are a body for `/v1/queue`, or a file.
pub fn run(data: &[u8]) {
    if let Ok((order, target)) = order(data) {
        let whole: Value = serde_json::from_slice(data).expect("it was read");
        let verb = match order {
            Order::Hold => "hold",
            Order::Release => "release",
            Order::Expire => "expire",
            Order::Retry => "retry",
            Order::Rate { messages_per_second } => {
                assert_eq!(whole["messages_per_second"], messages_per_second);
                "rate"
            }
        };
        assert_eq!(whole["order"], verb);
        agrees(&target, &whole);
        let rates = match (&target, order) {
            (Target::Tenant(name), Order::Rate { messages_per_second }) => vec![(name.clone(), messages_per_second)],
            _ => Vec::new(),
        };
        let standing = (vec![target], rates);
        assert_eq!(holds(&holds_text(&standing.0, &standing.1)), Ok(standing));
    }
    if let Ok((targets, rates)) = holds(data) {
        assert_eq!(holds(&holds_text(&targets, &rates)).as_ref(), Ok(&(targets.clone(), rates.clone())));
        let whole: Vec<Value> = serde_json::from_slice(data).expect("it was read");
        if !whole.iter().all(Value::is_object) {
            // Lists of what the members would hold are read, too.
            return;
        }
        let (rated, held): (Vec<&Value>, Vec<&Value>) =
            whole.iter().partition(|standing| !standing["messages_per_second"].is_null());
        assert_eq!((held.len(), rated.len()), (targets.len(), rates.len()));
        targets.iter().zip(held).for_each(|(target, standing)| agrees(target, standing));
        for ((name, rate), standing) in rates.iter().zip(rated) {
            agrees(&Target::Tenant(name.clone()), standing);
            assert_eq!(standing["messages_per_second"], *rate);
        }
    }
}

/// Just one member names a target.
fn agrees(target: &Target, written: &Value) {
    let (member, text) = match target {
        Target::Message(id) => ("message", id.to_string()),
        Target::Domain(name) => ("domain", name.to_string()),
        Target::Site(name) => ("site", name.to_string()),
        Target::Tenant(name) => ("tenant", name.to_string()),
        Target::DomainsBelow(_) => unreachable!("nobody can say so"),
    };
    for name in ["message", "domain", "site", "tenant"] {
        match written[name].as_str() {
            None => assert!(name != member && written[name].is_null()),
            Some(said) => {
                assert!(name == member && !text.is_empty());
                let same = if name == "site" { said == text } else { said.eq_ignore_ascii_case(&text) };
                // Numbers may have zeros in front.
                assert!(same || name == "message", "{said} is not {text}");
            }
        }
    }
}
