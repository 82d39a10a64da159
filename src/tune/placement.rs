//! Which cores shards run on, and where network interrupts go: the rules, as a pure function of a [`Topology`].
//!
//! 1. A shard keeps a physical core busy, and its memory is touched first, and so lies, on the node of its core. So there is one shard for
//!    each physical core, on its first thread. What the second thread would add is measured as a placement of its own.
//! 2. Interrupts of the network take time from whatever runs on their core. Where cores have a second thread it takes the
//!    interrupts, and the control thread; where they have none and there are many, one in eight is left free for them;
//!    where there are few, shards share with them.
//! 3. Cores of the node that the network is attached to come first, so that fewer shards than cores sit there.
//! 4. A limit on CPU time counts as so many cores: a shard that is throttled stalls all its connections.
//!
//! [`candidates`] gives the placements worth measuring, of which the first is what the rules say.

use std::collections::BTreeSet;

use super::topology::{Core, Interface, Topology};
use crate::base::limits::SHARDS_MAX;

/// From so many physical cores without a second thread on, some are left to interrupts.
const FREE_FROM_CORES: usize = 8;
/// One core in so many is left free.
const FREE_ONE_IN: usize = 8;
/// Up to so many usable cores every number of shards, and each core alone, is worth a measurement.
const FEW_CORES: usize = 4;

/// A placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What it is, in words.
    pub name: String,
    /// The cores of the shards, in order.
    pub shards: Vec<Core>,
    /// Usable cores that no shard runs on.
    pub free: Vec<Core>,
    /// Where interrupts of receive queues ought to be handled.
    pub interrupts: Vec<Steering>,
    /// Why, one reason a line.
    pub reasons: Vec<String>,
}

/// Where one interrupt ought to be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steering {
    /// Of which interface.
    pub interface: String,
    /// Its number.
    pub interrupt: u32,
    /// On which core.
    pub core: usize,
    /// Where it is handled now.
    pub now: Vec<usize>,
}

impl Placement {
    /// The cores of the shards as a list that the setting `cores` takes.
    pub fn cores(&self) -> String {
        core_list(self.shards.iter().map(|core| core.number))
    }
}

/// Numbers as the kernel lists them: `0-3,8`, in the order given.
pub fn core_list(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let shown = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(shown).collect::<Vec<_>>().join(",")
}

/// The placements worth measuring, what the rules say first; no two with the same cores.
pub fn candidates(topology: &Topology) -> Vec<Placement> {
    let physical = ordered(topology);
    let most = budget(topology);
    let first_threads: Vec<Core> = physical.iter().map(|group| group[0]).collect();
    let threads: Vec<Core> =
        first_threads.iter().chain(physical.iter().flat_map(|group| &group[1..])).copied().collect();
    let kept = kept_free(topology, physical.len());
    let by_rule = (physical.len() - kept).min(most);
    let mut found = vec![place(topology, "one shard for each physical core", &first_threads[..by_rule])];
    let mut add = |name: &str, shards: &[Core]| {
        let placement = place(topology, name, &shards[..shards.len().min(most)]);
        if !found.iter().any(|other: &Placement| other.shards == placement.shards) {
            found.push(placement);
        }
    };
    if kept > 0 {
        add("one shard for each physical core, none left free", &first_threads);
    }
    if threads.len() > first_threads.len() {
        add("one shard for each thread", &threads);
    }
    if topology.cores.len() <= FEW_CORES {
        (2..threads.len()).rev().for_each(|count| add(&format!("{count} shard(s)"), &threads[..count]));
        threads.iter().for_each(|core| add(&format!("one shard, on core {}", core.number), &[*core]));
    } else {
        add("one shard for every second physical core", &first_threads[..by_rule.div_ceil(2)]);
        add("one shard", &first_threads[..1]);
    }
    found
}

/// Physical cores, those of the network's node first, each with its usable threads.
fn ordered(topology: &Topology) -> Vec<Vec<Core>> {
    let mut physical = topology.physical();
    let home = busiest(topology).and_then(|interface| interface.node);
    physical.sort_by_key(|group| (home.is_some_and(|home| group[0].node != home), group[0].node, group[0].number));
    physical
}

