//! Configuration: any text is either settings within their bounds or an error that says what to do.

use std::net::IpAddr;

use ringpost::base::limits;
use ringpost::config::{Machine, load};

/// Any text is a file; its lines that begin with `--set ` are overrides.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let sets: Vec<String> = text.lines().filter_map(|line| line.strip_prefix("--set ")).map(str::to_owned).collect();
    let file: Vec<&str> = text.lines().filter(|line| !line.starts_with("--set ")).collect();
    let machine = Machine { hostname: file.first().copied().unwrap_or_default().to_owned(), cores: data.len() };
    let loaded = load(Some(&file.join("\n")), &sets, &machine);
    assert_eq!(load(Some(&file.join("\n")), &sets, &machine), loaded);
    let _ = load(None, &sets, &machine);
    match loaded {
        Err(error) => {
            assert!(!error.remedy.trim().is_empty());
            assert!(error.to_string().contains(&error.key) || error.key.is_empty());
        }
        Ok(settings) => {
            assert!((1..=limits::SHARDS_MAX).contains(&settings.shards) && !settings.listen.is_empty());
            assert!((1..=limits::DOMAIN_MAX_BYTES).contains(&settings.hostname.len()) && settings.hostname.is_ascii());
            assert!((1..=limits::MESSAGE_CEILING_BYTES).contains(&settings.relay.message_bytes_max));
            assert!((100..=limits::RECIPIENTS_MAX).contains(&settings.relay.recipients_max));
            let queue = &settings.queue;
            assert!((limits::SEGMENT_MIN_BYTES..=limits::SEGMENT_CEILING_BYTES).contains(&queue.segment_bytes));
            assert!((queue.segment_bytes as usize).is_multiple_of(limits::DISK_ALIGN_BYTES));
            assert!(settings.retry.first_ms <= settings.retry.longest_ms);
            for (domain, next) in &settings.route.domains {
                assert_eq!(domain.to_ascii_lowercase(), **domain);
                assert!(next.as_ref().is_none_or(|next| !next.to_string().is_empty()));
            }
            for address in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0; 16])] {
                let _ = settings.relay.may_relay(address);
            }
        }
    }
}
