//! MTA-STS: a naive reader sees the same policy, hosts match as label by label, and what is kept reads the same again (STS-01, STS-04).

use ringpost::route::sts::{Mode, Policies, Policy, Sts, record_id};

/// Any bytes are what a web server has, and a TXT record.
pub fn run(data: &[u8]) {
    if let Some(id) = record_id([data]) {
        assert!(data.starts_with(b"v=STSv1;") && (1..=32).contains(&id.len()));
        assert!(data.windows(id.len() + 3).any(|three| three == format!("id={id}").as_bytes()));
        assert_eq!(record_id([data, b"v=spf1 -all"]), Some(id));
    }
    assert_eq!(record_id([data, data]), None);
    let Ok(policy) = Policy::parse(data) else { return };
    let text = str::from_utf8(data).unwrap();
    let lines =
        || text.split('\n').filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim_ascii()));
    let first = |wanted| lines().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    assert_eq!(first("version"), Some("STSv1"));
    assert_eq!(first("mode"), Some(policy.mode.name()));
    assert_eq!(first("max_age").unwrap().parse::<u64>().unwrap().min(31_557_600), u64::from(policy.max_age_s));
    let hosts: Vec<String> =
        lines().filter(|(name, _)| *name == "mx").map(|(_, value)| value.to_ascii_lowercase()).collect();
    assert!(policy.hosts.iter().map(|host| &**host).eq(hosts.iter().map(String::as_str)));
    assert!(policy.mode == Mode::None || !hosts.is_empty());
    for named in &hosts {
        for host in
            [named.replace('*', "Any"), named.replace("*.", ""), named.replace('*', "a.b"), format!("x.{named}")]
        {
            assert_eq!(policy.names(&host), hosts.iter().any(|named| naive(named, &host)), "{named} {host}");
        }
    }
    let mut policies = Policies::default();
    let known = policies.fetched("a.test", "1", Ok(policy), 0);
    let again = Policies::read(&policies.text(), 0);
    match (again.look("a.test", &Err("none".into()), 0), &known) {
        (Some(Sts::Known { policy: read, .. }), Sts::Known { policy, .. }) => assert_eq!(read, *policy),
        (Some(Sts::Absent { .. }), Sts::Known { policy, .. }) => assert_eq!(policy.max_age_s, 0),
        other => panic!("{other:?}"),
    }
}

/// Label by label.
fn naive(named: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let (named, host): (Vec<&str>, Vec<&str>) = (named.split('.').collect(), host.split('.').collect());
    named.len() == host.len()
        && named.iter().zip(&host).all(|(named, host)| named == host || (*named == "*" && !host.is_empty()))
}