/// The interface with the most queues.
fn busiest(topology: &Topology) -> Option<&Interface> {
    topology.interfaces.iter().max_by_key(|interface| interface.queues.len())
}

/// Shards at most, by CPU time and by what the relay can have.
fn budget(topology: &Topology) -> usize {
    let by_time = topology.quota_cores.map_or(usize::MAX, |quota| quota.floor() as usize);
    by_time.clamp(1, SHARDS_MAX.into())
}

/// Physical cores that carry no shard.
fn kept_free(topology: &Topology, physical: usize) -> usize {
    let threaded = topology.cores.len() > physical;
    if threaded || physical < FREE_FROM_CORES { 0 } else { physical / FREE_ONE_IN }
}

/// A placement on these cores, with what follows for interrupts.
fn place(topology: &Topology, name: &str, shards: &[Core]) -> Placement {
    let taken: BTreeSet<usize> = shards.iter().map(|core| core.number).collect();
    let free: Vec<Core> = topology.cores.iter().filter(|core| !taken.contains(&core.number)).copied().collect();
    let interrupts = topology.interfaces.iter().flat_map(|interface| steer(interface, shards, &free)).collect();
    let reasons = reasons(topology, shards, &free);
    Placement { name: name.to_owned(), shards: shards.to_vec(), free, interrupts, reasons }
}

/// The queues of an interface are spread over the free cores near it, else over all free cores, else over the shards' cores.
fn steer(interface: &Interface, shards: &[Core], free: &[Core]) -> Vec<Steering> {
    let near = |cores: &[Core]| -> Vec<usize> {
        let at_home = |core: &&Core| interface.node.is_none_or(|node| core.node == node);
        cores.iter().filter(at_home).map(|core| core.number).collect()
    };
    let all = |cores: &[Core]| cores.iter().map(|core| core.number).collect::<Vec<_>>();
    let choices = [near(free), all(free), near(shards), all(shards)];
    let Some(cores) = choices.into_iter().find(|cores| !cores.is_empty()) else { return Vec::new() };
    // What is well placed stays: each core has one queue before any has two.
    let mut load: Vec<(usize, usize)> = cores.into_iter().map(|core| (core, 0)).collect();
    let mut steered = Vec::new();
    for queue in &interface.queues {
        let least = load.iter().map(|(_, queues)| *queues).min().unwrap_or(0);
        let stays = load.iter().position(|(core, queues)| queue.cores == [*core] && *queues == least);
        let at = stays.or_else(|| load.iter().position(|(_, queues)| *queues == least)).expect("one has the least");
        load[at].1 += 1;
        let (interface, core) = (interface.name.clone(), load[at].0);
        steered.push(Steering { interface, interrupt: queue.interrupt, core, now: queue.cores.clone() });
    }
    steered
}

