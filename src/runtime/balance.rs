//! How many clients each shard has, so that few of them make no uneven load.
//!
//! The kernel gives a connection to a shard by a hash of its addresses: of four clients all may come to one core. So a
//! fresh connection goes to the shard with the fewest, before its first byte; from then on it stays. With many
//! clients a small difference is left as it is, for handing over costs a wake of another core. Shared by all shards;
//! locked once for a connection, never for a message.

use std::sync::{Arc, Mutex, PoisonError};

/// Clients of each shard.
#[derive(Clone)]
pub(crate) struct Loads(Arc<Mutex<Vec<u32>>>);

impl Loads {
    pub(crate) fn new(shards: usize) -> Loads {
        Loads(Arc::new(Mutex::new(vec![0; shards])))
    }

    /// A place for a connection that came to shard `own`: there, or where there are fewer.
    pub(crate) fn take_seat(&self, own: usize) -> Seat {
        let mut loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (least, fewest) =
            loads.iter().copied().enumerate().min_by_key(|(_, load)| *load).expect("there are shards");
        let shard = if loads[own] - fewest > loads[own] / 8 { least } else { own };
        loads[shard] += 1;
        drop(loads);
        Seat { loads: self.clone(), shard }
    }
}

/// A connection's place, given up when dropped.
pub(crate) struct Seat {
    loads: Loads,
    shard: usize,
}

impl Seat {
    /// The shard that has the connection.
    pub(crate) fn shard(&self) -> usize {
        self.shard
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.loads.0.lock().unwrap_or_else(PoisonError::into_inner)[self.shard] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_spread_evenly_and_many_nearly() {
        let loads = Loads::new(2);
        // All come to shard 0.
        let mut seats: Vec<Seat> = (0..4).map(|_| loads.take_seat(0)).collect();
        assert_eq!(*loads.0.lock().unwrap(), [2, 2]);
        seats.retain(|seat| seat.shard() == 0);
        assert_eq!(*loads.0.lock().unwrap(), [2, 0]);
        seats.push(loads.take_seat(1));
        seats.extend((0..997).map(|_| loads.take_seat(0)));
        let counts = loads.0.lock().unwrap().clone();
        assert_eq!(counts.iter().sum::<u32>(), 1000);
        assert!(counts[0] - counts[1] <= counts[0] / 8 + 1, "{counts:?}");
        drop(seats);
        assert_eq!(*loads.0.lock().unwrap(), [0, 0]);
    }
}
