//! How many clients each shard has, so that few of them make no uneven load.
//!
//! The kernel gives a connection to a shard by a hash of its addresses: of four clients all may come to one core. So a
//! fresh connection goes to the shard with the fewest, before its first byte; from then on it stays. With many
//! clients a small difference is left as it is, for handing over costs a wake of another core. Shared by all shards;
//! locked once for a connection, never for a message.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clients of each shard; none where it does not listen yet, and so could only refuse.
#[derive(Clone)]
pub(crate) struct Loads(Arc<Mutex<Vec<Option<u32>>>>);

impl Loads {
    pub(crate) fn new(shards: usize) -> Loads {
        Loads(Arc::new(Mutex::new(vec![None; shards])))
    }

    /// A shard begins to listen.
    pub(crate) fn open(&self, shard: usize) {
        self.lock()[shard].get_or_insert(0);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<u32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that came to shard `own`: there, or where there are fewer.
    pub(crate) fn take_seat(&self, own: usize) -> Seat {
        let mut loads = self.lock();
        let mine = *loads[own].get_or_insert(0);
        let open = loads.iter().enumerate().filter_map(|(shard, load)| Some((shard, (*load)?)));
        let (least, fewest) = open.min_by_key(|(_, load)| *load).expect("the own shard listens");
        let shard = if mine - fewest > mine / 8 { least } else { own };
        *loads[shard].get_or_insert(0) += 1;
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
        let mut loads = self.loads.lock();
        let load = loads[self.shard].as_mut().expect("a shard that listened once has a count");
        *load -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(loads: &Loads) -> Vec<u32> {
        loads.lock().iter().map(|load| load.unwrap_or(0)).collect()
    }

    #[test]
    fn few_are_spread_evenly_and_many_nearly() {
        let loads = Loads::new(2);
        loads.open(0);
        loads.open(1);
        // All come to shard 0.
        let mut seats: Vec<Seat> = (0..4).map(|_| loads.take_seat(0)).collect();
        assert_eq!(counts(&loads), [2, 2]);
        seats.retain(|seat| seat.shard() == 0);
        assert_eq!(counts(&loads), [2, 0]);
        seats.push(loads.take_seat(1));
        seats.extend((0..997).map(|_| loads.take_seat(0)));
        let many = counts(&loads);
        assert_eq!(many.iter().sum::<u32>(), 1000);
        assert!(many[0] - many[1] <= many[0] / 8 + 1, "{many:?}");
        drop(seats);
        assert_eq!(counts(&loads), [0, 0]);
    }

    #[test]
    fn a_shard_that_does_not_listen_yet_is_given_none() {
        let loads = Loads::new(3);
        loads.open(1);
        let seats: Vec<Seat> = (0..8).map(|_| loads.take_seat(1)).collect();
        assert_eq!(counts(&loads), [0, 8, 0]);
        loads.open(2);
        let later: Vec<Seat> = (0..8).map(|_| loads.take_seat(1)).collect();
        assert_eq!(counts(&loads), [0, 9, 7]);
        drop((seats, later));
    }
}
