//! What a machine is made of, as far as shards care: cores and their siblings, NUMA nodes, network interrupts, limits.
//!
//! [`Topology::read`] takes it from a directory that looks like `/` (`sys/`, `proc/`), so that a copy of another machine's
//! files does as well; [`Topology::described`] from a short TOML text. Any thread; reads files and nothing else. What a
//! kernel or container does not show is left out, never an error; a machine without a single core is one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::config::parse_cores;

/// A machine, or the part of it that this process may use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Usable cores (hardware threads), by number.
    pub cores: Vec<Core>,
    /// CPU time that the process is limited to, in cores; none: no limit.
    pub quota_cores: Option<f64>,
    /// Network interfaces with hardware behind them.
    pub interfaces: Vec<Interface>,
}

/// A core as the kernel numbers them: one hardware thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// Its number.
    pub number: usize,
    /// The lowest number among the threads of its physical core, usable or not.
    pub physical: usize,
    /// Its NUMA node.
    pub node: usize,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The node it is attached to, if the machine tells.
    pub node: Option<usize>,
    /// Its receive queues with interrupts of their own.
    pub queues: Vec<Queue>,
}

/// A receive queue of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its interrupt.
    pub interrupt: u32,
    /// Where the interrupt is handled now.
    pub cores: Vec<usize>,
}

impl Topology {
    /// The machine whose `/` is `root`. The error says what is missing.
    pub fn read(root: &Path) -> Result<Topology, String> {
        let cpus = root.join("sys/devices/system/cpu");
        let online = list(&cpus.join("online"));
        let allowed = line_after(&root.join("proc/self/status"), "Cpus_allowed_list:")
            .map_or_else(|| online.clone(), |text| parse_cores(&text).unwrap_or_default());
        let nodes = nodes(root);
        let core = |number: usize| {
            let siblings = list(&cpus.join(format!("cpu{number}/topology/thread_siblings_list")));
            let physical = siblings.into_iter().min().unwrap_or(number);
            Core { number, physical, node: nodes.get(&number).copied().unwrap_or(0) }
        };
        let mut cores: Vec<Core> = online.into_iter().filter(|core| allowed.contains(core)).map(core).collect();
        cores.sort_by_key(|core| core.number);
        if cores.is_empty() {
            return Err(format!("{} names no core that may be used", cpus.join("online").display()));
        }
        Ok(Topology { cores, quota_cores: quota(root), interfaces: interfaces(root) })
    }

    /// A machine in words: `cores`, `threads_per_core`, `nodes`, `quota_cores` and `[[interfaces]]` with `name`, `node` and
    /// `queues`. Cores are numbered as Linux does on most machines: first threads node by node, then second threads.
    pub fn described(text: &str) -> Result<Topology, String> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        known(&table, &["cores", "threads_per_core", "nodes", "quota_cores", "interfaces"])?;
        let cores = number(&table, "cores", None)?;
        let threads = number(&table, "threads_per_core", Some(1))?;
        let nodes = number(&table, "nodes", Some(1))?;
        let physical = cores / threads.max(1);
        if threads == 0 || nodes == 0 || physical == 0 || cores % threads != 0 || physical % nodes != 0 {
            return Err("cores must be a multiple of threads_per_core times nodes".into());
        }
        let node_of = |core: usize| core % physical / (physical / nodes);
        let all =
            (0..cores).map(|number| Core { number, physical: number % physical, node: node_of(number) }).collect();
        let mut topology = Topology { cores: all, ..Topology::default() };
        topology.quota_cores = table.get("quota_cores").and_then(|v| v.as_float().or(v.as_integer().map(|n| n as f64)));
        let mut interrupt = 100;
        let empty = Vec::new();
        for entry in
            table.get("interfaces").map_or(Some(&empty), toml::Value::as_array).ok_or("interfaces is a list")?
        {
            let entry = entry.as_table().ok_or("an interface is a table")?;
            known(entry, &["name", "node", "queues"])?;
            let name = entry.get("name").and_then(toml::Value::as_str).ok_or("an interface needs a name")?.to_owned();
            let node = number(entry, "node", Some(0))?;
            let near: Vec<usize> = (0..cores).filter(|core| node_of(*core) == node).collect();
            if near.is_empty() {
                return Err(format!("interface {name} is at node {node}, of {nodes}"));
            }
            let queue = |at: usize| Queue { interrupt: interrupt + at as u32, cores: vec![near[at % near.len()]] };
            let queues: Vec<Queue> = (0..number(entry, "queues", Some(1))?).map(queue).collect();
            interrupt += queues.len() as u32;
            topology.interfaces.push(Interface { name, node: Some(node), queues });
        }
        Ok(topology)
    }

    /// Physical cores in order of their first usable thread, each with its usable threads.
    pub fn physical(&self) -> Vec<Vec<Core>> {
        let mut groups: Vec<Vec<Core>> = Vec::new();
        for core in &self.cores {
            match groups.iter_mut().find(|group| group[0].physical == core.physical && group[0].node == core.node) {
                Some(group) => group.push(*core),
                None => groups.push(vec![*core]),
            }
        }
        groups
    }

    /// The nodes of usable cores.
    pub fn nodes(&self) -> BTreeSet<usize> {
        self.cores.iter().map(|core| core.node).collect()
    }

    /// In one line.
    pub fn line(&self) -> String {
        let queues: usize = self.interfaces.iter().map(|interface| interface.queues.len()).sum();
        let quota = self.quota_cores.map_or(String::new(), |quota| format!(", limited to the time of {quota:.1}"));
        format!(
            "{} usable cores{quota} on {} physical ones, {} node(s), {} network interface(s) with {queues} receive queue(s)",
            self.cores.len(),
            self.physical().len(),
            self.nodes().len(),
            self.interfaces.len()
        )
    }
}