fn reasons(topology: &Topology, shards: &[Core], free: &[Core]) -> Vec<String> {
    let physical = topology.physical();
    let mut reasons = Vec::new();
    let busy: BTreeSet<usize> = shards.iter().map(|core| core.physical).collect();
    if topology.cores.len() > physical.len() {
        reasons.push(match shards.len() > busy.len() {
            true => {
                "both threads of a physical core have a shard: they share its caches and its execution units".into()
            }
            false => "one thread of each physical core has a shard; its sibling is left to interrupts and the control \
                      thread, which then take no time from a shard"
                .to_owned(),
        });
    } else if !free.is_empty() {
        reasons.push(format!(
            "{} core(s) are left to interrupts and the control thread: {}",
            free.len(),
            core_list(free.iter().map(|core| core.number))
        ));
    } else {
        reasons.push(
            "shards share their cores with interrupts and the control thread: there are too few to leave one free"
                .into(),
        );
    }
    let nodes: BTreeSet<usize> = shards.iter().map(|core| core.node).collect();
    if topology.nodes().len() > 1 {
        reasons.push(format!(
            "{} of {} nodes are used; a shard's memory lies on the node of its core, and mail never crosses",
            nodes.len(),
            topology.nodes().len()
        ));
    }
    if let Some(interface) = busiest(topology)
        && let Some(node) = interface.node.filter(|_| topology.nodes().len() > 1)
    {
        reasons.push(format!("cores of node {node} come first: {} is attached to it", interface.name));
    }
    if let Some(quota) = topology.quota_cores {
        reasons.push(format!(
            "CPU time is limited to {quota:.1} cores: more shards than that would be throttled, all their connections with them"
        ));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine(text: &str) -> Topology {
        Topology::described(text).unwrap()
    }

    #[test]
    fn two_cores_are_both_used_and_each_is_tried() {
        let found = candidates(&machine("cores = 2\n[[interfaces]]\nname = 'eth0'\nqueues = 1"));
        let cores: Vec<String> = found.iter().map(Placement::cores).collect();
        assert_eq!(cores, ["0-1", "0", "1"]);
        assert!(found[0].free.is_empty() && found[0].interrupts[0].core == 0);
        // With core 0 taken by the only shard, the network's interrupts belong on core 1.
        assert_eq!(found[1].interrupts[0].core, 1);
        assert!(found[0].reasons[0].contains("too few"), "{:?}", found[0].reasons);
    }

    #[test]
    fn sixty_four_threads_on_two_nodes() {
        let text = "cores = 64\nthreads_per_core = 2\nnodes = 2\n[[interfaces]]\nname = 'eth0'\nnode = 1\nqueues = 20";
        let found = candidates(&machine(text));
        let by_rule = &found[0];
        assert_eq!((by_rule.shards.len(), by_rule.cores()), (32, "16-31,0-15".into()));
        assert_eq!(by_rule.free.len(), 32);
        // Queues are spread over the siblings of the interface's own node: 48 to 63.
        let cores: Vec<usize> = by_rule.interrupts.iter().map(|steering| steering.core).collect();
        assert_eq!((cores[0], cores[15], cores[16], cores.len()), (48, 63, 48, 20));
        let shapes: Vec<usize> = found.iter().map(|placement| placement.shards.len()).collect();
        assert_eq!(shapes, [32, 64, 16, 1]);
        assert!(found[2].shards.iter().all(|core| core.node == 1), "half of the shards sit at the network's node");
    }

    #[test]
    fn many_cores_without_siblings_leave_some_free() {
        let found = candidates(&machine("cores = 16\n[[interfaces]]\nname = 'eth0'\nqueues = 4"));
        assert_eq!(found[0].cores(), "0-13");
        assert_eq!(found[0].interrupts.iter().map(|s| s.core).collect::<Vec<_>>(), [14, 15, 14, 15]);
        assert_eq!(found[1].cores(), "0-15");
    }

    #[test]
    fn limited_time_limits_shards() {
        let found = candidates(&machine("cores = 16\nquota_cores = 2.5"));
        assert!(found.iter().all(|placement| placement.shards.len() <= 2));
        assert_eq!(candidates(&machine("cores = 4\nquota_cores = 0.5"))[0].shards.len(), 1);
        assert!(found[0].reasons.iter().any(|reason| reason.contains("throttled")));
    }

    proptest! {
        /// Whatever the machine: no core twice, none that may not be used, never more than the budget, never none.
        #[test]
        fn every_placement_holds(threads in 1usize..3, nodes in 1usize..5, each in 1usize..40, queues in 0usize..70, quota in 0usize..200) {
            let quota = if quota == 0 { String::new() } else { format!("quota_cores = {quota}") };
            let text = format!(
                "cores = {}\nthreads_per_core = {threads}\nnodes = {nodes}\n{quota}\n[[interfaces]]\nname = 'eth0'\nnode = {}\nqueues = {queues}",
                threads * nodes * each, nodes - 1
            );
            let topology = machine(&text);
            for placement in candidates(&topology) {
                let taken: BTreeSet<usize> = placement.shards.iter().map(|core| core.number).collect();
                prop_assert!(!taken.is_empty() && taken.len() == placement.shards.len());
                prop_assert!(taken.len() <= budget(&topology));
                prop_assert_eq!(taken.len() + placement.free.len(), topology.cores.len());
                prop_assert_eq!(placement.interrupts.len(), queues);
                let read = crate::config::parse_cores(&placement.cores()).unwrap();
                prop_assert_eq!(read, placement.shards.iter().map(|core| core.number).collect::<Vec<_>>());
                prop_assert!(!placement.reasons.is_empty());
            }
        }
    }
}
