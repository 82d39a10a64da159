//! What the rest of the system should allow: the kernel's and the account's limits that a busy relay runs into.
//!
//! Hints, not settings: they are for whoever looks after the machine. [`hints`] reads files below a directory that looks
//! like `/`; what cannot be read gives no hint. Any thread.

use std::fs;
use std::path::Path;

use super::topology::Topology;

/// Fewer open files than this are soon used up: every connection is one.
const FILES_WANTED: u64 = 65_536;
/// Fewer ports than this limit outbound connections to one address.
const PORTS_WANTED: u64 = 50_000;

/// Something to change outside of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// What is, and what it costs.
    pub what: String,
    /// What to do, as a command or a line of a file.
    pub remedy: String,
}

/// What to change on the machine whose `/` is `root`. `device` is the block device of the queue, as `major:minor`.
pub fn hints(root: &Path, topology: &Topology, backlog: u32, device: Option<&str>) -> Vec<Hint> {
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned();
    let mut hints = Vec::new();
    let mut add = |what: String, remedy: String| hints.push(Hint { what, remedy });
    if let Ok(held) = text("proc/sys/net/core/somaxconn").parse::<u32>()
        && held < backlog
    {
        add(
            format!("the kernel holds {held} connections until they are accepted, listen.backlog asks for {backlog}"),
            format!("sysctl -w net.core.somaxconn={backlog}"),
        );
    }
    let ports: Vec<u64> =
        text("proc/sys/net/ipv4/ip_local_port_range").split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect();
    if let [first, last] = ports[..]
        && last.saturating_sub(first) < PORTS_WANTED
    {
        add(
            format!("{} ports for outbound connections to one address", last.saturating_sub(first) + 1),
            "sysctl -w net.ipv4.ip_local_port_range='1024 65535'".into(),
        );
    }
    let files = text("proc/self/limits").lines().find_map(|line| {
        let numbers = line.strip_prefix("Max open files")?;
        numbers.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    });
    if let Some(files) = files.filter(|files| *files < FILES_WANTED) {
        add(
            format!("at most {files} open files; every connection is one"),
            format!("LimitNOFILE={FILES_WANTED} in the service's unit"),
        );
    }
    let governor = text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    if !matches!(governor.as_str(), "" | "performance") {
        add(format!("cores slow down when idle (governor {governor})"), "cpupower frequency-set -g performance".into());
    }
    if let Some(device) = device {
        let queue = format!("sys/dev/block/{device}/queue");
        if let Some(used) = text(&format!("{queue}/scheduler")).split(['[', ']']).nth(1).filter(|used| *used != "none")
        {
            add(
                format!("the disk's requests are reordered by {used}; the log writes in order already"),
                format!("echo none > /sys/dev/block/{device}/queue/scheduler"),
            );
        }
    }
    for interface in topology.interfaces.iter().filter(|i| i.queues.len() == 1 && topology.cores.len() > 4) {
        add(
            format!("{} has one receive queue for {} cores", interface.name, topology.cores.len()),
            format!(
                "ethtool -L {0} combined N, or spread packets by /sys/class/net/{0}/queues/rx-0/rps_cpus",
                interface.name
            ),
        );
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::topology::tests::tree;

    #[test]
    fn a_narrow_host_gets_hints_and_a_wide_one_none() {
        let limits =
            |files: &str| format!("Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  {files}  files\n");
        let narrow = tree(&[
            ("proc/sys/net/core/somaxconn", "128\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/self/limits", &limits("4096")),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
            ("sys/dev/block/254:0/queue/scheduler", "none [mq-deadline] bfq\n"),
        ]);
        let topology = Topology::described("cores = 8\n[[interfaces]]\nname = 'eth0'\nqueues = 1").unwrap();
        let found = hints(narrow.path(), &topology, 4096, Some("254:0"));
        let remedies: Vec<&str> =
            found.iter().map(|hint| hint.remedy.split_ascii_whitespace().next().unwrap()).collect();
        assert_eq!(remedies, ["sysctl", "sysctl", "LimitNOFILE=65536", "cpupower", "echo", "ethtool"]);
        let wide = tree(&[
            ("proc/sys/net/core/somaxconn", "4096\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n"),
            ("proc/self/limits", &limits("1048576")),
            ("sys/dev/block/254:0/queue/scheduler", "[none] mq-deadline\n"),
        ]);
        let topology = Topology::described("cores = 2").unwrap();
        assert_eq!(hints(wide.path(), &topology, 4096, Some("254:0")), []);
        assert_eq!(hints(Path::new("/no/such"), &topology, 4096, None), []);
    }
}