/// A described number.
fn number(table: &toml::Table, key: &str, default: Option<usize>) -> Result<usize, String> {
    match (table.get(key), default) {
        (None, Some(default)) => Ok(default),
        (Some(toml::Value::Integer(number)), _) if (0..=8192).contains(number) => Ok(*number as usize),
        _ => Err(format!("{key} must be a number up to 8192")),
    }
}

fn known(table: &toml::Table, keys: &[&str]) -> Result<(), String> {
    match table.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(format!("{key}: no such key; a machine is described by {}", keys.join(", "))),
        None => Ok(()),
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn list(path: &Path) -> Vec<usize> {
    parse_cores(&text(path)).unwrap_or_default()
}

/// What follows `key` on the line that begins with it.
fn line_after(path: &Path, key: &str) -> Option<String> {
    text(path).lines().find_map(|line| line.strip_prefix(key).map(|rest| rest.trim().to_owned()))
}

/// Names in a directory, sorted; none if it is not there.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The node of each core.
fn nodes(root: &Path) -> BTreeMap<usize, usize> {
    let dir = root.join("sys/devices/system/node");
    let mut of = BTreeMap::new();
    for name in names(&dir) {
        let Some(node) = name.strip_prefix("node").and_then(|number| number.parse().ok()) else { continue };
        of.extend(list(&dir.join(&name).join("cpulist")).into_iter().map(|core| (core, node)));
    }
    of
}

/// The least CPU time that a control group on the way to the root allows, in cores; both versions of cgroups.
fn quota(root: &Path) -> Option<f64> {
    let mounted = root.join("sys/fs/cgroup");
    let mut least: Option<f64> = None;
    for line in text(&root.join("proc/self/cgroup")).lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let base = match controllers {
            "" => mounted.clone(),
            _ if controllers.split(',').any(|name| name == "cpu") => mounted.join(controllers),
            _ => continue,
        };
        // In a container the path may be the host's: what is not there limits nothing.
        for above in Path::new(path.trim_start_matches('/')).ancestors() {
            let group = base.join(above);
            let limit = quota_v2(&text(&group.join("cpu.max"))).or_else(|| {
                let number = |name: &str| text(&group.join(name)).parse::<f64>().ok().filter(|number| *number > 0.0);
                Some(number("cpu.cfs_quota_us")? / number("cpu.cfs_period_us")?)
            });
            least = [least, limit].into_iter().flatten().reduce(f64::min);
        }
    }
    least
}

/// `200000 100000` is two cores, `max 100000` no limit.
fn quota_v2(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then_some(quota / period)
}

fn interfaces(root: &Path) -> Vec<Interface> {
    let net = root.join("sys/class/net");
    let interrupts = text(&root.join("proc/interrupts"));
    let hardware = names(&net).into_iter().filter(|name| net.join(name).join("device").exists());
    hardware.map(|name| interface(root, &net.join(&name).join("device"), name, &interrupts)).collect()
}

fn interface(root: &Path, device: &Path, name: String, interrupts: &str) -> Interface {
    // A virtio device's interrupts are those of the PCI device above it, under the virtio device's name.
    let above = device.join("..");
    let bus_name =
        fs::canonicalize(device).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let own: BTreeSet<String> = [device, &above].into_iter().flat_map(|dir| names(&dir.join("msi_irqs"))).collect();
    let node = [device, &above].into_iter().find_map(|dir| text(&dir.join("numa_node")).parse().ok());
    let mut queues = Vec::new();
    for line in interrupts.lines() {
        let Some((interrupt, rest)) = line.trim_start().split_once(':') else { continue };
        let Ok(number) = interrupt.parse() else { continue };
        let label = rest.split_ascii_whitespace().next_back().unwrap_or_default();
        let named = label.starts_with(&format!("{name}-"))
            || bus_name.as_ref().is_some_and(|bus| label.starts_with(&format!("{bus}-")));
        if (named || own.contains(interrupt)) && receives(label) {
            let at = root.join("proc/irq").join(interrupt);
            let now = [list(&at.join("effective_affinity_list")), list(&at.join("smp_affinity_list"))];
            let cores = now.into_iter().find(|cores| !cores.is_empty()).unwrap_or_default();
            queues.push(Queue { interrupt: number, cores });
        }
    }
    Interface { name, node, queues }
}

/// False for interrupts that carry no received packets: configuration, events, sending alone.
fn receives(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    let others = ["config", "control", "async", "misc", "mgmt", "output", "-tx-", "event"];
    !others.iter().any(|word| label.contains(word))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A tree of files.
    pub(crate) fn tree(files: &[(&str, &str)]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    /// The files of a machine as Linux shows them; every interface has as many queues as given.
    fn machine(
        cores: usize,
        threads: usize,
        nodes: usize,
        allowed: &str,
        interfaces: &[(&str, usize, usize)],
    ) -> TempDir {
        let physical = cores / threads;
        let mut files: Vec<(String, String)> = vec![
            ("sys/devices/system/cpu/online".into(), format!("0-{}\n", cores - 1)),
            ("proc/self/status".into(), format!("Name:\tcat\nCpus_allowed_list:\t{allowed}\n")),
        ];
        for core in 0..cores {
            let siblings: Vec<String> = (0..threads).map(|t| (core % physical + t * physical).to_string()).collect();
            let path = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
            files.push((path, siblings.join(",") + "\n"));
        }
        for node in 0..nodes {
            let each = physical / nodes;
            let of = |t: usize| format!("{}-{}", t * physical + node * each, t * physical + (node + 1) * each - 1);
            let of: Vec<String> = (0..threads).map(of).collect();
            files.push((format!("sys/devices/system/node/node{node}/cpulist"), of.join(",") + "\n"));
        }
        let (mut interrupts, mut number) = (String::from("            CPU0       CPU1\n"), 40);
        for (name, node, queues) in interfaces {
            let device = format!("sys/class/net/{name}/device");
            files.push((format!("{device}/numa_node"), format!("{node}\n")));
            interrupts += &format!(" {number}:    1    0  PCI-MSI 0-edge      {name}-async\n");
            for queue in 0..*queues {
                number += 1;
                files.push((format!("{device}/msi_irqs/{number}"), "msix\n".into()));
                files.push((format!("proc/irq/{number}/effective_affinity_list"), format!("{}\n", queue % cores)));
                interrupts += &format!(" {number}:    17    {queue}  PCI-MSI 1-edge      {name}-TxRx-{queue}\n");
            }
            number += 1;
        }
        interrupts += " NMI:     0      0   Non-maskable interrupts\n";
        files.push(("proc/interrupts".into(), interrupts));
        files.push(("sys/class/net/lo/address".into(), "00\n".into()));
        tree(&files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>())
    }

    #[test]
    fn a_small_virtual_machine() {
        let dir = machine(2, 1, 1, "0-1", &[("eth0", 0, 1)]);
        let read = Topology::read(dir.path()).unwrap();
        assert_eq!(read.cores.iter().map(|core| core.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((read.physical().len(), read.nodes().len(), read.quota_cores), (2, 1, None));
        assert_eq!(
            read.interfaces,
            [Interface { name: "eth0".into(), node: Some(0), queues: vec![Queue { interrupt: 41, cores: vec![0] }] }]
        );
    }

    /// virtio: the interrupts carry the device's name, input and output apart.
    #[test]
    fn a_virtio_interface() {
        let dir = tree(&[
            ("sys/devices/system/cpu/online", "0\n"),
            ("sys/devices/pci0/virtio2/vendor", "0x1af4\n"),
            ("sys/class/net/eth0/address", "02:00\n"),
            (
                "proc/interrupts",
                "      CPU0\n 37:   0  PCI-MSIX-0000:00:03.0   0-edge      virtio2-config\n \
                 38:   7636  PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0\n \
                 39:   6686  PCI-MSIX-0000:00:03.0   2-edge      virtio2-output.0\n",
            ),
            ("proc/irq/38/smp_affinity_list", "0-1\n"),
        ]);
        let link = dir.path().join("sys/class/net/eth0/device");
        std::os::unix::fs::symlink(dir.path().join("sys/devices/pci0/virtio2"), link).unwrap();
        let read = Topology::read(dir.path()).unwrap();
        assert_eq!(read.interfaces[0].queues, [Queue { interrupt: 38, cores: vec![0, 1] }]);
        assert_eq!(read.interfaces[0].node, None);
    }

    #[test]
    fn a_large_machine_read_and_described_are_the_same() {
        let dir = machine(64, 2, 2, "0-63", &[("eth0", 1, 16)]);
        let read = Topology::read(dir.path()).unwrap();
        assert_eq!((read.physical().len(), read.physical()[5].len()), (32, 2));
        assert_eq!(read.cores[40], Core { number: 40, physical: 8, node: 0 });
        assert_eq!(read.cores[63], Core { number: 63, physical: 31, node: 1 });
        assert_eq!((read.interfaces[0].node, read.interfaces[0].queues.len()), (Some(1), 16));
        let text = "cores = 64\nthreads_per_core = 2\nnodes = 2\n[[interfaces]]\nname = 'eth0'\nnode = 1\nqueues = 16";
        let described = Topology::described(text).unwrap();
        assert_eq!(described.cores, read.cores);
        assert_eq!(described.interfaces[0].queues.len(), 16);
    }

    #[test]
    fn control_groups_limit_cores_and_time() {
        let dir = machine(16, 2, 1, "2-3,10-11", &[]);
        fs::write(dir.path().join("proc/self/cgroup"), "4:memory:/x\n0::/a/b\n").unwrap();
        fs::create_dir_all(dir.path().join("sys/fs/cgroup/a/b")).unwrap();
        fs::write(dir.path().join("sys/fs/cgroup/a/b/cpu.max"), "max 100000\n").unwrap();
        fs::write(dir.path().join("sys/fs/cgroup/a/cpu.max"), "150000 100000\n").unwrap();
        let read = Topology::read(dir.path()).unwrap();
        assert_eq!(read.cores.iter().map(|core| core.number).collect::<Vec<_>>(), [2, 3, 10, 11]);
        assert_eq!((read.physical().len(), read.quota_cores), (2, Some(1.5)));
        // The first version of control groups.
        fs::write(dir.path().join("proc/self/cgroup"), "1:cpu,cpuacct:/box\n").unwrap();
        let group = dir.path().join("sys/fs/cgroup/cpu,cpuacct/box");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cpu.cfs_quota_us"), "400000\n").unwrap();
        fs::write(group.join("cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(Topology::read(dir.path()).unwrap().quota_cores, Some(4.0));
        fs::write(group.join("cpu.cfs_quota_us"), "-1\n").unwrap();
        assert_eq!(Topology::read(dir.path()).unwrap().quota_cores, None);
    }

    #[test]
    fn wrong_descriptions_say_what_is_wrong() {
        for (text, part) in [
            ("cores = 6\nthreads_per_core = 4", "multiple"),
            ("cores = 0", "multiple"),
            ("", "cores must be a number"),
            ("cores = 4\nsockets = 2", "sockets: no such key"),
            ("cores = 4\n[[interfaces]]\nqueues = 2", "needs a name"),
            ("cores = 4\n[[interfaces]]\nname = 'a'\nnode = 3", "node 3, of 1"),
            ("cores", "TOML"),
        ] {
            let error = Topology::described(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Topology::read(tree(&[("x", "")]).path()).unwrap_err().contains("names no core"));
    }

    #[test]
    fn this_machine_can_be_read() {
        let read = Topology::read(Path::new("/")).unwrap();
        assert!(!read.cores.is_empty() && read.physical().iter().map(Vec::len).sum::<usize>() == read.cores.len());
    }
}
